"""Constructions with similar triangles: midlines, parallels, altitudes. Each function fills a draft."""

from __future__ import annotations

import math

from .clauses import Draft
from .plane import Redraw, by_angles, by_sides, foot
from .questions import ask, root


def _with_parallel(d: Draft, corners: tuple[complex, complex, complex], share: float) -> list[str]:
    """A triangle ABC and the segment DE that cuts the share `share`, from the apex, off its left and right side."""
    apex, start, end = corners
    names = d.place(*corners, apex + (start - apex) * share, apex + (end - apex) * share)
    A, B, C, D, E = names
    d.polygon(A, B, C)
    d.line(A, D, B)
    d.line(A, E, C)
    d.line(D, E)
    return names


def midline(d: Draft, asked: str) -> None:
    """Lengths at a midline of a triangle, which is half as long as the third side."""
    base, one, other = 2 * d.whole(4, 9), 2 * d.whole(4, 9), 2 * d.whole(4, 9)
    A, B, C, D, E = _with_parallel(d, by_sides(base, one, other), 0.5)
    d.equal(A + D, D + B)
    d.equal(A + E, E + C)
    half = f"{D} and {E} are the midpoints of {A}{B} and {A}{C}, so {D}{E} = {B}{C} / 2"
    if asked == "midline":
        d.length(B + C, base)
        d.step(f"{half} = {base} / 2.")
        return ask(d, "length", D + E, base / 2)
    if asked == "x":
        short = d.length(D + E, base // 2, True, d.pick([1, 2]))
        long = d.length(B + C, base, True, d.pick([1, 3, 5]))
        d.solve([short.times(2)], long, f"{half}, and 2 · {D}{E} = {B}{C}")
        return ask(d, "x", "", d.x)
    d.length(A + D, one // 2)
    d.length(A + E, other // 2)
    d.length(D + E, base // 2)
    d.step(f"{half}, so {B}{C} = 2 · {base // 2} = {base}.")
    d.step(f"{A}{B} = 2 · {one // 2} = {one} and {A}{C} = 2 · {other // 2} = {other}.")
    d.step(f"The perimeter is {base} + {one} + {other} = {base + one + other}.")
    ask(d, "perimeter", A + B + C, base + one + other)


def midline_angles(d: Draft, asked: str) -> None:
    """Angles at a midline of a triangle, which is parallel to the third side."""
    left, right, top = d.three_angles(38, 85)
    A, B, C, D, E = _with_parallel(d, by_angles(d.whole(6, 12), left, right), 0.5)
    d.equal(A + D, D + B)
    d.equal(A + E, E + C)
    why = f"{D} and {E} are the midpoints of {A}{B} and {A}{C}, so {D}{E} ∥ {B}{C}"
    d.angle(D + A + E, top)
    if asked == "corner":
        d.angle(A + E + D, right)
        d.step(f"In △{A}{D}{E}, m∠{A}{D}{E} = 180° - {top}° - {right}° = {left}°.")
        d.step(f"{why} and m∠{A}{B}{C} = m∠{A}{D}{E}.")
        return ask(d, "angle", A + B + C, left)
    d.angle(A + C + B, right)
    d.step(f"m∠{A}{B}{C} = 180° - {top}° - {right}° = {left}°.")
    d.step(f"{why} and m∠{A}{D}{E} = m∠{A}{B}{C} = {left}°.")
    d.step(f"m∠{E}{D}{B} = 180° - {left}° = {180 - left}°.")
    ask(d, "angle", E + D + B, 180 - left)


def similar(d: Draft, asked: str) -> None:
    """Sides of the similar triangle that a parallel to a side cuts off."""
    one, other, small, leg, factor = (d.whole(2, 8) for _ in range(5))
    total = one + other  # AB : AD = total : one
    if not 0.3 < one / total < 0.7:
        raise Redraw
    A, B, C, D, E = _with_parallel(d, by_sides(total * small, total * leg, total * factor), one / total)
    d.parallel(D + E, B + C)
    side, rest = one * leg, other * leg
    d.length(A + D, side)
    d.length(D + B, rest)
    if asked == "part":
        d.length(A + E, one * factor)
        d.step(f"{D}{E} ∥ {B}{C}, so {A}{E} : {E}{C} = {A}{D} : {D}{B} = {side} : {rest}.")
        d.step(f"{E}{C} = {one * factor} · {rest} / {side} = {other * factor}.")
        return ask(d, "length", E + C, other * factor)
    alike = f"{D}{E} ∥ {B}{C}, so △{A}{D}{E} is similar to △{A}{B}{C}"
    ratio = f"{side} : {side + rest}"
    short, long = one * small, total * small
    d.step(f"{alike} with the ratio {A}{D} : {A}{B} = {ratio}.")
    if asked == "base":
        d.length(D + E, short)
        d.step(f"{B}{C} = {short} · {side + rest} / {side} = {long}.")
        return ask(d, "length", B + C, long)
    d.length(B + C, long)
    d.step(f"{D}{E} = {long} · {side} / {side + rest} = {short}.")
    ask(d, "length", D + E, short)


def similar_angles(d: Draft, asked: str) -> None:
    """Angles of the similar triangle that a parallel to a side cuts off."""
    left, right, top = d.three_angles(38, 90)
    A, B, C, D, E = _with_parallel(d, by_angles(d.whole(6, 12), left, right), d.pick([0.45, 0.55, 0.6]))
    d.parallel(D + E, B + C)
    alike = f"{D}{E} ∥ {B}{C}, so △{A}{D}{E} is similar to △{A}{B}{C} and m∠{A}{D}{E} = m∠{A}{B}{C}"
    if asked == "angle":
        d.angle(D + A + E, top)
        d.angle(A + B + C, left)
        d.step(f"{alike} = {left}°.")
        d.step(f"m∠{A}{E}{D} = 180° - {top}° - {left}° = {right}°.")
        return ask(d, "angle", A + E + D, right)
    told, base = d.angle(A + D + E, left, True), d.angle(A + B + C, left, True)
    d.solve([told], base, alike)
    ask(d, "x", "", d.x)


def _bowtie(d: Draft, corners: tuple[complex, complex, complex], share: float) -> list[str]:
    """Parallels AB and CD, where CD is the share `share` of AB, and the crossing E of AD and BC."""
    apex, start, end = corners
    names = d.place(start, end, apex + (apex - end) * share, apex + (apex - start) * share, apex)
    A, B, C, D, E = names
    d.lines(A + B, C + D)
    d.line(A, E, D)
    d.line(B, E, C)
    d.parallel(A + B, C + D)
    return names


def bowtie(d: Draft, asked: str) -> None:
    """Sides of the similar triangles that two crossing segments make between parallels."""
    p, q, r, k, m = (d.whole(3, 9) for _ in range(5))
    if k == m or not 0.55 < k / m < 1.8:
        raise Redraw
    A, B, C, D, E = _bowtie(d, by_sides(r * k, p * k, q * k), m / k)
    d.step(f"{A}{B} ∥ {C}{D}, so △{A}{B}{E} is similar to △{D}{C}{E}.")
    d.length(A + E, p * k)
    d.length(E + D, p * m)
    d.step(f"Their ratio is {A}{E} : {E}{D} = {p * k} : {p * m}.")
    if asked == "part":
        d.length(B + E, q * k)
        d.step(f"{E}{C} = {q * k} · {p * m} / {p * k} = {q * m}.")
        return ask(d, "length", E + C, q * m)
    d.length(A + B, r * k)
    d.step(f"{C}{D} = {r * k} · {p * m} / {p * k} = {r * m}.")
    ask(d, "length", C + D, r * m)


def bowtie_angles(d: Draft, asked: str) -> None:
    """Alternate angles that two crossing segments make between parallels."""
    left, right, top = d.three_angles(35, 95)
    A, B, C, D, E = _bowtie(d, by_angles(d.whole(6, 10), left, right), d.pick([0.6, 0.75, 0.8]))
    why = f"{A}{B} ∥ {C}{D}, so the alternate angles ∠{B}{A}{E} and ∠{C}{D}{E} are equal"
    if asked == "angle":
        d.angle(B + A + E, left)
        d.angle(C + E + D, top)
        d.step(f"{why}: m∠{C}{D}{E} = {left}°.")
        d.step(f"In △{C}{D}{E}, m∠{D}{C}{E} = 180° - {top}° - {left}° = {right}°.")
        return ask(d, "angle", D + C + E, right)
    one, other = d.angle(B + A + E, left, True), d.angle(C + D + E, left, True)
    d.solve([one], other, why)
    ask(d, "x", "", d.x)


# Parts into which the altitude divides the hypotenuse; for most, the altitude is whole
_PARTS = [(4, 9), (9, 4), (9, 16), (16, 9), (8, 18), (3, 12), (12, 27), (5, 20), (18, 32), (5, 9), (6, 8)]


def altitude_on_hypotenuse(d: Draft, asked: str) -> None:
    """Lengths at the altitude on a hypotenuse, which makes two triangles similar to the whole."""
    p, q = d.pick(_PARTS)
    A, B, C, D = d.place(complex(p, math.sqrt(p * q)), 0, p + q, p)
    d.polygon(A, B, C)
    d.line(B, D, C)
    d.line(A, D)
    d.perpendicular(B, A, C)
    d.perpendicular(A, D, C)
    d.length(B + D, p)
    d.length(D + C, q)
    whole = math.isqrt(p * q) ** 2 == p * q
    if asked == "leg":
        square = p * (p + q)
        d.step(f"△{A}{B}{D} is similar to △{C}{B}{A}, so {A}{B}² = {B}{D} · {B}{C} = {p} · {p + q} = {square}.")
        d.step(f"{A}{B} = {root(square)}.")
        return ask(d, "length", A + B, math.sqrt(square), rounded=math.isqrt(square) ** 2 != square)
    d.step(f"△{A}{B}{D} is similar to △{C}{A}{D}, so {A}{D}² = {B}{D} · {D}{C} = {p} · {q} = {p * q}.")
    d.step(f"{A}{D} = {root(p * q)}.")
    if asked == "height":
        return ask(d, "length", A + D, math.sqrt(p * q), rounded=not whole)
    d.step(f"The area is {B}{C} · {A}{D} / 2 with {B}{C} = {p} + {q} = {p + q}.")
    ask(d, "area", A + B + C, (p + q) * math.sqrt(p * q) / 2, rounded=not whole)


def altitude_angles(d: Draft, asked: str) -> None:
    """Angles at the altitude on a hypotenuse."""
    left = d.whole(28, 62)
    apex, start, end = by_angles(d.whole(8, 14), left, 90 - left)
    A, B, C, D = d.place(apex, start, end, foot(apex, start, end))
    d.polygon(A, B, C)
    d.line(B, D, C)
    d.line(A, D)
    d.perpendicular(B, A, C)
    d.perpendicular(A, D, C)
    if asked == "far":
        d.angle(A + B + D, left)
        d.step(f"In the right triangle △{A}{B}{C}, m∠{A}{C}{B} = 90° - {left}° = {90 - left}°.")
        d.step(f"In the right triangle △{A}{D}{C}, m∠{D}{A}{C} = 90° - {90 - left}° = {left}°.")
        return ask(d, "angle", D + A + C, left)
    terms = [d.angle(A + B + D, left, True), d.angle(B + A + D, 90 - left, True)]
    d.solve(terms, 90, f"{A}{D} ⊥ {D}{C}, so m∠{A}{B}{D} + m∠{B}{A}{D} = 90°")
    d.step(f"m∠{A}{B}{D} = {left}° at x = {d.x}.")
    d.step(f"In the right triangle △{A}{B}{C}, m∠{A}{C}{B} = 90° - {left}° = {90 - left}°.")
    ask(d, "angle", A + C + B, 90 - left)


CONSTRUCTIONS = {
    midline: (5, "midline", "x", "perimeter"),
    midline_angles: (5, "corner", "outside"),
    similar: (5, "part", "base", "short"),
    similar_angles: (5, "angle", "x"),
    bowtie: (5, "part", "side"),
    bowtie_angles: (5, "angle", "x"),
    altitude_on_hypotenuse: (4, "height", "leg", "area"),
    altitude_angles: (4, "far", "x_angle"),
}
