"""Constructions of parallelograms, rectangles, rhombuses and trapezoids. Each function fills a draft."""

from __future__ import annotations

from .clauses import Draft
from .plane import Redraw, by_sides, polar
from .questions import ask, root
from .triangles import TRIPLES


def parallelogram(d: Draft, asked: str) -> None:
    """A parallelogram: opposite sides are equal, angles at a side add up to 180 degrees."""
    lean, long, short = d.whole(50, 78), d.whole(8, 15), d.whole(5, 10)
    if not 0.45 < short / long < 0.9:
        raise Redraw
    slant = polar(short, lean)
    A, B, C, D = d.place(0, long, long + slant, slant)
    d.polygon(A, B, C, D)
    d.parallel(A + B, D + C)
    d.parallel(A + D, B + C)
    shape = f"Opposite sides are parallel, so {A}{B}{C}{D} is a parallelogram"
    along = f"{shape} and m∠{D}{A}{B} + m∠{A}{B}{C} = 180°"
    if asked == "angle":
        d.angle(D + A + B, lean)
        d.step(f"{along}.")
        d.step(f"m∠{A}{B}{C} = 180° - {lean}° = {180 - lean}°.")
        return ask(d, "angle", A + B + C, 180 - lean)
    if asked == "x":
        terms = [d.angle(D + A + B, lean, True), d.angle(A + B + C, 180 - lean, True)]
        d.solve(terms, 180, along)
        return ask(d, "x", "", d.x)
    if asked == "diagonal_angle":
        d.line(B, D)
        cut = round(d.measured(A + B + D))  # made whole by moving B
        long = abs(slant) * _sine(cut + lean) / _sine(cut)
        d.points[B], d.points[C] = complex(long), long + slant
        d.angle(D + A + B, lean)
        d.angle(B + D + C, cut)
        d.step(f"{shape}; {A}{B} ∥ {D}{C} makes the alternate angles m∠{A}{B}{D} = m∠{B}{D}{C} = {cut}°.")
        d.step(f"In △{A}{B}{D}, m∠{A}{D}{B} = 180° - {lean}° - {cut}° = {180 - lean - cut}°.")
        return ask(d, "angle", A + D + B, 180 - lean - cut)
    if asked == "side_x":
        one, other = d.length(A + B, long, True), d.length(D + C, long, True)
        d.solve([one], other, f"{shape} and {A}{B} = {D}{C}")
        return ask(d, "x", "", d.x)
    d.length(A + B, long)
    d.length(A + D, short)
    d.step(f"{shape}: {D}{C} = {A}{B} = {long} and {B}{C} = {A}{D} = {short}.")
    d.step(f"The perimeter is 2 · ({long} + {short}) = {2 * (long + short)}.")
    ask(d, "perimeter", A + B + C + D, 2 * (long + short))


def _sine(degrees: float) -> float:
    return polar(1, degrees).imag


def diagonals(d: Draft, asked: str) -> None:
    """The diagonals of a parallelogram halve each other."""
    p, q, side = d.whole(4, 9), d.whole(4, 9), d.whole(5, 14)
    if p == q:
        raise Redraw
    e, a, b = by_sides(side, p, q)
    A, B, C, D, E = d.place(a, b, 2 * e - a, 2 * e - b, e)
    d.polygon(A, B, C, D)
    d.line(A, E, C)
    d.line(B, E, D)
    d.parallel(A + B, D + C)
    d.parallel(A + D, B + C)
    shape = f"{A}{B}{C}{D} is a parallelogram, so {E} halves both diagonals"
    if asked == "diagonal":
        d.length(A + E, p)
        d.step(f"{shape}: {E}{C} = {A}{E} = {p}.")
        d.step(f"{A}{C} = 2 · {p} = {2 * p}.")
        return ask(d, "length", A + C, 2 * p)
    if asked == "x":
        one, other = d.length(B + E, q, True), d.length(E + D, q, True)
        d.solve([one], other, f"{shape} and {B}{E} = {E}{D}")
        return ask(d, "x", "", d.x)
    d.length(E + C, p)
    d.length(B + E, q)
    d.length(D + C, side)
    d.step(f"{shape}: {A}{E} = {E}{C} = {p}, and {A}{B} = {D}{C} = {side}.")
    d.step(f"The perimeter of △{A}{B}{E} is {side} + {q} + {p} = {side + q + p}.")
    ask(d, "perimeter", A + B + E, side + p + q)


def _rectangle(d: Draft, width: float, height: float) -> list[str]:
    names = d.place(0, width, complex(width, height), 1j * height)
    A, B, C, D = names
    d.polygon(A, B, C, D)
    for corner in (D + A + B, A + B + C, B + C + D):
        d.perpendicular(*corner)
    d.step(f"{A}{B}{C}{D} has three right angles, so it is a rectangle.")
    return names


