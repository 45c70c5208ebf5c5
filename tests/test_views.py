import io

import pytest
from PIL import Image

from tests.testing.tiny import pair_row, picture
from trl_modality import PairError, validate_pair
from trl_modality.views import INDEX_COLUMN, View, describe_row, images_of, load_images


STRINGS = {"text_rich_prompt": "<image>a=1. a?", "vision_centric_prompt": "<image>a?", "completion": "1"}


def string_row(**changes):
    return {"images": [picture(0)], **STRINGS, **changes}


def png_bytes(image=None):
    buffer = io.BytesIO()
    (image or picture(1)).save(buffer, "PNG")
    return buffer.getvalue()


WORDS_ALONE = string_row(text_rich_prompt="a=1. a?", text_rich_images=[])


@pytest.mark.parametrize("row", [pair_row(0), string_row(), {**STRINGS, "image": picture(0)}, WORDS_ALONE])
def test_valid_pairs_pass(row):
    validate_pair(row, image_token="<image>")


BLOCKS = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a?"}]}]
TWO_SLOTS = [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "a?"}]}]
ANSWER = [{"role": "assistant", "content": "1"}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (string_row(text_rich_prompt=None), "`text_rich_prompt` is missing"),
        (string_row(vision_centric_prompt=None), "`vision_centric_prompt` is missing"),
        (string_row(vision_centric_prompt="  "), "`vision_centric_prompt` is empty"),
        (string_row(text_rich_prompt=[]), "`text_rich_prompt` is empty"),
        (string_row(completion=""), "`completion` is empty"),
        (string_row(completion=None), "`completion` is missing"),
        (string_row(completion=[{"role": "assistant", "content": ""}]), "`completion` is empty"),
        (string_row(completion=ANSWER), "Use one form for all three"),
        (string_row(completion=3), "neither a string nor a list of messages"),
        (string_row(completion=["1"]), "neither a string nor a list of messages"),
        (string_row(images=[]), "text_rich view has no image"),
        (string_row(images=None), "text_rich view has no image"),
        (string_row(vision_centric_images=[]), "vision_centric view has no image"),
        (string_row(images=[], text_rich_images=[]), "neither view has an image"),
        (string_row(text_rich_images=[], vision_centric_images=[]), "neither view has an image"),
        (string_row(text_rich_images=[]), "`text_rich_images` is empty, but `text_rich_prompt` has 1 image slot"),
        (string_row(text_rich_images=[picture(0)] * 2), "1 image slot.s., but the text_rich view has 2"),
        (string_row(text_rich_images=picture(0)), "`text_rich_images` is .*, not a list of images"),
        (string_row(image=picture(0)), "both `images` and `image`"),
        (string_row(images=[3]), "image 0 of the text_rich view is int"),
        (string_row(images=[{"bytes": None, "path": None}]), "image 0 of the text_rich view is dict"),
        (string_row(text_rich_prompt="<image><image>a?"), "2 image slot.s., but the text_rich view has 1"),
        (string_row(images=[picture(0), picture(1)]), "1 image slot.s., but the text_rich view has 2"),
        (
            string_row(text_rich_prompt=BLOCKS, vision_centric_prompt=TWO_SLOTS, completion=ANSWER),
            "`vision_centric_prompt` has 2 image slot",
        ),
    ],
)
def test_bad_pairs_name_row_field_and_remedy(row, message):
    with pytest.raises(PairError, match=message) as error:
        validate_pair({**row, "id": "q7"}, image_token="<image>")
    assert "id='q7'" in str(error.value)


def test_row_is_named_by_what_is_known():
    assert describe_row({INDEX_COLUMN: 12, "id": "a"}) == "row 12, id='a'"
    assert describe_row(pair_row(3)).startswith("id='pair-3'")
    assert describe_row({"text_rich_prompt": [{"role": "user", "content": "How many?"}]}) == "row starting 'How many?'"
    assert describe_row({}) == "row without any text"


def test_every_kind_of_image_is_decoded(tmp_path):
    path = tmp_path / "a.png"
    picture(1).save(path)
    row = {"images": [picture(1), str(path), path, {"bytes": png_bytes(), "path": None}, {"path": str(path)}]}
    decoded = load_images(row, View.TEXT_RICH)
    assert len(decoded) == 5
    assert all(image.tobytes() == picture(1).tobytes() for image in decoded)


@pytest.mark.parametrize(
    "image",
    [
        {"bytes": b"not an image", "path": None},
        {"bytes": png_bytes()[:200], "path": None},
        "/nowhere/missing.png",
        Image.open(io.BytesIO(png_bytes()[:200])),
    ],
    ids=["garbage", "truncated bytes", "missing file", "truncated and lazily opened"],
)
def test_unreadable_image_names_the_row(image):
    with pytest.raises(PairError, match=r"row 5, id='x'.*image 1 cannot be read"):
        load_images({INDEX_COLUMN: 5, "id": "x", "images": [picture(0), image]}, View.TEXT_RICH)


def test_views_may_show_different_images():
    row = {"images": ["a"], "vision_centric_images": ["b", "c"]}
    assert images_of(row, View.TEXT_RICH) == ["a"]
    assert images_of(row, View.VISION_CENTRIC) == ["b", "c"]
    assert images_of({"image": "a"}, View.VISION_CENTRIC) == ["a"]
