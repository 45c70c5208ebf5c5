"""Axes: ticks at round numbers, and linear or logarithmic scales from values to coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` equally spaced ticks that cover `low` to `high`: multiples of 1, 2 or 5 times a power of ten.

    `most` must be at least 3, which values on both sides of 0 need.
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        spread = abs(low) or 1.0
        low, high = low - 0.5 * spread, high + 0.5 * spread
    power = math.floor(math.log10((high - low) / most))
    steps = [factor * 10.0**exponent for exponent in (power, power + 1, power + 2) for factor in (1, 2, 5)]
    ranges = ((step, math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)) for step in steps)
    step, first, last = next(found for found in ranges if found[2] - found[1] < most)
    decimals = max(1 - math.floor(math.log10(step)), 0)
    return [round(index * step, decimals) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis that cover `low` to `high`: powers of ten, with 2 and 5 times them where few."""
    factors = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**exponent for exponent in exponents for factor in factors]
    first = max((tick for tick in ticks if tick <= low), default=ticks[0])
    last = min((tick for tick in ticks if tick >= high), default=ticks[-1])
    return [tick for tick in ticks if first <= tick <= last]


@dataclass(frozen=True)
class Scale:
    """Maps values linearly, or by their logarithm, so that the outer ticks fall on coordinates `start` and `end`."""

    ticks: Sequence[float]
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """The coordinate of a value."""
        turn = math.log10 if self.is_log else float
        low, high = turn(self.ticks[0]), turn(self.ticks[-1])
        return self.start + (turn(value) - low) / (high - low) * (self.end - self.start)


def tick_text(value: float, largest: float = 1.0) -> str:
    """A short number: `0.5`, `20`, `15k`; with a power of ten where the axis' `largest` number is below 0.01."""
    if value == 0:
        return "0"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            divisor = 1e3 if unit == "k" else limit
            return f"{value / divisor:g}{unit}".replace("-", "\u2212")
    if 0 < largest < 0.01:
        exponent = math.floor(math.log10(largest))
        return f"{value / 10.0**exponent:.3g}e{exponent}".replace("-", "\u2212")
    return f"{value:g}".replace("-", "\u2212")
