"""Drawings as lists of marks, which `svg.py` and `png.py` write alike.

Coordinates are in user units with the origin at the top left; a drawing is `WIDTH` units wide, and font sizes are in
the same units. Colours are given by role (`palette.PALETTE`), so that a page can choose the scheme.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


WIDTH = 420.0
"""Width of every drawing: two fit side by side on a screen, one on a phone, with legible text on both."""

Anchor = Literal["start", "middle", "end"]
Shape = Literal["circle", "square", "diamond"]


@dataclass(frozen=True)
class Line:
    """A line through points (x, y); `dash` has the lengths of dashes and gaps, empty for an unbroken line."""

    points: Sequence[tuple[float, float]]
    role: str
    width: float = 1.0
    dash: Sequence[float] = ()


@dataclass(frozen=True)
class Box:
    """A rectangle with its upper left corner at (x, y); `fill` and `outline` are colours, "" for no outline."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    outline: str = ""
    opacity: float = 1.0
    tip: str = ""
    """Text of the tooltip."""


@dataclass(frozen=True)
class Dot:
    """A small sign centred at (x, y); where it is not solid, its inside has the colour of the card."""

    x: float
    y: float
    role: str
    shape: Shape = "circle"
    is_solid: bool = True
    radius: float = 3.5
    tip: str = ""


@dataclass(frozen=True)
class Label:
    """A line of text with its baseline at `y`; `anchor` says which part of it is at `x`."""

    x: float
    y: float
    text: str
    size: float = 12.0
    role: str = "ink"
    anchor: Anchor = "start"
    is_bold: bool = False
    tip: str = ""


Mark = Line | Box | Dot | Label


@dataclass(frozen=True)
class Drawing:
    """A figure: its marks, and the texts by which it is found and read aloud."""

    name: str
    """Name of its file, without an ending."""
    title: str
    description: str
    """Its content in words, for readers who do not see it."""
    height: float
    marks: Sequence[Mark]
    """From back to front."""
