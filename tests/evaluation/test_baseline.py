"""What changed since another evaluation: on the same rows, judged alike, and refused before anything is asked."""

import random

import pytest

from tests.testing.answering import FakeGenerator, is_rich, number_of, quiz_row
from trl_modality.evaluation.gap import ModalityGapEvaluator
from trl_modality.evaluation.grading.grader import Grader
from trl_modality.evaluation.intervals import gap_change, paired_difference
from trl_modality.evaluation.models.requests import Request
from trl_modality.views import text_of


ROWS = [quiz_row(i) for i in range(60)]
VIEWS = ("text_rich", "vision_centric")


def evaluator(rows=ROWS, conditions=VIEWS, **options):
    return ModalityGapEvaluator(rows, conditions=conditions, show_progress=False, **options)


def known(seed, **shares):
    rng = random.Random(seed)
    return {view: [rng.random() < shares[view] for _ in ROWS] for view in VIEWS}


def model_that_knows(right):
    def answer(request):
        number = number_of(request)
        return str(number if right[VIEWS[0] if is_rich(request) else VIEWS[1]][number] else 99)

    return FakeGenerator(answer)


@pytest.fixture(scope="module")
def before():
    return known(6, text_rich=0.9, vision_centric=0.4)


@pytest.fixture(scope="module")
def folder(before, tmp_path_factory):
    place = tmp_path_factory.mktemp("evals") / "before"
    evaluator()(model_that_knows(before), place)
    return place


def test_changes_are_paired_by_row(before, folder):
    after = known(7, text_rich=0.9, vision_centric=0.8)
    result = evaluator()(model_that_knows(after), baseline=folder)
    assert result.baseline.name == "before"
    for view in VIEWS:
        assert result.baseline.conditions[view] == paired_difference(after[view], before[view])
    assert result.baseline.gap == gap_change(*(side[view] for side in (before, after) for view in VIEWS))
    assert result.baseline.gap.estimate < 0


def test_what_does_not_fit_is_found_before_anything_is_asked(folder, tmp_path):
    generator = FakeGenerator(lambda request: "1")
    for evaluate, baseline, error, message in [
        (evaluator(ROWS[:30]), folder, ValueError, "has answers to other rows than these"),
        (evaluator(grader=Grader(tolerance=0.01)), folder, ValueError, "`tolerance` was 0.0 there and is 0.01 here"),
        (evaluator(), tmp_path / "none", FileNotFoundError, "no file .*none/answers.jsonl"),
    ]:
        with pytest.raises(error, match=message):
            evaluate(generator, tmp_path / "after", baseline=baseline)
    assert generator.batches == []


def test_other_conditions_and_interrupted_ones_are_found_before_anything_is_asked(folder, tmp_path):
    generator = FakeGenerator(lambda request: "1")
    with pytest.raises(ValueError, match="before has none of the conditions blind"):
        evaluator(conditions=["blind"])(generator, baseline=folder)
    cut = tmp_path / "cut"
    cut.mkdir()
    lines = (folder / "answers.jsonl").read_bytes().splitlines(keepends=True)
    (cut / "answers.jsonl").write_bytes(b"".join(lines[:-2]))
    with pytest.raises(ValueError, match="cut lacks answers in vision_centric: it was interrupted"):
        evaluator()(generator, baseline=cut)
    with pytest.raises(ValueError, match="`generate=False` grades nothing"):
        evaluator(generate=False, nats=True)(generator, baseline=folder)
    assert generator.batches == []


def test_zoom_is_compared_with_zoom(tmp_path):
    def model(right):
        def answer(request):
            if "Do not answer yet" in text_of(request.prompt):
                return "[0, 0, 500, 500]"
            number = number_of(Request(text_of(request.prompt).split("\n")[0]))
            return str(number) if number < right else "99"

        return FakeGenerator(answer)

    evaluate = evaluator(ROWS[:10], ["blind", "zoom"])
    evaluate(model(3), tmp_path / "before")
    result = evaluate(model(7), baseline=tmp_path / "before")
    assert {name: change.estimate for name, change in result.baseline.conditions.items()} == pytest.approx(
        {"blind": 0.4, "zoom": 0.4}
    )
