"""Questions about the points of a scatter plot: about one axis, about both axes, and about the coloured groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from . import questions
from .grid import Grid, plain, rounded
from .questions import Ask, Question, added, is_unique, listed


@dataclass(frozen=True)
class Cloud:
    """The points of a scatter plot as one grid per axis, whose categories are the letters, and each point's group."""

    x: Grid
    y: Grid
    groups: tuple[int, ...]
    names: tuple[str, str]

    @property
    def letters(self) -> tuple[str, ...]:
        return self.x.categories

    def members(self, group: int) -> list[int]:
        return [i for i, other in enumerate(self.groups) if other == group]


Maker = Callable[[np.random.Generator, Cloud], Question | None]


def _two_axes(rng: np.random.Generator, cloud: Cloud) -> tuple[Grid, Grid]:
    return (cloud.x, cloud.y) if rng.integers(2) else (cloud.y, cloud.x)


def _told(grid: Grid, chosen: list[int]) -> str:
    return ", ".join(f"{grid.categories[i]}: {plain(grid.values[0][i])}" for i in chosen)


def at_extremum(rng: np.random.Generator, cloud: Cloud) -> Question | None:
    by, asked = _two_axes(rng, cloud)
    largest = bool(rng.integers(2))
    values = by.values[0]
    i = values.index(max(values) if largest else min(values))
    if not is_unique(values, i):
        return None
    word, answer = "largest" if largest else "smallest", plain(asked.values[0][i])
    text = f"What is the {asked.quantity} of the point with the {word} {by.quantity}, in {asked.unit}?"
    steps = (
        f"By {by.quantity}, {_told(by, list(range(len(values))))}.",
        f"The {word} is that of point {by.categories[i]}.",
        f"The {asked.quantity} of point {by.categories[i]} is {answer} {asked.unit}.",
    )
    return Question("at_extremum", text, answer, steps, {"by": by.quantity, "largest": largest})


