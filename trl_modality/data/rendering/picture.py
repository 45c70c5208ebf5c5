"""A text as a picture: pure in (text, style, seed), the same pixels wherever the same versions are installed."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, radians, sin
from random import Random
from typing import TYPE_CHECKING

from ...problems.png import to_png
from .faces import EMPTY, FIT, UnrenderableError, face_path, load_font
from .layout import Letters, Page, Rule, Sign, TooWideError, faces_of, lay_out
from .markup import Block, parse, words
from .style import SCHEMES, TextRenderStyle


if TYPE_CHECKING:
    from PIL import Image

_JPEG_QUALITY = 90
_RULING = (176, 196, 222)  # of lined and squared paper, mixed with the paper
_Colour = tuple[int, int, int]


@dataclass(frozen=True)
class TextPicture:
    """A rendered text.

    Args:
        image: The picture, RGB.
        words: The letters in it, line by line, formulas left out.
        size: Size of its letters in pixels.
        wanted_size: The size that was drawn at random; `size` is smaller where the text did not fit.
        face: The typeface that was drawn at random.
        path: The font file that the text is set in.
        has_noise: Whether it is to be stored as JPEG.
    """

    image: Image.Image
    words: str
    size: int
    wanted_size: int
    face: str
    path: str
    has_noise: bool

    @property
    def is_other_face(self) -> bool:
        """Whether another face stands in for one that lacks characters of the text."""
        return self.path != face_path(self.face)

    def to_file(self) -> bytes:
        """The picture as the bytes of a PNG file or, with noise, of a JPEG file."""
        if not self.has_noise:
            return to_png(self.image)
        file = io.BytesIO()
        self.image.save(file, "JPEG", quality=_JPEG_QUALITY)
        return file.getvalue()


def render_text(text: str, style: TextRenderStyle | None = None, seed: int = 0, *, plain: bool = False) -> TextPicture:
    r"""Draw a text: wrapped, with tables, code and formulas as such.

    Args:
        text: The text; `$...$`, `\(...\)`, `$$...$$` and `\[...\]` are formulas, lines of cells between bars or tabs
            tables, fenced lines code.
        style: Limits on the look; by default `TextRenderStyle()`, black on white.
        seed: Beside the text, what the look is drawn from.
        plain: Whether the text is drawn as it stands, without formulas, tables and code.

    Raises:
        UnrenderableError: an empty text; one that does not fit, with what of it and the least size; characters that
            no typeface has; a formula that mathtext does not know. The message has the remedy.
        ImportError: Matplotlib is not installed.
    """
    style = style or TextRenderStyle()
    if not text.strip():
        raise UnrenderableError(EMPTY, "it is empty.", "Fill it in, or leave the row out.")
    digest = hashlib.sha256(f"{seed}\n{text}".encode()).digest()
    random = Random(digest)
    wanted, face = random.choice(style.sizes), random.choice(style.faces)
    paper, ink = SCHEMES[random.randrange(style.colours)]
    kind = random.choice(style.papers)
    angle = random.uniform(-style.skew, style.skew)
    blocks = parse(text, plain=plain)
    path, mono_path, math_set = faces_of(blocks, face)
    page, size = _fitted(blocks, style, wanted, (path, mono_path, math_set))
    mask = _turned(_mask(page, style.width - 2 * style.margin, style.margin // 2), angle, style)
    image = _on_paper(mask, style, paper, ink, kind, random)
    if style.noise:
        image = _noisy(image, style.noise, int.from_bytes(digest[:8], "big"))
    return TextPicture(image, words(blocks), size, wanted, face, path, style.noise > 0)


def _fitted(
    blocks: Sequence[Block], style: TextRenderStyle, wanted: int, faces: tuple[str, str, str]
) -> tuple[Page, int]:
    """The page at the largest size that fits, and that size."""
    room, height = style.width - 2 * style.margin, style.most_height - 2 * style.margin
    problem, remedy = "", ""
    for size in range(wanted, style.smallest - 1, -1):
        try:
            page = lay_out(blocks, Letters(*faces, size, style.line_spacing), room)
        except TooWideError as error:
            problem, remedy = f"{error}, and a line has {room}", "`width`"
            continue
        if page.height <= height:
            return page, size
        problem = f"its lines are {page.height:,} pixels high, and there is room for {height:,}"
        remedy = "`width`" if style.square else "`max_height` or `width`"
    raise UnrenderableError(
        FIT,
        f"it does not fit the picture with letters of {style.smallest} pixels, the smallest allowed: {problem}.",
        f"Use a larger {remedy}, smaller letters (`smallest`), or leave the row out.",
    )


def _mask(page: Page, width: int, pad: int) -> Image.Image:
    """The ink of a page, white on black (mode L); `pad` pixels around it are for letters that hang over."""
    from PIL import Image, ImageChops, ImageDraw

    mask = Image.new("L", (width + 2 * pad, page.height + 2 * pad), 0)
    draw = ImageDraw.Draw(mask)
    for item in page.items:
        if isinstance(item, Rule):
            left, top, right, bottom = (pad + side for side in item.box)
            draw.rectangle((left, top, right - 1, bottom - 1), fill=round(255 * item.strength))
            continue
        x, y = pad + round(item.x), pad + round(item.y)
        if isinstance(item, Sign):
            sign = item.mask.image
            area = (x, y - item.mask.ascent, x + sign.width, y - item.mask.ascent + sign.height)
            mask.paste(ImageChops.lighter(mask.crop(area), sign), area)
        else:
            font = load_font(item.path, item.size, shaped=item.direction is not None)
            draw.text((x, y), item.text, fill=255, font=font, anchor="ls", direction=item.direction)
    return mask


def _turned(mask: Image.Image, angle: float, style: TextRenderStyle) -> Image.Image:
    """The ink turned by `angle` degrees, or by as much as the margins leave room for."""
    from PIL import Image

    def size(angle: float) -> tuple[float, float]:
        c, s = cos(radians(angle)), abs(sin(radians(angle)))
        return mask.width * c + mask.height * s, mask.width * s + mask.height * c

    room = (style.width, style.most_height)
    while abs(angle) > 0.1 and any(side > most for side, most in zip(size(angle), room, strict=True)):
        angle *= 0.8
    if abs(angle) <= 0.1:
        return mask
    return mask.rotate(angle, Image.Resampling.BICUBIC, expand=True)


def _on_paper(
    mask: Image.Image, style: TextRenderStyle, paper: _Colour, ink: _Colour, kind: str, random: Random
) -> Image.Image:
    """The ink in its colour on the paper, with margins."""
    from PIL import Image

    # Half of the margin is part of the mask
    needed = mask.height + 2 * (style.margin - style.margin // 2)
    size = (style.width, style.width if style.square else min(needed, style.most_height))
    image = Image.new("RGB", size, paper)
    if kind in ("lined", "squared"):
        _rule(image, paper, kind, random.randint(18, 30))
    elif kind == "aged":
        image = _aged(image, random)
    image.paste(ink, ((size[0] - mask.width) // 2, (size[1] - mask.height) // 2), mask)
    return image


def _rule(image: Image.Image, paper: _Colour, kind: str, step: int) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(image)
    colour = tuple((3 * a + b) // 4 for a, b in zip(paper, _RULING, strict=True))
    for y in range(step, image.height, step):
        draw.line((0, y, image.width, y), fill=colour)
    for x in range(step, image.width, step) if kind == "squared" else ():
        draw.line((x, 0, x, image.height), fill=colour)


def _aged(image: Image.Image, random: Random) -> Image.Image:
    """The paper uneven, and browned towards its edges."""
    from PIL import Image, ImageChops

    coarse = Image.new("L", (8, 8))
    for y in range(8):
        for x in range(8):
            edge = max(abs(x - 3.5), abs(y - 3.5)) / 3.5
            coarse.putpixel((x, y), round(250 - 18 * edge**3 - random.uniform(0, 8)))
    shade = coarse.resize(image.size, Image.Resampling.BICUBIC)
    brown = [shade.point([round(255 - (255 - v) * k) for v in range(256)]) for k in (0.8, 1.0, 1.6)]
    return ImageChops.multiply(image, Image.merge("RGB", brown))


def _noisy(image: Image.Image, noise: float, seed: int) -> Image.Image:
    """The picture with noise of the same strength in all channels."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(image, dtype=np.float32)
    grain = np.random.default_rng(seed).standard_normal(pixels.shape[:2], dtype=np.float32)
    return Image.fromarray(np.clip(pixels + noise * grain[..., None], 0, 255).round().astype(np.uint8))
