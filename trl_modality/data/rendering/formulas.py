"""Formulas as masks, set by Matplotlib's mathtext, which knows a good part of TeX and needs no TeX."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from .faces import FORMULA, GLYPHS, UnrenderableError


if TYPE_CHECKING:
    from PIL import Image

# TeX that mathtext has under another name, or only with braces
_REWRITES = (
    (re.compile(r"\\[dt]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\frac\s*([0-9A-Za-z])\s*([0-9A-Za-z])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\{[^{}]*\})\s*([0-9A-Za-z])"), r"\\frac\1{\2}"),
    (re.compile(r"\\frac\s*([0-9A-Za-z])\s*(\{)"), r"\\frac{\1}\2"),
    (re.compile(r"\\sqrt\s*([0-9A-Za-z])"), r"\\sqrt{\1}"),
    (re.compile(r"\\(?:text|mbox)\{"), r"\\mathrm{"),
    (re.compile(r"\\(le|ge|ne)(?![A-Za-z])"), r"\\\1q"),
)
_SPACE_IN_WORDS = re.compile(r"\\mathrm\{([^{}]*)\}")


@dataclass(frozen=True)
class FormulaMask:
    """A formula drawn white on black (mode L); `width`, and the heights above and below its baseline, in pixels."""

    image: Image.Image
    width: int
    ascent: int
    descent: int


@lru_cache(maxsize=4096)
def draw_formula(text: str, size: int, math_set: str) -> FormulaMask:
    """Set a formula.

    Args:
        text: TeX without dollars.
        size: Size of the letters in pixels.
        math_set: Matplotlib's name of a set of glyphs: "dejavusans", "dejavuserif", "stix".

    Raises:
        UnrenderableError: TeX that mathtext does not know, or a character without a glyph.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import MathTextParser
    from PIL import Image

    with _Substitutions() as substituted:
        try:
            # At 72 dots an inch a point is a pixel
            drawn = MathTextParser("agg").parse(
                f"${_rewritten(text)}$", dpi=72, prop=FontProperties(size=size, math_fontfamily=math_set)
            )
        except (ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            raise UnrenderableError(
                FORMULA,
                f"the formula ${text}$ is not one that Matplotlib's mathtext sets ({reason}).",
                "Write it with what mathtext knows, have texts drawn as they stand (`plain`), or leave the row out.",
            ) from error
    if substituted.lines:
        raise UnrenderableError(
            GLYPHS,
            f"the formula ${text}$ has a character without a glyph ({substituted.lines[0].split(',')[0]}).",
            "Write it outside of the formula, or leave the row out.",
        )
    image = Image.fromarray(drawn.image)
    descent = round(drawn.depth)
    return FormulaMask(image, image.width, image.height - descent, descent)


def _rewritten(text: str) -> str:
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return _SPACE_IN_WORDS.sub(lambda found: found[0].replace(" ", r"\ "), text)


class _Substitutions(logging.Handler):
    """A context in which Matplotlib's warnings of missing glyphs, for which it draws a dummy, are kept in `lines`."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._logger = logging.getLogger("matplotlib.mathtext")

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> _Substitutions:
        self._propagated, self._logger.propagate = self._logger.propagate, False
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagated
