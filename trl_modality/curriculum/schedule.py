"""Schedules: pure functions from progress in [0, 1] to the `Mix` that a step trains on."""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Mix:
    """Shares and factors of one step: in which views its pairs learn, and how much KL and replay it has.

    Args:
        text_rich, vision_centric: Share of the pairs with a cross-entropy in that view, from 0 to 1 each. Their sum is
            between 1 (every pair learns in one view) and 2 (every pair learns in both).
        kl: Factor of `kl_weight`. Above 0, every pair goes through the model in both views; at 0, only in the views
            that it learns in.
        replay: Factor of `replay_ratio`.
        vision_ratio: Which of the row's `level_prompts` is the vision_centric prompt, from 0 (the first) to 1 (the
            last); `None`: the row's own `vision_centric_prompt`.

    Raises:
        ValueError: shares outside of those bounds, or a factor below 0.
    """

    text_rich: float = 1.0
    vision_centric: float = 1.0
    kl: float = 1.0
    replay: float = 1.0
    vision_ratio: float | None = None

    def __post_init__(self) -> None:
        shares = (self.text_rich, self.vision_centric)
        if not all(0.0 <= share <= 1.0 for share in shares) or sum(shares) < 1.0 - 1e-9:
            raise ValueError(
                f"the shares of a mix must be in [0, 1] and 1 or more together, got text_rich={self.text_rich} and "
                f"vision_centric={self.vision_centric}: some pairs would be trained in no view."
            )
        for name in ("kl", "replay"):
            factor = getattr(self, name)
            if not (math.isfinite(factor) and factor >= 0):
                raise ValueError(f"`{name}` of a mix must be a finite number ≥ 0, got {factor}.")
        if self.vision_ratio is not None and not 0.0 <= self.vision_ratio <= 1.0:
            raise ValueError(f"`vision_ratio` of a mix must be in [0, 1], got {self.vision_ratio}.")


Schedule = Callable[[float], Mix]


def both_views(progress: float) -> Mix:
    """Every pair in both views, from the first step to the last."""
    return Mix()


def text_rich(progress: float) -> Mix:
    """A cross-entropy in the text_rich view alone; with a KL, the vision_centric view learns from it."""
    return Mix(vision_centric=0.0)


def vision_centric(progress: float) -> Mix:
    """The vision_centric view alone."""
    return Mix(text_rich=0.0)


def one_of_both(progress: float) -> Mix:
    """Every pair in one view: half of the pairs in the text_rich, half in the vision_centric view."""
    return Mix(text_rich=0.5, vision_centric=0.5)


def two_stage(progress: float, switch: float = 0.5) -> Mix:
    """The text_rich view and the KL until `switch`, then the vision_centric view alone (arXiv 2510.22836).

    With `kl_weight=0` this is the paper's *curriculum*, with `kl_weight>0` its *KL, then curriculum*.
    """
    return Mix(vision_centric=0.0) if progress < switch else Mix(text_rich=0.0, kl=0.0)


def linear(progress: float) -> Mix:
    """From the text_rich view to the vision_centric one at a steady pace."""
    return Mix(text_rich=1.0 - progress, vision_centric=progress)


def cosine(progress: float) -> Mix:
    """From the text_rich view to the vision_centric one, slowly at both ends."""
    share = (1.0 - math.cos(math.pi * progress)) / 2
    return Mix(text_rich=1.0 - share, vision_centric=share)


def alternating(progress: float, period: float = 0.1) -> Mix:
    """The text_rich view for half of a `period`, then the vision_centric one, and again."""
    return Mix(vision_centric=0.0) if (progress / period) % 1.0 < 0.5 else Mix(text_rich=0.0)


def levels(progress: float) -> Mix:
    """Both views; the vision_centric prompt moves through the `level_prompts`, from all facts in words to none."""
    return Mix(vision_ratio=min(progress, 1.0))


SCHEDULES: dict[str, Callable[..., Mix]] = {
    "none": both_views,
    "text_rich": text_rich,
    "vision_centric": vision_centric,
    "mix": one_of_both,
    "two_stage": two_stage,
    "linear": linear,
    "cosine": cosine,
    "alternating": alternating,
    "levels": levels,
}

# Factors of `kl_weight` and of `replay_ratio`, by progress and by the progress `at` which they change
FACTORS: dict[str, Callable[[float, float], float]] = {
    "constant": lambda progress, at: 1.0,
    "warmup": lambda progress, at: min(progress / at, 1.0) if at else 1.0,
    "until": lambda progress, at: float(progress < at),
    "from": lambda progress, at: float(progress >= at),
}


def get_schedule(name: str, *, switch: float = 0.5, period: float = 0.1) -> Schedule:
    """The schedule of that name; `switch` is the progress at which `two_stage` changes stage, `period` that of
    `alternating`."""
    settings = {"two_stage": {"switch": switch}, "alternating": {"period": period}}.get(name, {})
    schedule = SCHEDULES[name]
    return lambda progress: schedule(progress, **settings)