def count_both(rng: np.random.Generator, cloud: Cloud) -> Question | None:
    limits = []
    for grid in (cloud.x, cloud.y):
        order = sorted(set(grid.values[0]))
        if len(order) < 2:
            return None
        i = int(rng.integers(max(1, len(order) // 2)))
        limit = rounded((order[i] + order[i + 1]) / 2, 0 if order[i + 1] - order[i] >= 2 else 1)
        if limit in order:
            return None
        limits.append(limit)
    above = [
        {letter for letter, value in zip(grid.categories, grid.values[0], strict=True) if value > limit}
        for grid, limit in zip((cloud.x, cloud.y), limits, strict=True)
    ]
    both = sorted(above[0] & above[1])
    text = (
        f"How many points have a {cloud.x.quantity} above {plain(limits[0])} {cloud.x.unit} "
        f"and a {cloud.y.quantity} above {plain(limits[1])} {cloud.y.unit}?"
    )
    steps = (
        f"Points with a {cloud.x.quantity} above {plain(limits[0])}: {listed(sorted(above[0])) or 'none'}.",
        f"Of these, with a {cloud.y.quantity} above {plain(limits[1])}: {listed(both) if both else 'none'}.",
        f"The number of points is {len(both)}.",
    )
    return Question("count_both", text, str(len(both)), steps, {"limits": [plain(limit) for limit in limits]})


def rises_along(rng: np.random.Generator, cloud: Cloud) -> Question | None:
    x, y = cloud.x.values[0], cloud.y.values[0]
    if len(set(x)) < len(x):
        return None
    order = sorted(range(len(x)), key=lambda i: x[i])
    rises = sum(y[b] > y[a] for a, b in zip(order, order[1:], strict=False))
    text = (
        f"With the points in order of rising {cloud.x.quantity}, how many times does the {cloud.y.quantity} rise "
        "from one to the next?"
    )
    steps = (
        f"In order of {cloud.x.quantity}, {_told(cloud.x, order)}.",
        f"Their {cloud.y.quantity}: {_told(cloud.y, order)}.",
        f"The number of rises is {rises}.",
    )
    return Question("rises_along", text, str(rises), steps)


def group_count(rng: np.random.Generator, cloud: Cloud) -> Question | None:
    grid, _ = _two_axes(rng, cloud)
    group = int(rng.integers(2))
    order = sorted(set(grid.values[0]))
    if len(order) < 2:
        return None
    i = int(rng.integers(len(order) - 1))
    limit = rounded((order[i] + order[i + 1]) / 2, 0 if order[i + 1] - order[i] >= 2 else 1)
    if limit in order:
        return None
    members = cloud.members(group)
    above = [grid.categories[i] for i in members if grid.values[0][i] > limit]
    name = cloud.names[group]
    text = f"For how many of the {name} points is the {grid.quantity} above {plain(limit)} {grid.unit}?"
    steps = (
        f"The {name} points, by {grid.quantity}: {_told(grid, members)}.",
        f"Above {plain(limit)}: {listed(above) if above else 'none'}.",
        f"The number of points is {len(above)}.",
    )
    operands = {"group": name, "axis": grid.quantity, "threshold": plain(limit)}
    return Question("group_count", text, str(len(above)), steps, operands)


def group_average(rng: np.random.Generator, cloud: Cloud) -> Question:
    grid, _ = _two_axes(rng, cloud)
    group = int(rng.integers(2))
    members = cloud.members(group)
    values = [grid.values[0][i] for i in members]
    whole = sum(values, Fraction(0))
    answer = plain(rounded(whole / len(values), 1))
    name = cloud.names[group]
    text = f"What is the average {grid.quantity} of the {name} points, in {grid.unit}? Round to one decimal."
    steps = (
        f"The {name} points, by {grid.quantity}: {_told(grid, members)}.",
        f"({added(values)}) / {len(values)} is about {plain(rounded(whole / len(values), 3))}.",
        f"Rounded to one decimal, the average is {answer} {grid.unit}.",
    )
    return Question("group_average", text, answer, steps, {"group": name, "axis": grid.quantity})


def group_larger(rng: np.random.Generator, cloud: Cloud) -> Question | None:
    grid, _ = _two_axes(rng, cloud)
    totals = [sum((grid.values[0][i] for i in cloud.members(group)), Fraction(0)) for group in (0, 1)]
    if totals[0] == totals[1]:
        return None
    name = cloud.names[int(totals[1] > totals[0])]
    a, b = cloud.names
    text = f"Which points have the larger {grid.quantity} when it is added up: {a} or {b}?"
    steps = (
        *(
            f"{cloud.names[group]}: {_told(grid, cloud.members(group))}, together {plain(totals[group])}."
            for group in (0, 1)
        ),
        f"{plain(max(totals))} is more than {plain(min(totals))}, so it is {name}.",
    )
    return Question("group_larger", text, name, steps, {"axis": grid.quantity})


BOTH: dict[str, Maker] = {
    "at_extremum": at_extremum,
    "count_both": count_both,
    "rises_along": rises_along,
    "group_count": group_count,
    "group_average": group_average,
    "group_larger": group_larger,
}
# Without `share`: a percentage of a sum of coordinates is meaningless
ONE_AXIS = {kind: make for kind, make in questions.KINDS.items() if kind != "share"}


def ask_about_points(rng: np.random.Generator, cloud: Cloud) -> Question | None:
    """A question of a random kind, or `None` if that kind has no clear answer for these points."""
    names = [*ONE_AXIS, *BOTH]
    kind = names[int(rng.integers(len(names)))]
    if kind in BOTH:
        return BOTH[kind](rng, cloud)
    grid, _ = _two_axes(rng, cloud)
    made = ONE_AXIS[kind](Ask(rng, grid, "point"))
    if made is None:
        return None
    return Question(made.kind, made.text, made.answer, made.reasoning, {**made.operands, "axis": grid.quantity})
