"""Drawings as lists of marks, in units of their own: `svg.py` and `png.py` draw the same ones.

Colours are named by what they stand for (`palette.py`), so that a page can choose the scheme.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


WIDTH = 420.0
"""Of every drawing: two stand side by side on a screen, one on a phone, and the lettering can be read on both."""

Anchor = Literal["start", "middle", "end"]
Shape = Literal["circle", "square", "diamond"]


@dataclass(frozen=True)
class Line:
    """A line through points; `dash` as lengths of ink and of gaps."""

    points: Sequence[tuple[float, float]]
    role: str
    width: float = 1.0
    dash: Sequence[float] = ()


@dataclass(frozen=True)
class Box:
    """A rectangle; without a role of its outline it has none."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    outline: str = ""
    opacity: float = 1.0
    tip: str = ""
    """What a pointer over it is told."""


@dataclass(frozen=True)
class Dot:
    """A small sign at a place; a hollow one has the colour of the card inside."""

    x: float
    y: float
    role: str
    shape: Shape = "circle"
    is_solid: bool = True
    radius: float = 3.5
    tip: str = ""


@dataclass(frozen=True)
class Label:
    """A line of text, `y` being its baseline."""

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
    """A figure: a name for its file, what it shows in a line and in words, its height and its marks."""

    name: str
    title: str
    description: str
    height: float
    marks: Sequence[Mark]
