"""Limits on the look of rendered text, which set how hard it is to read."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


PAPERS = ("plain", "lined", "squared", "aged")
SCHEMES: tuple[tuple[tuple[int, int, int], tuple[int, int, int]], ...] = (
    ((255, 255, 255), (0, 0, 0)),
    ((250, 246, 235), (38, 32, 28)),
    ((255, 255, 255), (24, 44, 104)),
    ((236, 240, 244), (28, 40, 52)),
    ((255, 250, 205), (70, 40, 20)),
    ((30, 34, 42), (236, 238, 240)),
    ((18, 58, 46), (232, 240, 226)),
    ((228, 228, 228), (60, 60, 60)),
)
"""Paper and ink, RGB; every pair has a contrast of 7:1 or more (WCAG's AAA)."""

# Fixed bounds, both ends included; `TextRenderStyle` adds those that depend on one another.
_WHOLE = {
    "width": (192, 4096),
    "max_height": (64, 8192),
    "smallest": (8, 96),
    "margin": (4, 256),
    "colours": (1, len(SCHEMES)),
}
_REAL = {"line_spacing": (1.0, 3.0), "noise": (0.0, 48.0), "skew": (0.0, 8.0)}
_SIZES = (8, 128)
# Least width of a line in heights of its letters: some three words
_LETTERS_ACROSS = 8


@dataclass(frozen=True)
class TextRenderStyle:
    """Limits on the look of a picture of text; what a field lists, or bounds, is drawn at random for each text.

    Args:
        width: Width of the picture in pixels, 192-4096. It is as high as its text needs.
        max_height: Most height in pixels.
        square: Whether the picture is as high as it is wide, its text in the middle: for models whose processor cuts
            a square out of the middle, as LLaVA-1.5's does. `max_height` has no meaning then.
        sizes: Sizes of the letters in pixels (of the em square), 8-128, drawn from. A text that would be too high or
            has a word, a row or a line of code too wide is made smaller, one pixel at a time, down to `smallest`.
        smallest: Least size of the letters in pixels; a text that does not fit at this size is refused.
        faces: Typefaces, drawn from: names of `faces.FACES`, family names of installed fonts, or paths of font files.
        margin: Space around the text in pixels.
        line_spacing: Distance of lines by the height of the face, 1-3.
        colours: How many of the pairs of paper and ink are drawn from, 1-8; with 1, black on white.
        papers: Kinds of paper, drawn from: "plain", "lined", "squared", "aged" (uneven and browned at the edges).
        noise: Standard deviation of the pixels' noise in grey levels, 0-48. Pictures with noise are JPEG files, others
            PNG.
        skew: Most degrees that the text is turned by, either way, 0-8; less where the margins leave no room for it.

    Raises:
        ValueError: a value out of bounds; names the field, the value and the remedy.
    """

    width: int = 448
    max_height: int = 896
    square: bool = False
    sizes: tuple[int, ...] = (20,)
    smallest: int = 12
    faces: tuple[str, ...] = ("sans",)
    margin: int = 20
    line_spacing: float = 1.15
    colours: int = 1
    papers: tuple[str, ...] = ("plain",)
    noise: float = 0.0
    skew: float = 0.0

    def __post_init__(self) -> None:
        for name in ("sizes", "faces", "papers"):
            _check_listed(name, getattr(self, name), int if name == "sizes" else str)
        for name, bounds in _WHOLE.items():
            _check_number(name, getattr(self, name), bounds, whole=True)
        for name, bounds in _REAL.items():
            _check_number(name, getattr(self, name), bounds, whole=False)
        for size in self.sizes:
            _check_number("sizes", size, _SIZES, whole=True)
        if unknown := [paper for paper in self.papers if paper not in PAPERS]:
            raise ValueError(f"`papers` must be among {', '.join(PAPERS)}, got {unknown[0]!r}.")
        if self.smallest > min(self.sizes):
            raise ValueError(
                f"`smallest` of {self.smallest} pixels is larger than the least of `sizes`, {min(self.sizes)}; use "
                f"{min(self.sizes)} or less."
            )
        room = self.width - 2 * self.margin
        if room < _LETTERS_ACROSS * max(self.sizes):
            raise ValueError(
                f"a `width` of {self.width} with a `margin` of {self.margin} leaves {room} pixels, too few for "
                f"`sizes` of {max(self.sizes)}; use a width of at least "
                f"{_LETTERS_ACROSS * max(self.sizes) + 2 * self.margin}, or smaller letters."
            )
        if not isinstance(self.square, bool):
            raise ValueError(f"`square` must be True or False, got {self.square!r}.")
        if self.max_height < 2 * self.margin + 2 * max(self.sizes):
            raise ValueError(
                f"a `max_height` of {self.max_height} has no room for a line of `sizes` {max(self.sizes)} and the "
                f"margins; use at least {2 * self.margin + 2 * max(self.sizes)}."
            )

    @property
    def most_height(self) -> int:
        """Most height of a picture in pixels."""
        return self.width if self.square else self.max_height


def _check_listed(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, tuple) or not value or not all(isinstance(each, kind) for each in value):
        what = "whole numbers" if kind is int else "names"
        raise ValueError(f"`{name}` must be a tuple of one or more {what}, got {value!r}.")


def _check_number(name: str, value: Any, bounds: tuple[float, float], *, whole: bool) -> None:
    low, high = bounds
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise ValueError(f"`{name}` must be a {'whole ' * whole}number, got {value!r}; use one from {low} to {high}.")
    if not low <= value <= high:
        raise ValueError(f"`{name}` must be from {low} to {high}, got {value}.")


STYLES = {
    "clean": TextRenderStyle(),
    "varied": TextRenderStyle(
        sizes=(16, 18, 20, 22, 24),
        faces=("sans", "serif", "times", "mono", "sans-bold", "serif-italic"),
        colours=len(SCHEMES),
        papers=PAPERS,
        skew=1.0,
    ),
    "scan": TextRenderStyle(
        sizes=(18, 20, 22),
        faces=("serif", "times", "mono"),
        colours=2,
        papers=("plain", "aged"),
        noise=8.0,
        skew=2.0,
    ),
}
"""Styles by name, for the command line and as a start for one's own (`dataclasses.replace`)."""


def parse_style(words: list[str]) -> TextRenderStyle:
    """`["scan", "width=640", "faces=sans,serif"]` as a style: at most one name, then fields.

    Raises:
        ValueError: an unknown name or field, or a value of the wrong kind.
    """
    style = STYLES["clean"]
    if words and "=" not in words[0]:
        if words[0] not in STYLES:
            raise ValueError(f"`--style`: no style {words[0]!r}; there is {', '.join(STYLES)}, or FIELD=VALUE.")
        style, words = STYLES[words[0]], words[1:]
    values: dict[str, Any] = {field.name: getattr(style, field.name) for field in fields(style)}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in values or not equals:
            raise ValueError(f"`--style`: no field {name!r}; there is {', '.join(values)}.")
        values[name] = _parsed(name, value, values[name])
    return TextRenderStyle(**values)


def _parsed(name: str, text: str, like: Any) -> Any:
    """A value in the form of another one."""
    parts = text.split(",") if isinstance(like, tuple) else [text]
    kind = type(like[0]) if isinstance(like, tuple) else type(like)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"`--style`: `{name}` must be true or false, got {text!r}.")
        return text.lower() == "true"
    try:
        values = tuple(kind(part) for part in parts)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"`--style`: `{name}` must be {what}, got {text!r}.") from None
    return values if isinstance(like, tuple) else values[0]
