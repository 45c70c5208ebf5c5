"""Questions about one series of a grid; wording, answer and reasoning are computed from the grid's values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from .grid import Grid, plain, rounded


@dataclass(frozen=True)
class Question:
    """A question, its answer and the reasoning.

    Args:
        kind: Its name in `KINDS`, or among the questions of `relations` or `point_questions`.
        operands: What it is about, as plain data: positions of categories and series, a threshold.
    """

    kind: str
    text: str
    answer: str
    reasoning: tuple[str, ...]
    operands: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ask:
    """The input from which a question is made: a source of random numbers, a grid, and the elements beside it.

    Args:
        mark: Word for the drawing of a category: "bar", "point", "row".
        highlighted: Position of the highlighted category, if there is one.
        target: Value of the target line, if there is one.
    """

    rng: np.random.Generator
    grid: Grid
    mark: str = "bar"
    highlighted: int | None = None
    target: Fraction | None = None

    def pick(self, count: int, without: int | None = None) -> list[int]:
        """Positions of `count` random categories, none twice and none equal to `without`."""
        order = self.rng.permutation(len(self.grid.categories)).tolist()
        return [c for c in order if c != without][:count]

    def pick_series(self) -> int:
        return int(self.rng.integers(len(self.grid.values)))

    def told(self, series: int, categories: Sequence[int]) -> str:
        """Values of some categories as text: `Mon: 3, Tue: 4.`"""
        grid = self.grid
        return ", ".join(f"{grid.categories[c]}: {plain(grid.values[series][c])}" for c in categories) + "."

    def everything(self, series: int) -> str:
        return self.told(series, range(len(self.grid.categories)))


def listed(items: Sequence[str]) -> str:
    """Items as a sentence lists them: "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def added(values: Sequence[Fraction]) -> str:
    return " + ".join(map(plain, values))


def is_unique(values: Sequence[Fraction], position: int) -> bool:
    """Whether no other value equals the one at `position`, so that a question about it has one answer."""
    return list(values).count(values[position]) == 1


def look_up(ask: Ask) -> Question:
    g, s, (c,) = ask.grid, ask.pick_series(), ask.pick(1)
    value = plain(g.values[s][c])
    text = f"What is the {g.phrase(c, s)}, in {g.unit}?"
    return Question("look_up", text, value, (f"The {g.phrase(c, s)} is {value} {g.unit}.",), {"s": s, "c": [c]})


def add(ask: Ask) -> Question:
    g, s = ask.grid, ask.pick_series()
    chosen = sorted(ask.pick(int(ask.rng.integers(2, 4))))
    values = [g.values[s][c] for c in chosen]
    total = plain(sum(values, Fraction(0)))
    text = f"What is the {g.what(s)} {listed([g.at(c) for c in chosen])} added up, in {g.unit}?"
    steps = (ask.told(s, chosen), f"{added(values)} = {total}.", f"The sum is {total} {g.unit}.")
    return Question("add", text, total, steps, {"s": s, "c": chosen})


def total(ask: Ask) -> Question:
    g, s = ask.grid, ask.pick_series()
    answer = plain(sum(g.values[s], Fraction(0)))
    text = f"What is the {g.what(s)} added up over all {g.nouns}, in {g.unit}?"
    steps = (ask.everything(s), f"{added(g.values[s])} = {answer}.", f"The sum is {answer} {g.unit}.")
    return Question("total", text, answer, steps, {"s": s})


def difference(ask: Ask) -> Question:
    g, s, (a, b) = ask.grid, ask.pick_series(), ask.pick(2)
    high, low = max(g.values[s][a], g.values[s][b]), min(g.values[s][a], g.values[s][b])
    answer = plain(high - low)
    text = f"By how many {g.unit} does the {g.phrase(a, s)} differ from that {g.at(b)}?"
    steps = (
        ask.told(s, [a, b]),
        f"{plain(high)} - {plain(low)} = {answer}.",
        f"The difference is {answer} {g.unit}.",
    )
    return Question("difference", text, answer, steps, {"s": s, "c": [a, b]})


def ratio(ask: Ask) -> Question | None:
    g, s, (a, b) = ask.grid, ask.pick_series(), ask.pick(2)
    top, base = g.values[s][a], g.values[s][b]
    if base <= 0:
        return None
    answer = plain(rounded(top / base, 1))
    text = f"How many times as large as the {g.phrase(b, s)} is that {g.at(a)}? Round to one decimal."
    steps = (
        ask.told(s, [b, a]),
        f"{plain(top)} / {plain(base)} is about {plain(rounded(top / base, 3))}.",
        f"Rounded to one decimal, it is {answer} times as large.",
    )
    return Question("ratio", text, answer, steps, {"s": s, "c": [a, b]})


def average(ask: Ask) -> Question:
    g, s = ask.grid, ask.pick_series()
    values = g.values[s]
    whole = sum(values, Fraction(0))
    answer = plain(rounded(whole / len(values), 1))
    text = f"What is the average {g.what(s)} over all {g.nouns}, in {g.unit}? Round to one decimal."
    steps = (
        ask.everything(s),
        f"{added(values)} = {plain(whole)}.",
        f"{plain(whole)} / {len(values)} is about {plain(rounded(whole / len(values), 3))}.",
        f"Rounded to one decimal, the average is {answer} {g.unit}.",
    )
    return Question("average", text, answer, steps, {"s": s})


