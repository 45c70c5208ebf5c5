"""Scatter plots: lettered points in one or two colours, read off the grid or from coordinates written beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain

from .frame import Seen, Style, draw_frame
from .grid import plain
from .scene import Box, Scene, cap_height, make_label, overlap, width_of


VARIANTS = ("grid", "written")


@dataclass(frozen=True)
class Point:
    """A point and its letter; `group` is the position of its colour in the palette."""

    letter: str
    x: Fraction
    y: Fraction
    group: int = 0

    def label(self, written: bool) -> str:
        """Label of the point: its letter, and its coordinates if these are `written`."""
        return f"{self.letter} ({plain(self.x)}, {plain(self.y)})" if written else self.letter


@dataclass(frozen=True)
class Axis:
    """An axis: its quantity and unit, the numbered `ticks`, and the spacing `step` of the grid lines."""

    name: str
    unit: str
    ticks: tuple[Fraction, ...]
    step: Fraction

    @property
    def label(self) -> str:
        return f"{self.name.capitalize()} in {self.unit}"


@dataclass(frozen=True)
class SeenPoints:
    """The visible content of a scatter plot; see `frame.Seen`."""

    frame: Seen
    x_axis: Axis | None = None
    y_axis: Axis | None = None
    points: tuple[Point, ...] = field(default=())


def draw_points(scene: Scene, seen: SeenPoints, style: Style) -> None:
    """Draw the visible points; an axis spans its ticks if it is visible, else the points."""
    left, top, right, bottom = draw_frame(scene, seen.frame, style)
    size, theme = style.label_size, style.theme
    cap = cap_height(size)
    y_ticks = seen.y_axis.ticks if seen.y_axis else ()
    x_ticks = seen.x_axis.ticks if seen.x_axis else ()
    left += max((width_of(plain(tick), size) for tick in y_ticks), default=-6) + 8
    left = max(left, style.margin + (width_of(plain(x_ticks[0]), size) / 2 if x_ticks else 0))
    edge = max((width_of(plain(tick), size) for tick in x_ticks), default=size) / 2
    right -= edge
    top += cap / 2
    drop = cap / 2 + 4  # the lowest number at the left ends half a letter below the plot
    bottom -= cap + drop + style.line
    if bottom - top < 5 * cap or right - left < 5 * cap:
        scene.tight.append("points have no room")
    x_low, x_high = _range(x_ticks, [point.x for point in seen.points])
    y_low, y_high = _range(y_ticks, [point.y for point in seen.points])

    def across(value: Fraction) -> float:
        return left + (right - left) * (float(value) - x_low) / (x_high - x_low)

    def up(value: Fraction) -> float:
        return bottom - (bottom - top) * (float(value) - y_low) / (y_high - y_low)

    if seen.x_axis:
        for value in _lines(seen.x_axis, style):
            scene.line([(across(value), top), (across(value), bottom)], theme.grid)
        for tick in x_ticks:
            scene.text(plain(tick), across(tick), bottom + drop, size, theme.muted, "mt")
        scene.text(seen.x_axis.label, right + edge, bottom + drop + cap + 5, size, theme.muted, "rt")
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
    _draw_labels(scene, seen, style, dots, radius, (left, top - cap / 2, right + edge, bottom - 1))


def _range(ticks: tuple[Fraction, ...], values: list[Fraction]) -> tuple[float, float]:
    """Ends of an axis: those of its ticks, else those of the points' values with a margin."""
    if ticks:
        return float(ticks[0]), float(ticks[-1])
    low, high = float(min(values, default=0)), float(max(values, default=1))
    room = (high - low) / 8 or 1.0
    return low - room, high + room


def _lines(axis: Axis, style: Style) -> list[Fraction]:
    """Values with a grid line: every step if points are read off the grid, else the ticks (or none, by the style)."""
    if style.variant == "written":
        return list(axis.ticks) if style.grid_lines else []
    count = int((axis.ticks[-1] - axis.ticks[0]) / axis.step)
    return [axis.ticks[0] + i * axis.step for i in range(count + 1)]


def _draw_labels(scene: Scene, seen: SeenPoints, style: Style, dots: list, radius: float, room: Box) -> None:
    """Place each label beside its point, clear of other points and labels."""
    boxes = [(x - radius, y - radius, x + radius, y + radius) for x, y in dots]
    if any(overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i]):
        scene.tight.append("points touch")
    taken = [label.box for label in scene.labels]
    for i, (point, dot) in enumerate(zip(seen.points, dots, strict=True)):
        text = point.label(style.variant == "written")
        others = boxes[:i] + boxes[i + 1 :] + taken
        near = list(_places(dot, radius))
        places = chain(near, _distant_places(dot, radius, style.label_size))
        label = None
        for k, (x, y, anchor) in enumerate(places):
            label = make_label(text, x, y, style.label_size, style.theme.ink, anchor, style.theme.paper)
            box = label.box
            inside = room[0] <= box[0] and room[1] <= box[1] and box[2] <= room[2] and box[3] <= room[3]
            if inside and not any(overlap(box, other, 2) for other in others):
                # Accepted in a picture of some of the facts, but a problem is rejected if its full picture needs it
                scene.tight += [f"{text!r} is far from its point"] if k >= len(near) else []
                break
        else:
            scene.tight.append(f"no place for {text!r}")
        assert label is not None
        taken.append(label.box)
        scene.labels.append(label)


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
    # Along the edges of the plot, over or under the point
    for upright, vertical in ((-far, "b"), (far, "t")):
        for horizontal in "rl":
            yield x + (far if horizontal == "r" else -far), y + upright, horizontal + vertical


def _distant_places(dot: tuple[float, float], radius: float, size: int) -> Iterator[tuple[float, float, str]]:
    x, y = dot
    for k in range(1, 9):
        reach = radius + 3 + k * size / 2
        for dx in (0, 1, -1, 2, -2, 4, -4):
            for dy in (1, -1):
                yield x + dx * reach, y + dy * reach, "mb" if dy < 0 else "mt"
            yield x + dx * reach, y, "mm"
