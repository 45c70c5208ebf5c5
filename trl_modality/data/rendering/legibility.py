"""How much of rendered text optical character recognition finds: a check that pictures are legible at all."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from ..ocr import OcrReader


if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

WORDS = "words"  # the column with the letters of a picture

# Signs that recognition writes in a plainer form
_PLAINER = str.maketrans("‘’“”–—−×", "''\"\"---x")


@dataclass(frozen=True)
class Legibility:
    """What was found of the letters of some pictures.

    Args:
        rows: Numbers of the rows that were read.
        found: Characters found, of each.
        characters: Characters drawn, of each; white space and formulas do not count.
    """

    rows: tuple[int, ...]
    found: tuple[int, ...]
    characters: tuple[int, ...]

    @property
    def share(self) -> float:
        """Share of all characters that was found, from 0 to 1."""
        return sum(self.found) / max(sum(self.characters), 1)

    @property
    def worst(self) -> tuple[int, float]:
        """The row of which the least share was found, and this share."""
        shares = [found / max(count, 1) for found, count in zip(self.found, self.characters, strict=True)]
        least = min(range(len(shares)), key=shares.__getitem__)
        return self.rows[least], shares[least]

    def line(self) -> str:
        """The result in a line."""
        row, share = self.worst
        return (
            f"OCR finds {100 * self.share:.1f} % of {sum(self.characters):,} characters in {len(self.rows)} pictures; "
            f"the least in row {row}, {100 * share:.1f} %"
        )


def check_legibility(pairs: Dataset, sample: int, read: Callable[[Image.Image], str] | None = None) -> Legibility:
    """Read pictures by OCR and compare with what was drawn.

    Args:
        pairs: Rendered pairs with the column `words`, as `render_pairs(words=True)` gives them.
        sample: How many rows, evenly spread over the dataset.
        read: Gives the text of a picture; by default `OcrReader`.

    Raises:
        ValueError: `sample` is not above 0, or the column is not there.
        ImportError: `rapidocr-onnxruntime` is not installed.
    """
    if sample < 1:
        raise ValueError(f"`sample` must be 1 or more, got {sample}.")
    if WORDS not in pairs.column_names:
        raise ValueError(f"no column `{WORDS}`: render the pairs with `words=True`.")
    read = read or OcrReader().read
    rows = [len(pairs) * i // sample for i in range(sample)] if sample < len(pairs) else list(range(len(pairs)))
    found, counts = [], []
    for index in rows:
        row: Any = pairs[index]
        drawn, seen = comparable(row[WORDS]), comparable(read(row["images"][0]))
        found.append(characters_found(drawn, seen))
        counts.append(len(drawn))
    return Legibility(tuple(rows), tuple(found), tuple(counts))


def comparable(text: str) -> str:
    """A text in Unicode's form NFKC, without white space, and with plain quotes and dashes.

    RapidOCR's models give quotes and dashes in their plain form, and lose spaces.
    """
    return "".join(unicodedata.normalize("NFKC", text).translate(_PLAINER).split())


def characters_found(text: str, seen: str) -> int:
    """Characters of a text that stand in another one in the same order (a lower bound: Ratcliff and Obershelp)."""
    blocks = SequenceMatcher(None, text, seen, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks)
