"""The frame around the marks of a chart or table: title, measure, legend, note and question."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from ..lettering import wrap
from ..render_style import RenderStyle
from .grid import plain
from .scene import Box, Colour, Scene, cap_height, fitting_size, mix_colours, width_of
from .theme import THEMES, Theme, pick


@dataclass(frozen=True)
class Seen:
    """The visible content of a picture. A drawing is made from it alone, so that hidden facts cannot leave a trace.

    Args:
        n_categories, n_series: Numbers of categories and series, hidden ones included; they fix the marks' places.
        values: The visible values, by (series, category).
        ticks: Numbers along the value axis, from its lowest to its highest; empty for an axis without numbers.
        target: Value of the target line.
        question: The question, if it is drawn into the picture.
    """

    n_categories: int
    n_series: int = 1
    title: str | None = None
    measure: str | None = None
    ticks: tuple[Fraction, ...] = ()
    categories: tuple[str, ...] | None = None
    series: tuple[str, ...] | None = None
    values: dict[tuple[int, int], Fraction] = field(default_factory=dict)
    highlighted: int | None = None
    target: Fraction | None = None
    note: str | None = None
    question: str | None = None


@dataclass(frozen=True)
class Style:
    """Colours, sizes in pixels and options of one picture; `variant` is one of `VARIANTS` of the kind of chart."""

    theme: Theme
    image_size: int
    label_size: int
    first_colour: int = 0
    grid_lines: bool = True
    question_on_top: bool = False
    variant: str = ""

    @property
    def line(self) -> int:
        """Pixels from one row of labels to the next."""
        return round(1.3 * self.label_size) + 1

    @property
    def margin(self) -> int:
        return max(5, self.image_size // 42)

    @property
    def question_size(self) -> int:
        return min(self.label_size, max(11, self.image_size // 24))

    def position(self, series: int) -> int:
        """Position of a series' colour in the palette."""
        return (self.first_colour + series) % len(self.theme.palette)

    def colour(self, series: int) -> Colour:
        return self.theme.colour(self.position(series))


def draw_style(rng: np.random.Generator, look: RenderStyle, variants: tuple[str, ...]) -> Style:
    """A random style, from the first `look.styles` options of each choice."""
    return Style(
        theme=pick(rng, THEMES, look),
        image_size=look.image_size,
        label_size=look.label_size,
        first_colour=pick(rng, (0, 1, 2, 4, 3, 5), look),
        grid_lines=pick(rng, (True, False), look),
        question_on_top=pick(rng, (False, True), look),
        variant=pick(rng, variants, look),
    )


def new_scene(style: Style) -> Scene:
    return Scene(style.image_size, style.theme.paper)


def draw_frame(scene: Scene, seen: Seen, style: Style, legend: bool = True) -> Box:
    """Draw everything around the marks; returns the box left for the marks.

    Title and measure take room even when hidden; the legend only when visible.
    """
    left, top, right, bottom = style.margin, style.margin, style.image_size - style.margin, style.image_size
    if seen.question is not None:
        top, bottom = _draw_question(scene, seen.question, style)
    bottom -= style.margin
    x, anchor = ((left + right) / 2, "mt") if style.theme.centred else (left, "lt")
    title_size = round(1.15 * style.label_size)
    if seen.title is not None:
        size = fitting_size(seen.title, title_size, right - left)
        scene.text(seen.title, x, top + 1, size, style.theme.ink, anchor)
    top += round(1.3 * title_size) + 1
    if seen.measure is not None:
        size = fitting_size(seen.measure, style.label_size, right - left)
        scene.text(seen.measure, x, top, size, style.theme.muted, anchor)
    top += style.line
    if legend:
        top = _draw_legend(scene, seen, style, (left, top, right, bottom))
    if seen.note is not None:
        size = max(10, style.label_size - 2)
        scene.text(seen.note, left, bottom, size, style.theme.muted, "lb")
        bottom -= cap_height(size) + style.margin
    return left, top, right, bottom


def _draw_question(scene: Scene, question: str, style: Style) -> tuple[int, int]:
    """Draw the question in a band across the picture; returns top and bottom of the area left."""
    size, theme = style.question_size, style.theme
    lines = wrap(question, size, style.image_size - 2 * style.margin)
    step = round(1.3 * size)
    height = len(lines) * step + style.margin
    top = 0 if style.question_on_top else style.image_size - height
    scene.rectangle((0, top, style.image_size, top + height), mix_colours(theme.paper, theme.colour(0), 0.14))
    for i, line in enumerate(lines):
        scene.text(line, style.margin, top + style.margin / 2 + (i + 0.5) * step, size, theme.ink)
    return (height + style.margin, style.image_size) if style.question_on_top else (style.margin, top)


def _draw_legend(scene: Scene, seen: Seen, style: Style, room: Box) -> float:
    """Draw the names of the series and of the target line in rows; returns the top of the area left for the marks."""
    entries = list(enumerate(seen.series or ()))
    if seen.target is not None:
        entries.append((-1, target_label(seen.target)))
    if not entries:
        return room[1]
    size, chip, gap = style.label_size, style.label_size * 0.75, style.label_size * 0.45
    left, top, right, _ = room
    rows: list[list[tuple[int, str]]] = [[]]
    used = 0.0
    for entry in entries:
        width = chip + gap + width_of(entry[1], size) + 2 * gap
        if rows[-1] and used + width > right - left + 2 * gap:
            rows.append([])
            used = 0.0
        rows[-1].append(entry)
        used += width
    for row in rows:
        whole = sum(chip + gap + width_of(name, size) + 2 * gap for _, name in row) - 2 * gap
        x = (left + right - whole) / 2 if style.theme.centred else left
        middle = top + cap_height(size) / 2
        for series, name in row:
            if series < 0:
                scene.line([(x - 1, middle), (x + chip + 1, middle)], style.theme.ink, 1.5, dash=3)
            else:
                chip_box = (x, middle - chip / 2, x + chip, middle + chip / 2)
                scene.rectangle(chip_box, style.colour(series), style.theme.rounding * size / 2)
            label = scene.text(name, x + chip + gap, middle, size, style.theme.ink)
            x = label.x + width_of(name, size) + 2 * gap
        top += style.line
    return top


def target_label(target: Fraction) -> str:
    """Text of the legend beside the dashed target line."""
    return f"target {plain(target)}"


def band_colour(style: Style) -> Colour:
    """Background of a highlighted category."""
    return mix_colours(style.theme.paper, style.theme.highlight, 0.75)


def plate_colour(seen: Seen, style: Style, category: int) -> Colour:
    """Background of a label at a category: that of the category."""
    return band_colour(style) if category == seen.highlighted else style.theme.paper


def nice_ticks(high: Fraction, most: int, low: Fraction = Fraction(0)) -> tuple[Fraction, ...]:
    """At most `most` evenly spaced round numbers; the first is ≤ `low`, the last ≥ `high`."""
    span = high - low
    if span <= 0 or most < 3:
        raise ValueError(f"No {most} ticks from {low} to {high}.")
    decade = Fraction(10) ** math.floor(math.log10(span / most))
    for factor in (1, 2, 5, 10, 20, 50, 100):
        step = decade * factor
        first, last = low // step, -(-high // step)
        if last - first + 1 <= most:
            return tuple(i * step for i in range(first, last + 1))
    raise AssertionError("steps of a hundred times the smallest are always wide enough")
