"""Which rows a step trains on and in which view: schedules, and a plan that is a pure function of the step."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from .adaptive import Adaptive
    from .options import RunSchedule
    from .order import Order
    from .permutation import Permutation
    from .plan import Plan, Size, size_of_epoch
    from .sampler import BatchCut, PlanSampler, Slot, StoredRows
    from .schedule import FACTORS, SCHEDULES, Mix, Schedule, get_schedule

__all__ = [
    "FACTORS",
    "SCHEDULES",
    "Adaptive",
    "BatchCut",
    "Mix",
    "Order",
    "Permutation",
    "Plan",
    "PlanSampler",
    "RunSchedule",
    "Schedule",
    "Size",
    "Slot",
    "StoredRows",
    "get_schedule",
    "size_of_epoch",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "FACTORS": "schedule",
        "SCHEDULES": "schedule",
        "Adaptive": "adaptive",
        "BatchCut": "sampler",
        "Mix": "schedule",
        "Order": "order",
        "Permutation": "permutation",
        "Plan": "plan",
        "PlanSampler": "sampler",
        "RunSchedule": "options",
        "Schedule": "schedule",
        "Size": "plan",
        "Slot": "sampler",
        "StoredRows": "sampler",
        "get_schedule": "schedule",
        "size_of_epoch": "plan",
    },
)
