"""Reading the folders of runs: what is found, what is passed over, and errors that name the file."""

import json
import math
import re

import pytest
from datasets import ClassLabel, Dataset

from tests.testing.answering import FakeGenerator, is_rich, number_of, quiz_row
from tests.testing.report_runs import (
    AFTER,
    BEFORE,
    MadeEvaluation,
    history,
    rich_run,
    write_json,
    write_record,
    write_state,
)
from trl_modality.evaluation.gap import ModalityGapEvaluator
from trl_modality.report.reading.runs import read_run, read_runs


def test_a_rich_run_is_read_whole(tmp_path):
    run = read_run(rich_run(tmp_path / "kl", "KL", "two_stage", True, 1, examples=2))
    assert (run.name, run.record["seed"], run.train_rows, run.model) == ("KL", 1, 8000, "tiny-llava")
    assert [e.name for e in run.evaluations] == ["before", "step-250", "after"]
    assert run.before.conditions["vision_centric"].total == 200
    assert list(run.last.groups["category"]) == ["bar", "grouped_bar", "line", "pie", "scatter", "table"]
    assert run.last.text.regret["humaneval"].value == 0.09
    assert run.last.nats["vision_centric"] == 0.11
    assert [example.answers["vision_centric"].is_correct for example in run.last.examples] == [False, False]
    assert run.log.points("loss")[0][0] == 5
    assert run.log.steps == 500


def test_what_evaluations_may_leave_out_or_add(tmp_path):
    folder = MadeEvaluation(tmp_path / "evals/after", AFTER, rows=30, nats=(0.1, 0.2)).write()
    change(folder / "gap.json", "nats", "gap", {"estimate": 0.1, "total": 3})
    counts = {"only_first": 6, "only_second": 3, "total": 30}
    changes = {"blind": {"estimate": 0.1, "low": -0.1, "high": 0.3, "p_value": 0.5, **counts}}
    gap = {"estimate": -1.2, "low": -1.5, "high": -0.9, "total": 30}
    change(folder / "gap.json", "baseline", {"name": "before", "conditions": changes, "gap": gap})
    last = read_run(tmp_path).last
    assert set(last.nats) == {"text_rich", "vision_centric"}
    assert not last.nats_gap.has_interval
    assert last.nats_gap.overlaps(last.gap)  # with no interval it is not distinguishable from anything
    assert (last.comparison.baseline, last.comparison.gap.value) == ("before", -1.2)
    assert last.comparison.conditions["blind"].high == 0.3


def test_evaluations_stand_in_the_order_of_training(tmp_path):
    for name in ("after", "step-1000", "best", "before", "step-200-charts", "step-200"):
        MadeEvaluation(tmp_path / "evals" / name, BEFORE, rows=20).write()
    run = read_run(tmp_path)
    assert [e.name for e in run.evaluations] == ["before", "step-200", "step-200-charts", "step-1000", "best", "after"]
    assert [e.step for e in run.evaluations] == [None, 200, 200, 1000, None, None]
    assert run.evaluations[2].set_name == "charts"


def test_an_evaluation_by_itself(tmp_path):
    run = read_run(MadeEvaluation(tmp_path / "stock", BEFORE, name="a stock model").write())
    assert run.name == "a stock model"
    assert run.before is None
    assert run.last.name == "a stock model"


def test_the_name_of_the_folder_tells_before_from_after(tmp_path):
    """`gap.json` may be named by its model."""
    for name in ("before", "after"):
        MadeEvaluation(tmp_path / "evals" / name, BEFORE, rows=20, name="llava").write()
    assert [e.name for e in read_run(tmp_path).evaluations] == ["before", "after"]


