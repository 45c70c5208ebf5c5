"""Failed requests in results: neither right nor wrong, in no difference, counted, and read back."""

import pytest

from tests.testing.answering import number_of, quiz_row
from trl_modality.evaluation.gap import ModalityGapEvaluator
from trl_modality.evaluation.models.requests import Generation
from trl_modality.evaluation.results import GapResult, Summary
from trl_modality.evaluation.terminal import gap_table
from trl_modality.evaluation.text.run import TextTasks, write_text_result
from trl_modality.report.reading.evaluations import read_evaluation
from trl_modality.report.reading.runs import Run
from trl_modality.report.tables import run_table


class Failing:
    """Answers right, and fails where `fails(number, is_rich)`."""

    def __init__(self, fails, name="failing"):
        self.name, self.settings, self._fails = name, {"max_new_tokens": 8}, fails

    def __call__(self, requests):
        answers = []
        for request in requests:
            number, is_rich = number_of(request), request.prompt[-1]["content"].startswith("facts")
            failure = "filtered" if self._fails(number, is_rich) else None
            answers.append(Generation("" if failure else str(number), not failure, failure=failure))
        return answers


def evaluator(**given):
    rows = [quiz_row(i, category="ab"[i > 3]) for i in range(6)]
    options = {"conditions": ("text_rich", "vision_centric"), "show_progress": False, "batch_size": 6}
    return ModalityGapEvaluator(rows, **{**options, **given})


def test_differences_are_of_rows_with_an_answer_on_both_sides(tmp_path):
    before = evaluator()(Failing(lambda number, is_rich: number == 0 and is_rich), tmp_path / "before")
    after = evaluator()(
        Failing(lambda number, is_rich: number in (1, 2) and not is_rich),
        tmp_path / "after",
        baseline=tmp_path / "before",
    )
    assert before.summary.noted == {"failures": {"text_rich": 1}}
    assert (before.conditions["text_rich"].total, before.gap.total) == (5, 5)
    assert (after.conditions["vision_centric"].total, after.gap.total) == (4, 4)
    assert {name: change.total for name, change in after.baseline.conditions.items()} == {
        "text_rich": 5,
        "vision_centric": 4,
    }
    assert after.baseline.gap.total == 3
    assert after.metrics()["vision_centric_failures"] == pytest.approx(2 / 6)
    assert "text_rich_failures" not in after.metrics()
    for result in (before, after):
        assert GapResult.from_dict(result.to_dict()) == result


def test_a_condition_or_a_group_without_an_answer(tmp_path):
    result = evaluator()(Failing(lambda number, is_rich: not is_rich or number > 3), tmp_path / "evals")
    assert list(result.conditions) == ["text_rich"]
    assert result.gap is None
    assert result.to_dict()["unanswered"] == {"vision_centric": 6}
    assert list(result.groups["category"]) == ["a"]
    table = gap_table(result)
    assert "4/4, 2 failures" in table
    assert "no answer, 6 failures" in table
    assert "failures: requests without a graded answer (`failure` in answers.jsonl says why); they are" in table
    assert GapResult.read(tmp_path / "evals" / "gap.json") == result
    assert Summary.from_dict(result.summary.to_dict()) == result.summary


def test_without_a_failure_nothing_is_added(tmp_path):
    result = evaluator()(Failing(lambda number, is_rich: False), tmp_path / "evals")
    assert result.summary.noted == {}
    assert "failures" not in str(result.to_dict())
    assert "failures" not in gap_table(result)
    assert not any(name.endswith("_failures") for name in result.metrics())


def test_a_report_counts_them(tmp_path):
    evaluator()(Failing(lambda number, is_rich: number == 0), tmp_path / "evals")
    evaluation = read_evaluation(tmp_path / "evals")
    assert evaluation.failures == {"text_rich": 1, "vision_centric": 1}
    table = run_table(Run("run", evaluations=[evaluation]))
    assert [row[1].text for row in table.rows if "without an answer" in row[0].text] == ["1", "1"]


class Sums:
    settings = {"max_new_tokens": 8}

    def __init__(self, name, fails):
        self.name, self._fails = name, fails

    def __call__(self, requests):
        failed = [self._fails in request.prompt[-1]["content"] for request in requests]
        return [Generation("" if each else "3", not each, failure="filtered" if each else None) for each in failed]


def test_text_tasks_too(tmp_path):
    sums = tmp_path / "gsm8k.jsonl"
    sums.write_text(
        "".join(f'{{"question": "What is {n} plus 2?", "answer": "#### {n + 2}"}}\n' for n in range(4)),
        encoding="utf-8",
    )
    TextTasks([f"gsm8k:{sums}"]).ask(Sums("base", "is 0"), tmp_path / "base", show_progress=False)
    result = TextTasks([f"gsm8k:{sums}"], baseline=tmp_path / "base").ask(
        Sums("after", "is 1"), tmp_path / "after", show_progress=False
    )
    assert result.skill.failures == {"gsm8k": 1}
    assert (result.skill.tasks["gsm8k"].correct, result.skill.tasks["gsm8k"].total) == (0, 3)
    assert result.regret.tasks["gsm8k"].total == 2
    assert "1 failures" in result.skill.table()
    assert type(result).read(tmp_path / "after" / "text.json").skill == result.skill
    path = tmp_path / "after" / "text" / "gsm8k.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"failure"' in line or '"format"' in line))
    with pytest.raises(ValueError, match="gsm8k.jsonl has no answer, only failed requests; .*: filtered"):
        write_text_result(tmp_path / "after")
