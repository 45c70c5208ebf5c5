"""Datasets of pairs: made from other columns, read from files and the hub, written with a dataset card."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from .export import Card, write_dataset
    from .importers.read import read_rows
    from .pairs import make_pairs
    from .rows import PairRows
    from .sources import open_dataset, open_split
    from .summary import count_pairs
    from .test_split import split_by_content

__all__ = [
    "Card",
    "PairRows",
    "count_pairs",
    "make_pairs",
    "open_dataset",
    "open_split",
    "read_rows",
    "split_by_content",
    "write_dataset",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Card": "export",
        "PairRows": "rows",
        "count_pairs": "summary",
        "make_pairs": "pairs",
        "open_dataset": "sources",
        "open_split": "sources",
        "read_rows": "importers.read",
        "split_by_content": "test_split",
        "write_dataset": "export",
    },
)
