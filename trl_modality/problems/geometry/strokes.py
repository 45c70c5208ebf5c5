"""Strokes of a figure: the lines, circles and customary marks of its clauses, and the labels to be placed.

Pixels are complex numbers with y down. A clause draws the segments it is about, its mark and its label; the names of
points are written by the descriptions, so that a picture without descriptions has no names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .clauses import FORMS, Clause, FactKind
from .plane import cross, polar


Polyline = list[complex]


@dataclass(frozen=True)
class LabelRequest:
    """A label to be placed: a `name` at a point, a `length` between two points, an `angle` at the middle of three."""

    text: str
    form: str
    points: tuple[complex, ...]


@dataclass
class Strokes:
    """All strokes of a picture, and the labels to be placed.

    Args:
        lines: The figure's segments.
        rings: Circles, as centre and radius.
        marks: Ticks, arrows, squares and arcs.
        dots: Points drawn as dots: centres and, in some styles, all named points.
        requests: Labels to be placed.
    """

    lines: list[Polyline] = field(default_factory=list)
    rings: list[tuple[complex, float]] = field(default_factory=list)
    marks: list[Polyline] = field(default_factory=list)
    dots: list[complex] = field(default_factory=list)
    requests: list[LabelRequest] = field(default_factory=list)


def strokes_of(clauses: Iterable[Clause], pixels: Mapping[str, complex], size: float) -> Strokes:
    """The strokes and labels of some clauses.

    Args:
        clauses: The visible clauses.
        pixels: Each point in pixels.
        size: Height of the labels; marks are in proportion to it.
    """
    strokes, named, drawn = Strokes(), set(), set()
    for clause in clauses:
        at = [pixels[name] for name in clause.points]
        for one, other in _segments(clause):
            if frozenset((one, other)) not in drawn:
                drawn.add(frozenset((one, other)))
                strokes.lines.append([pixels[one], pixels[other]])
        if clause.form == "circle":
            strokes.rings.append((at[0], abs(at[1] - at[0])))
            strokes.dots.append(at[0])
        if FORMS[clause.form] is FactKind.DESCRIPTION:
            new = [name for name in clause.points if name not in named]
            named.update(new)
            strokes.requests += [LabelRequest(name, "name", (pixels[name],)) for name in new]
        elif clause.text:
            strokes.requests.append(LabelRequest(clause.text, clause.form, tuple(at)))
        strokes.marks += _marks(clause, at, list(pixels.values()), size)
    return strokes


def _segments(clause: Clause) -> list[tuple[str, str]]:
    names = clause.points
    if clause.form == "polygon":
        return list(zip(names, names[1:] + names[:1], strict=True))
    if clause.form == "circle":
        return []
    if clause.form == "line":
        return [(names[0], names[-1])]
    if clause.form in ("parallel", "equal"):
        return [(names[0], names[1]), (names[2], names[3])]
    return list(zip(names, names[1:], strict=False)) if clause.form != "equal_angles" else []


def _marks(clause: Clause, at: list[complex], everything: list[complex], size: float) -> list[Polyline]:
    if clause.form == "parallel":
        one = _longest_piece(at[0], at[1], everything)
        start, end = _longest_piece(at[2], at[3], everything)
        same = ((one[1] - one[0]) * (end - start).conjugate()).real > 0
        pieces = (one, (start, end) if same else (end, start))
        return [arrow for start, end in pieces for arrow in _arrows(start, end, clause.count, size)]
    if clause.form == "equal":
        return [tick for start, end in (at[:2], at[2:]) for tick in _ticks(start, end, clause.count, size)]
    if clause.form in ("perpendicular", "tangent"):
        return [_square(at[0], at[1], at[2], size)]
    if clause.form == "angle":
        return [_arc(at[0], at[1], at[2], size * 1.15)]
    if clause.form == "equal_angles":
        radii = [size * 1.3 + 3.5 * n for n in range(clause.count)]
        return [_arc(one, corner, other, r) for one, corner, other in (at[:3], at[3:]) for r in radii]
    return []


def _longest_piece(start: complex, end: complex, everything: list[complex]) -> tuple[complex, complex]:
    """The longest part of a segment between neighbouring points on it."""
    along = end - start
    within = [0.0, 1.0]
    for point in everything:
        share = ((point - start) * along.conjugate()).real / abs(along) ** 2
        if 0.01 < share < 0.99 and abs(cross(point - start, along)) < abs(along):
            within.append(share)
    within.sort()
    low = max(range(len(within) - 1), key=lambda i: within[i + 1] - within[i])
    return start + along * within[low], start + along * within[low + 1]


def _arrows(start: complex, end: complex, count: int, size: float) -> list[Polyline]:
    unit, reach, step = (end - start) / abs(end - start), size * 0.36, size * 0.38
    found = []
    for n in range(count):
        tip = (start + end) / 2 + unit * (reach / 2 + (n - (count - 1) / 2) * step)
        found.append([tip + unit * reach * polar(1, 150), tip, tip + unit * reach * polar(1, -150)])
    return found


def _ticks(start: complex, end: complex, count: int, size: float) -> list[Polyline]:
    unit, reach, step = (end - start) / abs(end - start), size * 0.33, max(size * 0.26, 3.0)
    middles = [(start + end) / 2 + unit * (n - (count - 1) / 2) * step for n in range(count)]
    return [[middle - 1j * unit * reach, middle + 1j * unit * reach] for middle in middles]


def _square(one: complex, corner: complex, other: complex, size: float) -> Polyline:
    along, up = ((end - corner) / abs(end - corner) * size * 0.62 for end in (one, other))
    return [corner + along, corner + along + up, corner + up]


def _arc(one: complex, corner: complex, other: complex, radius: float) -> Polyline:
    first = (one - corner) / abs(one - corner)
    turn = math.degrees(math.atan2(cross(first, other - corner), (first.conjugate() * (other - corner)).real))
    steps = max(4, math.ceil(abs(turn) / 15))
    return [corner + first * polar(radius, turn * n / steps) for n in range(steps + 1)]
