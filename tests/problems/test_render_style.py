"""A look that no picture can have is refused, with what to do about it."""

from dataclasses import asdict

import pytest

from trl_modality.problems.render_style import RenderStyle


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 100}, r"`image_size` must be from 192 to 2048, got 100"),
        ({"image_size": 4096}, r"`image_size` must be from 192 to 2048, got 4096"),
        ({"marks": 3}, r"`marks` must be from 4 to 64, got 3"),
        ({"label_size": 9}, r"`label_size` must be from 10 to 96, got 9"),
        ({"distractors": -1}, r"`distractors` must be from 0 to 8, got -1"),
        ({"styles": 0}, r"`styles` must be from 1 to 64, got 0"),
        ({"marks": 6.0}, r"`marks` must be a whole number, got 6\.0"),
        ({"distractors": True}, r"`distractors` must be a whole number, got True"),
        ({"label_size": 22}, r"`label_size` of 22 pixels is too large .* use 21 or less, .* at least 352"),
        ({"marks": 15}, r"`marks` of 15 are more than are legible .* use 14 or fewer"),
    ],
)
def test_errors_name_field_value_and_remedy(fields, message):
    with pytest.raises(ValueError, match=message):
        RenderStyle(**fields)


def test_the_advised_values_are_allowed():
    assert RenderStyle(label_size=21).most_marks >= 6
    assert RenderStyle(image_size=352, label_size=22)
    assert RenderStyle(marks=14).marks == RenderStyle().most_marks == 14
    assert asdict(RenderStyle()) == {"image_size": 336, "marks": 6, "label_size": 14, "distractors": 0, "styles": 4}
