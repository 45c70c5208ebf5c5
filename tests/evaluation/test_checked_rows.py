"""Rows as datasets have them: answers and choices that are numbers, levels that are, one row alone."""

import pytest
from datasets import Dataset, Value

from tests.testing.answering import FakeGenerator, number_of, quiz_row
from tests.testing.tiny import picture
from trl_modality import PairError
from trl_modality.evaluation.gap import ModalityGapEvaluator
from trl_modality.evaluation.terminal import gap_table


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


def test_answers_of_floating_point_are_those_that_were_written():
    told = {0.1: "0.1", 0.1 + 0.2: "0.3", 1e300: "1e+300", 2.5: "2.5", -3.0: "-3"}
    rows = Dataset.from_list([quiz_row(i, answer=value) for i, value in enumerate(told)])
    for kind in ("float64", "float32"):
        cast = rows.select([0, 1, 3, 4] if kind == "float32" else range(5)).cast_column("answer", Value(kind))
        answers = [answer for value, answer in told.items() if kind == "float64" or value < 1e9]
        evaluator = ModalityGapEvaluator(cast, conditions=["text_rich"], show_progress=False)
        result = evaluator(FakeGenerator(lambda request, answers=answers: answers[0]))
        assert result.conditions["text_rich"].correct == 1
        found = iter(answers)
        result = evaluator(FakeGenerator(lambda request, found=found: next(found)))
        assert result.conditions["text_rich"].correct == len(answers), kind
    with pytest.raises(PairError, match="`answer` is nan, which is no answer"):
        evaluate([quiz_row(1, answer=float("nan"))])


def test_an_answer_that_no_text_can_give_is_named():
    with pytest.raises(PairError, match=r"row 0, id='quiz-1'.*`expected` has 500 characters.*give the final answer"):
        evaluate([quiz_row(1, answer="x" * 500)])


def test_rows_without_answers_are_enough_where_nothing_is_graded():
    rows = [quiz_row(i) for i in range(3)]
    for row in rows:
        del row["answer"]
    with pytest.raises(PairError, match="`answer` is missing"):
        evaluate(rows)
    ModalityGapEvaluator(rows, generate=False, nats=True, show_progress=False)


@pytest.mark.parametrize("choices", ["A. 1 B. 2", [None, "2"], ["", "2"], [["1"], ["2"]]])
def test_choices_that_are_none_are_named(choices):
    with pytest.raises(PairError, match=r"row 1, id='quiz-2': `choices` must be a list of texts or numbers, got"):
        evaluate([quiz_row(1), quiz_row(2, choices=choices)])


def test_one_row():
    result = evaluate([quiz_row(4)])
    assert (result.gap.estimate, result.gap.interval.low < 0 < result.gap.interval.high) == (0, True)
    assert "1/1" in gap_table(result)


def test_an_image_column_and_images_of_the_views():
    one, two = quiz_row(1), quiz_row(2, vision_centric_images=[picture(7, 16)])
    one["image"] = one.pop("images")[0]
    result = evaluate([one, two], conditions=["vision_centric", "shuffled"])
    assert (result.conditions["shuffled"].correct, result.rows) == (2, 2)
