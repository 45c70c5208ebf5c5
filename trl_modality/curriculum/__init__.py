"""Which views a step trains on: schedules from progress to a mix of views."""

from .schedule import SCHEDULES, Mix, get_schedule


__all__ = ["SCHEDULES", "Mix", "get_schedule"]
