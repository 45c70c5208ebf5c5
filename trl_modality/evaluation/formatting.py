"""Numbers as text: decimals, percentages, intervals and p-values, in a notation for terminals and one for pages."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol


class Ends(Protocol):
    """Anything with the two ends of an interval; infinite ends stand for no interval."""

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...


class Notation(NamedTuple):
    """Which signs numbers are written with. Every table, page and figure writes its numbers by `PLAIN` or `PROSE`."""

    minus: str
    ends: str
    """Format of an interval, with the places `low` and `high`."""
    no_interval: str
    """What stands in place of an interval that was not measured."""
    space: str
    """Between a number and its `%`."""

    def decimal(self, value: float, digits: int = 1, *, signed: bool = False) -> str:
        """A number as `1,234.6`, with so many digits after the point; zero has no minus sign.

        `signed` writes `+` before numbers that are not negative.
        """
        text = f"{abs(value):,.{digits}f}"
        is_negative = value < 0 and any(digit in "123456789" for digit in text)
        return (self.minus if is_negative else "+" if signed else "") + text

    def percent(self, share: float, digits: int = 1) -> str:
        """A share of 0.97 as `97.0 %`."""
        return f"{self.decimal(100 * share, digits)}{self.space}%"

    def level(self, confidence: float) -> str:
        """A confidence of 0.95 as `95 %`, with the decimals that it has."""
        return f"{100 * confidence:g}{self.space}%"

    def interval(self, ends: Ends | None, scale: float = 1.0, digits: int = 1, *, signed: bool = False) -> str:
        """Both ends: `[35.2, 46.8]` in `PLAIN`, `35.2 to 46.8` in `PROSE`.

        Args:
            ends: The interval; `None` or infinite ends where there is none.
            scale: What both ends are multiplied by: 100 makes percentage points of shares.
            digits: Decimals of each end.
            signed: Write `+` before positive ends.
        """
        if ends is None or not (math.isfinite(ends.low) and math.isfinite(ends.high)):
            return self.no_interval
        low, high = (self.decimal(scale * end, digits, signed=signed) for end in (ends.low, ends.high))
        return self.ends.format(low=low, high=high)


PLAIN = Notation("-", "[{low}, {high}]", "-", " ")
"""ASCII, for terminals and logs."""
PROSE = Notation("\u2212", "{low} to {high}", "no interval", "\u00a0")
"""For pages, Markdown and figures: a true minus sign, and no line break before `%`."""


def p_number(p_value: float) -> str:
    """A p-value to three decimals, `<0.001` where that would be zero."""
    return "<0.001" if p_value < 0.0005 else f"{p_value:.3f}"


def p_text(p_value: float) -> str:
    """A p-value as a statement: `p = 0.034` or `p < 0.001`."""
    number = p_number(p_value)
    return f"p < {number[1:]}" if number.startswith("<") else f"p = {number}"
