"""Typefaces: those of Matplotlib by name, installed ones by family, files by path; which characters each has."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..._extras import require


if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

FACES = {
    "sans": "DejaVuSans.ttf",
    "sans-bold": "DejaVuSans-Bold.ttf",
    "serif": "DejaVuSerif.ttf",
    "serif-bold": "DejaVuSerif-Bold.ttf",
    "serif-italic": "DejaVuSerif-Italic.ttf",
    "mono": "DejaVuSansMono.ttf",
    "times": "STIXGeneral.ttf",
    "times-bold": "STIXGeneralBol.ttf",
}
"""Typefaces that come with Matplotlib, so that they are the same on every machine."""

MATH_SETS = {"serif": "dejavuserif", "times": "stix"}
"""Matplotlib's set of glyphs for formulas beside a face (by the first part of its name); else "dejavusans"."""

GLYPHS, FIT, FORMULA, EMPTY = "characters without a glyph", "does not fit", "a formula", "empty or too short"
"""Kinds of `UnrenderableError`."""

# Blocks whose letters are joined, stacked or reordered (Arabic, Indic, Thai, Khmer ...): the basic layout of Pillow
# writes them wrongly
_SHAPED = ((0x0590, 0x109F), (0x1780, 0x18AF), (0x1A00, 0x1CFF), (0xA800, 0xABFF), (0xFB1D, 0xFEFC))


class UnrenderableError(ValueError):
    """A text that cannot be a picture: what kind of thing is the matter, what exactly, and what to do about it."""

    def __init__(self, kind: str, problem: str, remedy: str):
        super().__init__(f"{problem} {remedy}")
        self.kind, self.problem, self.remedy = kind, problem, remedy


def require_matplotlib() -> None:
    """Raise `ImportError` unless Matplotlib, whose typefaces are used, is installed."""
    require("matplotlib", extra="plot", purpose="Rendering text takes its typefaces from")


@lru_cache(maxsize=256)
def face_path(face: str) -> str:
    """The file of a face: a name of `FACES`, a path, or the family name of an installed font.

    Raises:
        ValueError: there is no such face.
    """
    require_matplotlib()
    if face in FACES:
        import matplotlib

        return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / FACES[face])
    if Path(face).suffix.lower() in (".ttf", ".otf", ".ttc"):
        if not Path(face).is_file():
            raise ValueError(f"`faces`: no file {face!r}.")
        return face
    from matplotlib.font_manager import findfont

    try:
        return str(findfont(face, fallback_to_default=False))
    except ValueError:
        raise ValueError(
            f"`faces`: no typeface {face!r}; there is {', '.join(FACES)}, and installed families and paths of .ttf, "
            ".otf or .ttc files are taken too."
        ) from None


@lru_cache(maxsize=256)
def characters(path: str) -> frozenset[int]:
    """The code points that a font file has glyphs for; none if it is no font of outlines.

    Raises:
        ValueError: the file is no font.
    """
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
    except RuntimeError as error:
        raise ValueError(f"`faces`: {path!r} is no font that FreeType reads ({error}).") from error
    return frozenset(font.get_charmap()) if font.scalable else frozenset()


@lru_cache(maxsize=1024)
def load_font(path: str, size: int, *, shaped: bool = False) -> FreeTypeFont:
    """A font file at `size` pixels, with Pillow's basic layout, or shaped by HarfBuzz.

    The basic layout is the default: it is a third faster, and does not depend on how Pillow was built.
    """
    from PIL import ImageFont

    layout = ImageFont.Layout.RAQM if shaped else ImageFont.Layout.BASIC
    return ImageFont.truetype(path, size, layout_engine=layout)


def is_invisible(character: str) -> bool:
    """Whether a character has no glyph by its nature: white space, joiners, marks of direction, byte order marks."""
    return character.isspace() or unicodedata.category(character) == "Cf" or 0xFE00 <= ord(character) <= 0xFE0F


@lru_cache(maxsize=4096)
def is_shaped(character: str) -> bool:
    """Whether the character is written from right to left, combines with others, or is of a shaped script."""
    return (
        unicodedata.bidirectional(character) in ("R", "AL", "AN")
        or unicodedata.category(character) in ("Mn", "Mc", "Me")
        or any(low <= ord(character) <= high for low, high in _SHAPED)
    )


def needs_shaping(text: str) -> bool:
    """Whether the basic layout would write the text wrongly."""
    return not text.isascii() and any(map(is_shaped, set(text)))


def is_right_to_left(text: str) -> bool:
    """Whether a paragraph runs from right to left: by its first letter with a direction, as Unicode's UAX 9 has it."""
    if text.isascii():
        return False
    directions = (unicodedata.bidirectional(character) for character in text)
    return next((direction != "L" for direction in directions if direction in ("L", "R", "AL")), False)


def missing(text: str, path: str) -> list[str]:
    """The characters of a text that a font file has no glyph for, in order of their code points."""
    has = characters(path)
    return sorted(each for each in set(text) if ord(each) not in has and not is_invisible(each))


def face_for(text: str, face: str) -> str:
    """The file of a face that has all characters of a text: the one asked for, else another one.

    Others are looked for in `FACES`, then among the installed fonts in order of their paths.

    Raises:
        UnrenderableError: no face has them all, or the text is shaped and Pillow cannot do that; names the characters
            and the remedy.
    """
    if needs_shaping(text):
        _require_shaping(text)
    path = face_path(face)
    lacking = missing(text, path)
    if not lacking:
        return path
    fewest = lacking
    for other in _other_paths():
        left = missing(text, other)
        if not left:
            return other
        fewest = min(fewest, left, key=len)
    named = ", ".join(_name(each) for each in fewest[:3]) + (f" and {len(fewest) - 3} more" if len(fewest) > 3 else "")
    raise UnrenderableError(
        GLYPHS,
        f"no typeface here has all of its characters: the nearest lacks {named}.",
        "Give the path of a font file that has them (`faces=PATH.ttf` of the style), or leave the row out.",
    )


def _other_paths() -> Iterator[str]:
    yield from map(face_path, ("sans", "serif", "mono", "times"))
    yield from _installed()


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    """The installed font files that FreeType reads, by path."""
    from matplotlib.font_manager import findSystemFonts

    found = []
    for path in sorted(findSystemFonts()):
        if "lastresort" in path.lower():  # it has a glyph for everything: a box
            continue
        try:
            characters(path)
        except ValueError:
            continue
        found.append(path)
    return tuple(found)


def _require_shaping(text: str) -> None:
    from PIL import features

    if not features.check("raqm"):
        first = next(character for character in text if is_shaped(character))
        raise UnrenderableError(
            GLYPHS,
            f"it has {_name(first)}, of a script whose letters are joined or run from right to left, and this Pillow "
            "was built without Raqm.",
            "Install a wheel of Pillow from PyPI, or leave the row out.",
        )


def _name(character: str) -> str:
    name = unicodedata.name(character, "")
    return f"{character!r} (U+{ord(character):04X}{' ' + name if name else ''})"
