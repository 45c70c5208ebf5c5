"""Constructions of triangles: right angles, equal sides, altitudes, bisectors. Each function fills a draft."""

from __future__ import annotations

import math

from .clauses import Draft
from .plane import Redraw, by_angles, by_sides, polar
from .questions import ask, root


# Legs and hypotenuse of right triangles with whole sides that are not too thin
TRIPLES = [(3, 4, 5), (6, 8, 10), (5, 12, 13), (8, 15, 17), (9, 12, 15), (12, 16, 20), (15, 20, 25), (20, 21, 29)]
TRIPLES += [(15, 8, 17), (12, 5, 13), (4, 3, 5), (8, 6, 10), (12, 9, 15), (10, 24, 26), (21, 28, 35), (24, 18, 30)]
# Two right triangles with whole sides and a common leg: their other legs, then the common one
HEIGHTS = [(6, 15, 8), (5, 9, 12), (9, 16, 12), (5, 16, 12), (8, 20, 15), (10, 18, 24), (7, 18, 24), (15, 21, 20)]


def angle_sum(d: Draft, asked: str) -> None:
    """The sum of the angles of a triangle, with two angles given, or with expressions in x."""
    left, right, top = d.three_angles()
    A, B, C = d.place(*by_angles(d.whole(6, 15), left, right))
    d.polygon(A, B, C)
    corners, values = [A + B + C, B + C + A, C + A + B], [left, right, top]
    theorem = f"The angles of △{A}{B}{C} add up to 180°"
    if asked == "angle":
        for corner, value in zip(corners[:2], values[:2], strict=True):
            d.angle(corner, value)
        d.step(f"{theorem}, so m∠{corners[2]} = 180° - {left}° - {right}° = {top}°.")
        return ask(d, "angle", corners[2], top)
    with_x = [True, True, asked != "x_angle" and d.pick([True, False])]
    terms = [d.angle(*told) for told in zip(corners, values, with_x, strict=True)]
    d.solve(terms, 180, theorem)
    if asked == "x":
        return ask(d, "x", "", d.x)
    which = d.pick([0, 1])
    d.step(f"m∠{corners[which]} = {terms[which]} at x = {d.x}.")
    ask(d, "angle", corners[which], values[which])


def exterior_angle(d: Draft, asked: str) -> None:
    """A side extended past a corner: the exterior angle is the sum of the two opposite ones."""
    left, right, top = d.three_angles(35, 90)
    base = d.whole(6, 12)
    where = by_angles(base, left, right)
    A, B, C, D = d.place(*where, base * 1.5)
    d.polygon(A, B, C)
    d.line(B, C, D)
    outside = left + top
    theorem = f"∠{A}{C}{D} is an exterior angle of △{A}{B}{C}, so m∠{A}{C}{D} = m∠{A}{B}{C} + m∠{B}{A}{C}"
    if asked == "exterior":
        d.angle(A + B + C, left)
        d.angle(B + A + C, top)
        d.step(f"{theorem} = {left}° + {top}° = {outside}°.")
        return ask(d, "angle", A + C + D, outside)
    if asked == "far":
        d.angle(A + B + C, left)
        d.angle(A + C + D, outside)
        d.step(f"{theorem}.")
        d.step(f"m∠{B}{A}{C} = {outside}° - {left}° = {top}°.")
        return ask(d, "angle", B + A + C, top)
    far = d.angle(A + B + C, left, unknown=True)
    other = d.angle(B + A + C, top)
    total = d.angle(A + C + D, outside, unknown=True)
    d.solve([far, other], total, theorem)
    if asked == "x":
        return ask(d, "x", "", d.x)
    d.step(f"m∠{A}{C}{D} = {total} = {outside}° at x = {d.x}.")
    d.step(f"∠{A}{C}{B} and ∠{A}{C}{D} make a straight angle, so m∠{A}{C}{B} = 180° - {outside}° = {right}°.")
    ask(d, "angle", A + C + B, right)


