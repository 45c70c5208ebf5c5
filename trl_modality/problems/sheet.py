"""Contact sheets: pictures of samples with both prompts and the answer, to look at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from PIL import Image

from ..views import PROMPT_COLUMN, View, load_images
from .lettering import wrap, write
from .problem import Problem


_TEXT_SIZE, _PAD, _CELL_PAD = 12, 14, 10
_PAPER, _CARD, _INK, _MUTED, _ACCENT = (229, 232, 237), (255, 255, 255), (34, 38, 46), (98, 104, 116), (24, 108, 62)
_MOST_LINES = 20  # of one prompt


def contact_sheet(samples: Iterable[Mapping[str, Any] | Problem], columns: int = 3, width: int = 336) -> Image.Image:
    """A picture of many samples as cards in rows; a card has the picture, both prompts and the answer.

    Args:
        samples: Pairs (rows of a dataset, or dicts) or problems. A card shows the first image of the vision_centric
            view, if there is one. A prompt longer than 20 lines is cut and ends in three dots.
        columns: Cards side by side.
        width: Width of a card's picture in pixels; larger pictures are shrunk, smaller ones keep their size.

    Returns:
        An RGB picture.

    Raises:
        ValueError: no sample, no column or no width.
        PairError: a picture cannot be read.
    """
    for name, value in (("columns", columns), ("width", width)):
        if value < 1:
            raise ValueError(f"`{name}` must be 1 or more, got {value}.")
    cards = [_card(sample.to_pair() if isinstance(sample, Problem) else sample, width) for sample in samples]
    if not cards:
        raise ValueError("`samples` is empty: give rows of pairs or problems.")
    columns = min(columns, len(cards))
    rows = [cards[start : start + columns] for start in range(0, len(cards), columns)]
    heights = [max(card.height for card in row) for row in rows]
    size = (columns * (cards[0].width + _PAD) + _PAD, sum(heights) + (len(rows) + 1) * _PAD)
    sheet = Image.new("RGB", size, _PAPER)
    top = _PAD
    for row, height in zip(rows, heights, strict=True):
        for column, card in enumerate(row):
            left = _PAD + column * (card.width + _PAD)
            sheet.paste(_CARD, (left, top, left + card.width, top + height))
            sheet.paste(card, (left, top))
        top += height + _PAD
    return sheet


def _card(row: Mapping[str, Any], width: int) -> Image.Image:
    images = load_images(row, View.VISION_CENTRIC)
    picture = images[0].convert("RGB") if images else Image.new("RGB", (width, 1), _CARD)
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)))
    lines = [(str(row.get("category") or row.get("id") or ""), _MUTED)]
    for view, column in PROMPT_COLUMN.items():
        text = _text(row[column])
        lines += [("", _INK), (f"{view}:", _MUTED), *((line, _INK) for line in _fitted(text, width))]
    if row.get("answer") is not None:
        lines += [("", _INK), (f"answer: {row['answer']}", _ACCENT)]
    step = round(1.35 * _TEXT_SIZE)
    frame = 2 * _CELL_PAD
    card = Image.new("RGB", (width + frame, picture.height + len(lines) * step + 3 * _CELL_PAD), _CARD)
    card.paste(picture, (_CELL_PAD + (width - picture.width) // 2, _CELL_PAD))
    for i, (line, colour) in enumerate(lines):
        baseline = picture.height + 2 * _CELL_PAD + i * step + _TEXT_SIZE
        write(card, (_CELL_PAD, baseline), line, _TEXT_SIZE, colour)
    return card


def _fitted(text: str, width: int) -> list[str]:
    lines = [line for paragraph in text.split("\n") for line in wrap(paragraph, _TEXT_SIZE, width) or [""]]
    return lines if len(lines) <= _MOST_LINES else [*lines[: _MOST_LINES - 1], "..."]


def _text(prompt: Any) -> str:
    """The words of a prompt: a string, or messages whose contents are strings or blocks."""
    if isinstance(prompt, str):
        return prompt
    contents = [message["content"] for message in prompt]
    blocks = [[content] if isinstance(content, str) else content for content in contents]
    return "\n".join(b if isinstance(b, str) else b.get("text") or "" for content in blocks for b in content)
