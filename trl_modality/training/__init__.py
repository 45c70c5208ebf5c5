"""What a trainer does around its steps: datasets, checks, the plan of the run, metrics, the gap."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from .callbacks import GapCallback
    from .gap import measure_gap

__all__ = [
    "GapCallback",
    "measure_gap",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "GapCallback": "callbacks",
        "measure_gap": "gap",
    },
)
