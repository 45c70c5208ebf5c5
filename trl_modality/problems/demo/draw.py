"""Bar charts and tables of a few one-digit facts, drawn with PIL and its bundled font: same facts, same pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw, ImageFont


IMAGE_SIZE = 64  # pixels, width and height
LARGEST_VALUE = 9
_INK, _BAR, _LINE, _PAPER = (20, 20, 20), (40, 90, 180), (215, 215, 215), (255, 255, 255)
_COLUMN = (200, 110, 30)

Facts = Sequence[tuple[str, int]]


def draw_chart(facts: Facts) -> Image.Image:
    """
    One horizontal bar per fact, top to bottom, beside its name; grid lines one unit apart, to count the values by.

    Raises ValueError for a value outside 0-9.
    """
    image, draw = _blank(facts)
    base, unit, row_height = 24, 4, IMAGE_SIZE / len(facts)
    for value in range(LARGEST_VALUE + 1):
        draw.line([(base + unit * value, 0), (base + unit * value, IMAGE_SIZE)], fill=_LINE)
    for row, (name, value) in enumerate(facts):
        top = round(row * row_height)
        draw.text((base - 2, top + row_height / 2), name, fill=_INK, font=_font(10), anchor="rm")
        if value:
            draw.rectangle([base, top + 3, base + unit * value, round(top + row_height) - 4], fill=_BAR)
    return image


def draw_table(facts: Facts) -> Image.Image:
    """
    One row per fact, top to bottom: its name on the left, its value in digits on the right.

    Raises ValueError for a value outside 0-9.
    """
    image, draw = _blank(facts)
    row_height = IMAGE_SIZE / len(facts)
    for row, (name, value) in enumerate(facts):
        top = round(row * row_height)
        draw.rectangle([0, top, IMAGE_SIZE - 1, round(top + row_height) - 1], outline=_LINE)
        draw.text((4, top + row_height / 2), name, fill=_INK, font=_font(12), anchor="lm")
        draw.text((IMAGE_SIZE - 8, top + row_height / 2), str(value), fill=_INK, font=_font(14), anchor="mm")
    return image


def draw_columns(facts: Facts) -> Image.Image:
    """
    One vertical bar per fact, left to right, above its name; other colours than `draw_chart`, and no grid lines.

    Raises ValueError for a value outside 0-9.
    """
    image, draw = _blank(facts)
    base, unit, width = IMAGE_SIZE - 14, 5, IMAGE_SIZE / len(facts)
    draw.line([(0, base), (IMAGE_SIZE, base)], fill=_INK)
    for column, (name, value) in enumerate(facts):
        left = round(column * width)
        draw.text((left + width / 2, base + 2), name, fill=_INK, font=_font(8), anchor="mt")
        if value:
            draw.rectangle([left + 4, base - unit * value, round(left + width) - 5, base], fill=_COLUMN)
    return image


def draw_dark_table(facts: Facts) -> Image.Image:
    """
    The table of `draw_table` in light ink on a dark ground, with smaller digits and without frames.

    Raises ValueError for a value outside 0-9.
    """
    image, draw = _blank(facts, paper=_INK)
    row_height = IMAGE_SIZE / len(facts)
    for row, (name, value) in enumerate(facts):
        middle = row * row_height + row_height / 2
        draw.text((4, middle), name, fill=_PAPER, font=_font(12), anchor="lm")
        draw.text((IMAGE_SIZE - 12, middle), str(value), fill=_PAPER, font=_font(12), anchor="mm")
    return image


# How the demo draws facts, by the name of the form
DRAWINGS: dict[str, Callable[[Facts], Image.Image]] = {"chart": draw_chart, "table": draw_table}
# Forms that a model has not been trained on
SHIFTED_DRAWINGS: dict[str, Callable[[Facts], Image.Image]] = {"columns": draw_columns, "dark_table": draw_dark_table}


def _blank(facts: Facts, paper: tuple[int, int, int] = _PAPER) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    if outside := [fact for fact in facts if not 0 <= fact[1] <= LARGEST_VALUE]:
        raise ValueError(f"Values to draw must lie in 0-{LARGEST_VALUE}, got {outside}; use a coarser unit.")
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), paper)
    return image, ImageDraw.Draw(image)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
