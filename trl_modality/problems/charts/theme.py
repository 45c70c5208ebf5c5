"""Colour themes of charts. Facts name colours, so every colour of a palette is recognizably what its name says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ..render_style import RenderStyle
from .scene import Colour, mix_colours


Option = TypeVar("Option")


@dataclass(frozen=True)
class Theme:
    """Colours of a picture: paper, ink, muted ink, grid lines, the highlight, and the named colours of marks."""

    paper: Colour
    ink: Colour
    muted: Colour
    grid: Colour
    highlight: Colour
    palette: tuple[tuple[str, Colour], ...]
    rounding: float = 0.0
    """Radius of the bars' corners as a share of the label size."""
    centred: bool = False
    """Whether the title stands in the middle."""

    def colour(self, position: int) -> Colour:
        return self.palette[position][1]

    def name(self, position: int) -> str:
        return self.palette[position][0]

    def text_colour(self, position: int) -> Colour:
        """A mark's colour moved towards the ink, so that thin letters in it keep their contrast with the paper."""
        return mix_colours(self.colour(position), self.ink, 0.35)


def pick(rng: np.random.Generator, options: Sequence[Option], look: RenderStyle) -> Option:
    """One of the first `look.styles` options."""
    return options[int(rng.integers(min(len(options), look.styles)))]


_NAMES = ("blue", "orange", "green", "red", "purple", "brown", "pink", "grey")


def _palette(*colours: str) -> tuple[tuple[str, Colour], ...]:
    parsed = [(int(text[:2], 16), int(text[2:4], 16), int(text[4:], 16)) for text in colours]
    return tuple(zip(_NAMES, parsed, strict=True))


_CLEAR = _palette("3b76c4", "f28e2b", "3f9b58", "d6474c", "8a63b8", "96674b", "e38ab5", "8c8c8c")
_SOFT = _palette("6c9bd2", "f4b26a", "82bf8c", "e58487", "ae95cf", "b3927c", "eeb1cf", "b0b0b0")
_DEEP = _palette("1f4e8c", "d9731a", "2b7a43", "b02a30", "633a94", "6e4428", "c9588f", "666666")
_BRIGHT = _palette("62a0f0", "ffab4f", "69cc84", "ff7577", "b490ec", "c89b7c", "f9a3cd", "b8b8b8")

THEMES = (
    Theme((255, 255, 255), (34, 38, 46), (98, 104, 116), (226, 229, 234), (255, 226, 120), _CLEAR, 0.15),
    Theme((250, 247, 240), (52, 44, 38), (116, 104, 92), (230, 223, 210), (255, 222, 130), _DEEP, centred=True),
    Theme((255, 255, 255), (40, 44, 52), (104, 110, 122), (232, 235, 240), (255, 230, 140), _SOFT, 0.35, centred=True),
    Theme((30, 34, 44), (240, 243, 248), (172, 180, 194), (58, 64, 78), (126, 104, 30), _BRIGHT, 0.15),
    Theme((238, 242, 248), (28, 40, 62), (88, 100, 124), (214, 221, 232), (255, 218, 110), _CLEAR),
    Theme((255, 255, 255), (20, 20, 20), (90, 90, 90), (220, 220, 220), (255, 224, 110), _DEEP, centred=True),
)
