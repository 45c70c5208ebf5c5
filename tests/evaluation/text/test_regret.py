"""A run of text tasks, and base against trained, against scipy and by hand."""

import json
import re

import pytest
from statsmodels.stats.contingency_tables import mcnemar

from tests.testing.namespaces import needs_namespaces
from tests.testing.text_sets import LastWord, Scripted, write_gsm8k, write_humaneval, write_mmlu
from trl_modality.evaluation.models.requests import Generation
from trl_modality.evaluation.text import run
from trl_modality.evaluation.text.regret import text_regret, text_skill
from trl_modality.evaluation.text.run import TextTasks
from trl_modality.evaluation.text.sandbox import SandboxError


def adds(right_up_to: int):
    """Right about numbers below this one, in what `write_gsm8k` asks; A in MMLU."""

    def answer(prompt):
        found = re.search(r"What is (\d+) plus", prompt)
        if found is None:
            return "Answer: A"
        number = int(found[1])
        return f"Answer: {number + 1000 if number < right_up_to else 0}"

    return Scripted(answer)


def run_quietly(generator, tasks, folder, name=None, **options):
    return TextTasks(tasks, **{"grader": LastWord(), **options}).ask(generator, folder, name=name, show_progress=False)


@pytest.fixture
def tasks(tmp_path):
    return [f"gsm8k:{write_gsm8k(tmp_path / 'g.jsonl', count=40)}", f"mmlu:{write_mmlu(tmp_path / 'm')}"]


def test_run_writes_what_it_finds(tmp_path, tasks):
    generator = adds(30)
    result = run_quietly(generator, tasks, tmp_path / "base", name="before")
    assert generator.asked == 48
    assert (result.skill.tasks["gsm8k"].correct, result.skill.tasks["gsm8k"].total) == (30, 40)
    assert (result.skill.tasks["mmlu"].correct, result.skill.tasks["mmlu"].total) == (2, 8)
    written = json.loads((tmp_path / "base" / "text.json").read_text())
    assert written == result.to_dict()
    assert (written["format"], written["kind"], written["name"], written["model"]) == (1, "text", "before", "scripted")
    assert set(written["tasks"]["gsm8k"]) == {"correct", "total", "accuracy", "low", "high", "cut_short"}
    assert "regret" not in written
    lines = (tmp_path / "base" / "text" / "mmlu.jsonl").read_text().splitlines()
    assert len(lines) == 9
    assert json.loads(lines[1])["subject"] == "abstract algebra"
    assert re.search(r"gsm8k +40 +75\.0 \[59\.8, 85\.8\] +0", result.table())


def test_a_rerun_asks_nothing_and_other_settings_are_refused(tmp_path, tasks):
    first = run_quietly(adds(30), tasks, tmp_path / "base")
    again = adds(0)
    assert run_quietly(again, tasks, tmp_path / "base") == first
    assert again.asked == 0
    other = write_gsm8k(tmp_path / "more" / "train.jsonl", first=900)
    with pytest.raises(ValueError, match="`shots` was 0 and is 2"):
        run_quietly(again, tasks, tmp_path / "base", shots={"gsm8k": 2}, shots_from={"gsm8k": other})


def test_regret_is_base_minus_trained_on_the_same_questions(tmp_path, tasks):
    base = run_quietly(adds(36), tasks, tmp_path / "base", name="stock")
    trained = run_quietly(adds(20), tasks, tmp_path / "trained", baseline=tmp_path / "base")
    regret = trained.regret.tasks["gsm8k"]
    assert regret.estimate == pytest.approx(16 / 40)
    assert (regret.only_first, regret.only_second, regret.total) == (16, 0, 40)
    assert regret.p_value == pytest.approx(mcnemar([[20, 16], [0, 4]], exact=True).pvalue)
    assert regret.interval.low > 0
    assert trained.regret.tasks["mmlu"].estimate == 0
    assert trained.base == base.skill
    assert (trained.regret.baseline, trained.regret.baseline_accuracy["gsm8k"]) == ("stock", 0.9)
    written = json.loads((tmp_path / "trained" / "text.json").read_text())["regret"]
    assert written["baseline"] == "stock"
    assert written["tasks"]["gsm8k"]["estimate"] == pytest.approx(0.4)
    assert written["tasks"]["gsm8k"]["baseline_accuracy"] == 0.9
    table = trained.table()
    assert re.search(r"gsm8k +40 +90\.0 \[.*\] +50\.0 \[.*\] +\+40\.0 \[\+2\d\.\d, \+5\d\.\d\] +<0\.001", table), table
    assert text_regret(tmp_path / "base", tmp_path / "trained") == trained.regret


def test_pairs_are_made_by_question_not_by_place(tmp_path, tasks):
    run_quietly(adds(36), tasks[:1], tmp_path / "base")
    run_quietly(adds(20), tasks[:1], tmp_path / "trained")
    file = tmp_path / "trained" / "text" / "gsm8k.jsonl"
    header, *lines = file.read_text().splitlines()
    before = text_regret(tmp_path / "base", tmp_path / "trained")
    file.write_text("\n".join([header, *lines[::-1]]) + "\n")
    assert text_regret(tmp_path / "base", tmp_path / "trained").tasks == before.tasks


