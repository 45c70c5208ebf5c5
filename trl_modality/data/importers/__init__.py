"""Files in the forms that people have data in (LLaVA, ShareGPT, messages, tables), read as rows to train on."""

from typing import TYPE_CHECKING

from ..._lazy import lazy_names


if TYPE_CHECKING:
    from .formats import FORMATS
    from .read import ReadOptions, read_rows

__all__ = [
    "FORMATS",
    "ReadOptions",
    "read_rows",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "FORMATS": "formats",
        "ReadOptions": "read",
        "read_rows": "read",
    },
)
