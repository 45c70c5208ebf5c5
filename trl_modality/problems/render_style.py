"""Limits on the look of generated pictures, which set how hard they are to read."""

from __future__ import annotations

from dataclasses import dataclass


# Fixed bounds, both ends included; `RenderStyle` adds those that depend on one another.
_BOUNDS = {
    "image_size": (192, 2048),
    "marks": (4, 64),
    "label_size": (10, 96),
    "distractors": (0, 8),
    "styles": (1, 64),
}
# Least width of a picture in heights of a label: a title and a question still fit.
_LABELS_ACROSS = 16


@dataclass(frozen=True)
class RenderStyle:
    """Limits on the look of a generated picture; a generator draws all else at random within them.

    Args:
        image_size: Width and height in pixels, 192-2048.
        marks: Most marks (bars, points, slices, rows, labelled elements) in a picture, at least 4. Fewer are drawn
            where that many would not be legible, for example beside a long question in the picture.
        label_size: Height of the labels' font in pixels, 10 or more.
        distractors: Facts or marks that the question does not need, 0-8; fewer where a kind of picture has fewer, or
            no room for them.
        styles: How many of the styles (colours, orientation, where values stand ...) are drawn from, 1-64; with 1, all
            pictures of a generator look alike.

    Raises:
        ValueError: a value out of bounds, or more or larger labels than the picture has room for; names the field, the
            value and the remedy.
    """

    image_size: int = 336
    marks: int = 6
    label_size: int = 14
    distractors: int = 0
    styles: int = 4

    def __post_init__(self) -> None:
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"`{name}` must be a whole number, got {value!r}; use one from {low} to {high}.")
            if not low <= value <= high:
                raise ValueError(f"`{name}` must be from {low} to {high}, got {value}.")
        if self.label_size * _LABELS_ACROSS > self.image_size:
            raise ValueError(
                f"`label_size` of {self.label_size} pixels is too large for an `image_size` of {self.image_size}; use "
                f"{self.image_size // _LABELS_ACROSS} or less, or an `image_size` of at least "
                f"{self.label_size * _LABELS_ACROSS}."
            )
        if self.marks > self.most_marks:
            raise ValueError(
                f"`marks` of {self.marks} are more than are legible at an `image_size` of {self.image_size} with a "
                f"`label_size` of {self.label_size}; use {self.most_marks} or fewer, smaller labels or a larger image."
            )

    @property
    def most_marks(self) -> int:
        """Most marks that fit this size of picture and labels: one row of text per mark, beside title and legend."""
        return (self.image_size - 6 * self.label_size) // (self.label_size + 4)
