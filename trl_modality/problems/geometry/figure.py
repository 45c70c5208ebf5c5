"""A geometry figure: points and clauses, drawn to scale with the clauses that a picture is to show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, pairwise
from typing import Any

from PIL import Image, ImageDraw

from .. import lettering
from ..render_style import RenderStyle
from .clauses import Clause
from .labels import Label, place
from .plane import dot
from .strokes import Strokes, strokes_of


Colour = tuple[int, int, int]
_FINE = 2  # strokes are drawn this much larger, then reduced
_LEADING = 1.4  # line height of the question, in heights of a label


class Crowded(Exception):
    """There is no room for all labels."""


@dataclass(frozen=True)
class Style:
    """Colours, width of strokes and orientation of a figure.

    Args:
        paper, ink, accent: Colours of the ground, of lines and names, of values and marks.
        fill: Colour within polygons, if any.
        width: Width of the strokes, in pixels of a 336-pixel picture.
        dots: Whether every point has a dot.
        upright: Whether the figure is turned by a multiple of 90 degrees only, rather than by any angle.
    """

    paper: Colour = (255, 255, 255)
    ink: Colour = (0, 0, 0)
    accent: Colour = (0, 0, 0)
    fill: Colour | None = None
    width: float = 1.5
    dots: bool = False
    upright: bool = True


STYLES = (
    Style(),
    Style(upright=False, width=1.8),
    Style(ink=(20, 40, 110), accent=(150, 20, 30), dots=True, upright=False),
    Style(paper=(252, 250, 242), ink=(45, 45, 45), accent=(0, 85, 85), fill=(238, 234, 214)),
    Style(paper=(32, 60, 50), ink=(240, 240, 232), accent=(255, 222, 120), upright=False, width=1.8),
    Style(paper=(244, 246, 250), ink=(80, 30, 90), accent=(30, 60, 30), fill=(228, 228, 246), dots=True),
)


@dataclass(frozen=True)
class Figure:
    """A figure that can be drawn with any of its clauses; hidden clauses leave no trace.

    Args:
        points: Coordinates, y up, in units of the lengths.
        clauses: All clauses, from which a picture shows some.
        question: The question for which a strip above the figure is kept free.
        look: Size of the picture and its labels.
        style: Colours and strokes.
    """

    points: dict[str, complex]
    clauses: tuple[Clause, ...]
    question: str
    look: RenderStyle
    style: Style
    _placed: dict[frozenset[int], list[Label]] = field(default_factory=dict, repr=False, compare=False)

    def draw(self, shown: frozenset[int], question: str | None = None) -> Image.Image:
        """The picture with the clauses at the positions `shown`, and the question above the figure if given."""
        shift = self._strip if question else self._strip // 2
        image = self._drawn(shown, 1j * shift)
        for label in self.labels(shown):
            self._write(image, label, shift)
        if question:
            self._write_question(image, question)
        return image

    def labels(self, shown: frozenset[int]) -> list[Label]:
        """Placed labels of the clauses at the positions `shown`, without the question's strip.

        Labels are placed as if hidden clauses did not exist. Only if that search fails do they stand where they stand
        among the labels of all clauses.

        Raises:
            Crowded: there is no room for the labels of all clauses.
        """
        if shown not in self._placed:
            size, height = self.look.image_size, self.look.image_size - self._strip
            strokes = self._strokes(shown)
            found = place(strokes, self.look.label_size, size, height)
            if found is None:
                everything = frozenset(range(len(self.clauses)))
                if shown == everything:
                    raise Crowded
                found = [label for label in self.labels(everything) if label.request in strokes.requests]
            self._placed[shown] = found
        return self._placed[shown]

    @cached_property
    def pixels(self) -> dict[str, complex]:
        """Each point in pixels (complex, y down), without the question's strip."""
        corners = list(self.points.values())
        for clause in self.clauses:
            if clause.form == "circle":
                centre = self.points[clause.points[0]]
                radius = abs(self.points[clause.points[1]] - centre)
                corners += [centre + radius * unit for unit in (1, -1, 1j, -1j)]
        left, right = min(p.real for p in corners), max(p.real for p in corners)
        low, high = min(p.imag for p in corners), max(p.imag for p in corners)
        size, margin = self.look.image_size, 1.7 * self.look.label_size
        width, height = size - 2 * margin, size - self._strip - 2 * margin
        scale = min(width / max(right - left, 1e-9), height / max(high - low, 1e-9))
        middle = complex(left + right, low + high) / 2
        to = complex(size, size - self._strip) / 2
        return {name: to + ((p - middle) * scale).conjugate() for name, p in self.points.items()}

    @property
    def closest(self) -> float:
        """Least distance in pixels between two points, or twice that of a point to a line that it is not on."""
        found = [abs(one - other) for one, other in combinations(self.pixels.values(), 2)]
        centres = {clause.points[0] for clause in self.clauses if clause.form == "circle"}
        for clause in self.clauses:
            if clause.form not in ("line", "polygon"):
                continue
            for start, end in pairwise(clause.points + clause.points[:1]):
                for name in self.points.keys() - set(clause.points):
                    distance = _to_segment(self.pixels[name], self.pixels[start], self.pixels[end])
                    # Points on the line are there by another clause, except for a centre, which is there by chance
                    if distance > 0.01 or name in centres:
                        found.append(2 * distance)
        return min(found)

    @cached_property
    def _strip(self) -> int:
        """Height in pixels of the question's place above the figure."""
        lines = len(lettering.wrap(self.question, self.look.label_size, self._line_width))
        return round((lines * _LEADING + 0.5) * self.look.label_size)

    @property
    def _line_width(self) -> float:
        return self.look.image_size - 1.2 * self.look.label_size

    def _strokes(self, shown: Iterable[int]) -> Strokes:
        strokes = strokes_of([self.clauses[i] for i in sorted(shown)], self.pixels, self.look.label_size)
        if self.style.dots:
            strokes.dots += [request.points[0] for request in strokes.requests if request.form == "name"]
        return strokes

    def _drawn(self, shown: frozenset[int], shift: complex) -> Image.Image:
        """The picture without its labels, moved down by the imaginary part of `shift`."""
        strokes, style, size = self._strokes(shown), self.style, self.look.image_size
        stroke = style.width * max(size / 336, 0.75)
        bold, fine = max(round(stroke * _FINE), 2), max(round(0.75 * stroke * _FINE), 2)
        image = Image.new("RGB", (size * _FINE, size * _FINE), style.paper)
        draw = ImageDraw.Draw(image)
        for clause in (self.clauses[i] for i in shown) if style.fill else ():
            if clause.form == "polygon":
                draw.polygon([_xy(self.pixels[name] + shift) for name in clause.points], fill=style.fill)
        for mark in strokes.marks:
            draw.line([_xy(point + shift) for point in mark], fill=style.accent, width=fine, joint="curve")
        for centre, radius in strokes.rings:
            _disc(draw, centre + shift, radius + bold / _FINE / 2, outline=style.ink, width=bold)
        for line in strokes.lines:
            draw.line([_xy(point + shift) for point in line], fill=style.ink, width=bold)
        for end in {point for line in strokes.lines for point in line}:  # rounds the corners
            _disc(draw, end + shift, bold / _FINE / 2, fill=style.ink)
        for centre in strokes.dots:
            _disc(draw, centre + shift, 1.5 * stroke, fill=style.ink)
        return image.reduce(_FINE)

    def _write(self, image: Image.Image, label: Label, shift: int) -> None:
        size = self.look.label_size
        left, top, _, _ = lettering.ink_box(label.request.text, size)
        ink = self.style.ink if label.request.form == "name" else self.style.accent
        lettering.write(image, (label.box[0] - left, label.box[1] - top + shift), label.request.text, size, ink)

    def _write_question(self, image: Image.Image, question: str) -> None:
        """Write the question into its strip, in a smaller font if it is longer than the figure's own question."""
        size = self.look.label_size
        while True:
            lines = lettering.wrap(question, size, self._line_width)
            if (len(lines) * _LEADING + 0.5) * size <= self._strip + 1 or size <= 6:
                break
            size -= 1
        for row, line in enumerate(lines):
            y = ((row + 1) * _LEADING) * size
            lettering.write(image, (0.6 * self.look.label_size, y), line, size, self.style.ink)


def _xy(point: complex) -> tuple[float, float]:
    return point.real * _FINE, point.imag * _FINE


def _disc(draw: ImageDraw.ImageDraw, centre: complex, radius: float, **paint: Any) -> None:
    x, y = _xy(centre)
    r = radius * _FINE
    draw.ellipse([x - r, y - r, x + r, y + r], **paint)


def _to_segment(point: complex, start: complex, end: complex) -> float:
    along = end - start
    share = dot(point - start, along) / abs(along) ** 2
    return abs(point - start - along * min(max(share, 0.0), 1.0))
