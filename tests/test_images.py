"""Pictures reach a model as a person sees them, or are refused."""

import inspect
import io

import numpy as np
import pytest
from PIL import Image
from transformers.image_transforms import convert_to_rgb

from tests.testing.tiny import pair_row, picture, tiny_llava
from trl_modality import PairedCollator, images
from trl_modality.images import ImageFault, read_image, retried, to_8bit


def encoded(image, file_format="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def pixels(image) -> np.ndarray:
    """What a model gets of a picture, as values from 0 to 1."""
    _, processor = tiny_llava()
    processor.image_processor.do_normalize = False
    batch = PairedCollator(processor)([{**pair_row(0), "images": [image]}])
    return batch["pixel_values"][0].numpy()


RAMP = np.tile(np.linspace(0, 65535, 32).round().astype(np.uint16), (32, 1))


def test_16_bits_by_their_limits_are_those_of_8():
    of_8 = pixels(Image.fromarray((RAMP >> 8).astype(np.uint8)))
    for image in (
        to_8bit(Image.fromarray(RAMP), 0, 65535),
        to_8bit(Image.fromarray((RAMP / 65535).astype(np.float32)), 0.0, 1.0),
        to_8bit(Image.fromarray(RAMP.astype(np.int32)), 0, 65535),
        to_8bit(RAMP, 0, 65535),
    ):
        assert (image.mode, image.size) == ("L", (32, 32))
        assert np.abs(pixels(image) - of_8).max() <= 1.01 / 255


def test_what_is_beyond_the_limits_is_cut_to_them():
    assert np.asarray(to_8bit(np.array([[-5.0, 0.0, 5.0, 10.0, 99.0]]), 0, 10)).tolist() == [[0, 0, 128, 255, 255]]


@pytest.mark.parametrize(
    ("values", "low", "high", "message"),
    [
        ([[0.0, 1.0]], 1, 1, "`low` must be a finite number below `high`, got 1 and 1"),
        ([[0.0, 1.0]], 0, float("inf"), "`low` must be a finite number below `high`"),
        ([[0.0, float("nan")]], 0, 1, "values that are not finite"),
        ([[[0.0]]], 0, 1, "An image of one channel"),
    ],
)
def test_limits_that_scale_nothing(values, low, high, message):
    with pytest.raises(ValueError, match=message):
        to_8bit(np.array(values), low, high)


def test_every_mode_that_is_let_through_is_seen_right():
    """Greyscale in another dress has the same pixels, and what is transparent is white paper."""
    grey = Image.fromarray((RAMP >> 8).astype(np.uint8))
    wanted = pixels(grey)
    for mode in ("RGB", "RGBA", "LA", "P", "CMYK", "YCbCr"):
        stored = grey.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr") else grey.convert(mode)
        assert np.abs(pixels(stored) - wanted).max() <= 2 / 255, mode
    black_and_white = grey.convert("1")
    assert set(np.unique(pixels(black_and_white))) == {0.0, 1.0}
    if "return_numpy" in inspect.signature(convert_to_rgb).parameters:  # before, the host left out what is transparent
        clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
        assert (pixels(clear) == 1.0).all()


def test_values_of_8_bits_in_a_wider_type_are_what_they_are():
    """As an array of integers becomes an image."""
    grey = (RAMP >> 8).astype(np.uint8)
    wanted = pixels(Image.fromarray(grey))
    of_16, of_32 = (Image.fromarray(grey.astype(kind)) for kind in (np.uint16, np.int32))
    assert (of_16.mode, of_32.mode) == ("I;16", "I")
    for wider in (of_16, of_32, {"bytes": encoded(of_16), "path": None}):
        assert np.array_equal(pixels(wider), wanted)
    for value in (-1, 256):
        with pytest.raises(ImageFault, match="more than 8 bits"):
            read_image(Image.fromarray(np.full((9, 9), value, dtype=np.int32)))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_photograph_is_upright_however_it_is_given(tmp_path, orientation):
    image = picture(3).resize((32, 32))
    exif = image.getexif()
    exif[0x0112] = orientation
    content = encoded(image, exif=exif)
    (tmp_path / "a.png").write_bytes(content)
    turned = {1: image, 3: image.rotate(180), 6: image.rotate(-90, expand=True), 8: image.rotate(90, expand=True)}
    for value in (
        {"bytes": content, "path": None},
        tmp_path / "a.png",
        Image.open(tmp_path / "a.png"),
        Image.open(io.BytesIO(content)),
    ):
        assert read_image(value).tobytes() == turned[orientation].tobytes()


def test_a_picture_that_was_made_in_memory_stays_as_it_is():
    """Its tag is that of the file it was made from, by which it may have been turned already."""
    image = picture(3)
    exif = image.getexif()
    exif[0x0112] = 6
    made = Image.open(io.BytesIO(encoded(image, exif=exif))).convert("L")
    assert read_image(made) is made


def test_a_mode_of_the_column_is_kept():
    image = read_image({"bytes": encoded(picture(3)), "path": None, "mode": "L"})
    assert image.mode == "L"


def test_errors_that_may_pass_are_tried_again(monkeypatch):
    waits, tries = [], []
    monkeypatch.setattr(images.time, "sleep", waits.append)
    monkeypatch.setattr(images, "_said", set())

    def read(*errors):
        tries.append(errors)
        if len(tries) <= len(errors):
            raise errors[len(tries) - 1]
        return "read"

    assert retried(lambda: read(TimeoutError(), ConnectionResetError())) == "read"
    assert (waits, len(tries)) == ([0.1, 0.5], 3)
    for error, n_tries in ((FileNotFoundError(2, "no"), 1), (PermissionError(13, "no"), 1), (OSError(5, "no"), 4)):
        tries.clear()
        with pytest.raises(OSError, match="no"):
            retried(lambda error=error: read(*[error] * 9))
        assert len(tries) == n_tries


def test_what_is_no_image_says_so():
    with pytest.raises(ImageFault, match=r"is int\. Use a PIL image, a path, or a dict"):
        read_image(3)
