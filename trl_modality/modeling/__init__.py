"""Running a model on a batch of views: shared prefixes, rows without padding, and the paired loss."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from .attention import shared_prefix_attention, use_shared_prefix
    from .forward import LossSettings, PairedModelOutput, add_paired_loss

__all__ = [
    "LossSettings",
    "PairedModelOutput",
    "add_paired_loss",
    "shared_prefix_attention",
    "use_shared_prefix",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "LossSettings": "forward",
        "PairedModelOutput": "forward",
        "add_paired_loss": "forward",
        "shared_prefix_attention": "attention",
        "use_shared_prefix": "attention",
    },
)
