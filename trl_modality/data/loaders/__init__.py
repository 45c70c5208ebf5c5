"""Loaders of published sets whose problems have both views, from the sets' official layouts. They contain no data.

A loader checks that every file it refers to exists, decodes no image, and returns rows with the columns of a pair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .geometry3k import load_geometry3k
from .mathverse import load_mathverse, load_mathverse_levels
from .pgps9k import load_pgps9k
from .tabmwp import load_tabmwp


if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "LOADERS",
    "RealSet",
    "load_geometry3k",
    "load_mathverse",
    "load_mathverse_levels",
    "load_pgps9k",
    "load_tabmwp",
]


@dataclass(frozen=True)
class RealSet:
    """A published set: its loader, where to get it, and its licence.

    Args:
        load: Function of (folder, split) that returns the pairs.
        splits: Names of the splits.
        address: Where to get the set.
        paper: Number of its paper on arXiv.
        licence: Terms of use, as the authors state them.
        licence_id: The licence in the short form of dataset cards ("mit").
    """

    load: Callable[..., Dataset]
    splits: tuple[str, ...]
    address: str
    paper: str
    licence: str
    licence_id: str


LOADERS: dict[str, RealSet] = {
    "tabmwp": RealSet(
        load_tabmwp,
        ("train", "dev", "test", "dev1k", "test1k"),
        "https://github.com/lupantech/PromptPG",
        "2209.14610",
        "CC BY-NC-SA 4.0 for the dataset (no commercial use), MIT for its repository",
        "cc-by-nc-sa-4.0",
    ),
    "geometry3k": RealSet(
        load_geometry3k,
        ("train", "val", "test"),
        "https://github.com/lupantech/InterGPS",
        "2105.04165",
        "MIT for its repository; the problems are from school books",
        "mit",
    ),
    "pgps9k": RealSet(
        load_pgps9k,
        ("train", "test"),
        "https://github.com/mingliangzhang2018/PGPS",
        "2302.11097",
        "MIT for its repository; the problems are from school books, and none is stated for the dataset",
        "unknown",
    ),
    "mathverse": RealSet(
        load_mathverse,
        ("testmini",),
        "https://huggingface.co/datasets/AI4Math/MathVerse",
        "2403.14624",
        "MIT",
        "mit",
    ),
}
"""The published sets by name. `mathverse` is for evaluation only: it has no training split."""
