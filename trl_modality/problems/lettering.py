"""Text in pictures: the bundled font, the geometry signs that it lacks (∠ △ ⊙ ∥ ⊥), and wrapping to a width."""

from __future__ import annotations

import math
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont


# Polylines of the signs that the font lacks, in the unit square with y down; three numbers are a circle (x, y, radius)
_SIGNS = {
    "∠": [((0.92, 0.02), (0.05, 0.92), (0.98, 0.92))],
    "△": [((0.5, 0.08), (0.04, 0.92), (0.96, 0.92), (0.5, 0.08), (0.04, 0.92))],
    "⊙": [(0.5, 0.5, 0.42), (0.5, 0.5, 0.06)],
    "∥": [((0.3, 0.0), (0.3, 1.0)), ((0.7, 0.0), (0.7, 1.0))],
    "⊥": [((0.5, 0.05), (0.5, 0.95)), ((0.02, 0.95), (0.98, 0.95))],
}
_FINE = 4  # signs are drawn this much larger, then reduced, which smooths their edges


@lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's bundled font at `size` pixels.

    Its layout is the basic one: the other, Raqm, is not installed everywhere and places glyphs differently.
    """
    bundled = ImageFont.load_default(size)
    assert isinstance(bundled, ImageFont.FreeTypeFont)
    return bundled.font_variant(layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=4096)
def ink_box(text: str, size: int) -> tuple[int, int, int, int]:
    """Bounding box (left, top, right, bottom) of the text's ink in pixels, from the start of its baseline."""
    left, top, right, bottom = font(size).getbbox(text, anchor="ls")
    return math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)


@lru_cache(maxsize=256)
def _sign(sign: str, size: int) -> Image.Image:
    """Mask of a sign: a square as high as a capital letter, 0.72 of the font size."""
    side = round(0.72 * size)
    fine = side * _FINE
    mask = Image.new("L", (fine, fine), 0)
    draw = ImageDraw.Draw(mask)
    width = max(round(0.085 * size * _FINE), 1)
    for stroke in _SIGNS[sign]:
        if isinstance(stroke[0], tuple):
            draw.line([(x * fine, y * fine) for x, y in stroke], fill=255, width=width, joint="curve")
        else:
            x, y, radius = (value * fine for value in stroke)
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=255, width=width)
    return mask.reduce(_FINE)


def _pieces(text: str) -> list[str]:
    """Split a text so that every geometry sign is a piece of its own."""
    pieces = [""]
    for character in text:
        if character in _SIGNS:
            pieces += [character, ""]
        else:
            pieces[-1] += character
    return [piece for piece in pieces if piece]


@lru_cache(maxsize=4096)
def width(text: str, size: int) -> float:
    """Advance width in pixels: from the start of a text, signs included, to the start of what follows it."""
    own = sum(1 for character in text if character in _SIGNS)
    plain = "".join(character for character in text if character not in _SIGNS)
    return font(size).getlength(plain) + own * (round(0.72 * size) + 2)


def wrap(text: str, size: int, most: float) -> list[str]:
    """Break a text into lines of at most `most` pixels; a word wider than that gets a line of its own."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width(longer, size) <= most:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def write(image: Image.Image, at: tuple[float, float], text: str, size: int, ink: tuple[int, int, int]) -> None:
    """Write one line of text, signs included; `at` is the start of its baseline in pixels."""
    draw, (x, y) = ImageDraw.Draw(image), at
    for piece in _pieces(text):
        if piece in _SIGNS:
            mask = _sign(piece, size)
            image.paste(ink, (round(x) + 1, round(y) - mask.height), mask)
            x += mask.width + 2
        else:
            draw.text((round(x), round(y)), piece, fill=ink, font=font(size), anchor="ls")
            x += font(size).getlength(piece)
