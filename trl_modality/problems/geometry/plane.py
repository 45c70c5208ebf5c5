"""Plane geometry on complex numbers: intersections, perpendiculars, triangles. Angles are in degrees."""

from __future__ import annotations

import cmath
import math


class Redraw(Exception):
    """The drawn numbers make no good problem; whoever called the construction draws others."""


def polar(radius: float, degrees: float) -> complex:
    return cmath.rect(radius, math.radians(degrees))


def cross(p: complex, q: complex) -> float:
    return p.real * q.imag - p.imag * q.real


def dot(p: complex, q: complex) -> float:
    return p.real * q.real + p.imag * q.imag


def angle_at(vertex: complex, one: complex, other: complex) -> float:
    """The angle from `one` to `other` at `vertex`, in [0, 180]."""
    return math.degrees(abs(cmath.phase((other - vertex) * (one - vertex).conjugate())))


def foot(point: complex, start: complex, end: complex) -> complex:
    """The foot of the perpendicular from a point to a line."""
    along = end - start
    return start + along * (dot(point - start, along) / abs(along) ** 2)


def meet(a: complex, b: complex, c: complex, d: complex) -> complex:
    """Where the lines ab and cd meet; ZeroDivisionError where they are parallel."""
    return a + (b - a) * (cross(c - a, d - c) / cross(b - a, d - c))


def by_angles(base: float, left: float, right: float) -> tuple[complex, complex, complex]:
    """Apex, left and right corner of a triangle on a horizontal base with these two angles."""
    side = base * math.sin(math.radians(right)) / math.sin(math.radians(left + right))
    return polar(side, left), 0j, complex(base)


def by_sides(base: float, left: float, right: float) -> tuple[complex, complex, complex]:
    """Apex, left and right corner of a triangle on a horizontal base with these two other sides.

    Raises:
        Redraw: there is no such triangle, or it is too flat to be labelled.
    """
    x = (base**2 + left**2 - right**2) / (2 * base)
    square = left**2 - x**2
    if square < (0.4 * max(base, left, right)) ** 2:
        raise Redraw
    return complex(x, math.sqrt(square)), 0j, complex(base)