def rectangle_angles(d: Draft, asked: str) -> None:
    """A diagonal of a rectangle makes alternate angles."""
    cut, long = d.whole(28, 60), d.whole(6, 10)
    A, B, C, D = _rectangle(d, long, long * _sine(cut) / _sine(90 - cut))
    d.line(A, C)
    if asked == "angle":
        d.angle(B + A + C, cut)
        d.step(f"{A}{B} ∥ {D}{C} makes the alternate angles m∠{A}{C}{D} = m∠{B}{A}{C} = {cut}°.")
        d.step(f"m∠{A}{C}{B} = 90° - {cut}° = {90 - cut}°.")
        return ask(d, "angle", A + C + B, 90 - cut)
    terms = [d.angle(B + A + C, cut, True), d.angle(C + A + D, 90 - cut, True)]
    d.solve(terms, 90, f"{A}{C} divides a right angle, so m∠{B}{A}{C} + m∠{C}{A}{D} = 90°")
    ask(d, "x", "", d.x)


def rectangle(d: Draft, asked: str) -> None:
    """A diagonal of a rectangle makes right triangles."""
    a, b, c = d.pick([t for t in TRIPLES if 0.4 < t[0] / t[1] < 2.4])
    A, B, C, D = _rectangle(d, a, b)
    d.length(A + B, a)
    if asked == "sides_area":
        d.length(B + C, b)
        d.step(f"The area is {A}{B} · {B}{C} = {a} · {b} = {a * b}.")
        return ask(d, "area", A + B + C + D, a * b)
    d.line(A, C)
    if asked == "diagonal":
        d.length(A + D, b)
        d.step(f"{B}{C} = {A}{D} = {b}.")
        d.step(f"{A}{C}² = {A}{B}² + {B}{C}² = {a * a} + {b * b} = {c * c}, so {A}{C} = {root(c * c)}.")
        return ask(d, "length", A + C, c)
    d.length(A + C, c)
    d.step(f"{B}{C}² = {A}{C}² - {A}{B}² = {c * c} - {a * a} = {b * b}, so {B}{C} = {b}.")
    if asked == "area":
        d.step(f"The area is {A}{B} · {B}{C} = {a} · {b} = {a * b}.")
        return ask(d, "area", A + B + C + D, a * b)
    d.step(f"The perimeter is 2 · ({a} + {b}) = {2 * (a + b)}.")
    ask(d, "perimeter", A + B + C + D, 2 * (a + b))


def _rhombus(d: Draft, half_ac: float, half_bd: float) -> list[str]:
    names = d.place(-half_ac, -1j * half_bd, half_ac, 1j * half_bd, 0)
    A, B, C, D, E = names
    d.polygon(A, B, C, D)
    d.line(A, E, C)
    d.line(B, E, D)
    d.equal(A + B, B + C, C + D, D + A)
    return names


def rhombus_angles(d: Draft, asked: str) -> None:
    """The diagonals of a rhombus halve its angles and are perpendicular."""
    half = d.whole(28, 62)
    A, B, C, D, E = _rhombus(d, 6 * _sine(90 - half), 6 * _sine(half))
    shape = f"{A}{B}{C}{D} has four equal sides, so it is a rhombus"
    if asked == "angle":
        d.angle(E + A + D, half)
        d.step(f"{shape} and {A}{C} halves ∠{D}{A}{B}: m∠{D}{A}{B} = 2 · {half}° = {2 * half}°.")
        d.step(f"m∠{A}{B}{C} = 180° - {2 * half}° = {180 - 2 * half}°.")
        return ask(d, "angle", A + B + C, 180 - 2 * half)
    terms = [d.angle(E + A + D, half, True), d.angle(A + D + E, 90 - half, True)]
    d.solve(terms, 90, f"{shape}, {A}{C} ⊥ {B}{D} and m∠{E}{A}{D} + m∠{A}{D}{E} = 90°")
    ask(d, "x", "", d.x)


def rhombus(d: Draft, asked: str) -> None:
    """The diagonals of a rhombus halve each other at right angles: Pythagoras."""
    a, b, c = d.pick([t for t in TRIPLES if 0.5 < t[0] / t[1] < 2])
    A, B, C, D, E = _rhombus(d, b, a)
    d.step(f"{A}{B}{C}{D} has four equal sides, so it is a rhombus.")
    d.step("Its diagonals are perpendicular and halve each other.")
    if asked == "perimeter":
        d.length(A + E, b)
        d.length(B + E, a)
        d.step(f"{A}{B}² = {A}{E}² + {B}{E}² = {b * b} + {a * a} = {c * c}, so {A}{B} = {c}.")
        d.step(f"The perimeter is 4 · {c} = {4 * c}.")
        return ask(d, "perimeter", A + B + C + D, 4 * c)
    d.length(D + E, a)
    d.length(C + D, c)
    d.step(f"{E}{C}² = {C}{D}² - {D}{E}² = {c * c} - {a * a} = {b * b}, so {E}{C} = {b}.")
    if asked == "diagonal":
        d.step(f"{A}{C} = 2 · {b} = {2 * b}.")
        return ask(d, "length", A + C, 2 * b)
    d.step(f"The area is {A}{C} · {B}{D} / 2 = {2 * b} · {2 * a} / 2 = {2 * a * b}.")
    ask(d, "area", A + B + C + D, 2 * a * b)


