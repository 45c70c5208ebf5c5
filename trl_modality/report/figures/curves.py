"""Curves over training steps, with the stages of the curriculum behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..reading.evaluations import Estimate
from .bars import PAD, SMALL_SIZE, Caption, heading
from .drawing import WIDTH, Box, Dot, Drawing, Label, Line, Mark, Shape
from .lettering import shorten, text_width
from .scales import Scale, log_ticks, nice_ticks, tick_text


MOST_POINTS = 300
"""Most points that a curve is drawn with; longer ones are averaged over equally many neighbours."""
PLOT_HEIGHT, LOW_PLOT_HEIGHT = 165.0, 80.0
_LEFT, _BAND_HEIGHT = 44.0, 16.0
_LOG_FROM = 15.0  # largest value over smallest one, above which the axis is logarithmic


@dataclass(frozen=True)
class Curve:
    """Values by training step, as (step, value)."""

    label: str
    role: str
    """Colour, by its name in `palette.PALETTE`."""
    points: Sequence[tuple[float, float]] = ()
    """Drawn as a line, which a value that is not finite interrupts."""
    marked: Sequence[tuple[float, Estimate]] = ()
    """Drawn as dots, with their intervals where they have one."""
    dash: Sequence[float] = ()
    """Lengths of dashes and gaps of the line; empty for an unbroken one."""
    shape: Shape = "circle"
    """Of the dots."""


@dataclass(frozen=True)
class Band:
    """A stretch of training steps in which each view has a constant share (0 to 1) of the pairs."""

    start: float
    end: float
    text_rich: float
    vision_centric: float

    @property
    def stage(self) -> str:
        """The name of the curriculum's stage: one of the views, "both views" or "mix of views"."""
        if self.vision_centric == 0:
            return "text_rich"
        if self.text_rich == 0:
            return "vision_centric"
        return "both views" if self.text_rich == self.vision_centric == 1 else "mix of views"


def curve_chart(
    caption: Caption,
    curves: Sequence[Curve],
    bands: Sequence[Band] = (),
    last_step: float = 0.0,
    may_be_log: bool = False,
    plot_height: float = PLOT_HEIGHT,
) -> Drawing:
    """A chart of curves over training steps.

    Args:
        caption: The texts of the chart; where the axis is logarithmic, the subtitle says so.
        curves: At least one of them has a finite value.
        bands: Stages of the curriculum in the order of their steps, drawn in the background.
        last_step: The axis of steps goes at least so far.
        may_be_log: Make the axis of values logarithmic where all values are positive and far apart.
        plot_height: Height of the plot without title and axes.
    """
    values = [y for curve in curves for _, y in curve.points if math.isfinite(y)]
    values += [end for c in curves for _, e in c.marked for end in (e.value, e.low, e.high)]
    is_log = may_be_log and min(values) > 0 and max(values) / min(values) > _LOG_FROM
    subtitle = caption.subtitle + ("; logarithmic axis" if is_log else "")
    marks, top = heading(replace(caption, subtitle=subtitle))
    legend, top = _legend(curves, top)
    top += _BAND_HEIGHT if bands else 4
    ticks = log_ticks(min(values), max(values)) if is_log else nice_ticks(min(values), max(values), most=5)
    steps = [x for curve in curves for x, _ in (*curve.points, *curve.marked)]
    y_scale = Scale(ticks, top + plot_height, top, is_log)
    x_scale = Scale([min(0.0, *steps), max(last_step, *steps, 1.0)], _LEFT, WIDTH - 14)
    drawn = [mark for curve in curves for mark in _curve(curve, x_scale, y_scale)]
    return caption.drawing(
        top + plot_height + 22,
        [*marks, *legend, *_bands(bands, x_scale, top, plot_height), *_axes(x_scale, y_scale), *drawn],
    )


def _legend(curves: Sequence[Curve], top: float) -> tuple[list[Mark], float]:
    """The marks of the legend, in as many rows as it needs, and the y coordinate below it."""
    if len(curves) == 1 and not (curves[0].points and curves[0].marked):
        return [], top
    marks: list[Mark] = []
    x, y = PAD, top + 6
    for curve in curves:
        label = shorten(curve.label, SMALL_SIZE, WIDTH - 2 * PAD - 30)
        sample = 24.0 if curve.points else 8.0
        width = sample + 6 + text_width(label, SMALL_SIZE) + 12
        if x > PAD and x + width > WIDTH:
            x, y = PAD, y + 17
        if curve.points:
            marks.append(Line([(x, y - 4), (x + sample, y - 4)], curve.role, 2.2, curve.dash))
        if curve.marked:
            marks.append(Dot(x + sample / 2, y - 4, curve.role, curve.shape, is_solid=not curve.points))
        marks.append(Label(x + sample + 6, y, label, SMALL_SIZE, tip=curve.label))
        x += width
    return marks, y + 10


