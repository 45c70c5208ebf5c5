"""Reading a drawn table by OCR; where the package is not installed, the error names the extra."""

import importlib.util

import pytest
from PIL import Image, ImageDraw, ImageFont

from trl_modality.data.ocr import OcrReader, on_white


HAS_OCR = importlib.util.find_spec("rapidocr_onnxruntime") is not None


@pytest.mark.skipif(HAS_OCR, reason="rapidocr-onnxruntime is installed")
def test_the_extra_is_named():
    with pytest.raises(ImportError, match=r"rapidocr_onnxruntime.*trl-modality\[ocr\]"):
        OcrReader()


@pytest.mark.skipif(not HAS_OCR, reason="needs rapidocr-onnxruntime")
def test_a_table_is_read_row_by_row():
    image = Image.new("RGB", (300, 120), "white")
    draw = ImageDraw.Draw(image)
    for row, cells in enumerate((("Monday", "12"), ("Tuesday", "7.50"), ("Friday", "2013"))):
        for column, text in enumerate(cells):
            draw.text((20 + 160 * column, 10 + 36 * row), text, fill="black", font=ImageFont.load_default(20))
    assert OcrReader().read(image).splitlines() == ["Monday | 12", "Tuesday | 7.50", "Friday | 2013"]
    assert OcrReader().read(Image.new("RGB", (60, 60), "white")) == ""


def test_options_are_checked_first():
    with pytest.raises(ValueError, match="`scale` must be above 0"):
        OcrReader(scale=0)
    with pytest.raises(ValueError, match="`min_score`"):
        OcrReader(min_score=2)


def test_what_is_transparent_is_white():
    drawn = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    drawn.putpixel((1, 0), (0, 0, 0, 255))
    for image in (drawn, drawn.convert("LA")):
        assert on_white(image).tobytes() == b"\xff\xff\xff\x00\x00\x00"
    assert on_white(Image.new("L", (1, 1), 7)).tobytes() == b"\x07\x07\x07"


@pytest.mark.skipif(not HAS_OCR, reason="needs rapidocr-onnxruntime")
def test_short_words_stand_as_they_are_and_labels_along_an_axis_are_read():
    image = Image.new("RGB", (240, 160), "white")
    for place, word in enumerate(("6", "9", "old", "mop")):
        for top in (20, 100):
            ImageDraw.Draw(image).text((20 + 50 * place, top), word, fill="black", font=ImageFont.load_default(18))
    assert OcrReader().read(image).replace(" |", "") == "6 9 old mop\n6 9 old mop"
    label = Image.new("RGB", (220, 30), "white")
    ImageDraw.Draw(label).text((5, 3), "Revenue in kEUR", fill="black", font=ImageFont.load_default(20))
    image = Image.new("RGB", (300, 300), "white")
    for left, degrees in ((20, 90), (250, 270)):
        image.paste(label.rotate(degrees, expand=True), (left, 60))
    assert [word.text.replace(" ", "") for word in OcrReader().words(image)] == ["RevenueinkEUR"] * 2
