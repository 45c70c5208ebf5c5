"""Constructions with circles: central and inscribed angles, diameters, chords, tangents.

Each function fills a draft. The centre lies at 0; points on the circle are given by their directions in degrees.
"""

from __future__ import annotations

import math
from itertools import product

from .clauses import Draft
from .plane import Redraw, cross, meet, polar
from .questions import ask, root
from .triangles import TRIPLES


def inscribed(d: Draft, asked: str) -> None:
    """A central and an inscribed angle over the same arc."""
    half = d.whole(28, 72)
    radius = d.whole(4, 9)
    # C on the far arc, off the middle, so that the figure is not always the same
    off = d.whole(-25, 25)
    A, B, C = d.place(polar(radius, -90 - half), polar(radius, -90 + half), polar(radius, 90 + off))
    O = d.centre(0)
    d.circle(O, A, B, C)
    central, far = A + O + B, A + C + B
    theorem = f"∠{far} stands on the arc of the central angle ∠{central}, so m∠{central} = 2 · m∠{far}"
    d.lines(A + C, B + C, O + A, O + B)
    if asked == "chain":
        d.line(A, B)
        d.angle(O + A + B, 90 - half)
        d.step(f"{O}{A} and {O}{B} are radii, so m∠{O}{B}{A} = m∠{O}{A}{B} = {90 - half}°.")
        d.step(f"m∠{central} = 180° - 2 · {90 - half}° = {2 * half}°.")
        d.step(f"{theorem} and m∠{far} = {half}°.")
        return ask(d, "angle", far, half)
    if asked == "inscribed":
        d.angle(central, 2 * half)
        d.step(f"{theorem}.")
        d.step(f"m∠{far} = {2 * half}° / 2 = {half}°.")
        return ask(d, "angle", far, half)
    if asked == "central":
        d.angle(far, half)
        d.step(f"{theorem} = 2 · {half}°.")
        return ask(d, "angle", central, 2 * half)
    one = d.angle(central, 2 * half, True)
    other = d.angle(far, half, True)
    d.solve([other.times(2)], one, f"{theorem}")
    if asked == "x":
        return ask(d, "x", "", d.x)
    d.step(f"m∠{far} = {other} = {half}° at x = {d.x}.")
    ask(d, "angle", far, half)


def _over_diameter(d: Draft, radius: float, left: float) -> tuple[str, ...]:
    """A triangle ABC over the diameter AB, with the angle `left` (degrees) at B; the names of A, B, C and O."""
    A, B, C = d.place(-radius, radius, polar(radius, 180 - 2 * left))
    O = d.centre(0)
    d.circle(O, A, B, C)
    d.line(A, O, B)
    d.lines(A + C, B + C)
    return A, B, C, O


def diameter_angles(d: Draft, asked: str) -> None:
    """Angles of a triangle over a diameter, which has a right angle (Thales)."""
    left = d.whole(25, 65)
    A, B, C, O = _over_diameter(d, d.whole(4, 9), left)
    right = f"{A}{B} is a diameter, so ∠{A}{C}{B} is a right angle"
    if asked == "angle":
        d.angle(A + B + C, left)
        d.step(f"{right}.")
        d.step(f"m∠{B}{A}{C} = 90° - {left}° = {90 - left}°.")
        return ask(d, "angle", B + A + C, 90 - left)
    if asked == "chain":
        d.line(O, C)
        d.angle(B + O + C, 180 - 2 * left)
        d.step(f"{O}{B} and {O}{C} are radii, so m∠{A}{B}{C} = (180° - {180 - 2 * left}°) / 2 = {left}°.")
        d.step(f"{right}.")
        d.step(f"m∠{B}{A}{C} = 90° - {left}° = {90 - left}°.")
        return ask(d, "angle", B + A + C, 90 - left)
    terms = [d.angle(A + B + C, left, True), d.angle(B + A + C, 90 - left, d.pick([True, False]))]
    d.solve(terms, 90, f"{right} and m∠{A}{B}{C} + m∠{B}{A}{C} = 90°")
    ask(d, "x", "", d.x)


