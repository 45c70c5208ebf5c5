"""Bar charts with intervals: horizontal bars in groups, one below the other, with their numbers at the right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...evaluation.formatting import PROSE
from ..reading.evaluations import Estimate
from .drawing import WIDTH, Box, Drawing, Label, Line, Mark
from .lettering import shorten, text_width
from .scales import Scale, nice_ticks, tick_text


PAD = 4.0
TITLE_SIZE, TEXT_SIZE, SMALL_SIZE = 15.0, 12.0, 11.0
_BOLD = 1.15  # bold text is so many times as wide
_ROW, _BAR, _GROUP_GAP, _MOST_LABEL = 20.0, 11.0, 10.0, 120.0


@dataclass(frozen=True)
class Bar:
    """One bar of a chart."""

    label: str
    estimate: Estimate
    """Length and whisker, in the unit of the chart."""
    role: str
    """Colour, by its name in `palette.PALETTE`."""
    is_solid: bool = True
    """Filled; a hollow bar stands for the state before training."""


@dataclass(frozen=True)
class BarGroup:
    """Bars under a heading; `note` stands at the right end of the heading's line."""

    heading: str
    bars: Sequence[Bar]
    note: str = ""


@dataclass(frozen=True)
class Caption:
    """The texts of a drawing."""

    name: str
    """Name of its file, without an ending."""
    title: str
    subtitle: str
    """The line below the title, with the unit."""
    description: str
    """The content in words, for readers who do not see the drawing."""
    run: str = ""
    """Name of the run, where several runs have such a drawing; else empty."""

    def drawing(self, height: float, marks: Sequence[Mark]) -> Drawing:
        """A drawing of these marks with these texts."""
        title = f"{self.title}: {self.run}" if self.run else self.title
        return Drawing(self.name, title, self.description, height, marks)


def bar_chart(
    caption: Caption, groups: Sequence[BarGroup], bounds: tuple[float, float] | None = None, digits: int = 1
) -> Drawing:
    """A chart of horizontal bars, each with a whisker for its interval and its numbers at the right.

    Args:
        caption: The texts of the chart.
        groups: Groups of bars, from top to bottom.
        bounds: Values that the axis covers at least. It always covers 0 and all intervals.
        digits: Decimals of the numbers.
    """
    bars = [bar for group in groups for bar in group.bars]
    estimates = [bar.estimate for bar in bars]
    values = [part for e in estimates for part in (e.value, e.low, e.high) if math.isfinite(part)]
    ticks = nice_ticks(min(0.0, *values, *(bounds or ())), max(*values, *(bounds or (0.0,))), most=7)
    labels = min(max((text_width(bar.label, TEXT_SIZE) for bar in bars), default=0.0), _MOST_LABEL)
    figures = [with_interval(bar.estimate, digits) for bar in bars]
    right = WIDTH - PAD - max(text_width(text, TEXT_SIZE) for text in figures) - 10
    scale = Scale(ticks, PAD + labels + (10 if labels else 0), right)
    marks, y = heading(caption)
    for group in groups:
        if group.heading:
            marks += _group_heading(group, y)
            y += 19
        marks += _grid(scale, y, y + _ROW * len(group.bars))
        for bar in group.bars:
            marks += _bar(bar, y, scale, labels, digits)
            y += _ROW
        y += _GROUP_GAP
    bottom = y - _GROUP_GAP
    marks += [Label(scale(tick), bottom + 15, tick_text(tick), SMALL_SIZE, "muted", "middle") for tick in ticks]
    return caption.drawing(bottom + 20, marks)


