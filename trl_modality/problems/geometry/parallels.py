"""Constructions with crossing lines: straight and vertical angles, parallels. Each function fills a draft."""

from __future__ import annotations

from .clauses import Draft
from .plane import Redraw, by_angles, meet, polar
from .questions import ask


def crossing_lines(d: Draft, asked: str) -> None:
    """Two lines through a point: vertical and straight angles."""
    lean = d.whole(35, 75)
    r = d.whole(4, 8)
    A, B, C, D, E = d.place(-r, r, polar(r, lean), polar(-r, lean), 0)
    d.line(A, E, B)
    d.line(C, E, D)
    vertical = f"∠{B}{E}{C} and ∠{A}{E}{D} are vertical angles, so m∠{B}{E}{C} = m∠{A}{E}{D}"
    straight = f"∠{B}{E}{C} and ∠{A}{E}{C} make a straight angle, so m∠{B}{E}{C} + m∠{A}{E}{C} = 180°"
    if asked == "chain":
        d.angle(A + E + D, lean)
        d.step(f"{vertical} = {lean}°.")
        d.step(f"{straight} and m∠{A}{E}{C} = 180° - {lean}° = {180 - lean}°.")
        return ask(d, "angle", A + E + C, 180 - lean)
    one = d.angle(B + E + C, lean, True)
    if asked == "vertical_x":
        other = d.angle(A + E + D, lean, True)
        d.solve([one], other, vertical)
        d.step(f"m∠{B}{E}{C} = {lean}° at x = {d.x}.")
        d.step(f"{straight} and m∠{A}{E}{C} = 180° - {lean}° = {180 - lean}°.")
        return ask(d, "angle", A + E + C, 180 - lean)
    other = d.angle(A + E + C, 180 - lean, True)
    d.solve([one, other], 180, straight)
    ask(d, "x", "", d.x)


def perpendicular_ray(d: Draft, asked: str) -> None:
    """A perpendicular and another ray on the same side of a line."""
    lean, r = d.whole(30, 60), d.whole(4, 8)
    A, B, C, D, E = d.place(-r, r, 1j * r, polar(r, lean), 0)
    d.line(A, E, B)
    d.lines(E + C, E + D)
    d.perpendicular(A, E, C)
    right = f"{A}{E} ⊥ {E}{C}, so m∠{B}{E}{D} + m∠{D}{E}{C} = 90°"
    if asked == "x":
        terms = [d.angle(B + E + D, lean, True), d.angle(D + E + C, 90 - lean, True)]
        d.solve(terms, 90, right)
        return ask(d, "x", "", d.x)
    d.angle(B + E + D, lean)
    d.step(f"{right} and m∠{D}{E}{C} = 90° - {lean}° = {90 - lean}°.")
    d.step(f"m∠{A}{E}{D} = 90° + {90 - lean}° = {180 - lean}°.")
    ask(d, "angle", A + E + D, 180 - lean)


def transversal(d: Draft, asked: str) -> None:
    """Two parallels joined by a transversal: alternate and co-interior angles."""
    lean, gap = d.whole(45, 75), d.whole(4, 6)
    half = gap * 0.95
    shift = meet(0, polar(1, lean), 1j * gap, 1j * gap + 1)
    A, E, B = d.place(shift - half * 0.9, shift, shift + half)
    C, F, D = d.place(-half, 0, half * 0.9)
    d.line(A, E, B)
    d.line(C, F, D)
    d.line(E, F)
    d.parallel(A + B, C + D)
    alternate = f"{A}{B} ∥ {C}{D}, so the alternate angles ∠{A}{E}{F} and ∠{E}{F}{D} are equal"
    inside = f"{A}{B} ∥ {C}{D}, so m∠{B}{E}{F} + m∠{E}{F}{D} = 180°"
    if asked == "inside":
        d.angle(B + E + F, 180 - lean)
        d.step(f"{inside}.")
        d.step(f"m∠{E}{F}{D} = 180° - {180 - lean}° = {lean}°.")
        return ask(d, "angle", E + F + D, lean)
    if asked == "alternate":
        d.angle(A + E + F, lean)
        d.step(f"{alternate}: m∠{E}{F}{D} = {lean}°.")
        d.step(f"∠{E}{F}{C} and ∠{E}{F}{D} make a straight angle, so m∠{E}{F}{C} = 180° - {lean}° = {180 - lean}°.")
        return ask(d, "angle", E + F + C, 180 - lean)
    if asked == "x":
        one, other = d.angle(A + E + F, lean, True), d.angle(E + F + D, lean, True)
        d.solve([one], other, alternate)
        return ask(d, "x", "", d.x)
    terms = [d.angle(B + E + F, 180 - lean, True), d.angle(E + F + D, lean, True)]
    d.solve(terms, 180, inside)
    d.step(f"m∠{E}{F}{D} = {terms[1]} = {lean}° at x = {d.x}.")
    ask(d, "angle", E + F + D, lean)


