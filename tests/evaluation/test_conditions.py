"""What a model is shown of a pair in each condition."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.testing.answering import quiz_row
from tests.testing.tiny import picture
from trl_modality import PairError
from trl_modality.collation.image_slots import without_image_slots
from trl_modality.evaluation.conditions import (
    DEFAULT_CONDITIONS,
    LEVEL_CONDITIONS,
    Condition,
    image_digests,
    make_request,
    rows_with_other_images,
)
from trl_modality.evaluation.models.requests import RequestError
from trl_modality.views import text_of


def test_views_and_controls():
    row, other = quiz_row(1), quiz_row(2)
    own, others = row["images"][0], other["images"][0]
    expected = {
        Condition.TEXT_RICH: ("facts of 1. Which?", (own,)),
        Condition.VISION_CENTRIC: ("row 1. Which?", (own,)),
        Condition.BLIND: ("row 1. Which?", ()),
        Condition.SHUFFLED: ("row 1. Which?", (others,)),
        Condition.TEXT_ONLY: ("facts of 1. Which?", ()),
        Condition.ZOOM: ("row 1. Which?", (own,)),
    }
    assert set(expected) == set(Condition)
    assert set(DEFAULT_CONDITIONS) == set(Condition) - {Condition.ZOOM}
    for condition, (prompt, images) in expected.items():
        request = make_request(row, condition, other)
        assert (text_of(request.prompt), request.images) == (prompt, images), condition


def test_each_view_shows_its_own_images():
    row = quiz_row(1, vision_centric_images=[picture(7, 16)])
    assert make_request(row, Condition.TEXT_RICH).images == (row["images"][0],)
    assert make_request(row, Condition.VISION_CENTRIC).images == (row["vision_centric_images"][0],)
    other = make_request(quiz_row(2), Condition.SHUFFLED, row)
    assert other.images == (row["vision_centric_images"][0],)


def test_levels_go_with_the_images_of_the_pair():
    levels = [[{"role": "user", "content": name}] for name in LEVEL_CONDITIONS]
    row = quiz_row(1, vision_centric_images=[picture(7, 16)], level_prompts=levels)
    assert LEVEL_CONDITIONS == ("text_dominant", "text_lite", "vision_intensive", "vision_dominant")
    for name in LEVEL_CONDITIONS:
        request = make_request(row, name)
        assert (text_of(request.prompt), request.images) == (name, (row["images"][0],))
    with pytest.raises(PairError, match="id='quiz-1': `level_prompts` has 3 prompts. .*needs 4: text_dominant"):
        make_request({**row, "level_prompts": levels[:3]}, "text_lite")


def test_places_of_images_go_with_the_image():
    parts = [{"type": "image", "text": None}, {"type": "text", "text": "Which?"}]
    row = quiz_row(1, vision_centric_prompt=[{"role": "system", "content": "s"}, {"role": "user", "content": parts}])
    shown, blind = (make_request(row, condition).prompt for condition in (Condition.VISION_CENTRIC, Condition.BLIND))
    assert shown[1]["content"] == [{"type": "image"}, {"type": "text", "text": "Which?"}]  # without Arrow's nulls
    assert blind == [{"role": "system", "content": "s"}, {"role": "user", "content": [parts[1]]}]


def test_digests_are_of_what_is_shown():
    image, files = picture(1, 16), []
    for level in (1, 9):
        files.append(io.BytesIO())
        image.save(files[-1], "PNG", compress_level=level)
    from PIL import Image

    loaded = [Image.open(file) for file in files]
    assert files[0].getvalue() != files[1].getvalue()
    assert len({image_digests([each]) for each in (image, *loaded, image.convert("RGBA"))}) == 1
    assert image_digests([image]) != image_digests([picture(2, 16)])
    flat = Image.new("RGB", (2, 8))
    assert image_digests([flat]) != image_digests([Image.new("RGB", (8, 2))])


@given(st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=2).map(tuple), min_size=1, max_size=9))
def test_next_row_with_other_images(shown):
    n = len(shown)

    def following(row):
        rows = ((row + step) % n for step in range(1, n))
        return next((i for i in rows if shown[i] != shown[row] and len(shown[i]) == len(shown[row])), None)

    expected = [following(row) for row in range(n)]
    if None in expected:
        with pytest.raises(ValueError, match="cannot be shown the image of another row"):
            rows_with_other_images(shown)
    else:
        assert rows_with_other_images(shown) == expected


class Processor:
    """A family that writes three tokens for an image."""

    image_token = "<pad>"
    chat_template = "yes"

    class tokenizer:
        @staticmethod
        def get_added_vocab():
            return {"<begin>": 0, "<pad>": 1, "<end>": 2}

    @staticmethod
    def apply_chat_template(messages, tokenize):
        return "U:" + "".join(
            "<begin><pad><end>" if p["type"] == "image" else p["text"] for p in messages[0]["content"]
        )


def test_places_of_images_in_strings():
    assert without_image_slots("U:<begin><pad><end>a<begin><pad><end>b", Processor) == "U:ab"
    assert without_image_slots("U:<pad>a", Processor) == "U:a"
    assert without_image_slots("U:a", Processor) == "U:a"
    with pytest.raises(ValueError, match="'U:<begin> <end>a' has '<begin>' where the chat template.*message lists"):
        without_image_slots("U:<begin> <end>a", Processor)


def test_errors_come_back_whole_from_another_process():
    import pickle

    error = pickle.loads(pickle.dumps(RequestError(3, "no")))
    assert (type(error), error.position, str(error)) == (RequestError, 3, "no")
