"""Statistics of a dataset of pairs, counted without decoding an image."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..views import OWN_IMAGES, PROMPT_COLUMN, View, images_of, is_pair
from .likeness import Likeness
from .rows import PairRows


if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class Statistics:
    """The counts of `count_pairs`. Lists of lengths have an entry for each pair, in the order of the rows."""

    rows: int = 0
    pairs: int = 0
    categories: Counter[str] = field(default_factory=Counter)
    characters: dict[str, list[int]] = field(default_factory=dict)
    """Characters by field (both prompts and the completion)."""
    words: dict[str, list[int]] = field(default_factory=dict)
    """Words by field."""
    image_sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Number of images by (width, height) in pixels."""
    unreadable: int = 0
    """Images whose size cannot be read."""
    images: int = 0
    distinct_images: int = 0
    """Images with different bytes."""
    own_images: int = 0
    """Pairs whose vision_centric view has images of its own."""
    answers: Counter[str] = field(default_factory=Counter)
    without_answer: int = 0
    numbers: int = 0
    """Answers that are a number."""
    repeated: list[tuple[int, int]] = field(default_factory=list)
    """(row, earlier row) with the same vision_centric prompt and images."""
    repeated_ids: list[tuple[int, int]] = field(default_factory=list)
    """(row, earlier row) with the same `id`."""
    likeness: Likeness = field(default_factory=Likeness)
    """How alike the views of the pairs are."""


def count_pairs(dataset: Dataset) -> Statistics:
    """Count what is in a dataset of pairs. An image is hashed, and only its header is parsed."""
    counted = Statistics()
    seen: dict[tuple, int] = {}
    ids: dict[str, int] = {}
    digests: dict[str, tuple[int, int] | None] = {}
    rows = PairRows(dataset)
    for index in range(len(rows)):
        row = rows[index]
        counted.rows += 1
        if row.get("id") is not None and (earlier := ids.setdefault(str(row["id"]), index)) != index:
            counted.repeated_ids.append((index, earlier))
        if not is_pair(row):
            continue
        counted.pairs += 1
        counted.likeness.count(row)
        if row.get("category"):
            counted.categories[str(row["category"])] += 1
        texts = {name: text_of(row.get(name)) for name in (*PROMPT_COLUMN.values(), "completion")}
        for name, text in texts.items():
            counted.characters.setdefault(name, []).append(len(text))
            counted.words.setdefault(name, []).append(len(text.split()))
        counted.own_images += row.get("vision_centric_images") is not None
        shown = [_digest(image, digests) for image in images_of(row, View.VISION_CENTRIC)]
        for digest in [*shown, *_text_rich_digests(row, digests)]:
            counted.images += 1
            size = digests[digest]
            counted.unreadable += size is None
            if size is not None:
                counted.image_sizes[size] += 1
        key = (texts[PROMPT_COLUMN[View.VISION_CENTRIC]], *shown)
        if (earlier := seen.setdefault(key, index)) != index:
            counted.repeated.append((index, earlier))
        _count_answer(counted, row.get("answer"))
    counted.distinct_images = len(digests)
    return counted


def text_of(value: Any) -> str:
    """The text of a prompt or completion; contents of messages are joined by newlines."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return text_of(value.get("content") or value.get("text"))
    return "\n".join(filter(None, map(text_of, value)))


def is_number(answer: str) -> bool:
    """Whether an answer is a number, as written: "12", "-3.5", "1,000", "7/8", "25%", "$4.50", "40°"."""
    text = answer.strip().strip("$€£%°").replace(",", "").strip()
    parts = text.split("/")
    try:
        return len(parts) <= 2 and all(float(part) == float(part) for part in parts)  # NaN is no number
    except ValueError:
        return False


def _count_answer(counted: Statistics, answer: Any) -> None:
    if answer is None:
        counted.without_answer += 1
    else:
        counted.answers[str(answer)] += 1
        counted.numbers += is_number(str(answer))


def _text_rich_digests(row: Mapping[str, Any], digests: dict[str, tuple[int, int] | None]) -> Sequence[str]:
    """Digests of the text_rich view's images, if one of the views has images of its own; else none."""
    if all(row.get(column) is None for column in OWN_IMAGES.values()):
        return []
    return [_digest(image, digests) for image in images_of(row, View.TEXT_RICH)]


def _digest(image: Any, digests: dict[str, tuple[int, int] | None]) -> str:
    """SHA-1 of the stored bytes; enters the size of a new image into `digests`, `None` if it cannot be read."""
    from PIL import Image

    content = image.get("bytes") if isinstance(image, Mapping) else None
    path = image.get("path") if isinstance(image, Mapping) else image
    try:
        if content is None:
            content = Path(str(path)).read_bytes()
        digest = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        if digest not in digests:
            with Image.open(BytesIO(content)) as opened:
                digests[digest] = opened.size
    except (OSError, SyntaxError, ValueError):
        digest = str(path) if content is None else hashlib.sha1(content, usedforsecurity=False).hexdigest()
        digests[digest] = None
    return digest
