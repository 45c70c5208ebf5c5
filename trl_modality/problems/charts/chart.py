"""Bar, line and pie charts and tables as problems: the facts of a grid, a question about them, and the drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from ..problem import Fact, FactKind, Problem
from ..render_style import RenderStyle
from . import bars, cells, lines, pies, questions, relations
from .frame import Seen, Style, draw_frame, draw_style, new_scene, nice_ticks, target_label
from .grid import PLACES, Grid, plain, rounded, synthetic_grid
from .questions import Ask, Maker, Question
from .real import real_grid
from .scene import Box, Scene, paint
from .theme import pick


SOURCES = {"synthetic": synthetic_grid, "real": real_grid}
_ATTEMPTS = 60  # draws until a picture has room for all; most fit at once, and later draws have fewer marks


@dataclass(frozen=True)
class Form:
    """A kind of chart: the function that draws it, and the words for its parts."""

    draw: Callable[[Scene, Seen, Style, Box], None]
    variants: tuple[str, ...]
    noun: str
    mark: str
    place: str
    """Beginning of the sentence that lists the categories."""
    has_axis: bool = True
    extras: tuple[str, ...] = ("highlighted", "target", "note")
    """Elements that the picture may have beside the grid; a chart of several series (no table) has only the note."""


FORMS = {
    "bar": Form(bars.draw_bars, bars.VARIANTS, "bar chart", "bar", "The bars stand, in this order, for"),
    "grouped_bar": Form(
        bars.draw_bars, bars.VARIANTS, "bar chart", "bar", "The groups of bars stand, in this order, for"
    ),
    "line": Form(lines.draw_lines, lines.VARIANTS, "line chart", "point", "The points stand, from left to right, for"),
    "pie": Form(pies.draw_pie, pies.VARIANTS, "pie chart", "slice", "", has_axis=False, extras=("note",)),
    "table": Form(
        cells.draw_cells, cells.VARIANTS, "table", "row", "The rows are", False, extras=("highlighted", "note")
    ),
}


@dataclass(frozen=True)
class Chart:
    """A grid of values in a form and a style; calling it draws some of its facts (a `problems.problem.Renderer`)."""

    form: str
    grid: Grid
    style: Style
    ticks: tuple[Fraction, ...] = ()
    highlighted: int | None = None
    target: Fraction | None = None
    note: str | None = None

    def facts(self) -> tuple[Fact, ...]:
        """All facts of the chart: descriptions, then properties, then conditions."""
        return tuple(fact for _, fact in self._roles_and_facts)

    def seen(self, shown: frozenset[int], question: str | None) -> Seen:
        """The content that the facts at the positions `shown` make visible, and nothing else."""
        grid = self.grid
        values: dict[tuple[int, int], Fraction] = {}
        parts: dict[str, Any] = {}
        for position, (role, _) in enumerate(self._roles_and_facts):
            if position in shown:
                if isinstance(role, dict):
                    parts.update(role)
                else:
                    values[role] = grid.values[role[0]][role[1]]
        return Seen(len(grid.categories), len(grid.values), values=values, question=question, **parts)

    def scene(self, shown: frozenset[int], question: str | None) -> Scene:
        """The layout of the picture with the facts at the positions `shown`."""
        seen, scene = self.seen(shown, question), new_scene(self.style)
        room = draw_frame(scene, seen, self.style, legend=FORMS[self.form].has_axis)
        FORMS[self.form].draw(scene, seen, self.style, room)
        return scene

    def __call__(self, shown: frozenset[int], question: str | None) -> Image.Image:
        return paint(self.scene(shown, question))

    @property
    def columns(self) -> tuple[str, ...]:
        """Headings of a table's columns; a single column is headed by its quantity."""
        return self.grid.series or (self.grid.quantity.capitalize(),)

    @cached_property
    def _roles_and_facts(self) -> list[tuple[dict[str, Any] | tuple[int, int], Fact]]:
        return list(self._iterate_facts())

    def _iterate_facts(self) -> Iterator[tuple[dict[str, Any] | tuple[int, int], Fact]]:
        """Each fact after its role: the fields of `Seen` that it fills, or the (series, category) of its value."""
        grid, form = self.grid, FORMS[self.form]
        yield {"title": grid.title}, _described(f'The {form.noun} is titled "{grid.title}".', grid.title)
        measure = f"{grid.quantity.capitalize()} in {grid.unit}"
        numbers = tuple(map(plain, self.ticks))
        axis = f", on an axis from {numbers[0]} to {numbers[-1]} with {len(numbers)} ticks" if numbers else ""
        words = f"It shows the {grid.quantity} in {grid.unit}{axis}."
        yield {"measure": measure, "ticks": self.ticks}, _described(words, measure, *numbers)
        if self.form == "pie":
            yield {}, _described(f"The pie has {len(grid.categories)} slices.")
        else:
            words = f"{form.place}: {', '.join(grid.categories)}."
            yield {"categories": grid.categories}, _described(words, *grid.categories)
        if self.form == "table":
            yield {"series": self.columns}, _described(f"The columns are: {', '.join(self.columns)}.", *self.columns)
        if self.note is not None:
            yield {"note": self.note}, _described(f'A note says "{self.note}".', self.note)
        if self.form == "pie" or (grid.series and self.form != "table"):
            names = grid.categories if self.form == "pie" else grid.series
            yield {"series": names}, Fact(self._legend(names), names, FactKind.PROPERTY)
        if self.highlighted is not None:
            words = f"The highlighted {form.mark} is {grid.categories[self.highlighted]}."
            yield {"highlighted": self.highlighted}, Fact(words, (), FactKind.PROPERTY)
        if self.target is not None:
            words = f"The target line stands at {plain(self.target)} {grid.unit}."
            yield {"target": self.target}, Fact(words, (target_label(self.target),))
        for s, row in enumerate(grid.values):
            for c, value in enumerate(row):
                words = f"The {grid.phrase(c, s)} is {plain(value)} {grid.unit}."
                yield (s, c), Fact(words, (plain(value),))

    def _legend(self, names: tuple[str, ...]) -> str:
        mark = {"line": "line", "pie": "slice"}.get(self.form, "bars")
        verb = "are" if mark == "bars" else "is"
        colours = [self.style.theme.name(self.style.position(i)) for i in range(len(names))]
        return (
            "; ".join(
                f"{'The' if i == 0 else 'the'} {colour} {mark} {verb} {name}"
                for i, (colour, name) in enumerate(zip(colours, names, strict=True))
            )
            + "."
        )


