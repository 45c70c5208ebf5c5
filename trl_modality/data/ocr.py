"""Words in a picture, found by `rapidocr-onnxruntime` (its models travel in its package) and put in order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._extras import require


if TYPE_CHECKING:
    from PIL import Image

CELL_GAP = 1.0
"""A gap in a line that is wider than so many heights of it is one between two cells of a table."""
SAME_LINE = 0.5
"""Words are in one line where their middles are closer than so many heights."""
DIGITS_APART = 0.75
"""Digits whose left edges are so many heights apart, on the average of a run, are numbers of one digit: the models
read the leaves `0 6 6` of a stem-and-leaf plot as `066`. In print, digits of one number are 0.45 to 0.65 apart."""
DIGIT_WIDTH = 0.65
"""Width of the box of a single digit, in heights."""
LONG_LINE = 4.0
"""Lines that are wider than so many heights are turned if they stand on their heads, as labels along an axis do once
they lie. Of shorter ones the model is not sure: of a lone 6 it makes a 9, of `old` a `PIO`."""


@dataclass(frozen=True)
class Word:
    """A piece of text as OCR finds it, a word or several; its box in pixels, and how sure it is of it (0 to 1)."""

    text: str
    left: float
    top: float
    right: float
    bottom: float
    score: float

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


class OcrReader:
    """Reads the words of pictures.

    Args:
        scale: Pictures are enlarged so many times first.
        min_score: Words of which OCR is less sure are left out.

    Raises:
        ImportError: `rapidocr-onnxruntime` is not installed; the extra is named.
        ValueError: `scale` is not above 0, or `min_score` is outside of 0 to 1.
    """

    def __init__(self, scale: float = 1.0, min_score: float = 0.5):
        if not scale > 0 or not 0 <= min_score <= 1:
            raise ValueError(f"`scale` must be above 0 and `min_score` from 0 to 1, got {scale} and {min_score}.")
        require("rapidocr_onnxruntime", extra="ocr", purpose="Reading pictures by OCR needs")
        from rapidocr_onnxruntime import RapidOCR  # pyright: ignore[reportMissingImports]

        self.scale, self.min_score = scale, min_score
        self._engine: Any = RapidOCR(text_score=min_score)
        self._engine.text_cls = _TurnsLongLines(self._engine.text_cls)

    @property
    def settings(self) -> dict[str, Any]:
        """What the words depend on."""
        from importlib.metadata import version

        release = version("rapidocr-onnxruntime")
        read_by = f"rapidocr-onnxruntime {release}"
        return {"ocr": read_by, "scale": self.scale, "min_score": self.min_score, "turned from": LONG_LINE}

    def words(self, image: Image.Image) -> list[Word]:
        """The words of a PIL image, in no order that could be relied on."""
        import numpy as np

        shown = on_white(image)
        if self.scale != 1:
            width, height = (max(1, round(side * self.scale)) for side in shown.size)
            shown = shown.resize((width, height))
        pixels = np.asarray(shown)[:, :, ::-1]  # blue, green, red
        # The engine falls back to a score of its own where it is not told one in the call
        found, _ = self._engine(pixels, return_word_box=True, text_score=self.min_score)
        words = []
        for box, text, score, *of_characters in found or []:
            if text.strip() and float(score) >= self.min_score:
                left, top = (min(point[axis] for point in box) for axis in (0, 1))
                right, bottom = (max(point[axis] for point in box) for axis in (0, 1))
                if len(of_characters) >= 2:
                    edges = [min(point[0] for point in each) for each in of_characters[0]]
                    if text.isdigit():  # the box is surer of its width than OCR of where in it each digit is
                        pitch = (right - left - DIGIT_WIDTH * (bottom - top)) / max(1, len(text) - 1)
                        edges = [left + pitch * place for place in range(len(text))]
                    text = spread_digits(text, of_characters[1], edges, bottom - top)
                left, top, right, bottom = (float(side) / self.scale for side in (left, top, right, bottom))
                words.append(Word(text.strip(), left, top, right, bottom, float(score)))
        return words

    def read(self, image: Image.Image) -> str:
        """The words in reading order, as `in_reading_order` puts them; "" where there is none."""
        return in_reading_order(self.words(image))


class _TurnsLongLines:
    """The engine's model that turns lines which stand on their heads, for long lines (`LONG_LINE`)."""

    def __init__(self, turner: Any):
        self._turner = turner

    def __call__(self, lines: Any) -> tuple[list[Any], list[list[Any]], float]:
        lines = list(lines)
        long = [i for i, line in enumerate(lines) if line.shape[1] > LONG_LINE * line.shape[0]]
        results: list[list[Any]] = [["0", 1.0]] * len(lines)
        if not long:
            return lines, results, 0.0
        turned, found, took = self._turner([lines[i] for i in long])
        for i, line, result in zip(long, turned, found, strict=True):
            lines[i], results[i] = line, result
        return lines, results, took


def on_white(image: Image.Image) -> Image.Image:
    """A picture in RGB, what is transparent as white: by itself it would be black, as most writing on it."""
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    shown = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")


def spread_digits(text: str, characters: Sequence[str], edges: Sequence[float], height: float) -> str:
    """A text with spaces between the digits of runs that are printed apart (`DIGITS_APART`).

    Args:
        text: What was read.
        characters: Its characters without spaces; where they are not, the text stays as it is.
        edges: The left edge of each of them, in pixels.
        height: Of the text, in pixels.
    """
    is_digits = re.fullmatch(r"[0-9 ]+", text) is not None  # in `11:30 A.M.` wide spaces are the letters'
    if not is_digits or "".join(characters) != text.replace(" ", "") or any(len(each) != 1 for each in characters):
        return text
    spread, place = "", 0
    for run in re.findall(r"[0-9]+|\s+|[^0-9\s]+", text):
        if run.isspace():
            spread += run
            continue
        own = edges[place : place + len(run)]
        place += len(run)
        is_apart = run.isdigit() and len(run) > 1 and (own[-1] - own[0]) / (len(run) - 1) > DIGITS_APART * height
        spread += " ".join(run) if is_apart else run
    return spread


def in_reading_order(words: Sequence[Word]) -> str:
    """Words as text: line by line from the top, each from the left; cells of a row of a table have " | " between."""
    lines: list[list[Word]] = []
    for word in sorted(words, key=lambda word: (word.middle, word.left)):
        if lines and _is_in_line(word, lines[-1]):
            lines[-1].append(word)
        else:
            lines.append([word])
    return "\n".join(_line(sorted(line, key=lambda word: word.left)) for line in lines)


def _is_in_line(word: Word, line: Sequence[Word]) -> bool:
    """Whether a word continues a line: its middle is near the last one's, and it stands over none of the line."""
    other = line[-1]
    is_near = abs(word.middle - other.middle) < SAME_LINE * min(word.height, other.height)
    return is_near and all(word.right <= each.left or word.left >= each.right or _overlap(word, each) for each in line)


def _overlap(word: Word, other: Word) -> bool:
    """Whether two boxes overlap a little only, as those of neighbours do: at most a height."""
    shared = min(word.right, other.right) - max(word.left, other.left)
    return shared < min(word.height, other.height)


def _line(words: Sequence[Word]) -> str:
    text = words[0].text
    for before, word in zip(words, words[1:], strict=False):
        is_cell = word.left - before.right > CELL_GAP * min(before.height, word.height)
        text += (" | " if is_cell else " ") + word.text
    return text
