"""Schedules: small pure functions from progress in [0, 1] to the mix of views."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial


@dataclass(frozen=True)
class Mix:
    """What a step trains on; each number multiplies the weight of the same name in the config."""

    text_rich: float = 1.0
    vision_centric: float = 1.0
    kl: float = 1.0


Schedule = Callable[[float], Mix]


def constant(progress: float) -> Mix:
    """Both views and the KL, from the first step to the last."""
    return Mix()


def two_stage(progress: float, switch: float = 0.5) -> Mix:
    """The text_rich view and the KL until `switch`, then the vision_centric view alone (arXiv 2510.22836).

    With `kl_weight=0` this is the paper's *curriculum*, with `kl_weight>0` its *KL, then curriculum*.
    """
    return Mix(vision_centric=0.0) if progress < switch else Mix(text_rich=0.0, kl=0.0)


SCHEDULES: dict[str, Callable[..., Mix]] = {"none": constant, "two_stage": two_stage}


def get_schedule(name: str, *, switch: float = 0.5) -> Schedule:
    """The schedule of that name; `switch` is the progress at which `two_stage` changes stage."""
    return partial(two_stage, switch=switch) if name == "two_stage" else SCHEDULES[name]
