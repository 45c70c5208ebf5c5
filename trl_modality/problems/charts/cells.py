"""Tables: a row per category, a column per series."""

from __future__ import annotations

from .frame import Seen, Style, band_colour
from .grid import plain
from .scene import Box, Scene, cap_height, mix_colours, width_of


VARIANTS = ("ruled", "striped", "boxed")


def draw_cells(scene: Scene, seen: Seen, style: Style, room: Box) -> None:
    """Draw the names of rows and columns and the visible values; the cell of a hidden value is empty."""
    left, top, right, bottom = room
    size, theme = style.label_size, style.theme
    if seen.n_series == 1:
        # A single column of numbers stays near the row names, to be read across
        spare = 0.3 * (right - left)
        left, right = (left + spare / 2, right - spare / 2) if theme.centred else (left, right - spare)
    row = min((bottom - top) / (seen.n_categories + 1), 2.6 * size)
    if row < 1.25 * size:
        scene.tight.append("rows have no room")
    edges = _columns(scene, seen, style, left, right)
    bottom = top + row * (seen.n_categories + 1)
    header = mix_colours(theme.paper, style.colour(0), 0.3)
    scene.rectangle((left, top, right, top + row), header)
    for c in range(seen.n_categories):
        box = (left, top + (c + 1) * row, right, top + (c + 2) * row)
        if c == seen.highlighted:
            scene.rectangle(box, band_colour(style))
        elif style.variant == "striped" and c % 2:
            scene.rectangle(box, mix_colours(theme.paper, theme.grid, 0.55))
    for i in range(seen.n_categories + 2):
        if style.variant != "striped" or i in (0, 1, seen.n_categories + 1):
            heavy = i in (0, 1, seen.n_categories + 1)
            scene.line([(left, top + i * row), (right, top + i * row)], theme.muted if heavy else theme.grid)
    if style.variant == "boxed":
        for x in (left, *edges, right):
            scene.line([(x, top), (x, bottom)], theme.muted)
    pad = size * 0.5
    stops = [*edges[1:], right]
    for s, name in enumerate(seen.series or ()):
        scene.text(name, stops[s] - pad, top + row / 2, size, theme.ink, "rm")
    for c, name in enumerate(seen.categories or ()):
        scene.text(name, left + pad, top + (c + 1.5) * row, size, theme.ink)
    for (s, c), value in seen.values.items():
        scene.text(plain(value), stops[s] - pad, top + (c + 1.5) * row, size, theme.ink, "rm")


def _columns(scene: Scene, seen: Seen, style: Style, left: float, right: float) -> list[float]:
    """Left edge of each column of values, in pixels."""
    size, pad = style.label_size, style.label_size * 0.5
    names = max((width_of(name, size) for name in seen.categories or ()), default=0) + 2 * pad
    first = left + max(names, 0.25 * (right - left))
    width = (right - first) / seen.n_series
    texts = [*(seen.series or ()), *(plain(value) for value in seen.values.values())]
    if width < max((width_of(text, size) for text in texts), default=0) + 2 * pad or cap_height(size) > width:
        scene.tight.append("columns have no room")
    return [first + s * width for s in range(seen.n_series)]