def diameter(d: Draft, asked: str) -> None:
    """Sides of a triangle over a diameter, which has a right angle, and size of the circle (Thales, Pythagoras)."""
    a, b, c = d.pick([t for t in TRIPLES if t[2] % 2 == 0 or asked in ("circumference", "disc")])
    A, B, C, O = _over_diameter(d, c / 2, math.degrees(math.atan2(b, a)))
    d.step(f"{A}{B} is a diameter, so ∠{A}{C}{B} is a right angle.")
    d.length(B + C, a)
    if asked == "chord":
        d.length(O + B, c // 2)
        d.step(f"{A}{B} = 2 · {c // 2} = {c}.")
        d.step(f"{A}{C}² = {A}{B}² - {B}{C}² = {c * c} - {a * a} = {b * b}, so {A}{C} = {b}.")
        return ask(d, "length", A + C, b)
    d.length(A + C, b)
    d.step(f"{A}{B}² = {A}{C}² + {B}{C}² = {b * b} + {a * a} = {c * c}, so {A}{B} = {c}.")
    if asked == "radius":
        d.step(f"{O}{A} = {c} / 2.")
        return ask(d, "length", O + A, c / 2)
    if asked == "circumference":
        d.step(f"The circumference is π · {A}{B} = {c}π.")
        return ask(d, "circumference", O, math.pi * c, rounded=True)
    d.step(f"The area is π · {A}{B}² / 4 = {c * c}π / 4.")
    ask(d, "disc", O, math.pi * c * c / 4, rounded=True)


def _one_tangent(d: Draft, radius: float, reach: float) -> tuple[str, str, str]:
    """A radius OA, a tangent PA of the length `reach`, and OP; the names of A, P and O."""
    A, P = d.place(-1j * radius, complex(reach, -radius))
    O = d.centre(0)
    d.circle(O, A)
    d.lines(O + A, P + A, O + P)
    d.tangent(P, A, O)
    return A, P, O


def tangent_angles(d: Draft, asked: str) -> None:
    """Angles at a tangent, which is perpendicular to the radius where it touches."""
    outer, radius = d.whole(28, 55), d.whole(4, 8)
    A, P, O = _one_tangent(d, radius, radius / math.tan(math.radians(outer)))
    right = f"{P}{A} is tangent to ⊙{O} at {A}, so {O}{A} ⊥ {P}{A}"
    if asked == "angle":
        d.angle(A + P + O, outer)
        d.step(f"{right}.")
        d.step(f"m∠{A}{O}{P} = 90° - {outer}° = {90 - outer}°.")
        return ask(d, "angle", A + O + P, 90 - outer)
    terms = [d.angle(A + P + O, outer, True), d.angle(A + O + P, 90 - outer, True)]
    d.solve(terms, 90, f"{right} and m∠{A}{P}{O} + m∠{A}{O}{P} = 90°")
    ask(d, "x", "", d.x)


def tangent(d: Draft, asked: str) -> None:
    """Lengths at a tangent, which is perpendicular to the radius where it touches (Pythagoras)."""
    a, b, c = d.pick([t for t in TRIPLES if 0.6 < t[0] / t[1] < 2])
    A, P, O = _one_tangent(d, a, b)
    d.step(f"{P}{A} is tangent to ⊙{O} at {A}, so {O}{A} ⊥ {P}{A}.")
    if asked == "tangent":
        d.length(O + A, a)
        d.length(O + P, c)
        d.step(f"{P}{A}² = {O}{P}² - {O}{A}² = {c * c} - {a * a} = {b * b}.")
        d.step(f"{P}{A} = {root(b * b)}.")
        return ask(d, "length", P + A, b)
    d.length(P + A, b)
    if asked == "distance":
        d.length(O + A, a)
        d.step(f"{O}{P}² = {O}{A}² + {P}{A}² = {a * a} + {b * b} = {c * c}.")
        d.step(f"{O}{P} = {root(c * c)}.")
        return ask(d, "length", O + P, c)
    d.length(O + P, c)
    d.step(f"{O}{A}² = {O}{P}² - {P}{A}² = {c * c} - {b * b} = {a * a}, so {O}{A} = {a}.")
    d.step(f"The area is π · {O}{A}² = {a * a}π.")
    ask(d, "disc", O, math.pi * a * a, rounded=True)


def _two_tangents(d: Draft, radius: float, far: float) -> tuple[str, ...]:
    """Both tangents from P, of the length `far`, and the radii to where they touch; the names of A, B, P and O."""
    direction = math.degrees(math.atan2(far, radius))
    A, B, P = d.place(polar(radius, direction), polar(radius, -direction), math.hypot(radius, far))
    O = d.centre(0)
    d.circle(O, A, B)
    d.lines(O + A, O + B, P + A, P + B)
    d.tangent(P, A, O)
    d.tangent(P, B, O)
    return A, B, P, O


def two_tangents_angles(d: Draft, asked: str) -> None:
    """Angles between both tangents from a point, the radii and the chord."""
    outer, radius = d.whole(22, 40), d.whole(4, 8)  # half the angle at P
    A, B, P, O = _two_tangents(d, radius, radius / math.tan(math.radians(outer)))
    right = f"{P}{A} and {P}{B} are tangents, so m∠{O}{A}{P} = m∠{O}{B}{P} = 90°"
    if asked == "central":
        d.angle(A + P + B, 2 * outer)
        d.step(f"{right}.")
        d.step(f"In quadrilateral {O}{A}{P}{B}, m∠{A}{O}{B} = 360° - 2 · 90° - {2 * outer}° = {180 - 2 * outer}°.")
        return ask(d, "angle", A + O + B, 180 - 2 * outer)
    if asked == "outer":
        d.angle(A + O + B, 180 - 2 * outer)
        d.step(f"{right}.")
        d.step(f"In quadrilateral {O}{A}{P}{B}, m∠{A}{P}{B} = 360° - 2 · 90° - {180 - 2 * outer}° = {2 * outer}°.")
        return ask(d, "angle", A + P + B, 2 * outer)
    d.line(A, B)
    d.angle(A + P + B, 2 * outer)
    d.step(f"{P}{A} and {P}{B} are tangents from one point, so {P}{A} = {P}{B}.")
    d.step(f"m∠{P}{A}{B} = m∠{P}{B}{A} = (180° - {2 * outer}°) / 2 = {90 - outer}°.")
    d.step(f"{O}{A} ⊥ {P}{A}, so m∠{O}{A}{B} = 90° - {90 - outer}° = {outer}°.")
    ask(d, "angle", O + A + B, outer)


def two_tangents(d: Draft, asked: str) -> None:
    """Lengths of both tangents from a point, which are equal."""
    radius, far, _ = d.pick([t for t in TRIPLES if 1.1 < t[1] / t[0] < 2.2])
    A, B, P, O = _two_tangents(d, radius, far)
    same = f"{P}{A} and {P}{B} are tangents from one point, so {P}{A} = {P}{B}"
    if asked == "x":
        one, other = d.length(P + A, far, True), d.length(P + B, far, True)
        d.solve([one], other, same)
        return ask(d, "x", "", d.x)
    d.length(O + A, radius)
    d.length(P + A, far)
    d.step(f"{same} = {far}.")
    d.step(f"{O}{A} and {O}{B} are radii, so {O}{B} = {radius}.")
    d.step(f"The perimeter is 2 · {radius} + 2 · {far} = {2 * (radius + far)}.")
    ask(d, "perimeter", O + A + P + B, 2 * (radius + far))


def chord(d: Draft, asked: str) -> None:
    """A chord, which the perpendicular from the centre halves (Pythagoras)."""
    a, b, c = d.pick([t for t in TRIPLES if 0.4 < t[0] / t[1] < 1.6])
    if asked == "rounded":
        a, c = d.whole(3, 9), d.whole(6, 16)
        if not 0.35 * c < a < 0.7 * c:
            raise Redraw
    square = c * c - a * a
    half = math.sqrt(square)
    A, B, M = d.place(complex(-half, -a), complex(half, -a), -1j * a)
    O = d.centre(0)
    d.circle(O, A, B)
    d.line(A, M, B)
    d.lines(O + M, O + A)
    d.perpendicular(O, M, A)
    d.step(f"{O}{M} ⊥ {A}{B}, so {M} is the midpoint of the chord {A}{B}.")
    if asked in ("chord", "rounded"):
        d.length(O + A, c)
        d.length(O + M, a)
        d.step(f"{A}{M}² = {O}{A}² - {O}{M}² = {c * c} - {a * a} = {square}, so {A}{M} = {root(square)}.")
        d.step(f"{A}{B} = 2 · {A}{M} = 2 · {root(square).split(' = ')[-1]}.")
        return ask(d, "length", A + B, 2 * half, rounded=math.isqrt(square) ** 2 != square)
    d.length(M + B, b)
    d.step(f"{A}{M} = {M}{B} = {b}.")
    if asked == "distance":
        d.length(O + A, c)
        d.step(f"{O}{M}² = {O}{A}² - {A}{M}² = {c * c} - {b * b} = {a * a}, so {O}{M} = {root(a * a)}.")
        return ask(d, "length", O + M, a)
    d.length(O + M, a)
    d.step(f"{O}{A}² = {O}{M}² + {A}{M}² = {a * a} + {b * b} = {c * c}, so {O}{A} = {root(c * c)}.")
    ask(d, "length", O + A, c)


def cyclic_quadrilateral(d: Draft, asked: str) -> None:
    """A quadrilateral on a circle: opposite angles add up to 180 degrees."""
    at_a, at_b = d.whole(62, 118), d.whole(62, 118)
    # Arcs: AB + BC = 2·(angle at D) = 360 - 2·at_b, BC + CD = 2·at_a
    bc = 2 * d.whole(25, 60)
    ab, cd = 360 - 2 * at_b - bc, 2 * at_a - bc
    arcs = (ab, bc, cd, 360 - ab - bc - cd)
    if min(arcs) < 44 or abs(at_a - 90) < 6:
        raise Redraw
    radius, start = d.whole(4, 9), d.whole(0, 359)
    A, B, C, D = d.place(*(polar(radius, start + sum(arcs[:i])) for i in range(4)))
    O = d.centre(0)
    d.circle(O, A, B, C, D)
    d.lines(A + B, B + C, C + D, D + A)
    theorem = f"{A}, {B}, {C}, {D} lie on a circle, so opposite angles of {A}{B}{C}{D} add up to 180°"
    if asked == "angle":
        d.angle(D + A + B, at_a)
        d.step(f"{theorem}.")
        d.step(f"m∠{B}{C}{D} = 180° - {at_a}° = {180 - at_a}°.")
        return ask(d, "angle", B + C + D, 180 - at_a)
    if asked == "chain":
        d.line(B, D)
        d.angle(B + C + D, 180 - at_a)
        inner = ab // 2
        d.angle(A + D + B, inner)
        d.step(f"{theorem} and m∠{D}{A}{B} = 180° - {180 - at_a}° = {at_a}°.")
        d.step(f"In △{A}{B}{D}, m∠{A}{B}{D} = 180° - {at_a}° - {inner}° = {180 - at_a - inner}°.")
        return ask(d, "angle", A + B + D, 180 - at_a - inner)
    terms = [d.angle(D + A + B, at_a, True), d.angle(B + C + D, 180 - at_a, True)]
    d.solve(terms, 180, theorem)
    if asked == "x":
        return ask(d, "x", "", d.x)
    d.step(f"m∠{D}{A}{B} = {terms[0]} = {at_a}° at x = {d.x}.")
    ask(d, "angle", D + A + B, at_a)


def crossing_chords(d: Draft, asked: str) -> None:
    """Two crossing chords and the chords between their ends: inscribed angles over the same arc are equal."""
    ab, cd, ac = (2 * d.whole(25, 58) for _ in range(3))
    if 360 - ab - cd - ac < 50:
        raise Redraw
    radius, start = d.whole(4, 9), d.whole(0, 359)
    a, c, e, b = (polar(radius, start + turn) for turn in (0, ac, ac + cd, 360 - ab))
    A, B, C, D, E = d.place(a, b, c, e, meet(a, e, b, c))
    O = d.centre(0)
    d.circle(O, A, B, C, D)
    d.line(A, E, D)
    d.line(B, E, C)
    d.lines(A + B, C + D)
    near, far = ac // 2, (360 - ab - cd - ac) // 2  # over the arcs AC and BD
    theorem = f"∠{A}{B}{C} and ∠{A}{D}{C} stand on the same arc, so m∠{A}{B}{C} = m∠{A}{D}{C}"
    if asked == "chain":
        d.angle(A + B + E, near)
        d.angle(C + E + D, 180 - near - far)
        d.step(f"{theorem} = {near}°.")
        d.step(f"In △{C}{E}{D}, m∠{B}{C}{D} = 180° - {180 - near - far}° - {near}° = {far}°.")
        return ask(d, "angle", B + C + D, far)
    if asked == "crossing":
        d.angle(B + A + E, far)
        d.angle(E + D + C, near)
        d.step(f"{theorem} = {near}°.")
        d.step(f"In △{A}{B}{E}, m∠{A}{E}{B} = 180° - {far}° - {near}° = {180 - near - far}°.")
        return ask(d, "angle", A + E + B, 180 - near - far)
    one, other = d.angle(A + B + C, near, True), d.angle(A + D + C, near, True)
    d.solve([one], other, theorem)
    ask(d, "x", "", d.x)


# The parts of two different chords whose products are equal: p · q = r · s
_PARTS = range(3, 13)
PRODUCTS = [(p, q, r, p * q // r) for p, q, r in product(_PARTS, repeat=3) if p * q % r == 0 and r not in (p, q)]
PRODUCTS = [parts for parts in PRODUCTS if 3 <= parts[3] <= 14]


def chord_parts(d: Draft, asked: str) -> None:
    """Two crossing chords: the products of their parts are equal."""
    p, q, r, s = d.pick(PRODUCTS)
    turn = polar(1, d.whole(55, 125))
    across = (q - p) / 2  # the centre lies over the middle of each chord
    up = ((s - r) / 2 - across * turn.real) / turn.imag
    if min(abs(up), abs(cross(complex(across, up), turn))) < 1:
        raise Redraw  # the centre would seem to lie on a chord
    O = d.centre(complex(across, up))
    A, B, C, D, E = d.place(-p, -r * turn, s * turn, q, 0)
    d.circle(O, A, B, C, D)
    d.line(A, E, D)
    d.line(B, E, C)
    for pair, value in ((A + E, p), (E + D, q), (B + E, r)):
        d.length(pair, value)
    d.step(f"The chords meet at {E}, so {A}{E} · {E}{D} = {B}{E} · {E}{C}.")
    d.step(f"{E}{C} = {p} · {q} / {r} = {s}.")
    if asked == "part":
        return ask(d, "length", E + C, s)
    d.step(f"{B}{C} = {r} + {s}.")
    ask(d, "length", B + C, r + s)


CONSTRUCTIONS = {
    inscribed: (4, "inscribed", "central", "chain", "x", "x_angle"),
    diameter_angles: (4, "angle", "chain", "x"),
    diameter: (4, "radius", "chord", "circumference", "disc"),
    tangent_angles: (3, "angle", "x"),
    tangent: (3, "tangent", "distance", "disc"),
    two_tangents_angles: (4, "central", "outer", "chord_angle"),
    two_tangents: (4, "x", "perimeter"),
    chord: (4, "chord", "rounded", "distance", "radius"),
    cyclic_quadrilateral: (5, "angle", "chain", "x", "x_angle"),
    crossing_chords: (6, "chain", "crossing", "x"),
    chord_parts: (6, "part", "chord"),
}
