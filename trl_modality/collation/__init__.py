"""Rows → batch: both views of a pair, plain rows and text, in what a model and the paired loss take."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from .collator import PairedCollator
    from .layout import ViewLayout, with_images_repeated

__all__ = [
    "PairedCollator",
    "ViewLayout",
    "with_images_repeated",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "PairedCollator": "collator",
        "ViewLayout": "layout",
        "with_images_repeated": "layout",
    },
)
