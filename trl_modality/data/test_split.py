"""Hold out a test split that has neither a question nor an image of the training split."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..views import IMAGE_COLUMNS, PAIR_PROMPTS
from .rows import PairRows


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

ASKED = (PAIR_PROMPTS[1], "prompt", "messages", "completion", "text")
"""Columns with questions: a completion of several turns has some too."""
IMAGES = (*IMAGE_COLUMNS, "text_rich_images")

Key = tuple[str, str]


def split_by_content(dataset: Dataset, share: float, seed: int = 0) -> DatasetDict:
    """Split rows into `train` and `test` so that no question and no image of one is in the other.

    Rows that share a question (in any turn, apart from case and blanks) or an image (the same bytes, under whatever
    name) are kept together. Whole groups go to the test split, in an order that depends on what is in them and on the
    seed, not on the order of the rows, until it has its share. Only files of equal size are read.

    Args:
        dataset: Pairs or plain rows.
        share: Of the rows that are held out, between 0 and 1; at most this share is.
        seed: Another seed holds out others.

    Raises:
        ValueError: a stream is given, the share is not between 0 and 1, or the groups are too large for it.
    """
    from datasets import Dataset, DatasetDict

    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"`test_share` is for a dataset that is read whole, not for an {type(dataset).__name__}: leave streaming "
            "out, or name a test split."
        )
    if not 0 < share < 1:
        raise ValueError(f"`test_share` must be between 0 and 1, got {share:g}.")
    rows = PairRows(dataset)
    groups = _Groups()
    shown: list[list[Any]] = []
    for index in range(len(rows)):
        row = rows[index]
        groups.add(index, (("question", text) for text in _questions(row)))
        shown.append([_stored(image) for name in IMAGES for image in _listed(row.get(name))])
    of_image = _image_keys({image for images in shown for image in images})
    for index, images in enumerate(shown):
        groups.add(index, (of_image[image] for image in images))
    held_out = _held_out(groups, len(rows), share, seed)
    if not held_out:
        size, (kind, most), n_most = groups.largest()
        raise ValueError(
            f"no group of rows is small enough for a test split of {share:.1%} of {len(rows):,} rows: {size:,} rows "
            f"hang together by a question or an image, {n_most:,} of them by the {kind} {most[:60]!r}. Give a larger "
            "share, or cut a slice (`train[90%:]`), whose questions or images are then in both."
        )
    kept = [index for index in range(len(rows)) if index not in held_out]
    return DatasetDict({"train": dataset.select(kept), "test": dataset.select(sorted(held_out))})


class _Groups:
    """Rows in groups that share a key, as a forest of rows (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}
        self._first: dict[Key, int] = {}
        self._counts: Counter[Key] = Counter()
        self._keys: dict[int, list[Key]] = {}

    def add(self, row: int, keys: Iterable[Key]) -> None:
        """Put a row together with the rows that have any of the keys."""
        self._parent.setdefault(row, row)
        for key in dict.fromkeys(keys):
            self._counts[key] += 1
            self._keys.setdefault(row, []).append(key)
            self._parent[self._root(row)] = self._root(self._first.setdefault(key, row))

    def _root(self, row: int) -> int:
        while self._parent[row] != row:
            self._parent[row] = self._parent[self._parent[row]]
            row = self._parent[row]
        return row

    def rows(self) -> list[tuple[Key, list[int]]]:
        """Each group with the least of its questions, which names it wherever its images are stored; without any, with
        the least of its images."""
        groups: dict[int, list[int]] = {}
        for row in self._parent:
            groups.setdefault(self._root(row), []).append(row)
        return [
            (
                min((key for row in rows for key in self._keys.get(row, [("row", str(row))])), key=_questions_first),
                rows,
            )
            for rows in groups.values()
        ]

    def largest(self) -> tuple[int, Key, int]:
        """The number of rows of the largest group, its most common key, and in how many rows that is."""
        _, rows = max(self.rows(), key=lambda group: len(group[1]))
        key = max({key for row in rows for key in self._keys.get(row, ())}, key=lambda key: self._counts[key])
        return len(rows), key, self._counts[key]


def _questions_first(key: Key) -> tuple[bool, Key]:
    return key[0] != "question", key


def _held_out(groups: _Groups, n_rows: int, share: float, seed: int) -> set[int]:
    limit = int(share * n_rows)
    held_out: set[int] = set()

    def draw(group: tuple[Key, list[int]]) -> bytes:
        return hashlib.sha256(f"{seed} {group[0][0]} {group[0][1]}".encode(errors="surrogatepass")).digest()

    for _, rows in sorted(groups.rows(), key=draw):
        if len(held_out) + len(rows) <= limit:
            held_out.update(rows)
    return held_out


def _questions(row: Mapping[str, Any]) -> list[str]:
    texts = []
    for column in ASKED:
        said = row.get(column)
        if isinstance(said, str) and column != "completion":
            texts.append(said)
        elif isinstance(said, list):
            texts += [_text(message.get("content")) for message in said if message.get("role") == "user"]
    return [words for text in texts if (words := " ".join(text.split()).casefold())]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part.get("text") or "" for part in content or ())


def _listed(images: Any) -> list[Any]:
    return [] if images is None else list(images) if isinstance(images, list) else [images]


def _stored(image: Any) -> tuple[str, str, int]:
    """An image as something to compare: ("sha1", digest, bytes), or ("path", path, -1) of a file not read yet."""
    content = image.get("bytes") if isinstance(image, Mapping) else None
    if content is not None:
        return "sha1", hashlib.sha1(content, usedforsecurity=False).hexdigest(), len(content)
    return "path", str(image.get("path") if isinstance(image, Mapping) else image), -1


def _image_keys(images: set[tuple[str, str, int]]) -> dict[tuple[str, str, int], Key]:
    """A key for each image, equal for images of the same bytes; only files with a size that others have are read."""
    sizes: dict[tuple[str, str, int], int] = {}
    for image in images:
        try:
            sizes[image] = image[2] if image[0] == "sha1" else os.stat(image[1]).st_size
        except OSError:
            sizes[image] = -1  # it is not there: whoever opens it says so
    common = Counter(sizes.values())
    keys = {}
    for image, size in sizes.items():
        if image[0] == "sha1" or size < 0 or common[size] == 1:
            keys[image] = ("image", image[1])
        else:
            digest = hashlib.sha1(Path(image[1]).read_bytes(), usedforsecurity=False).hexdigest()
            keys[image] = ("image", digest)
    return keys