def zigzag(d: Draft, asked: str) -> None:
    """A bent line between two parallels: the angle at the bend is the sum of those at the parallels."""
    upper, lower = d.whole(28, 62), d.whole(28, 62)
    rise, fall = d.whole(3, 5), d.whole(3, 5)
    left = polar(1, upper)
    right = polar(1, -lower)
    a, c = left * rise / left.imag, right * fall / -right.imag
    reach = d.whole(5, 7)
    P, A, B, C, D = d.place(0, a, a - reach, c, c - reach)
    # Reach to the left, where the corner is: the angles at A and C lie between the parallels
    d.lines(A + B, C + D, A + P, P + C)
    d.parallel(A + B, C + D)
    why = f"A parallel to {A}{B} through {P} makes equal alternate angles, so m∠{A}{P}{C} = m∠{B}{A}{P} + m∠{P}{C}{D}"
    if asked == "corner":
        d.angle(B + A + P, upper)
        d.angle(P + C + D, lower)
        d.step(f"{why} = {upper}° + {lower}° = {upper + lower}°.")
        return ask(d, "angle", A + P + C, upper + lower)
    if asked == "foot":
        d.angle(B + A + P, upper)
        d.angle(A + P + C, upper + lower)
        d.step(f"{why}.")
        d.step(f"m∠{P}{C}{D} = {upper + lower}° - {upper}° = {lower}°.")
        return ask(d, "angle", P + C + D, lower)
    terms = [d.angle(B + A + P, upper, True), d.angle(P + C + D, lower)]
    d.solve(terms, d.angle(A + P + C, upper + lower, True), why)
    ask(d, "x", "", d.x)


def parallel_through_apex(d: Draft, asked: str) -> None:
    """A line through a corner of a triangle, parallel to the opposite side."""
    left, right, top = d.three_angles(38, 90)
    base = d.whole(6, 12)
    apex, start, end = by_angles(base, left, right)
    A, B, C, D, E = d.place(apex, start, end, apex - base * 0.5, apex + base * 0.5)
    d.polygon(A, B, C)
    d.line(D, A, E)
    d.parallel(D + E, B + C)
    why = f"{D}{E} ∥ {B}{C}, so the alternate angles ∠{D}{A}{B} and ∠{A}{B}{C} are equal"
    if asked == "apex":
        d.angle(D + A + B, left)
        d.angle(A + C + B, right)
        d.step(f"{why}: m∠{A}{B}{C} = {left}°.")
        d.step(f"m∠{B}{A}{C} = 180° - {left}° - {right}° = {top}°.")
        return ask(d, "angle", B + A + C, top)
    if asked == "base":
        d.angle(B + A + C, top)
        d.angle(C + A + E, right)
        d.step(f"∠{D}{A}{B}, ∠{B}{A}{C} and ∠{C}{A}{E} make a straight angle.")
        d.step(f"m∠{D}{A}{B} = 180° - {top}° - {right}° = {left}°.")
        d.step(f"{why}: m∠{A}{B}{C} = {left}°.")
        return ask(d, "angle", A + B + C, left)
    one, other = d.angle(D + A + B, left, True), d.angle(A + B + C, left, True)
    d.solve([one], other, why)
    ask(d, "x", "", d.x)


def quadrilateral_angles(d: Draft, asked: str) -> None:
    """A quadrilateral: its angles add up to 360 degrees."""
    at_b, at_c = d.whole(65, 115), d.whole(65, 115)
    base = d.whole(6, 10)
    one, other = base * d.whole(6, 10) / 10, base * d.whole(6, 10) / 10
    corner_a, corner_d = polar(one, at_b), base + polar(other, 180 - at_c)
    # D moves along its side until its angle is whole
    tilt = d.whole(65, 115)
    corner_d = meet(corner_a, corner_a + polar(1, at_b + 180 + tilt), complex(base), corner_d)
    A, B, C, D = d.place(corner_a, 0, base, corner_d)
    at_d = 360 - at_b - at_c - tilt
    longest = base * 1.4
    if not 60 <= at_d <= 120 or corner_d.imag < base * 0.4 or abs(corner_d - corner_a) > longest:
        raise Redraw
    if abs(corner_d - corner_a) < base * 0.4 or corner_d.real < corner_a.real:
        raise Redraw
    d.polygon(A, B, C, D)
    corners = [D + A + B, A + B + C, B + C + D, C + D + A]
    values = [tilt, at_b, at_c, at_d]
    theorem = f"The angles of quadrilateral {A}{B}{C}{D} add up to 360°"
    if asked == "angle":
        for corner, value in zip(corners[:3], values[:3], strict=True):
            d.angle(corner, value)
        d.step(f"{theorem}.")
        d.step(f"m∠{corners[3]} = 360° - {tilt}° - {at_b}° - {at_c}° = {at_d}°.")
        return ask(d, "angle", corners[3], at_d)
    terms = [d.angle(*told) for told in zip(corners, values, [True, False, True, False], strict=True)]
    d.solve(terms, 360, theorem)
    if asked == "x":
        return ask(d, "x", "", d.x)
    d.step(f"m∠{corners[2]} = {terms[2]} = {at_c}° at x = {d.x}.")
    ask(d, "angle", corners[2], at_c)


CONSTRUCTIONS = {
    crossing_lines: (5, "chain", "vertical_x", "x"),
    perpendicular_ray: (5, "angle", "x"),
    transversal: (6, "inside", "alternate", "x", "x_angle"),
    zigzag: (5, "corner", "foot", "x"),
    parallel_through_apex: (5, "apex", "base", "x"),
    quadrilateral_angles: (4, "angle", "x", "x_angle"),
}
