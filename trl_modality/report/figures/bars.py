"""Bars with intervals: one below the other in groups, the figures beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..reading.runs import Estimate
from ..text import shorten, text_width
from .drawing import WIDTH, Box, Drawing, Label, Line, Mark
from .scales import Scale, nice_ticks, tick_text


PAD = 4.0
TITLE_SIZE, TEXT_SIZE, SMALL_SIZE = 15.0, 12.0, 11.0
_BOLD = 1.15  # times as wide
_ROW, _BAR, _GROUP_GAP, _MOST_LABEL = 20.0, 11.0, 10.0, 120.0


@dataclass(frozen=True)
class Bar:
    """One estimate, in the unit of the chart; a hollow bar is a state before training."""

    label: str
    estimate: Estimate
    role: str
    is_solid: bool = True


@dataclass(frozen=True)
class BarGroup:
    """Bars under a heading; `note` stands at its end."""

    heading: str
    bars: Sequence[Bar]
    note: str = ""


@dataclass(frozen=True)
class Caption:
    """What a drawing is called: its file's name, its heading, the line below it, and its content in words."""

    name: str
    title: str
    subtitle: str
    description: str
    run: str = ""
    """Where several runs have such a drawing: whose it is."""

    def drawing(self, height: float, marks: Sequence[Mark]) -> Drawing:
        title = f"{self.title}: {self.run}" if self.run else self.title
        return Drawing(self.name, title, self.description, height, marks)


def bar_chart(
    caption: Caption, groups: Sequence[BarGroup], bounds: tuple[float, float] | None = None, digits: int = 1
) -> Drawing:
    """A chart of bars with whiskers, each with its figures at the right.

    Args:
        caption: Its names.
        groups: From top to bottom.
        bounds: The values that the axis goes to at least; by default 0 and those of the intervals.
        digits: Decimals of the figures.
    """
    bars = [bar for group in groups for bar in group.bars]
    estimates = [bar.estimate for bar in bars]
    values = [part for e in estimates for part in (e.value, e.low, e.high) if math.isfinite(part)]
    ticks = nice_ticks(min(0.0, *values, *(bounds or ())), max(*values, *(bounds or (0.0,))), most=7)
    labels = min(max((text_width(bar.label, TEXT_SIZE) for bar in bars), default=0.0), _MOST_LABEL)
    figures = [figures_of(bar.estimate, digits) for bar in bars]
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
    """Title and subtitle, and where what follows can begin."""
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


def figures_of(estimate: Estimate, digits: int) -> str:
    """`41.0  (35.2 to 46.8)`."""
    return f"{decimal(estimate.value, digits)}  ({interval_text(estimate, digits)})"


def interval_text(estimate: Estimate, digits: int = 1) -> str:
    """`35.2 to 46.8`; where there is none, that."""
    if not estimate.has_interval:
        return "no interval"
    return f"{decimal(estimate.low, digits)} to {decimal(estimate.high, digits)}"


def decimal(value: float, digits: int = 1) -> str:
    """With so many digits, a minus sign that is one, and no negative zero."""
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text.replace("-", "\u2212")


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
    figures = figures_of(bar.estimate, digits)
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
    """An interval with its ends: light where it lies on a solid bar, dark elsewhere."""
    inner = (max(low, solid[0]), min(high, solid[1])) if solid else (low, low)
    pieces = [(low, inner[0], "ink"), (*inner, "card"), (inner[1], high, "ink")] if inner[0] < inner[1] else []
    marks: list[Mark] = [
        Line([(start, y), (end, y)], role, 1.5) for start, end, role in pieces or [(low, high, "ink")] if start < end
    ]
    for end in (low, high):
        # An end at the very edge of the bar would be seen in neither colour: it is a dark one
        is_inside = bool(pieces) and inner[0] <= end <= inner[1] and solid is not None and end < solid[1] - 1
        marks.append(Line([(end, y - 3.5), (end, y + 3.5)], "card" if is_inside else "ink", 1.5))
    return marks


def _grid(scale: Scale, top: float, bottom: float) -> list[Mark]:
    return [
        Line([(scale(tick), top), (scale(tick), bottom)], "rule" if tick else "muted", 1.0 if tick else 1.4)
        for tick in scale.ticks
    ]
