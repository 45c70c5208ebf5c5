"""Distractors: true facts that a question does not need (a length, an extended side, an extra ray)."""

from __future__ import annotations

import cmath
import math
from itertools import pairwise

from .clauses import TOLERANCE, Draft
from .plane import cross, polar


_FREE = math.radians(25)  # least angle between an added segment and others at the same point


Segment = tuple[str, str]


def add_distractors(draft: Draft, count: int) -> None:
    """Add up to `count` distractors; fewer where there is no free place, or no point may be added.

    A distractor is one condition; if it adds a point, the point has a description too.
    """
    own = _segments(draft)
    ways = (_state_length, _extend_segment, _draw_ray)
    for _ in range(count):
        for way in draft.rng.permutation(len(ways)):
            if ways[way](draft, own):
                break


def _segments(draft: Draft) -> list[Segment]:
    """Drawn segments between neighbouring points: no other point lies on them."""
    found = []
    for clause in draft.clauses:
        if clause.form == "polygon":
            found += pairwise(clause.points + clause.points[:1])
        elif clause.form == "line":
            found += pairwise(clause.points)
    return [pair for pair in dict.fromkeys(found) if not any(draft.is_between(name, *pair) for name in draft.points)]


def _state_length(draft: Draft, own: list[Segment]) -> bool:
    """State a length that is whole, where no fact and no question is about lengths; returns whether it did."""
    if draft.asked["form"] not in ("angle", "x") or any(c.form == "length" for c in draft.clauses):
        return False
    for one, other in own:
        length = abs(draft.points[one] - draft.points[other])
        if abs(length - round(length)) < TOLERANCE:
            draft.length(one + other, round(length))
            return True
    return False


def _size(draft: Draft) -> float:
    places = list(draft.points.values())
    return max(abs(p - q) for p in places for q in places)


def _is_free(draft: Draft, start: str, end: complex) -> bool:
    """Whether a segment from the point `start` to the place `end` keeps clear of all else in the figure."""
    at = draft.points[start]
    for one, other in _segments(draft):
        p, q = draft.points[one], draft.points[other]
        for near, far in ((p, q), (q, p)):
            if near == at and abs(cmath.phase((far - at) / (end - at))) < _FREE:
                return False
        parts = cross(q - p, at - p) * cross(q - p, end - p), cross(end - at, p - at) * cross(end - at, q - at)
        if max(parts) < 0 and at not in (p, q):
            return False
    if min(abs(end - p) for p in draft.points.values()) < 0.6 * abs(end - at):
        return False
    for clause in draft.clauses:
        if clause.form == "polygon" and _is_inside((at + end) / 2, [draft.points[name] for name in clause.points]):
            return False
        if clause.form == "circle":
            centre = draft.points[clause.points[0]]
            if abs((at + end) / 2 - centre) < 1.05 * abs(draft.points[clause.points[1]] - centre):
                return False
    return True


def _is_inside(point: complex, corners: list[complex]) -> bool:
    """Whether a convex polygon holds a point."""
    sides = [cross(b - a, point - a) > 0 for a, b in pairwise([*corners, corners[0]])]
    return all(sides) or not any(sides)


def _extend_segment(draft: Draft, own: list[Segment]) -> bool:
    """Extend a segment past its end by a whole length; returns whether there was room."""
    if len(draft.points) >= draft.most_points:
        return False
    length = max(round(0.3 * _size(draft)), 1)
    for n in draft.rng.permutation(2 * len(own)):
        one, other = own[n // 2] if n % 2 else own[n // 2][::-1]
        start, end = draft.points[one], draft.points[other]
        beyond = end + (end - start) / abs(end - start) * length
        if _is_free(draft, other, beyond):
            (new,) = draft.place(beyond)
            draft.line(one, other, new)
            draft.length(other + new, length)
            return True
    return False


def _draw_ray(draft: Draft, own: list[Segment]) -> bool:
    """Draw a segment from a point outwards, at whole degrees from another one; returns whether there was room."""
    if len(draft.points) >= draft.most_points:
        return False
    reach = 0.32 * _size(draft)
    for n in draft.rng.permutation(2 * len(own)):
        one, other = own[n // 2] if n % 2 else own[n // 2][::-1]
        start, end = draft.points[one], draft.points[other]
        turn = draft.whole(40, 75)
        for side in (turn, -turn):
            beyond = end + (start - end) / abs(end - start) * polar(reach, side)
            if _is_free(draft, other, beyond) and _is_clear(draft, one, other, beyond):
                (new,) = draft.place(beyond)
                draft.line(other, new)
                draft.angle(one + other + new, turn)
                return True
    return False


def _is_clear(draft: Draft, one: str, corner: str, end: complex) -> bool:
    """Whether a ray from a corner divides no stated angle, and no drawn segment divides the angle to `one`."""
    at = draft.points[corner]
    ends = [draft.points[pair[pair[0] == corner]] for pair in _segments(draft) if corner in pair]
    if any(_divides(at, draft.points[one], end, other) for other in ends):
        return False
    stated = [c.points[n : n + 3] for c in draft.clauses if "angle" in c.form for n in range(0, len(c.points), 3)]
    stated += [c.points for c in draft.clauses if c.form in ("perpendicular", "tangent")]
    return not any(
        _divides(at, draft.points[start], draft.points[stop], end)
        for start, vertex, stop in stated
        if vertex == corner
    )


def _divides(vertex: complex, start: complex, stop: complex, between: complex) -> bool:
    """Whether the direction to `between` lies strictly within the angle start-vertex-stop (below 180 degrees)."""
    wide = cmath.phase((stop - vertex) / (start - vertex))
    turn = cmath.phase((between - vertex) / (start - vertex))
    return turn * wide > 0 and TOLERANCE < abs(turn) < abs(wide) - TOLERANCE