def extremum(ask: Ask) -> Question | None:
    g, s, largest = ask.grid, ask.pick_series(), bool(ask.rng.integers(2))
    values = g.values[s]
    position = values.index(max(values) if largest else min(values))
    if not is_unique(values, position):
        return None
    name, word = g.categories[position], "largest" if largest else "smallest"
    steps = (
        ask.everything(s),
        f"The {word} of these is {plain(values[position])}, {g.at(position)}.",
        f"The {g.noun} is {name}.",
    )
    return Question(
        "extremum", f"Which {g.noun} has the {word} {g.what(s)}?", name, steps, {"s": s, "largest": largest}
    )


def spread(ask: Ask) -> Question:
    g, s = ask.grid, ask.pick_series()
    high, low = max(g.values[s]), min(g.values[s])
    answer = plain(high - low)
    text = f"By how many {g.unit} does the largest {g.what(s)} exceed the smallest?"
    steps = (
        ask.everything(s),
        f"The largest is {plain(high)}, the smallest {plain(low)}.",
        f"{plain(high)} - {plain(low)} = {answer}, so it exceeds it by {answer} {g.unit}.",
    )
    return Question("spread", text, answer, steps, {"s": s})


def count_above(ask: Ask) -> Question | None:
    g, s = ask.grid, ask.pick_series()
    order = sorted(g.values[s])
    i = int(ask.rng.integers(len(order) - 1))
    threshold = rounded((order[i] + order[i + 1]) / 2, 0 if order[i + 1] - order[i] >= 2 else 1)
    if threshold in order:
        return None
    text = f"For how many {g.nouns} is the {g.what(s)} above {plain(threshold)} {g.unit}?"
    steps, answer = _counted(ask, s, threshold)
    return Question("count_above", text, answer, steps, {"s": s, "threshold": plain(threshold)})


def _counted(ask: Ask, series: int, threshold: Fraction) -> tuple[tuple[str, ...], str]:
    g = ask.grid
    above = [c for c, value in enumerate(g.values[series]) if value > threshold]
    names = listed([g.categories[c] for c in above]) if above else "none"
    steps = (
        ask.everything(series),
        f"Above {plain(threshold)}: {names}.",
        f"The number of {g.nouns} is {len(above)}.",
    )
    return steps, str(len(above))


def rank(ask: Ask) -> Question | None:
    g, s, largest = ask.grid, ask.pick_series(), bool(ask.rng.integers(2))
    values = g.values[s]
    place = int(ask.rng.integers(2, min(4, len(values)) + 1)) - 1
    order = sorted(range(len(values)), key=lambda c: values[c], reverse=largest)
    position = order[place]
    if not is_unique(values, position):
        return None
    word = f"{('second', 'third', 'fourth')[place - 1]} {'largest' if largest else 'smallest'}"
    name = g.categories[position]
    ranked = " > " if largest else " < "
    steps = (
        ask.everything(s),
        f"In order: {ranked.join(plain(values[c]) for c in order)}.".replace(" > ", ", ").replace(" < ", ", "),
        f"The {word} is {plain(values[position])}, {g.at(position)}, so the {g.noun} is {name}.",
    )
    operands = {"s": s, "place": place, "largest": largest}
    return Question("rank", f"Which {g.noun} has the {word} {g.what(s)}?", name, steps, operands)


def top_two(ask: Ask) -> Question:
    g, s = ask.grid, ask.pick_series()
    pair = sorted(g.values[s], reverse=True)[:2]
    answer = plain(pair[0] + pair[1])
    text = f"What do the two largest values of the {g.what(s)} add up to, in {g.unit}?"
    steps = (
        ask.everything(s),
        f"The two largest are {plain(pair[0])} and {plain(pair[1])}.",
        f"{added(pair)} = {answer}, so they add up to {answer} {g.unit}.",
    )
    return Question("top_two", text, answer, steps, {"s": s})


def two_against_one(ask: Ask) -> Question | None:
    g, s = ask.grid, ask.pick_series()
    chosen = ask.pick(3)
    if len(chosen) < 3:
        return None
    a, b, c = chosen
    pair, one = g.values[s][a] + g.values[s][b], g.values[s][c]
    answer = plain(abs(pair - one))
    text = f"By how many {g.unit} does the {g.what(s)} {g.at(a)} and {g.at(b)} together differ from that {g.at(c)}?"
    steps = (
        ask.told(s, chosen),
        f"{added([g.values[s][a], g.values[s][b]])} = {plain(pair)}.",
        f"{plain(max(pair, one))} - {plain(min(pair, one))} = {answer}.",
        f"The difference is {answer} {g.unit}.",
    )
    return Question("two_against_one", text, answer, steps, {"s": s, "c": chosen})


def share(ask: Ask) -> Question | None:
    g, s, (c,) = ask.grid, ask.pick_series(), ask.pick(1)
    whole, part = sum(g.values[s], Fraction(0)), g.values[s][c]
    if whole <= 0:
        return None
    answer = plain(rounded(100 * part / whole, 0))
    text = f"What percentage of the total {g.what(s)} is that {g.at(c)}? Round to a whole number."
    steps = (
        ask.everything(s),
        f"The total is {added(g.values[s])} = {plain(whole)}.",
        f"100 * {plain(part)} / {plain(whole)} is about {plain(rounded(100 * part / whole, 2))}.",
        f"Rounded to a whole number, it is {answer} percent.",
    )
    return Question("share", text, answer, steps, {"s": s, "c": [c]})


Maker = Callable[[Ask], Question | None]
# Questions about one series; those in `SUMS` need a quantity that can be added up
SUMS: dict[str, Maker] = {
    "add": add,
    "total": total,
    "top_two": top_two,
    "two_against_one": two_against_one,
    "share": share,
}
KINDS: dict[str, Maker] = {
    "look_up": look_up,
    "difference": difference,
    "ratio": ratio,
    "average": average,
    "extremum": extremum,
    "spread": spread,
    "count_above": count_above,
    "rank": rank,
    **SUMS,
}