def heading(caption: Caption) -> tuple[list[Mark], float]:
    """The marks of title, run and subtitle, and the y coordinate below them."""
    most = WIDTH - 2 * PAD
    title = shorten(caption.title, _BOLD * TITLE_SIZE, most)
    marks: list[Mark] = [Label(PAD, 18, title, TITLE_SIZE, is_bold=True, tip=caption.title)]
    y = 36.0
    if caption.run:
        run = shorten(caption.run, _BOLD * TEXT_SIZE, most)
        marks.append(Label(PAD, y, run, TEXT_SIZE, "muted", is_bold=True, tip=caption.run))
        y += 17
    if not caption.subtitle:
        return marks, y - 4
    marks.append(Label(PAD, y, shorten(caption.subtitle, SMALL_SIZE, most), SMALL_SIZE, "muted"))
    return marks, y + 14


def with_interval(estimate: Estimate, digits: int) -> str:
    """A number with its interval as a bar shows it: `41.0  (35.2 to 46.8)`."""
    return f"{PROSE.decimal(estimate.value, digits)}  ({PROSE.interval(estimate, digits=digits)})"


def _group_heading(group: BarGroup, y: float) -> list[Mark]:
    note = shorten(group.note, SMALL_SIZE, 260)
    free = WIDTH - 2 * PAD - (text_width(note, SMALL_SIZE) + 12 if note else 0)
    text = shorten(group.heading, _BOLD * (TEXT_SIZE + 0.5), free)
    marks: list[Mark] = [Label(PAD, y + 12, text, TEXT_SIZE + 0.5, is_bold=True, tip=group.heading)]
    if note:
        marks.append(Label(WIDTH - PAD, y + 12, note, SMALL_SIZE, "muted", "end"))
    return marks


def _bar(bar: Bar, y: float, scale: Scale, labels: float, digits: int) -> list[Mark]:
    value = scale(bar.estimate.value)
    zero, middle, top = scale(0.0), y + _ROW / 2, y + (_ROW - _BAR) / 2
    figures = with_interval(bar.estimate, digits)
    left, width = min(zero, value), max(abs(value - zero), 0.75)
    body: list[Mark] = [Box(left, top, width, _BAR, bar.role, tip=f"{bar.label}: {figures}")]
    if not bar.is_solid:
        body = [
            Box(left, top, width, _BAR, "card", bar.role, tip=f"{bar.label}: {figures}"),
            Box(left, top, width, _BAR, bar.role, opacity=0.2),
        ]
    whisker: list[Mark] = []
    if bar.estimate.has_interval:
        low, high = scale(bar.estimate.low), scale(bar.estimate.high)
        whisker = _whisker(low, high, (left, left + width) if bar.is_solid else None, middle)
    return [
        Label(PAD, middle + 4, shorten(bar.label, TEXT_SIZE, labels), TEXT_SIZE, "muted", tip=bar.label),
        *body,
        *whisker,
        Label(WIDTH - PAD, middle + 4, figures, TEXT_SIZE, anchor="end"),
    ]


def _whisker(low: float, high: float, solid: tuple[float, float] | None, y: float) -> list[Mark]:
    """The line of an interval from x = `low` to `high`, with end marks: light on a solid bar, dark elsewhere.

    `solid` is the bar from its left to its right end; `None` for a hollow bar.
    """
    inner = (max(low, solid[0]), min(high, solid[1])) if solid else (low, low)
    pieces = [(low, inner[0], "ink"), (*inner, "card"), (inner[1], high, "ink")] if inner[0] < inner[1] else []
    marks: list[Mark] = [
        Line([(start, y), (end, y)], role, 1.5) for start, end, role in pieces or [(low, high, "ink")] if start < end
    ]
    for end in (low, high):
        # At the very edge of the bar half of an end mark lies on the card, where a light one could not be seen
        is_inside = bool(pieces) and inner[0] <= end <= inner[1] and solid is not None and end < solid[1] - 1
        marks.append(Line([(end, y - 3.5), (end, y + 3.5)], "card" if is_inside else "ink", 1.5))
    return marks


def _grid(scale: Scale, top: float, bottom: float) -> list[Mark]:
    return [
        Line([(scale(tick), top), (scale(tick), bottom)], "rule" if tick else "muted", 1.0 if tick else 1.4)
        for tick in scale.ticks
    ]