def _bands(bands: Sequence[Band], scale: Scale, top: float, plot_height: float) -> list[Mark]:
    marks: list[Mark] = []
    for band in bands:
        x, width = scale(band.start), scale(band.end) - scale(band.start)
        shares = (
            f"text_rich {100 * band.text_rich:.0f} %, vision_centric {100 * band.vision_centric:.0f} % of the pairs"
        )
        whole = band.text_rich + band.vision_centric
        text = band.text_rich / whole if whole else 0.5
        for role, share in (("text_rich", text), ("vision_centric", 1 - text)):
            if share:
                marks.append(Box(x, top, width, plot_height, role, opacity=0.13 * share))
        # The strip on top tells the shares by its height too, not by colour alone
        cut = top - _BAND_HEIGHT + (_BAND_HEIGHT - 2) * (1 - text)
        marks.append(
            Box(x, top - _BAND_HEIGHT, width, cut - top + _BAND_HEIGHT, "vision_centric", opacity=0.3, tip=shares)
        )
        marks.append(Box(x, cut, width, top - 2 - cut, "text_rich", opacity=0.3, tip=shares))
    return marks + _stage_names(bands, scale, top, plot_height)


def _stage_names(bands: Sequence[Band], scale: Scale, top: float, plot_height: float) -> list[Mark]:
    """The name of each stage above its steps, where there is room for it, with a line where the stage begins."""
    stages: list[tuple[str, float, float]] = []
    for band in bands:
        if stages and stages[-1][0] == band.stage:
            stages[-1] = (band.stage, stages[-1][1], band.end)
        else:
            stages.append((band.stage, band.start, band.end))
    marks: list[Mark] = []
    for name, start, end in stages:
        left, right = scale(start), scale(end)
        if text_width(name, SMALL_SIZE) + 6 > right - left:
            continue
        marks.append(Label((left + right) / 2, top - 5, name, SMALL_SIZE, anchor="middle"))
        if start > bands[0].start:
            marks.append(Line([(left, top - _BAND_HEIGHT), (left, top + plot_height)], "muted", 1.0, (3, 3)))
    return marks


def _axes(x_scale: Scale, y_scale: Scale) -> list[Mark]:
    marks: list[Mark] = []
    left, right, bottom = x_scale.start, x_scale.end, y_scale.start
    for tick in y_scale.ticks:
        y = y_scale(tick)
        is_base = tick == 0 or (y_scale.is_log and tick == y_scale.ticks[0])
        marks.append(Line([(left, y), (right, y)], "muted" if is_base else "rule", 1.0))
        marks.append(Label(left - 7, y + 4, tick_text(tick, y_scale.ticks[-1]), SMALL_SIZE, "muted", "end"))
    for tick in nice_ticks(x_scale.ticks[0], x_scale.ticks[1], most=5):
        if tick <= x_scale.ticks[1] and tick == int(tick):
            x = x_scale(tick)
            marks.append(Line([(x, bottom), (x, bottom + 4)], "muted", 1.0))
            marks.append(Label(x, bottom + 17, tick_text(tick), SMALL_SIZE, "muted", "middle"))
    marks.append(Label(left - 9, bottom + 17, "step", SMALL_SIZE, "muted", "end"))
    return marks


def _curve(curve: Curve, x_scale: Scale, y_scale: Scale) -> list[Mark]:
    marks: list[Mark] = []
    for piece in _pieces(thinned(curve.points)):
        places = [(x_scale(x), y_scale(y)) for x, y in piece]
        if len(places) == 1:
            marks.append(Dot(*places[0], curve.role, curve.shape, radius=2.5))
        else:
            marks.append(Line(places, curve.role, 2.0, curve.dash))
    for step, estimate in curve.marked:
        x = x_scale(step)
        if estimate.low < estimate.high:
            marks.append(Line([(x, y_scale(estimate.low)), (x, y_scale(estimate.high))], curve.role, 1.4))
        tip = f"{curve.label}, step {step:,.0f}: {estimate.value:.3g}"
        marks.append(Dot(x, y_scale(estimate.value), curve.role, curve.shape, not curve.points, tip=tip))
    return marks


def _pieces(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The points cut into stretches of finite values."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            pieces[-1].append(point)
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """The points themselves if there are at most `most`, else means of steps and values over equally many neighbours.

    A mean over a value that is not finite is not finite.
    """
    size = -(-len(points) // most)
    if size <= 1:
        return list(points)
    chunks = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in chunk) / len(chunk), sum(y for _, y in chunk) / len(chunk)) for chunk in chunks]