def trapezoid_midline(d: Draft, asked: str) -> None:
    """The midline of a trapezoid is the mean of its parallel sides."""
    short, long, height = d.whole(4, 10), d.whole(9, 18), d.whole(5, 9)
    if (short + long) % 2 or not 0.35 < short / long < 0.75 or height > 0.8 * long:
        raise Redraw
    inset = (long - short) * d.whole(2, 8) / 10
    a, b, c, e = 0, long, complex(inset + short, height), complex(inset, height)
    A, B, C, D = d.place(a, b, c, e)
    E, F = d.place((a + e) / 2, (b + c) / 2)
    d.polygon(A, B, C, D)
    d.line(A, E, D)
    d.line(B, F, C)
    d.line(E, F)
    d.parallel(A + B, D + C)
    d.equal(A + E, E + D)
    d.equal(B + F, F + C)
    middle = (short + long) // 2
    why = f"{E} and {F} are the midpoints of the legs, so 2 · {E}{F} = {A}{B} + {D}{C}"
    if asked == "midline":
        d.length(A + B, long)
        d.length(D + C, short)
        d.step(f"{why} = {long} + {short} = {long + short}.")
        return ask(d, "length", E + F, middle)
    if asked == "base":
        d.length(D + C, short)
        d.length(E + F, middle)
        d.step(f"{why}.")
        d.step(f"{A}{B} = 2 · {middle} - {short} = {long}.")
        return ask(d, "length", A + B, long)
    terms = [d.length(A + B, long, True, 2), d.length(D + C, short, True, 1)]
    d.length(E + F, middle)
    d.solve(terms, 2 * middle, why)
    ask(d, "x", "", d.x)


def right_trapezoid(d: Draft, asked: str) -> None:
    """A trapezoid with a leg at right angles to the parallel sides."""
    rest, height, slant = d.pick([t for t in TRIPLES if t[2] <= 25 and t[0] / t[1] < 1.7])
    short = d.whole(max(3, height // 2), max(4, height * 3 // 2))
    long = short + rest
    A, B, C, D = d.place(0, long, complex(short, height), 1j * height)
    d.polygon(A, B, C, D)
    d.parallel(A + B, D + C)
    d.perpendicular(D, A, B)
    lowered = f"The perpendicular from {C} to {A}{B} cuts off a right triangle with the hypotenuse {B}{C}"
    d.length(D + C, short)
    if asked == "area":
        d.length(A + B, long)
        d.length(B + C, slant)
        d.step(f"{lowered} and the leg {long} - {short} = {rest}.")
        d.step(f"{A}{D}² = {slant**2} - {rest**2} = {height**2}, so {A}{D} = {height}.")
        if (short + long) * height % 2:
            raise Redraw
        d.step(f"The area is ({long} + {short}) · {height} / 2 = {(short + long) * height // 2}.")
        return ask(d, "area", A + B + C + D, (short + long) * height / 2)
    d.length(A + D, height)
    if asked == "base":
        d.length(B + C, slant)
        d.step(f"{lowered} and a leg as long as {A}{D} = {height}.")
        d.step(f"The other leg has the square {slant**2} - {height**2} = {rest**2}, so it is {rest}.")
        d.step(f"{A}{B} = {short} + {rest} = {long}.")
        return ask(d, "length", A + B, long)
    d.length(A + B, long)
    d.step(f"{lowered} and the legs {height} and {long} - {short} = {rest}.")
    d.step(f"{B}{C}² = {height**2} + {rest**2} = {slant**2}, so {B}{C} = {slant}.")
    if asked == "slant":
        return ask(d, "length", B + C, slant)
    total = long + short + height + slant
    d.step(f"The perimeter is {long} + {slant} + {short} + {height} = {total}.")
    ask(d, "perimeter", A + B + C + D, total)


CONSTRUCTIONS = {
    parallelogram: (4, "angle", "x", "diagonal_angle", "side_x", "perimeter"),
    diagonals: (5, "diagonal", "x", "perimeter"),
    rectangle_angles: (4, "angle", "x"),
    rectangle: (4, "sides_area", "diagonal", "area", "perimeter"),
    rhombus_angles: (5, "angle", "x"),
    rhombus: (5, "perimeter", "diagonal", "area"),
    trapezoid_midline: (6, "midline", "base", "x"),
    right_trapezoid: (4, "area", "base", "slant", "perimeter"),
}
