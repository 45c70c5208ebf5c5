"""What a trainer does around its steps: datasets, checks, the plan of the run, metrics, the gap."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from .callbacks import GapCallback
    from .gap import measure_gap
    from .metrics import RunMetrics
    from .run_plan import RunPlan

__all__ = [
    "GapCallback",
    "RunMetrics",
    "RunPlan",
    "measure_gap",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "GapCallback": "callbacks",
        "RunMetrics": "metrics",
        "RunPlan": "run_plan",
        "measure_gap": "gap",
    },
)
