"""A curriculum that follows the measured gap between the views."""

import math

from .schedule import Mix


START, LOWEST, HIGHEST = 0.5, 0.1, 0.9  # share of the vision_centric view; both views are always measured
GAIN, LARGEST_CHANGE = 0.5, 0.1  # change of the share for a nat of gap beyond the target, and its bound, per window


class Adaptive:
    """A schedule that shows more of the vision_centric view while the gap is above its target, and less while below.

    Every pair is trained in one view. The share of the vision_centric view is constant within a window of steps, and
    follows from the gaps measured up to the end of the window before the previous one: data loaders read ahead, and a
    resumed run must find the same shares.

    Args:
        target_gap: In nats per token, vision_centric minus text_rich.
        window: Steps.

    Raises:
        ValueError: a window below 2, or a target that is not finite.
    """

    def __init__(self, target_gap: float = 0.0, window: int = 16):
        if window < 2:
            raise ValueError(f"`window` must be 2 steps or more, got {window}: data loaders read ahead.")
        if not math.isfinite(target_gap):
            raise ValueError(f"`target_gap` must be finite, got {target_gap}.")
        self.target_gap, self.window = target_gap, window
        self.shares = [START, START]
        """Share of the vision_centric view in each window that is decided so far."""

    def mix_at(self, step: int) -> Mix:
        """The mix of a step whose window is decided.

        Raises:
            RuntimeError: the window is not decided yet.
        """
        window = step // self.window
        if window >= len(self.shares):
            raise RuntimeError(
                f"step {step} was asked for when only {len(self.shares)} windows of {self.window} steps were decided: "
                "the data loader reads too far ahead. Raise `curriculum_window`."
            )
        share = self.shares[window]
        return Mix(text_rich=1.0 - share, vision_centric=share)

    def observe(self, gap_nats: float | None) -> None:
        """End a window with its measured gap in nats per token; `None` where one of the views had no token.

        Raises:
            ValueError: a gap that is not finite: a share cannot follow it.
        """
        share = self.shares[-1]
        if gap_nats is not None:
            if not math.isfinite(gap_nats):
                raise ValueError(
                    f"The gap of steps {(len(self.shares) - 2) * self.window} to "
                    f"{(len(self.shares) - 1) * self.window} is {gap_nats} nats, which `curriculum='adaptive'` cannot "
                    "follow: losses of one of the views are not finite. Look at its rows, or lower `learning_rate`."
                )
            change = GAIN * (gap_nats - self.target_gap)
            share += min(max(change, -LARGEST_CHANGE), LARGEST_CHANGE)
        self.shares.append(min(max(share, LOWEST), HIGHEST))