def isosceles_sides(d: Draft, asked: str) -> None:
    """Side lengths of an isosceles triangle."""
    leg = d.whole(6, 20)
    base = d.whole(max(4, leg // 2), int(leg * 1.5))
    A, B, C = d.place(*by_sides(base, leg, leg))
    d.polygon(A, B, C)
    d.equal(A + B, A + C)
    if asked == "x":
        one, other = d.length(A + B, leg, True), d.length(A + C, leg, True)
        d.solve([one], other, f"{A}{B} = {A}{C}")
        return ask(d, "x", "", d.x)
    d.length(A + B, leg)
    d.length(B + C, base)
    d.step(f"{A}{C} = {A}{B} = {leg}.")
    d.step(f"The perimeter is {leg} + {leg} + {base} = {2 * leg + base}.")
    ask(d, "perimeter", A + B + C, 2 * leg + base)


def isosceles(d: Draft, asked: str) -> None:
    """Angles of an isosceles triangle."""
    foot = d.whole(35, 75)
    A, B, C = d.place(*by_angles(d.whole(6, 12), foot, foot))
    d.polygon(A, B, C)
    d.equal(A + B, A + C)
    top = 180 - 2 * foot
    why = f"{A}{B} = {A}{C}, so m∠{A}{B}{C} = m∠{A}{C}{B}"
    if asked == "base_angle":
        d.angle(B + A + C, top)
        d.step(f"{why}.")
        d.step(f"2 · m∠{A}{B}{C} = 180° - {top}° = {2 * foot}°.")
        return ask(d, "angle", A + B + C, foot)
    if asked == "apex":
        d.angle(A + B + C, foot)
        d.step(f"{why} = {foot}°.")
        d.step(f"m∠{B}{A}{C} = 180° - 2 · {foot}° = {top}°.")
        return ask(d, "angle", B + A + C, top)
    one, other = d.angle(A + B + C, foot, True), d.angle(A + C + B, foot, True)
    d.solve([one], other, why)
    d.step(f"m∠{A}{B}{C} = m∠{A}{C}{B} = {foot}°.")
    d.step(f"m∠{B}{A}{C} = 180° - 2 · {foot}° = {top}°.")
    ask(d, "angle", B + A + C, top)


def isosceles_exterior(d: Draft, asked: str) -> None:
    """An isosceles triangle with its base extended: the exterior angle."""
    foot = d.whole(40, 72)
    base = d.whole(6, 12)
    A, B, C, D = d.place(*by_angles(base, foot, foot), base * 1.55)
    d.polygon(A, B, C)
    d.line(B, C, D)
    d.equal(A + B, A + C)
    straight = f"∠{A}{C}{B} and ∠{A}{C}{D} make a straight angle"
    if asked == "apex":
        d.angle(A + C + D, 180 - foot)
        d.step(f"{straight}, so m∠{A}{C}{B} = 180° - {180 - foot}° = {foot}°.")
        d.step(f"{A}{B} = {A}{C}, so m∠{A}{B}{C} = m∠{A}{C}{B} = {foot}°.")
        d.step(f"m∠{B}{A}{C} = 180° - 2 · {foot}° = {180 - 2 * foot}°.")
        return ask(d, "angle", B + A + C, 180 - 2 * foot)
    d.angle(B + A + C, 180 - 2 * foot)
    d.step(f"{A}{B} = {A}{C}, so m∠{A}{C}{B} = (180° - {180 - 2 * foot}°) / 2 = {foot}°.")
    d.step(f"{straight}, so m∠{A}{C}{D} = 180° - {foot}° = {180 - foot}°.")
    ask(d, "angle", A + C + D, 180 - foot)


def right_triangle(d: Draft, asked: str) -> None:
    """Sides, area and perimeter of a right triangle (Pythagoras)."""
    a, b, c = d.pick(TRIPLES)
    A, B, C = d.place(b * 1j, a, 0)
    d.polygon(A, B, C)
    d.perpendicular(A, C, B)
    right = f"∠{A}{C}{B} is a right angle"
    if asked == "leg":
        d.length(A + B, c)
        d.length(B + C, a)
        d.step(f"{right}, so {A}{C}² = {A}{B}² - {B}{C}² = {c * c} - {a * a} = {b * b}.")
        d.step(f"{A}{C} = {root(b * b)}.")
        return ask(d, "length", A + C, b)
    if asked == "area":
        d.length(A + B, c)
        d.length(A + C, b)
        d.step(f"{right}, so {B}{C}² = {A}{B}² - {A}{C}² = {c * c} - {b * b} = {a * a} and {B}{C} = {a}.")
        d.step(f"The area is {B}{C} · {A}{C} / 2 = {a} · {b} / 2 = {a * b // 2}.")
        return ask(d, "area", A + B + C, a * b / 2)
    d.length(B + C, a)
    d.length(A + C, b)
    d.step(f"{right}, so {A}{B}² = {B}{C}² + {A}{C}² = {a * a} + {b * b} = {c * c}.")
    d.step(f"{A}{B} = {root(c * c)}.")
    if asked == "hypotenuse":
        return ask(d, "length", A + B, c)
    d.step(f"The perimeter is {a} + {b} + {c} = {a + b + c}.")
    ask(d, "perimeter", A + B + C, a + b + c)


def trigonometry(d: Draft, asked: str) -> None:
    """A right triangle by one side and one acute angle, or by two legs; the answer is rounded."""
    if asked == "angle":
        a, b = d.whole(5, 12), d.whole(5, 12)
        if a == b:
            raise Redraw
        A, B, C = d.place(b * 1j, a, 0)
        d.length(B + C, a)
        d.length(A + C, b)
        value = math.degrees(math.atan2(b, a))
        d.step(f"tan ∠{A}{B}{C} = {A}{C} / {B}{C} = {b} / {a}.")
    else:
        degrees, hypotenuse = d.whole(28, 62), d.whole(8, 20)
        if asked == "hypotenuse":  # a whole leg instead
            a = d.whole(6, 15)
            A, B, C = d.place(a * 1j * math.tan(math.radians(degrees)), a, 0)
            d.length(B + C, a)
            value = a / math.cos(math.radians(degrees))
            d.step(f"{A}{B} = {B}{C} / cos ∠{A}{B}{C} = {a} / cos {degrees}°.")
        else:
            corner = polar(hypotenuse, degrees)
            A, B, C = d.place(corner.imag * 1j, corner.real, 0)
            d.length(A + B, hypotenuse)
            value = corner.imag
            d.step(f"{A}{C} = {A}{B} · sin ∠{A}{B}{C} = {hypotenuse} · sin {degrees}°.")
        d.angle(A + B + C, degrees)
    d.polygon(A, B, C)
    d.perpendicular(A, C, B)
    form, names = {"angle": ("angle", A + B + C), "leg": ("length", A + C), "hypotenuse": ("length", A + B)}[asked]
    ask(d, form, names, value, rounded=True)


def altitude(d: Draft, asked: str) -> None:
    """An altitude that divides a triangle into two right triangles with whole sides."""
    *legs, h = d.pick(HEIGHTS)
    p, q = legs if d.pick([True, False]) else legs[::-1]
    left, right = math.isqrt(p * p + h * h), math.isqrt(q * q + h * h)
    A, B, C, D = d.place(h * 1j, -p, q, 0)
    d.polygon(A, B, C)
    d.line(B, D, C)
    d.line(A, D)
    d.perpendicular(A, D, B)
    d.length(B + D, p)
    height = f"{A}{D} ⊥ {B}{C}"
    if asked == "height_area":
        d.length(A + B, left)
        d.length(D + C, q)
        d.step(f"{height}, so {A}{D}² = {A}{B}² - {B}{D}² = {left**2} - {p * p} = {h * h} and {A}{D} = {h}.")
        d.step(f"{B}{C} = {p} + {q} = {p + q}.")
        d.step(f"The area is {B}{C} · {A}{D} / 2 = {p + q} · {h} / 2 = {(p + q) * h // 2}.")
        return ask(d, "area", A + B + C, (p + q) * h / 2)
    if asked == "base":
        d.length(A + D, h)
        d.length(A + C, right)
        d.step(f"{height}, so {D}{C}² = {A}{C}² - {A}{D}² = {right**2} - {h * h} = {q * q} and {D}{C} = {q}.")
        d.step(f"{B}{C} = {B}{D} + {D}{C} = {p} + {q}.")
        return ask(d, "length", B + C, p + q)
    d.length(A + B, left)
    d.length(D + C, q)
    d.step(f"{height}, so {A}{D}² = {A}{B}² - {B}{D}² = {left**2} - {p * p} = {h * h}.")
    d.step(f"{A}{C}² = {A}{D}² + {D}{C}² = {h * h} + {q * q} = {right**2}, so {A}{C} = {right}.")
    if asked == "side":
        return ask(d, "length", A + C, right)
    total = left + right + p + q
    d.step(f"The perimeter is {left} + {right} + {p} + {q} = {total}.")
    ask(d, "perimeter", A + B + C, total)


def bisector(d: Draft, asked: str) -> None:
    """Angles at the bisector of an angle of a triangle."""
    half = d.whole(18, 40)
    left = d.whole(32, 100)
    right = 180 - left - 2 * half
    if not 30 <= right <= 100 or abs(left - right) < 5:
        raise Redraw
    apex, start, end = by_angles(d.whole(6, 14), left, right)
    share = abs(apex - start) / (abs(apex - start) + abs(apex - end))
    A, B, C, D = d.place(apex, start, end, start + (end - start) * share)
    d.polygon(A, B, C)
    d.line(B, D, C)
    d.line(A, D)
    d.equal_angles(B + A + D, D + A + C)
    d.angle(A + B + C, left)
    halves = f"{A}{D} halves ∠{B}{A}{C}"
    if asked == "foot_angle":
        d.angle(A + C + B, right)
        d.step(f"m∠{B}{A}{C} = 180° - {left}° - {right}° = {2 * half}°.")
        d.step(f"{halves}, so m∠{B}{A}{D} = {half}°.")
        d.step(f"In △{A}{B}{D}, m∠{A}{D}{B} = 180° - {left}° - {half}° = {180 - left - half}°.")
        return ask(d, "angle", A + D + B, 180 - left - half)
    if asked == "far_angle":
        d.angle(A + D + B, 180 - left - half)
        d.step(f"In △{A}{B}{D}, m∠{B}{A}{D} = 180° - {left}° - {180 - left - half}° = {half}°.")
        d.step(f"{halves}, so m∠{B}{A}{C} = 2 · {half}° = {2 * half}°.")
        d.step(f"m∠{A}{C}{B} = 180° - {left}° - {2 * half}° = {right}°.")
        return ask(d, "angle", A + C + B, right)
    d.angle(A + C + B, right, unknown=True)
    d.angle(B + A + D, half)
    d.step(f"{halves}, so m∠{B}{A}{C} = 2 · {half}° = {2 * half}°.")
    d.step(f"m∠{A}{C}{B} = 180° - {left}° - {2 * half}° = {right}°.")
    told = d.clauses[-2].text
    d.step(f"{told} = {right}°.")
    ask(d, "x", "", d.x)


def bisector_lengths(d: Draft, asked: str) -> None:
    """Lengths at an angle bisector, which divides the opposite side in the ratio of the adjacent sides."""
    p, q, factor = d.whole(2, 9), d.whole(2, 9), d.whole(2, 4)
    left, right, base = p * factor, q * factor, p + q
    if p == q or abs(left - right) > 0.75 * base:
        raise Redraw
    A, B, C, D = d.place(*by_sides(base, left, right), p)
    d.polygon(A, B, C)
    d.line(B, D, C)
    d.line(A, D)
    d.equal_angles(B + A + D, D + A + C)
    d.length(A + B, left)
    d.length(B + D, p)
    why = f"{A}{D} halves ∠{B}{A}{C}, so {B}{D} : {D}{C} = {A}{B} : {A}{C}"
    if asked == "part":
        d.length(A + C, right)
        d.step(f"{why} = {left} : {right}.")
        d.step(f"{D}{C} = {p} · {right} / {left} = {q}.")
        return ask(d, "length", D + C, q)
    d.length(D + C, q)
    d.step(f"{why}.")
    d.step(f"{A}{C} = {left} · {q} / {p} = {right}.")
    if asked == "side":
        return ask(d, "length", A + C, right)
    d.step(f"The perimeter is {left} + {right} + {p} + {q} = {left + right + base}.")
    ask(d, "perimeter", A + B + C, left + right + base)


CONSTRUCTIONS = {
    angle_sum: (3, "angle", "x", "x_angle"),
    exterior_angle: (4, "exterior", "far", "x", "x_angle"),
    isosceles: (3, "base_angle", "apex", "x_apex"),
    isosceles_sides: (3, "x", "perimeter"),
    isosceles_exterior: (4, "apex", "exterior"),
    right_triangle: (3, "hypotenuse", "leg", "area", "perimeter"),
    trigonometry: (3, "angle", "leg", "hypotenuse"),
    altitude: (4, "side", "base", "height_area", "perimeter"),
    bisector: (4, "foot_angle", "far_angle", "x"),
    bisector_lengths: (4, "part", "side", "perimeter"),
}
