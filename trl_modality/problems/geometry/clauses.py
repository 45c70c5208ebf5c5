"""Clauses in the style of PGPS9K (arXiv 2302.11097), and the draft of a geometry problem that is built from them.

A clause is one fact: a sentence in one of the `FORMS`, and the points that it is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..problem import Fact, FactKind
from .plane import Redraw, angle_at, cross


# Forms of clauses with their kind of fact and an example; the form also tells the renderer what to draw
FORMS = {
    "polygon": FactKind.DESCRIPTION,  # "ABC is a triangle."
    "line": FactKind.DESCRIPTION,  # "A, D, B lie on line AB."
    "circle": FactKind.DESCRIPTION,  # "In ⊙O, points A, B lie on ⊙O."
    "parallel": FactKind.PROPERTY,  # "AB ∥ CD."
    "perpendicular": FactKind.PROPERTY,  # "AB ⊥ BC."
    "tangent": FactKind.PROPERTY,  # "PA is tangent to ⊙O at A."
    "equal": FactKind.PROPERTY,  # "AD = DB."
    "equal_angles": FactKind.PROPERTY,  # "m∠BAD = m∠DAC."
    "length": FactKind.CONDITION,  # "AB = 5."
    "angle": FactKind.CONDITION,  # "m∠ABC = 40°."
}
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"  # without O, the name of centres, and I, which looks like a stroke
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Clause:
    """One fact of a figure.

    Args:
        form: One of `FORMS`.
        words: The sentence.
        points: Names of its points, in the order of the form: `circle` has the centre first; `angle` has the vertex
            second; `perpendicular` has the corner second; `tangent` has the far point, the touching point, the centre;
            `parallel`, `equal` and `equal_angles` have the first part, then the second.
        text: The label of a length or an angle, as drawn.
        count: How many ticks, arrows or arcs tell this pair from other pairs.
    """

    form: str
    words: str
    points: tuple[str, ...]
    text: str = ""
    count: int = 1

    @property
    def fact(self) -> Fact:
        kind = FORMS[self.form]
        names = self.points if kind is FactKind.DESCRIPTION else ()
        return Fact(self.words, (self.text,) if self.text else names, kind)


@dataclass(frozen=True)
class Linear:
    """The linear expression k·x + c."""

    k: int
    c: int

    def __add__(self, other: Linear) -> Linear:
        return Linear(self.k + other.k, self.c + other.c)

    def times(self, factor: int) -> Linear:
        return Linear(self.k * factor, self.c * factor)

    def __str__(self) -> str:
        if not self.k:
            return str(self.c)
        head = "x" if self.k == 1 else f"{self.k}x"
        return head if not self.c else f"{head}{self.c:+d}"

    @property
    def grouped(self) -> str:
        """As text within a longer expression: in brackets if it has two terms."""
        return f"({self})" if self.k and self.c else str(self)


@dataclass
class Draft:
    """A geometry problem in the making: a construction adds points, clauses, steps of reasoning and the question.

    Args:
        rng: Source of all random choices.
        most_points: Most named points.
    """

    rng: np.random.Generator
    most_points: int
    points: dict[str, complex] = field(default_factory=dict)
    clauses: list[Clause] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    asked: dict[str, Any] = field(default_factory=dict)
    question: str = ""
    answer: str = ""
    x: int = 0

    def __post_init__(self) -> None:
        # Mostly A, B, C ..., as textbooks do, else any letters
        start = self.whole(0, len(LETTERS) - 10)
        rows = [LETTERS, LETTERS, LETTERS[start:], "".join(self.rng.permutation(list(LETTERS)))]
        self._letters = list(self.pick(rows))
        self._counts: dict[str, int] = {}

    # Choices

    def whole(self, low: int, high: int) -> int:
        """A whole number in [low, high]."""
        return int(self.rng.integers(low, high + 1))

    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def three_angles(self, low: int = 30, high: int = 100) -> tuple[int, int, int]:
        """Whole degrees of a triangle's angles, each in [low, high]."""
        while True:
            one, other = self.whole(low, high), self.whole(low, high)
            if low <= 180 - one - other <= high:
                return one, other, 180 - one - other

    def place(self, *where: complex) -> list[str]:
        """Add points at these places; returns their new names."""
        names = [self._letters.pop(0) for _ in where]
        self.points.update(zip(names, map(complex, where), strict=True))
        return names

    def centre(self, where: complex) -> str:
        self.points["O"] = complex(where)
        return "O"

    # Clauses

    def add(self, form: str, words: str, points: Sequence[str], text: str = "", count: int = 1) -> None:
        self.clauses.append(Clause(form, words, tuple(points), text, count))

    def _next(self, form: str) -> int:
        """Number of ticks, arrows or arcs that mark the next group of this form."""
        self._counts[form] = self._counts.get(form, 0) + 1
        return self._counts[form]

    def polygon(self, *names: str) -> None:
        self.add("polygon", f"{''.join(names)} is a {'triangle' if len(names) == 3 else 'quadrilateral'}.", names)

    def line(self, start: str, *others: str) -> None:
        """A drawn segment from `start` to the last of the others, with all its points in order."""
        names = (start, *others)
        self.add("line", f"{', '.join(names)} lie on line {start}{others[-1]}.", names)

    def lines(self, *pairs: str) -> None:
        for pair in pairs:
            self.line(*pair)

    def circle(self, centre: str, first: str, *others: str) -> None:
        points = f"points {', '.join((first, *others))} lie" if others else f"point {first} lies"
        self.add("circle", f"In ⊙{centre}, {points} on ⊙{centre}.", (centre, first, *others))

    def parallel(self, one: str, other: str) -> None:
        self.add("parallel", f"{one} ∥ {other}.", one + other, count=self._next("parallel"))

    def perpendicular(self, one: str, corner: str, other: str) -> None:
        self.add("perpendicular", f"{one}{corner} ⊥ {corner}{other}.", (one, corner, other))

    def tangent(self, far: str, touching: str, centre: str) -> None:
        words = f"{far}{touching} is tangent to ⊙{centre} at {touching}."
        self.add("tangent", words, (far, touching, centre))

    def equal(self, first: str, *others: str) -> None:
        count = self._next("equal")
        for other in others:
            self.add("equal", f"{first} = {other}.", first + other, count=count)

    def equal_angles(self, one: str, other: str) -> None:
        self.add("equal_angles", f"m∠{one} = m∠{other}.", one + other, count=1 + self._next("equal_angles"))

    def length(self, pair: str, value: float, unknown: bool = False, factor: int | None = None) -> Linear:
        """State a length: as a number, or as an expression in x (with this factor of x)."""
        if any(self.is_between(name, *pair) for name in self.points):
            raise Redraw  # its label would be taken for that of a part
        whole = self._exact(value, abs(self.points[pair[0]] - self.points[pair[1]]), pair)
        expression = self.expression(whole, factor) if unknown else Linear(0, whole)
        self.add("length", f"{pair} = {expression}.", pair, str(expression))
        return expression

    def angle(self, corner: str, value: float, unknown: bool = False, factor: int | None = None) -> Linear:
        """State an angle in degrees: as a number, or as an expression in x (with this factor of x)."""
        whole = self._exact(value, self.measured(corner), corner)
        expression = self.expression(whole, factor) if unknown else Linear(0, whole)
        text = f"{expression.grouped}°"
        self.add("angle", f"m∠{corner} = {text}.", corner, text)
        return expression

    def expression(self, value: int, factor: int | None = None) -> Linear:
        """A random expression k·x + c of this value; the first call of a draft chooses x."""
        if not self.x:
            self.x = self.whole(3, max(4, min(20, value // 2)))
        choices = [k for k in range(1, 9) if -20 <= value - k * self.x <= 40]
        if factor is not None:
            choices = [factor]
        elif len(choices) > 1 and self._counts.get("x") in choices:
            choices.remove(self._counts["x"])  # two equal factors would cancel
        if not choices:
            raise Redraw
        self._counts["x"] = self.pick(choices)
        return Linear(self._counts["x"], value - self._counts["x"] * self.x)

    def _exact(self, value: float, measured: float, name: str) -> int:
        if value != round(value) or abs(value - measured) > TOLERANCE * max(1.0, measured):
            raise ValueError(f"{name} = {value} is to be told, but the drawing has {measured}.")
        return int(value)

    def measured(self, corner: str) -> float:
        one, vertex, other = (self.points[name] for name in corner)
        return angle_at(vertex, one, other)

    def is_between(self, name: str, start: str, end: str) -> bool:
        """Whether a named point lies within a segment."""
        p, a, b = self.points[name], self.points[start], self.points[end]
        within = abs(p - a) + abs(p - b) - abs(a - b) < TOLERANCE * abs(a - b)
        return within and name not in (start, end) and abs(cross(p - a, b - a)) < 1e-6 * abs(b - a) ** 2

    # Reasoning

    def step(self, sentence: str) -> None:
        self.steps.append(sentence)

    def solve(self, terms: Sequence[Linear], total: Linear | int, why: str) -> None:
        """Add the step that the terms add up to the total, solved for x. Raises `Redraw` where x cancels out."""
        right = total if isinstance(total, Linear) else Linear(0, total)
        left = Linear(0, 0)
        for term in terms:
            left += term
        if left.k == right.k:
            raise Redraw
        if left.c + left.k * self.x != right.c + right.k * self.x:
            raise ValueError(f"{left} is not {right} at x = {self.x}.")
        parts = " + ".join(term.grouped for term in terms) if len(terms) > 1 else str(left)
        equation = f"{parts} = {right}"
        short = f"{left} = {right}"
        solved = f", so {short} and x = {self.x}." if len(terms) > 1 else f", so x = {self.x}."
        self.step(f"{why}: {equation}{solved}")
