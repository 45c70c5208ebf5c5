"""Rows as datasets have them: answers and choices that are numbers, levels that are, one row alone."""

import pytest
from answering import FakeGenerator, number_of, quiz_row
from tiny import picture

from trl_modality import PairError
from trl_modality.evaluation.gap import ModalityGapEvaluator


def evaluate(rows, **options):
    options = {"conditions": ["text_rich", "vision_centric"], "show_progress": False, **options}
    return ModalityGapEvaluator(rows, **options)(FakeGenerator(lambda request: str(number_of(request))))


def test_levels_that_are_numbers_are_groups_in_their_order():
    result = evaluate([quiz_row(i, level=level) for i, level in enumerate((0, 0, 10, 9, None))])
    assert {name: group.gap.total for name, group in result.groups["level"].items()} == {
        "0": 2,
        "9": 1,
        "10": 1,
        "(none)": 1,
    }
    assert list(result.groups["level"]) == ["0", "9", "10", "(none)"]


def test_answers_and_choices_that_are_numbers():
    rows = [quiz_row(2, answer=2, choices=[1, 2, 3]), quiz_row(5, answer=5.0), quiz_row(3, choices=[])]
    assert evaluate(rows).conditions["text_rich"].correct == 3


@pytest.mark.parametrize("choices", ["A. 1 B. 2", [None, "2"], ["", "2"], [["1"], ["2"]]])
def test_choices_that_are_none_are_named(choices):
    with pytest.raises(PairError, match=r"row 1, id='quiz-2': `choices` must be a list of texts or numbers, got"):
        evaluate([quiz_row(1), quiz_row(2, choices=choices)])


def test_one_row():
    result = evaluate([quiz_row(4)])
    assert (result.gap.estimate, result.gap.interval.low < 0 < result.gap.interval.high) == (0, True)
    assert "1/1" in result.table()


def test_an_image_column_and_images_of_the_views():
    one, two = quiz_row(1), quiz_row(2, vision_centric_images=[picture(7, 16)])
    one["image"] = one.pop("images")[0]
    result = evaluate([one, two], conditions=["vision_centric", "shuffled"])
    assert (result.conditions["shuffled"].correct, result.rows) == (2, 2)