def test_what_cannot_be_compared_says_why(tmp_path, tasks):
    run_quietly(adds(36), tasks[:1], tmp_path / "base")
    with pytest.raises(FileNotFoundError, match=r"text/mmlu.jsonl: run the task 'mmlu' into .*base first"):
        run_quietly(silent := adds(3), tasks, tmp_path / "trained", baseline=tmp_path / "base")
    less = [f"gsm8k:{write_gsm8k(tmp_path / 'less.jsonl', count=38)}"]
    with pytest.raises(ValueError, match="cannot be compared: `data` is"):
        run_quietly(silent, less, tmp_path / "trained", baseline=tmp_path / "base")
    assert silent.asked == 0
    other = [f"gsm8k:{write_gsm8k(tmp_path / 'other.jsonl', count=39)}"]
    run_quietly(adds(20), other, tmp_path / "other")
    with pytest.raises(ValueError, match="cannot be compared: `data` is"):
        text_regret(tmp_path / "base", tmp_path / "other")
    run_quietly(adds(20), tasks[:1], tmp_path / "cut")
    file = tmp_path / "cut" / "text" / "gsm8k.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-3]))
    with pytest.raises(ValueError, match=r"the second has no answer to 'gsm8k-37' \(40 and 37 answers\)"):
        text_regret(tmp_path / "base", tmp_path / "cut")
    with pytest.raises(FileNotFoundError, match="no answers to text tasks"):
        text_skill(tmp_path / "nothing")


def test_a_baseline_by_another_server_or_dtype_is_one_and_with_other_limits_is_none(tmp_path, tasks):
    def model(**settings):
        generator = adds(20)
        generator.settings = {"max_new_tokens": 16, **settings}
        return generator

    run_quietly(model(server="http://a", dtype="bfloat16"), tasks, tmp_path / "base")
    trained = model(server="http://b", dtype="float32")
    assert run_quietly(trained, tasks, tmp_path / "trained", baseline=tmp_path / "base").regret is not None
    cut = model(max_new_tokens=8)
    with pytest.raises(ValueError, match="`max_new_tokens` is 16 in one and 8 in the other"):
        run_quietly(cut, tasks, tmp_path / "cut", baseline=tmp_path / "base")
    assert cut.asked == 0


def test_answers_that_were_cut_short_are_counted(tmp_path, tasks):
    class Cut(Scripted):
        def __call__(self, requests):
            return [Generation("Answer: 0", i % 2 == 0) for i, _ in enumerate(requests)]

    result = run_quietly(Cut(None), tasks[:1], tmp_path / "a")
    assert result.to_dict()["tasks"]["gsm8k"]["cut_short"] == 20


def test_code_is_not_run_without_permission_or_sandbox(tmp_path, monkeypatch):
    generator = adds(0)
    spec = [f"humaneval:{write_humaneval(tmp_path / 'h.jsonl')}"]
    with pytest.raises(ValueError, match="--allow-code-execution"):
        run_quietly(generator, spec, tmp_path / "a")

    def refuse():
        raise SandboxError("no walls")

    monkeypatch.setattr(run, "require_sandbox", refuse)
    with pytest.raises(SandboxError, match="no walls"):
        run_quietly(generator, spec, tmp_path / "a", allow_code_execution=True)
    assert generator.asked == 0
    assert not (tmp_path / "a").exists()


@needs_namespaces
def test_humaneval_run(tmp_path):
    answers = iter(["```python\ndef double(x):\n    return x + x\n```", "    return x", "    return 2 * x\n"])
    spec = [f"humaneval:{write_humaneval(tmp_path / 'h.jsonl')}"]
    result = run_quietly(Scripted(lambda _: next(answers)), spec, tmp_path / "a", allow_code_execution=True)
    assert (result.skill.tasks["humaneval"].correct, result.skill.tasks["humaneval"].total) == (2, 3)
    lines = (tmp_path / "a" / "text" / "humaneval.jsonl").read_text().splitlines()
    assert [json.loads(line)["how"] for line in lines[1:]] == ["passed", "wrong", "passed"]


def test_bad_options_are_named_before_anything_is_asked(tmp_path, tasks):
    generator = adds(0)
    with pytest.raises(ValueError, match="no text task is given"):
        run_quietly(generator, [], tmp_path / "a")
    with pytest.raises(ValueError, match="`shots` names 'humaneval', which is not asked; it is for gsm8k, mmlu"):
        run_quietly(generator, tasks, tmp_path / "a", shots={"humaneval": 1})
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(ValueError, match="holds no question of gsm8k"):
        run_quietly(generator, [f"gsm8k:{empty}"], tmp_path / "a")

    def refuses(text, expected, choices=None):
        raise ValueError("twice the same choice")

    with pytest.raises(ValueError, match="gsm8k-0 cannot be graded: twice the same choice"):
        run_quietly(generator, tasks, tmp_path / "a", grader=refuses)
    assert generator.asked == 0
