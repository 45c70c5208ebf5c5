"""Pie and ring charts: a slice per value with the value beside it, and the names in a legend at the right."""

from __future__ import annotations

import math

from .frame import Seen, Style
from .grid import plain
from .scene import Box, Label, Scene, cap_height, make_label, overlap, width_of


VARIANTS = ("pie", "ring")
SMALLEST_SHARE = 0.03  # of the whole; the labels of smaller slices would collide


def draw_pie(scene: Scene, seen: Seen, style: Style, room: Box) -> None:
    """Draw the visible values as slices, in shares of their sum; without any, an empty circle."""
    left, top, right, bottom = room
    size, theme = style.label_size, style.theme
    if seen.series is not None:
        right = _draw_names(scene, seen, style, room)
    widest = max((width_of(plain(value), size) for value in seen.values.values()), default=0)
    cap = cap_height(size)
    radius = min((right - left) / 2 - widest - 5, (bottom - top) / 2 - cap - 6)
    if radius < 1.6 * size:
        scene.tight.append("the pie has no room")
        radius = 1.6 * size
    x, y = (left + right) / 2, (top + bottom) / 2
    if not seen.values:
        scene.disc(x, y, radius, theme.grid)
        return
    whole = float(sum(seen.values.values()))
    turn = 0.0
    placed: list[Label] = []
    for (_, c), value in sorted(seen.values.items()):
        share = float(value) / whole
        if share < SMALLEST_SHARE:
            scene.tight.append(f"the slice of {plain(value)} is too small")
        scene.polygon(_sector(x, y, radius, turn, turn + share), style.colour(c))
        middle, turn = turn + share / 2, turn + share
        placed.append(_value_label(scene, style, plain(value), (x, y, radius), middle, placed))
    turn = 0.0
    # Thin gaps between the slices, in the colour of the paper
    for value in (value for _, value in sorted(seen.values.items()) if len(seen.values) > 1):
        dx, dy = _direction(turn)
        scene.line([(x, y), (x + (radius + 1) * dx, y + (radius + 1) * dy)], theme.paper, 1.5)
        turn += float(value) / whole
    if style.variant == "ring":
        scene.disc(x, y, 0.52 * radius, theme.paper)
    scene.labels += placed


def _direction(turn: float) -> tuple[float, float]:
    """Unit vector at a share of a full turn, clockwise from the top."""
    return math.sin(2 * math.pi * turn), -math.cos(2 * math.pi * turn)


def _sector(x: float, y: float, radius: float, start: float, stop: float) -> list[tuple[float, float]]:
    steps = max(2, math.ceil((stop - start) * 120))
    arc = [_direction(start + (stop - start) * i / steps) for i in range(steps + 1)]
    return [(x, y), *((x + radius * dx, y + radius * dy) for dx, dy in arc)]


def _value_label(
    scene: Scene, style: Style, text: str, circle: tuple[float, float, float], middle: float, placed: list[Label]
) -> Label:
    """Label of a slice beside its middle, shifted as little as keeps it clear of the labels in `placed`."""
    x, y, radius = circle
    half_width, half_height = width_of(text, style.label_size) / 2, cap_height(style.label_size) / 2
    label = None
    # Further out only where labels of thin slices stand side by side
    for shift, out in ((0.0, 0), (0.008, 0), (-0.008, 0), (0.016, 0), (-0.016, 0), (0.0, 1), (0.03, 0), (-0.03, 0)):
        dx, dy = _direction(middle + shift)
        reach = radius + 4 + out * (2 * half_height + 3) + abs(dx) * half_width + abs(dy) * half_height
        label = make_label(text, x + reach * dx, y + reach * dy, style.label_size, style.theme.ink, "mm")
        if not any(overlap(label.box, other.box) for other in placed):
            return label
    scene.tight.append(f"no place for {text!r}")
    assert label is not None
    return label


def _draw_names(scene: Scene, seen: Seen, style: Style, room: Box) -> float:
    """Draw the legend, a column at the right; returns its left edge in pixels."""
    assert seen.series is not None
    _, top, right, bottom = room
    size, chip = style.label_size, style.label_size * 0.75
    step = min(1.7 * size, (bottom - top) / len(seen.series))
    if step < size * 1.15:
        scene.tight.append("the names have no room")
    start = right - max(width_of(name, size) for name in seen.series) - 1.5 * chip
    for i, name in enumerate(seen.series):
        y = (top + bottom) / 2 + (i + 0.5 - len(seen.series) / 2) * step
        scene.rectangle(
            (start, y - chip / 2, start + chip, y + chip / 2), style.colour(i), style.theme.rounding * size / 2
        )
        scene.text(name, start + 1.5 * chip, y, size, style.theme.ink)
    return start - style.margin
