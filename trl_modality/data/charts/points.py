"""Scatter plots: lettered points, read from the grid or from coordinates beside them, in one group or two colours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from .frame import Seen, Style, draw_frame
from .grid import plain
from .scene import Box, Label, Scene, cap_height, make_label, overlap, width_of


VARIANTS = ("grid", "written")


@dataclass(frozen=True)
class Point:
    """One point: `group` is the position of its colour."""

    letter: str
    x: Fraction
    y: Fraction
    group: int = 0

    def label(self, written: bool) -> str:
        """The letter, with the coordinates where they are written."""
        return f"{self.letter} ({plain(self.x)}, {plain(self.y)})" if written else self.letter


@dataclass(frozen=True)
class Axis:
    """What an axis shows, and the range of its numbers; every `step` has a line, every second or so a number."""

    name: str
    unit: str
    ticks: tuple[Fraction, ...]
    step: Fraction

    @property
    def label(self) -> str:
        return f"{self.name.capitalize()} in {self.unit}"


@dataclass(frozen=True)
class SeenPoints:
    """What a scatter plot shall tell; see `frame.Seen`."""

    frame: Seen
    x_axis: Axis | None = None
    y_axis: Axis | None = None
    points: tuple[Point, ...] = field(default=())


def draw_points(scene: Scene, seen: SeenPoints, style: Style) -> None:
    """Points that are told, on the scale of the axes, where told, else of the points."""
    left, top, right, bottom = draw_frame(scene, seen.frame, style)
    size, theme = style.label_size, style.theme
    cap = cap_height(size)
    y_ticks = seen.y_axis.ticks if seen.y_axis else ()
    x_ticks = seen.x_axis.ticks if seen.x_axis else ()
    left += max((width_of(plain(tick), size) for tick in y_ticks), default=-6) + 8
    right -= size / 2
    top += cap / 2
    bottom -= cap + 6 + style.line
    if bottom - top < 5 * cap or right - left < 5 * cap:
        scene.tight.append("points have no room")
    x_low, x_high = _range(x_ticks, [point.x for point in seen.points])
    y_low, y_high = _range(y_ticks, [point.y for point in seen.points])

    def across(value: Fraction) -> float:
        return left + (right - left) * float((value - x_low) / (x_high - x_low))

    def up(value: Fraction) -> float:
        return bottom - (bottom - top) * float((value - y_low) / (y_high - y_low))

    if seen.x_axis:
        for value in _lines(seen.x_axis, style):
            scene.line([(across(value), top), (across(value), bottom)], theme.grid)
        for tick in x_ticks:
            scene.text(plain(tick), across(tick), bottom + 6, size, theme.muted, "mt")
        scene.text(seen.x_axis.label, right + size / 2, bottom + cap + 11, size, theme.muted, "rt")
    if seen.y_axis:
        for value in _lines(seen.y_axis, style):
            scene.line([(left, up(value)), (right, up(value))], theme.grid)
        for tick in y_ticks:
            scene.text(plain(tick), left - 6, up(tick), size, theme.muted, "rm")
    scene.line([(left, top), (left, bottom)], theme.muted)
    scene.line([(left, bottom), (right, bottom)], theme.muted)
    radius = max(3.0, size / 4)
    dots = [(across(point.x), up(point.y)) for point in seen.points]
    for point, (x, y) in zip(seen.points, dots, strict=True):
        scene.disc(x, y, radius, style.colour(point.group))
    _draw_labels(scene, seen, style, dots, radius, (left, top - cap / 2, right + size / 2, bottom - 1))


def _range(ticks: tuple[Fraction, ...], values: list[Fraction]) -> tuple[Fraction, Fraction]:
    """Of an axis: of its ticks, where it has some, else of the points, which may all be one."""
    if ticks:
        return ticks[0], ticks[-1]
    low, high = min(values, default=Fraction(0)), max(values, default=Fraction(1))
    return (low, high) if high > low else (low - 1, high + 1)


def _lines(axis: Axis, style: Style) -> list[Fraction]:
    """Where grid lines are: at every step where points are read from them, else at the numbers."""
    if style.variant == "written":
        return list(axis.ticks) if style.grid_lines else []
    count = int((axis.ticks[-1] - axis.ticks[0]) / axis.step)
    return [axis.ticks[0] + i * axis.step for i in range(count + 1)]


def _draw_labels(scene: Scene, seen: SeenPoints, style: Style, dots: list, radius: float, room: Box) -> None:
    """Each label beside its point, where neither another point nor another label is."""
    boxes = [(x - radius, y - radius, x + radius, y + radius) for x, y in dots]
    if any(overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i]):
        scene.tight.append("points touch")
    placed: list[Label] = []
    for i, (point, dot) in enumerate(zip(seen.points, dots, strict=True)):
        text = point.label(style.variant == "written")
        others = boxes[:i] + boxes[i + 1 :]
        label = None
        for x, y, anchor in _places(dot, radius):
            label = make_label(text, x, y, style.label_size, style.theme.ink, anchor, style.theme.paper)
            box = label.box
            inside = room[0] <= box[0] and room[1] <= box[1] and box[2] <= room[2] and box[3] <= room[3]
            if inside and not any(overlap(box, other, 2) for other in [*others, *(one.box for one in placed)]):
                break
        else:
            scene.tight.append(f"no place for {text!r}")
        assert label is not None
        placed.append(label)
    scene.labels += placed


def _places(dot: tuple[float, float], radius: float) -> Iterator[tuple[float, float, str]]:
    x, y = dot
    far, near = radius + 3, 0.7 * radius + 2
    yield x + far, y, "lm"
    yield x - far, y, "rm"
    yield x, y - far, "mb"
    yield x, y + far, "mt"
    for sideways, horizontal in ((near, "l"), (-near, "r")):
        for upright, vertical in ((-near, "b"), (near, "t")):
            yield x + sideways, y + upright, horizontal + vertical