def test_the_newest_whole_log_is_taken(tmp_path):
    write_record(tmp_path, "run")
    for step in (90, 200, 1000):
        write_state(tmp_path / f"checkpoint-{step}", history(steps=step))
    assert read_run(tmp_path).log.steps == 1000
    whole = (tmp_path / "checkpoint-1000/trainer_state.json").read_text()
    (tmp_path / "checkpoint-1000/trainer_state.json").write_text(whole[: len(whole) // 2])
    run = read_run(tmp_path)
    assert run.log.steps == 200
    assert run.notes == (
        "checkpoint-1000/trainer_state.json could not be read and was passed over.",
        "The curves are those of checkpoint-200/trainer_state.json.",
    )
    write_state(tmp_path, history(steps=30))
    assert read_run(tmp_path).log.steps == 30


def test_what_is_of_later_steps_than_the_log_is_named(tmp_path):
    write_state(tmp_path, history(steps=100))
    for step in (50, 100, 150):
        MadeEvaluation(tmp_path / f"evals/step-{step}", BEFORE, rows=30).write()
        write_state(tmp_path / f"checkpoint-{step}", history(steps=step))
    assert read_run(tmp_path).notes == (
        "The curves end at step 100, with trainer_state.json; checkpoint-150 is of another run in this folder, or of "
        "one that did not end.",
        "step-150: after the last step of trainer_state.json (100), so of another run in this folder, or of one that "
        "did not end.",
    )


def test_no_whole_log(tmp_path):
    (tmp_path / "trainer_state.json").write_text('{"log_history": [')
    with pytest.raises(
        ValueError, match=r"trainer_state\.json is not whole JSON .*; it may be half written.*remove it"
    ):
        read_run(tmp_path)
    write_json(tmp_path / "trainer_state.json", {"log_history": "none"})
    with pytest.raises(ValueError, match="`log_history` must be a list of objects"):
        read_run(tmp_path)


def test_values_that_are_not_finite(tmp_path):
    entries = [{"step": step, "loss": 1.0, "kl": 10**400 if step == 3 else 0.5} for step in range(1, 6)]
    entries[1]["loss"] = math.nan
    entries[4]["loss"] = math.inf
    write_state(tmp_path, [*entries, {"no step": 1, "loss": 7.0}, {"step": 5, "note": "text", "flag": True}])
    run = read_run(tmp_path)
    assert [math.isfinite(value) for _, value in run.log.points("loss")] == [True, False, True, True, False]
    assert run.notes == (
        "`kl` was logged as no finite number at 1 step, first at step 3; its curve is interrupted there.",
        "`loss` was logged as no finite number at 2 steps, first at step 2; its curve is interrupted there.",
    )
    assert set(run.log.series) == {"loss", "kl"}


def test_a_wrong_folder(tmp_path):
    with pytest.raises(ValueError, match=r"there is no run\.json, no trainer_state\.json .* no evals/NAME/gap\.json"):
        read_run(tmp_path)
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no RUN"):
        read_runs([])


def test_an_evaluation_that_did_not_end_is_named(tmp_path):
    """One that is interrupted, or still going on while the report is written."""
    MadeEvaluation(tmp_path / "evals/before", BEFORE, rows=20).write()
    for path in ("evals/after/answers.jsonl", "evals/text/text/gsm8k.jsonl"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("")
    run = read_run(tmp_path)
    assert [e.name for e in run.evaluations] == ["before"]
    for name, note in zip(("after", "text"), run.notes, strict=True):
        assert note.startswith(f"{tmp_path / 'evals' / name}: this evaluation has answers and no result: it is still")
    with pytest.raises(ValueError, match=r"after: this evaluation has .*\. Run it again: it goes on from its answers"):
        read_run(tmp_path / "evals" / "after")


def change(path, *keys_and_value):
    """Set a field of a JSON file, inside of objects and lists."""
    *keys, last, value = keys_and_value
    data = json.loads(path.read_text())
    inner = data
    for key in keys:
        inner = inner[key]
    inner[last] = value
    path.write_text(json.dumps(data))


BROKEN = [
    (("format", 2), "`format` 2 is not the 1 that this version reads; upgrade trl-modality"),
    (("format", 0), "`format` 0 is not the 1 that this version reads; write it again with this version"),
    (("format", None), "has no `format` and `kind`"),
    (("kind", "text"), "`kind` must be 'gap', got 'text'"),
    (("rows", "many"), "`rows` must be a whole number, got 'many'"),
    (("conditions", "blind", "low", math.nan), "`conditions.blind.low` must be a finite number, got nan"),
    (("conditions", "blind", "accuracy", 14.0), "`conditions.blind.accuracy` must be a share from 0 to 1, got 14"),
    (("gap", "estimate", -3), "`gap.estimate` must be a share from -1 to 1, got -3"),
    (("groups", "category", "bar", []), "`groups.category.bar` must be an object, got []"),
    (("groups", "category", "bar", "gap", "low", True), "`groups.category.bar.gap.low` must be a number, got True"),
    (("examples", 0, "oops"), "`examples.0` must be an object, got str"),
    (
        ("examples", 1, "answers", "text_rich", "is_correct", "yes"),
        "`examples.1.answers.text_rich.is_correct` must be true",
    ),
    (("examples", 1, "images", ["../../secret.png"]), "`examples.1.images` must name files inside"),
    (("examples", 1, "images", ["/etc/hostname"]), "`examples.1.images` must name files inside"),
    (("examples", 1, "prompts", {"text_rich": 7}), "`examples.1.prompts.text_rich` must be a text or a list"),
]


def test_a_category_that_is_a_number_and_a_row_without_a_name(tmp_path):
    rows = Dataset.from_list([quiz_row(i, category=i % 2) for i in range(4)])
    rows = rows.remove_columns("id").cast_column("category", ClassLabel(names=["bar", "line"]))
    evaluate = ModalityGapEvaluator(rows, conditions=["text_rich", "vision_centric"], show_progress=False)
    evaluate(FakeGenerator(lambda r: str(number_of(r)) if is_rich(r) and number_of(r) else "99"), tmp_path / "e")
    found = read_run(tmp_path / "e").evaluations[0]
    assert [(example.name, example.category) for example in found.examples] == [
        ("row 1", "1"),
        ("row 2", "0"),
        ("row 3", "1"),
    ]
    change(tmp_path / "e" / "gap.json", "examples", 0, "category", 1)  # as an earlier version wrote it
    assert read_run(tmp_path / "e").evaluations[0].examples[0].category == "1"


@pytest.mark.parametrize(
    ("changed", "message"), BROKEN, ids=lambda value: value[:40] if isinstance(value, str) else ""
)
def test_a_broken_file_is_named_with_its_field(tmp_path, changed, message):
    folder = MadeEvaluation(tmp_path / "evals/after", AFTER, rows=30, examples=2).write()
    change(folder / "gap.json", *changed)
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        read_run(tmp_path)
    assert str(folder / "gap.json") in str(raised.value)


def test_a_broken_text_json_is_named_with_its_field(tmp_path):
    text = {"gsm8k": (0.4, 0.1)}
    folder = MadeEvaluation(tmp_path / "evals/after", AFTER, rows=30, text=text).write()
    change(folder / "text.json", "regret", "tasks", "gsm8k", "low", "little")
    with pytest.raises(ValueError, match=r"text\.json: `regret\.tasks\.gsm8k\.low` must be a number, got 'little'"):
        read_run(tmp_path)


def test_unknown_fields_and_absent_parts_are_no_errors(tmp_path):
    write_json(
        tmp_path / "evals/after/gap.json", {"format": 1, "kind": "gap", "news": [1], "conditions": {"blind": {}}}
    )
    write_json(tmp_path / "run.json", {"format": 1, "kind": "run", "more": {"x": 1}, "seed": None})
    run = read_run(tmp_path)
    assert run.name == tmp_path.name
    assert run.last.conditions == {}
    assert run.last.gap is None


def test_runs_have_names_of_their_own(tmp_path):
    folders = [write_record(tmp_path / folder, "the same").parent for folder in ("a", "b")]
    assert [run.name for run in read_runs(folders)] == ["the same (1)", "the same (2)"]
    with pytest.raises(ValueError, match="is given twice"):
        read_runs([folders[0], folders[1] / "../a"])
