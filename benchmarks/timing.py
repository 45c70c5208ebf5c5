"""Comparable timings: of runs that compute the same, take turns, and use their fastest settings."""

import math
import time
from dataclasses import dataclass
from random import Random
from statistics import median

import torch
from peers import OURS, PLAIN, Inputs, LeftOut, Run, runs_of


# ‖own − ours‖ / ‖ours‖ of the loss and of each gradient
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
# Settings whose first times are so near to the best are timed three times more
CLOSE = 1.15


class Mismatch(Exception):
    """Raised when two implementations do not compute the same."""


@dataclass(frozen=True)
class Expected:
    """Loss and gradients of our implementation, which those of others must equal."""

    loss: torch.Tensor
    gradients: dict[str, torch.Tensor]
    tolerance: float

    @classmethod
    def of(cls, inputs: Inputs, name: str = OURS) -> "Expected":
        (run,) = runs_of(name, inputs).values()
        inputs.clear_gradients()
        loss = run()
        loss.backward()
        return cls(loss.detach(), inputs.clone_gradients(), TOLERANCES[inputs.product_dtype])

    def check(self, run: Run, inputs: Inputs) -> None:
        """Run once, which also warms up, and compare with ours; the matrix products alone have nothing to compare.

        Raises:
            Mismatch: if loss or gradients are not ours.
        """
        inputs.clear_gradients()
        loss = run()
        if not isinstance(loss, torch.Tensor):
            return
        loss.backward()
        pairs = {"the loss": (loss.detach(), self.loss)}
        for name, expected in self.gradients.items():
            pairs[f"the gradient of {name}"] = inputs.leaves[name].grad, expected
        for what, (own, expected) in pairs.items():
            error = relative_error(own, expected)
            if not error <= self.tolerance:  # nor is a NaN a match
                raise Mismatch(f"{what} differs from ours by {error:.1e}, more than {self.tolerance:.0e}")


def relative_error(own: torch.Tensor, expected: torch.Tensor) -> float:
    """‖own − expected‖ / ‖expected‖."""
    return ((own.float() - expected.float()).norm() / expected.float().norm()).item()


def timed(run: Run, inputs: Inputs) -> float:
    """Seconds of one forward with its backward."""
    inputs.clear_gradients()
    _synchronize(inputs)
    started = time.perf_counter()
    output = run()
    if isinstance(output, torch.Tensor):
        output.backward()
    _synchronize(inputs)
    seconds = time.perf_counter() - started
    del output  # gradients are freed off the clock, everybody's
    return seconds


@dataclass(frozen=True)
class Found:
    setting: str
    run: Run
    seconds: float


def fastest(name: str, inputs: Inputs, expected: Expected, only: str | None = None) -> Found:
    """The fastest setting of a peer among those that compute what ours does.

    Args:
        name: name of the peer.
        inputs: inputs that it runs on.
        expected: loss and gradients of ours on the same inputs.
        only: a setting to check without timing it.

    Raises:
        LeftOut: if no setting works.
        Mismatch: if plain autograd does not agree with ours: one of the two is wrong then, and times are meaningless.
    """
    found, reasons = [], {}
    for setting, run in runs_of(name, inputs).items():
        if only not in (None, setting):
            continue
        try:
            expected.check(run, inputs)
            found.append(Found(setting, run, math.nan if only else timed(run, inputs)))
        except Exception as error:  # a peer may fail in any way, and is then left out
            if name == OURS or (name == PLAIN and isinstance(error, Mismatch)):
                raise
            is_known = isinstance(error, (LeftOut, Mismatch))
            reasons[setting] = str(error) if is_known else f"{type(error).__name__}: {error}"
            print(f"!! {name}, {setting}, left out: {reasons[setting]}", flush=True)
    if not found:
        raise LeftOut("; ".join(f"{setting}: {reason.splitlines()[0]}" for setting, reason in reasons.items()))
    if only:
        return found[0]
    best = min(one.seconds for one in found)
    close = [one for one in found if one.seconds < CLOSE * best]
    if len(close) > 1:
        again = take_turns({one.setting: one.run for one in close}, inputs, rounds=3)
        close = [Found(one.setting, one.run, median(again[one.setting])) for one in close]
    return min(close, key=lambda one: one.seconds)


def take_turns(runs: dict[str, Run], inputs: Inputs, rounds: int) -> dict[str, list[float]]:
    """Seconds of every run, round by round; the order of the runs changes from round to round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    shuffled = Random(0)
    for _ in range(rounds):
        for name in shuffled.sample(list(runs), len(runs)):
            seconds[name].append(timed(runs[name], inputs))
    inputs.clear_gradients()
    return seconds


def ratio(own: list[float], other: list[float] | None) -> float | None:
    """Median over the rounds of the ratio of times within a round."""
    return None if other is None else round(median(a / b for a, b in zip(own, other, strict=True)), 4)


def _synchronize(inputs: Inputs) -> None:
    if inputs.head.device.type == "cuda":
        torch.cuda.synchronize()
