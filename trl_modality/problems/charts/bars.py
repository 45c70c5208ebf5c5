"""Bar charts: vertical or horizontal bars, one or several per category, with the value written at each bar's end."""

from __future__ import annotations

from fractions import Fraction

from .frame import Seen, Style, band_colour, plate_colour
from .grid import plain
from .scene import Box, Scene, cap_height, width_of


VARIANTS = ("columns", "rows")


def draw_bars(scene: Scene, seen: Seen, style: Style, room: Box) -> None:
    """Draw bars for the visible values, on a scale from 0; the place of a hidden value stays empty."""
    targets = [] if seen.target is None else [seen.target]
    top = float(max([Fraction(0), *seen.values.values(), *seen.ticks, *targets])) or 1.0
    if style.variant == "rows":
        _draw_rows(scene, seen, style, room, top)
    else:
        _draw_columns(scene, seen, style, room, top)


def _draw_columns(scene: Scene, seen: Seen, style: Style, room: Box, scale_top: float) -> None:
    left, top, right, bottom = room
    size, theme = style.label_size, style.theme
    cap = cap_height(size)
    base = bottom - cap - 6
    left += max((width_of(plain(tick), size) for tick in seen.ticks), default=-6) + 6
    peak = top + cap + 6
    if base - peak < 2 * cap:
        scene.tight.append("bars have no room")
    column = (right - left) / seen.n_categories
    if seen.highlighted is not None:
        edge = left + seen.highlighted * column
        scene.rectangle((edge, top, edge + column, bottom + 3), band_colour(style))

    def height(value: Fraction) -> float:
        return base - (base - peak) * float(value) / scale_top

    for tick in seen.ticks:
        if style.grid_lines:
            scene.line([(left, height(tick)), (right, height(tick))], theme.grid)
        scene.text(plain(tick), left - 6, height(tick), size, theme.muted, "rm")
    bar = column * (0.66 if seen.n_series == 1 else 0.88) / seen.n_series
    for (s, c), value in seen.values.items():
        x = left + (c + 0.5) * column + (s - seen.n_series / 2) * bar
        gap = 0.5 if seen.n_series > 1 else 0
        box = (x + gap, height(value), x + bar - gap, base)
        scene.rectangle(box, style.colour(s), theme.rounding * size, "top")
    if seen.target is not None:
        scene.line([(left, height(seen.target)), (right, height(seen.target))], theme.ink, 1.5, dash=4)
    scene.line([(left, base), (right, base)], theme.muted, 1)
    slot = bar if seen.n_series > 1 else column
    for (s, c), value in seen.values.items():
        text = plain(value)
        if width_of(text, size) > slot - 1:
            scene.tight.append(f"{text!r} is wider than its bar")
        x = left + (c + 0.5) * column + (s + 0.5 - seen.n_series / 2) * bar
        label = scene.text(text, x, height(value) - 3, size, theme.ink, "mb", plate_colour(seen, style, c))
        # A dashed line beside a number looks like a minus sign
        if seen.target is not None and label.box[1] - 3 < height(seen.target) < label.box[3] + 2:
            scene.tight.append(f"{text!r} lies on the target line")
    for c, name in enumerate(seen.categories or ()):
        if width_of(name, size) > column - 2:
            scene.tight.append(f"{name!r} is wider than its column")
        scene.text(name, left + (c + 0.5) * column, base + 5, size, theme.ink, "mt")


def _draw_rows(scene: Scene, seen: Seen, style: Style, room: Box, scale_top: float) -> None:
    left, top, right, bottom = room
    size, theme = style.label_size, style.theme
    cap = cap_height(size)
    start = left + max((width_of(name, size) for name in seen.categories or ()), default=0) + 6
    end = right - max((width_of(plain(value), size) for value in seen.values.values()), default=0) - 5
    if seen.ticks:
        bottom -= cap + 6
        end = min(end, right - width_of(plain(seen.ticks[-1]), size) / 2)
    row = (bottom - top) / seen.n_categories
    bar = row * (0.72 if seen.n_series == 1 else 0.9) / seen.n_series
    if bar < cap + 2 or end - start < 4 * cap:
        scene.tight.append("bars have no room")
    if seen.highlighted is not None:
        edge = top + seen.highlighted * row
        scene.rectangle((left - 3, edge, right, edge + row), band_colour(style))

    def reach(value: Fraction) -> float:
        return start + (end - start) * float(value) / scale_top

    for tick in seen.ticks:
        if style.grid_lines:
            scene.line([(reach(tick), top), (reach(tick), bottom)], theme.grid)
        scene.text(plain(tick), reach(tick), bottom + 5, size, theme.muted, "mt")
    for (s, c), value in seen.values.items():
        y = top + (c + 0.5) * row + (s - seen.n_series / 2) * bar
        gap = 0.5 if seen.n_series > 1 else 0
        scene.rectangle((start, y + gap, reach(value), y + bar - gap), style.colour(s), theme.rounding * size, "right")
    if seen.target is not None:
        scene.line([(reach(seen.target), top), (reach(seen.target), bottom)], theme.ink, 1.5, dash=4)
    scene.line([(start, top), (start, bottom)], theme.muted, 1)
    for (s, c), value in seen.values.items():
        y = top + (c + 0.5) * row + (s + 0.5 - seen.n_series / 2) * bar
        label = scene.text(plain(value), reach(value) + 4, y, size, theme.ink, "lm", plate_colour(seen, style, c))
        if seen.target is not None and label.box[0] - 3 < reach(seen.target) < label.box[2] + 3:
            scene.tight.append(f"{label.text!r} lies on the target line")
    for c, name in enumerate(seen.categories or ()):
        scene.text(name, start - 5, top + (c + 0.5) * row, size, theme.ink, "rm")