def _described(words: str, *labels: str) -> Fact:
    return Fact(words, labels, FactKind.DESCRIPTION)


def make_chart(
    name: str, rng: np.random.Generator, look: RenderStyle, source: str = "synthetic"
) -> tuple[Chart, Question] | None:
    """A random chart of the form `name` with a question; `None` if no attempt fits the picture that `look` allows."""
    form = FORMS[name]
    for attempt in range(_ATTEMPTS):
        marks = max(4, look.marks - attempt // 3)
        grid = _draw_grid(name, rng, marks, source)
        style = draw_style(rng, look, form.variants)
        if name in ("bar", "grouped_bar", "line"):
            ticks = pick(rng, (True, False), look)
            from_zero = name != "line" or pick(rng, (True, False), look)
        else:
            ticks = from_zero = False
        asked = _ask(name, rng, grid)
        if asked is None:
            continue
        extras, question = asked
        most = max(0, look.distractors - attempt // 12)
        chart = Chart(name, grid, style, **{**extras, **_distractors(name, rng, grid, most, extras, source)})
        if ticks:
            told = [value for row in grid.values for value in row] + ([chart.target] if chart.target else [])
            n_ticks = min(6, max(3, look.image_size // (4 * look.label_size)))
            chart = replace(chart, ticks=nice_ticks(max(told), n_ticks, Fraction(0) if from_zero else min(told)))
        everything = frozenset(range(len(chart.facts())))
        if not any(chart.scene(everything, words).faults() for words in (question.text, None)):
            return chart, question
    return None


def _draw_grid(name: str, rng: np.random.Generator, marks: int, source: str) -> Grid:
    draw = SOURCES[source]
    few = max(3, round(0.6 * marks))
    if name == "pie":
        return draw(rng, int(rng.integers(min(few, 5), min(marks, 8) + 1)), additive=True)
    if name == "table":
        return draw(rng, int(rng.integers(few, marks + 1)), int(rng.integers(1, 4)))
    if name == "grouped_bar" or (name == "line" and marks >= 6 and rng.integers(2)):
        n_series = int(rng.integers(2, min(3, marks // (2 if name == "grouped_bar" else 3)) + 1))
        return draw(rng, max(2, marks // n_series), n_series, ordered=name == "line")
    return draw(rng, int(rng.integers(few, marks + 1)), ordered=name == "line")


def _kinds(name: str, grid: Grid) -> dict[str, Maker]:
    kinds = dict(questions.KINDS)
    kinds |= relations.CHANGES if grid.ordered and name != "pie" else {}
    if grid.series:
        kinds |= relations.COMPARISONS | relations.COMPARED_SUMS
    if "highlighted" in _extras(name, grid):
        kinds |= relations.HIGHLIGHTED
    if "target" in _extras(name, grid):
        kinds |= relations.TARGETS
    if not grid.additive:
        for kind in ("ratio", *questions.SUMS, *relations.COMPARED_SUMS):
            kinds.pop(kind, None)
    return kinds


def _extras(name: str, grid: Grid) -> tuple[str, ...]:
    """Names of the elements that this chart may have beside the grid."""
    allowed = FORMS[name].extras
    return tuple(extra for extra in allowed if extra == "note" or not grid.series or name == "table")


def _ask(name: str, rng: np.random.Generator, grid: Grid) -> tuple[dict[str, Any], Question] | None:
    """A question of a random kind, after the elements beside the grid that it asks about (fields of `Chart`)."""
    kinds = _kinds(name, grid)
    names = list(kinds)
    for i in rng.permutation(len(names)).tolist():
        kind = names[i]
        extras: dict[str, Any] = {}
        if kind in relations.HIGHLIGHTED:
            extras["highlighted"] = int(rng.integers(len(grid.categories)))
        elif kind in relations.TARGETS:
            extras["target"] = _draw_target(rng, grid)
            if extras["target"] is None:
                continue
        question = kinds[kind](Ask(rng, grid, FORMS[name].mark, **extras))
        if question is not None:
            return extras, question
    return None


def _draw_target(rng: np.random.Generator, grid: Grid) -> Fraction | None:
    """A number between two neighbouring values of the first series; `None` if rounding makes it equal to a value."""
    order = sorted(grid.values[0])
    i = int(rng.integers(len(order) - 1))
    target = rounded((order[i] + order[i + 1]) / 2, 0 if order[i + 1] - order[i] >= 2 else 1)
    return None if target in order else target


def _distractors(
    name: str, rng: np.random.Generator, grid: Grid, most: int, used: dict[str, Any], source: str
) -> dict[str, Any]:
    """Up to `most` elements that the question does not need, as fields of `Chart`."""
    free = [extra for extra in _extras(name, grid) if extra not in used]
    chosen = [free[i] for i in rng.permutation(len(free))[:most].tolist()]
    makers: dict[str, Callable[[], Any]] = {
        "highlighted": lambda: int(rng.integers(len(grid.categories))),
        "target": lambda: _draw_target(rng, grid),
        # A real table must not claim a made-up source
        "note": lambda: draw_note(rng, plain_only=source == "real"),
    }
    return {extra: makers[extra]() for extra in chosen}


def draw_note(rng: np.random.Generator, plain_only: bool) -> str:
    """A line of small print; with `plain_only`, one that names no source of the data."""
    place, number = PLACES[int(rng.integers(len(PLACES)))], int(rng.integers(12, 99))
    notes = (f"Source: {place} council", f"Survey of {number} people", f"Checked in {place}", f"Sheet {number}")
    return notes[-1] if plain_only else notes[int(rng.integers(len(notes)))]


# Part of the random seed, so that charts of different forms are unrelated at the same index and seed
_STREAMS = {"bar": 101, "grouped_bar": 102, "line": 103, "pie": 104, "table": 105}


def chart_problem(name: str, index: int, seed: int, look: RenderStyle, source: str) -> Problem:
    """Problem number `index` of the form `name`; other arguments and errors as for `bar`."""
    if source not in SOURCES:
        raise ValueError(f"`source` must be one of {', '.join(SOURCES)}, got {source!r}.")
    made = make_chart(name, np.random.default_rng([seed, index, _STREAMS[name]]), look, source)
    if made is None:
        raise ValueError(
            f"No {name} fits {look}: use smaller `label_size`, a larger `image_size` or fewer `distractors`."
        )
    chart, question = made
    grid = chart.grid
    return Problem(
        id=f"{name}-{seed}-{index}" if source == "synthetic" else f"{name}-{source}-{seed}-{index}",
        facts=chart.facts(),
        question=question.text,
        answer=question.answer,
        reasoning=question.reasoning,
        render=chart,
        category=f"{name}/{question.kind}",
        meta={
            "generator": name,
            "source": source,
            "kind": question.kind,
            "operands": question.operands,
            "quantity": grid.quantity,
            "unit": grid.unit,
            "categories": list(grid.categories),
            "series": list(grid.series),
            "values": [[plain(value) for value in row] for row in grid.values],
            "highlighted": chart.highlighted,
            "target": None if chart.target is None else plain(chart.target),
        },
    )


def bar(index: int, seed: int, look: RenderStyle, source: str = "synthetic") -> Problem:
    """A bar chart of one series, with vertical or horizontal bars.

    Args:
        index: Number of the problem; each has its own data, question and style.
        seed: Seed of the sequence of problems.
        look: Limits on the look of the picture.
        source: "synthetic", or "real" for parts of the tables in `vega_datasets`.

    Raises:
        ValueError: an unknown source.
        ImportError: "real" without `vega_datasets`.
    """
    return chart_problem("bar", index, seed, look, source)


def grouped_bar(index: int, seed: int, look: RenderStyle, source: str = "synthetic") -> Problem:
    """A bar chart of two or three series; arguments and errors as for `bar`."""
    return chart_problem("grouped_bar", index, seed, look, source)


def line(index: int, seed: int, look: RenderStyle, source: str = "synthetic") -> Problem:
    """A line chart of one to three series over time; arguments and errors as for `bar`."""
    return chart_problem("line", index, seed, look, source)


def pie(index: int, seed: int, look: RenderStyle, source: str = "synthetic") -> Problem:
    """A pie or ring of quantities that add up; arguments and errors as for `bar`."""
    return chart_problem("pie", index, seed, look, source)


def table(index: int, seed: int, look: RenderStyle, source: str = "synthetic") -> Problem:
    """A table of one to three columns of values; arguments and errors as for `bar`."""
    return chart_problem("table", index, seed, look, source)
