"""A picture as shapes and labels, laid out before it is painted, so that collisions of labels can be found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from PIL import Image, ImageDraw

from ..lettering import font


Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels

SCALE = 2  # shapes are painted this much larger and shrunk, which smooths their edges; labels are not


@lru_cache(maxsize=1 << 16)
def width_of(text: str, size: int) -> int:
    """Width of the text in pixels, rounded up."""
    return math.ceil(font(size).getlength(text))


@lru_cache(maxsize=1 << 16)
def _ink(text: str, size: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = font(size).getbbox(text, anchor="ls")
    return math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)


def cap_height(size: int) -> int:
    """Height of a capital letter or a digit in pixels."""
    return -_ink("H", size)[1]


@dataclass(frozen=True)
class Label:
    """A line of text: (`x`, `y`) is the left end of its baseline in pixels, `plate` the colour behind it, if any."""

    text: str
    x: int
    y: int
    size: int
    fill: Colour
    plate: Colour | None = None

    @property
    def box(self) -> Box:
        left, top, right, bottom = _ink(self.text, self.size)
        return self.x + left, self.y + top, self.x + right, self.y + bottom


@dataclass
class Scene:
    """Shapes and labels of a picture, in pixels from the top left; shapes are painted in order, then the labels."""

    size: int
    paper: Colour
    shapes: list[tuple] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    tight: list[str] = field(default_factory=list)
    """Messages about marks and labels that the layout found no room for."""

    def rectangle(self, box: Box, fill: Colour, radius: float = 0, corners: str = "") -> None:
        """`corners` names the rounded ones by side ("top", "right"); by default all."""
        self.shapes.append(("rectangle", box, fill, radius, corners))

    def line(self, points: Sequence[tuple[float, float]], fill: Colour, width: float = 1, dash: float = 0) -> None:
        self.shapes.append(("line", tuple(points), fill, width, dash))

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        self.shapes.append(("disc", (x - radius, y - radius, x + radius, y + radius), fill))

    def polygon(self, points: Sequence[tuple[float, float]], fill: Colour) -> None:
        self.shapes.append(("polygon", tuple(points), fill))

    def text(
        self, text: str, x: float, y: float, size: int, fill: Colour, anchor: str = "lm", plate: Colour | None = None
    ) -> Label:
        """Add a label by a point of it.

        `anchor` says which point (`x`, `y`) is: l, m or r (left, middle, right), then t, m or b (top, middle or bottom
        of the capital letters).
        """
        label = make_label(text, x, y, size, fill, anchor, plate)
        self.labels.append(label)
        return label

    def faults(self) -> list[str]:
        """Reasons to reject the picture: collisions of labels, and what the layout found no room for."""
        return self.collisions() + self.tight

    def collisions(self) -> list[str]:
        """Labels that leave the picture or touch another one."""
        found = []
        boxes = [label.box for label in self.labels]
        for i, box in enumerate(boxes):
            if box[0] < 0 or box[1] < 0 or box[2] > self.size or box[3] > self.size:
                found.append(f"{self.labels[i].text!r} leaves the picture")
            found += [
                f"{self.labels[i].text!r} touches {self.labels[j].text!r}" for j in range(i) if overlap(box, boxes[j])
            ]
        return found


def make_label(
    text: str, x: float, y: float, size: int, fill: Colour, anchor: str = "lm", plate: Colour | None = None
) -> Label:
    """A label from its anchor point; arguments as for `Scene.text`."""
    left = x - {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]] * width_of(text, size)
    base = y + {"t": 1.0, "m": 0.5, "b": 0.0}[anchor[1]] * cap_height(size)
    return Label(text, round(left), round(base), size, fill, plate)


def overlap(a: Box, b: Box, gap: float = 1) -> bool:
    """Whether two boxes come closer to each other than `gap` pixels."""
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap


def crosses(box: Box, start: tuple[float, float], stop: tuple[float, float]) -> bool:
    """Whether the segment from `start` to `stop` meets the box."""
    low, high = 0.0, 1.0
    for axis in (0, 1):
        origin, delta = start[axis], stop[axis] - start[axis]
        if delta == 0:
            if not box[axis] <= origin <= box[axis + 2]:
                return False
            continue
        ends = sorted(((box[axis] - origin) / delta, (box[axis + 2] - origin) / delta))
        low, high = max(low, ends[0]), min(high, ends[1])
    return low <= high


def mix_colours(a: Colour, b: Colour, share: float) -> Colour:
    """A mixture of two colours: `share` of b, the rest of a."""
    red, green, blue = (round(x + share * (y - x)) for x, y in zip(a, b, strict=True))
    return red, green, blue


def fitting_size(text: str, size: int, width: float) -> int:
    """The largest font size up to `size` at which the text is at most `width` pixels wide; not below 8."""
    while size > 8 and width_of(text, size) > width:
        size -= 1
    return size


def paint(scene: Scene) -> Image.Image:
    """The picture: RGB, `scene.size` pixels wide and high."""
    large = Image.new("RGB", (SCALE * scene.size, SCALE * scene.size), scene.paper)
    draw = ImageDraw.Draw(large)
    for kind, *rest in scene.shapes:
        _PAINTERS[kind](draw, *rest)
    image = large.reduce(SCALE)
    draw = ImageDraw.Draw(image)
    for label in scene.labels:
        if label.plate is not None:
            left, top, right, bottom = label.box
            draw.rectangle((left - 1, top - 1, right, bottom), fill=label.plate)
        left, top, _, _ = _ink(label.text, label.size)
        image.paste(label.fill, (label.x + left, label.y + top), _stamp(label.text, label.size))
    return image


@lru_cache(maxsize=1 << 12)
def _stamp(text: str, size: int) -> Image.Image:
    """Mask of the text in its ink box; cached, since names and numbers recur and rendering is most of their cost."""
    left, top, right, bottom = _ink(text, size)
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).text((-left, -top), text, 255, font(size), anchor="ls")
    return mask


def _paint_rectangle(draw: ImageDraw.ImageDraw, box: Box, fill: Colour, radius: float, corners: str) -> None:
    left, top, right, bottom = (round(SCALE * value) for value in box)
    if right <= left or bottom <= top:
        return
    # Pillow's boxes include their last pixel
    inner = (left, top, right - 1, bottom - 1)
    radius = min(SCALE * radius, (right - left) // 2, (bottom - top) // 2)
    if radius < 1:
        draw.rectangle(inner, fill=fill)
        return
    rounded = {"": (True,) * 4, "top": (True, True, False, False), "right": (False, True, True, False)}[corners]
    draw.rounded_rectangle(inner, radius, fill=fill, corners=rounded)


def _paint_line(draw: ImageDraw.ImageDraw, points: tuple, fill: Colour, width: float, dash: float) -> None:
    points = tuple((SCALE * x, SCALE * y) for x, y in points)
    width = max(round(SCALE * width), 1)
    if not dash:
        draw.line(points, fill=fill, width=width, joint="curve")
        return
    (x0, y0), (x1, y1) = points
    length = math.hypot(x1 - x0, y1 - y0)
    step = SCALE * dash
    for i in range(0, math.ceil(length / step), 2):
        start, stop = i * step / length, min((i + 1) * step / length, 1.0)
        ends = [(x0 + t * (x1 - x0), y0 + t * (y1 - y0)) for t in (start, stop)]
        draw.line(ends, fill=fill, width=width)


def _paint_disc(draw: ImageDraw.ImageDraw, box: Box, fill: Colour) -> None:
    draw.ellipse(tuple(SCALE * value for value in box), fill=fill)


def _paint_polygon(draw: ImageDraw.ImageDraw, points: tuple, fill: Colour) -> None:
    draw.polygon([(SCALE * x, SCALE * y) for x, y in points], fill=fill)


_PAINTERS = {"rectangle": _paint_rectangle, "line": _paint_line, "disc": _paint_disc, "polygon": _paint_polygon}
