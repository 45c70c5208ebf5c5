"""Scatter plots as problems: lettered points with two quantities, and questions about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from ..problem import Fact, FactKind, Problem
from ..render_style import RenderStyle
from .chart import SOURCES, draw_note
from .frame import Seen, Style, draw_style, new_scene, nice_ticks
from .grid import PLACES, Grid, plain
from .point_questions import Cloud, ask_about_points
from .points import VARIANTS, Axis, Point, SeenPoints, draw_points
from .questions import Question
from .real import real_points
from .scene import Scene, paint


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MOST_POINTS = 12
_ATTEMPTS = 80
_STREAM = 106


@dataclass(frozen=True)
class Topic:
    """The subject of a made-up plot: two quantities with their units, and the names of two groups."""

    title: str
    x: tuple[str, str]
    y: tuple[str, str]
    groups: tuple[str, str]


TOPICS = (
    Topic("Seedlings", ("age", "weeks"), ("height", "cm"), ("cress", "basil")),
    Topic("Parcels", ("weight", "kg"), ("price", "EUR"), ("express", "standard")),
    Topic("Runners", ("training", "hours"), ("distance", "km"), ("club", "school")),
    Topic("Rooms", ("length", "m"), ("width", "m"), ("office", "store")),
    Topic("Beetles", ("length", "mm"), ("speed", "cm/s"), ("field", "wood")),
    Topic("Lakes", ("depth", "m"), ("area", "ha"), ("north", "south")),
    Topic("Tests", ("study time", "hours"), ("score", "points"), ("class 1", "class 2")),
    Topic("Boats", ("sail", "m2"), ("speed", "knots"), ("wood", "steel")),
)


@dataclass(frozen=True)
class Scatter:
    """A scatter plot in a style; calling it draws some of its facts (a `problems.problem.Renderer`)."""

    title: str
    x_axis: Axis
    y_axis: Axis
    points: tuple[Point, ...]
    style: Style
    groups: tuple[str, str] | None = None
    note: str | None = None

    def facts(self) -> tuple[Fact, ...]:
        """All facts of the plot: descriptions, then properties, then conditions."""
        return tuple(fact for _, fact in self._roles_and_facts)

    def scene(self, shown: frozenset[int], question: str | None) -> Scene:
        """The layout of the picture with the facts at the positions `shown`."""
        frame: dict[str, Any] = {}
        axes: dict[str, Axis] = {}
        points = []
        for position, (role, _) in enumerate(self._roles_and_facts):
            if position not in shown:
                continue
            if isinstance(role, Point):
                points.append(role)
            elif isinstance(role, str):
                axes[role] = self.x_axis if role == "x_axis" else self.y_axis
            else:
                frame.update(role)
        if "y_axis" in axes:
            frame["measure"] = self.y_axis.label
        scene = new_scene(self.style)
        draw_points(scene, SeenPoints(Seen(0, question=question, **frame), points=tuple(points), **axes), self.style)
        return scene

    def __call__(self, shown: frozenset[int], question: str | None) -> Image.Image:
        return paint(self.scene(shown, question))

    @cached_property
    def _roles_and_facts(self) -> list[tuple[dict[str, Any] | str | Point, Fact]]:
        return list(self._iterate_facts())

    def _iterate_facts(self) -> Iterator[tuple[dict[str, Any] | str | Point, Fact]]:
        """Each fact after its role: the fields of `Seen` that it fills, the name of its axis, or its point."""
        described = FactKind.DESCRIPTION
        yield {"title": self.title}, Fact(f'The scatter plot is titled "{self.title}".', (self.title,), described)
        for role, side, axis in (("x_axis", "horizontal", self.x_axis), ("y_axis", "vertical", self.y_axis)):
            numbers = tuple(map(plain, axis.ticks))
            words = f"The {side} axis shows the {axis.name} in {axis.unit}, from {numbers[0]} to {numbers[-1]}."
            yield role, Fact(words, (axis.label, *numbers), described)
        if self.note is not None:
            yield {"note": self.note}, Fact(f'A note says "{self.note}".', (self.note,), described)
        colours = [self.style.theme.name(self.style.position(group)) for group in (0, 1)]
        if self.groups is not None:
            words = f"The {colours[0]} points are {self.groups[0]}; the {colours[1]} points are {self.groups[1]}."
            yield {"series": self.groups}, Fact(words, self.groups, FactKind.PROPERTY)
        for point in self.points:
            where = f"{self.x_axis.name} {plain(point.x)} and {self.y_axis.name} {plain(point.y)}"
            colour = f"is {colours[point.group]} and " if self.groups is not None else ""
            label = point.label(self.style.variant == "written")
            yield point, Fact(f"Point {point.letter} {colour}lies at {where}.", (label,))


def scatter(index: int, seed: int, look: RenderStyle, source: str = "synthetic") -> Problem:
    """A scatter plot of lettered points; arguments and errors as for `chart.bar`."""
    if source not in SOURCES:
        raise ValueError(f"`source` must be one of {', '.join(SOURCES)}, got {source!r}.")
    made = make_scatter(np.random.default_rng([seed, index, _STREAM]), look, source)
    if made is None:
        raise ValueError(f"No scatter plot fits {look}: use a smaller `label_size` or a larger `image_size`.")
    plot, question = made
    return Problem(
        id=f"scatter-{seed}-{index}" if source == "synthetic" else f"scatter-{source}-{seed}-{index}",
        facts=plot.facts(),
        question=question.text,
        answer=question.answer,
        reasoning=question.reasoning,
        render=plot,
        category=f"scatter/{question.kind}",
        meta={
            "generator": "scatter",
            "source": source,
            "kind": question.kind,
            "operands": question.operands,
            "x": [plot.x_axis.name, plot.x_axis.unit],
            "y": [plot.y_axis.name, plot.y_axis.unit],
            "groups": list(plot.groups or ()),
            "points": [[point.letter, plain(point.x), plain(point.y), point.group] for point in plot.points],
        },
    )


def make_scatter(rng: np.random.Generator, look: RenderStyle, source: str) -> tuple[Scatter, Question] | None:
    """A random plot with a question; `None` if no attempt fits the picture that `look` allows."""
    for attempt in range(_ATTEMPTS):
        style = draw_style(rng, look, VARIANTS)
        if source == "real":
            style = replace(style, variant="written")  # measured numbers do not lie on grid lines
        elif attempt >= _ATTEMPTS // 4:
            style = replace(style, variant="grid")  # written coordinates need more room
        marks = min(look.marks, _MOST_POINTS) - attempt // 4
        few = max(3, round(0.6 * marks))
        count = int(rng.integers(few, max(few, marks) + 1))
        plot = _draw_real(rng, style, count) if source == "real" else _draw_synthetic(rng, style, count)
        asked = ask_about_points(rng, _cloud(plot))
        if asked is None:
            continue
        if not asked.kind.startswith("group") and not (look.distractors and rng.integers(2)):
            plot = replace(plot, groups=None, points=tuple(replace(point, group=0) for point in plot.points))
        if look.distractors:
            plot = replace(plot, note=draw_note(rng, plain_only=source == "real"))
        everything = frozenset(range(len(plot.facts())))
        if not any(plot.scene(everything, words).faults() for words in (asked.text, None)):
            return plot, asked
    return None


def _draw_synthetic(rng: np.random.Generator, style: Style, count: int) -> Scatter:
    topic = TOPICS[int(rng.integers(len(TOPICS)))]
    most = style.image_size // (4 * style.label_size)
    if style.variant == "grid":
        high = (8, 10, 12)[int(rng.integers(3))]
        # Only every second line or so has a number, and the same ones with and without the question in the picture
        every = next(k for k in (2, 4, 5, 6, 8, 10, 12) if high % k == 0 and high // k < max(most, 3))
        ticks = tuple(Fraction(value) for value in range(0, high + 1, every))
        x_axis, y_axis = (Axis(*name, ticks, Fraction(1)) for name in (topic.x, topic.y))
        spots = [(Fraction(x), Fraction(y)) for x in range(1, high) for y in range(1, high)]
        chosen = [spots[i] for i in rng.permutation(len(spots))[:count].tolist()]
    else:
        xs, ys = (rng.permutation(90)[:count] + 10 for _ in range(2))
        chosen = [(Fraction(x), Fraction(y)) for x, y in zip(xs.tolist(), ys.tolist(), strict=True)]
        x_axis, y_axis = _axes((topic.x, topic.y), chosen, most)
    groups = _groups(rng, count)
    points = tuple(Point(_LETTERS[i], x, y, groups[i]) for i, (x, y) in enumerate(chosen))
    title = f"{topic.title}, {PLACES[int(rng.integers(len(PLACES)))]}"
    return Scatter(title, x_axis, y_axis, points, style, topic.groups)


def _draw_real(rng: np.random.Generator, style: Style, count: int) -> Scatter:
    tables = real_points()
    table = tables[int(rng.integers(len(tables)))]
    names = sorted({group for group, _, _ in table.points})
    pair = [names[i] for i in sorted(rng.permutation(len(names))[:2].tolist())]
    rows = [row for row in table.points if row[0] in pair]
    while True:
        chosen = [rows[i] for i in rng.permutation(len(rows))[:count].tolist()]
        if len({group for group, _, _ in chosen}) == 2:
            break
    spots = [(x, y) for _, x, y in chosen]
    names_units = ((table.x, table.x_unit), (table.y, table.y_unit))
    x_axis, y_axis = _axes(names_units, spots, style.image_size // (4 * style.label_size))
    points = tuple(Point(_LETTERS[i], x, y, pair.index(group)) for i, (group, x, y) in enumerate(chosen))
    return Scatter(table.title, x_axis, y_axis, points, style, (pair[0], pair[1]))


def _axes(names: tuple[tuple[str, str], tuple[str, str]], spots: list, most: int) -> tuple[Axis, Axis]:
    axes = []
    for position, (name, unit) in enumerate(names):
        values = [spot[position] for spot in spots]
        low, high = min(values), max(values)
        room = (high - low) / 10 or Fraction(1)
        ticks = nice_ticks(high + room, max(most, 3), max(low - room, Fraction(0)))
        axes.append(Axis(name, unit, ticks, ticks[1] - ticks[0]))
    return axes[0], axes[1]


def _groups(rng: np.random.Generator, count: int) -> list[int]:
    """A random group (0 or 1) for each point; neither group is empty."""
    groups = rng.integers(0, 2, count)
    groups[rng.permutation(count)[:2]] = (0, 1)
    return groups.tolist()


def _cloud(plot: Scatter) -> Cloud:
    """The points of a plot as one grid per axis."""
    letters = tuple(point.letter for point in plot.points)
    grids = [
        Grid(plot.title, axis.name, axis.unit, "point", "points", "of point", letters, False, True, (values,))
        for axis, values in (
            (plot.x_axis, tuple(point.x for point in plot.points)),
            (plot.y_axis, tuple(point.y for point in plot.points)),
        )
    ]
    groups = tuple(point.group for point in plot.points)
    return Cloud(grids[0], grids[1], groups, plot.groups or ("", ""))
