"""`gap_eval_rows`: rows of the evaluation datasets, asked and graded at every evaluation."""

import json
import os
from pathlib import Path

import pytest
from datasets import Dataset, Features

from tests.testing.processes import launch
from tests.testing.tiny import MESSAGES, answered_dataset, pair_dataset, pair_row, tiny_llava, written_out
from trl_modality import ModalityBalancedSFTTrainer
from trl_modality.evaluation.gap import ModalityGapEvaluator
from trl_modality.evaluation.models.generation import TransformersGenerator
from trl_modality.training.gap import pairs_of


def trainer_of(args, eval_dataset, **kwargs):
    model, processor = tiny_llava()
    return ModalityBalancedSFTTrainer(
        model, args, train_dataset=pair_dataset(8), eval_dataset=eval_dataset, processing_class=processor, **kwargs
    )


def evaluating(config, **kwargs):
    return config(max_steps=2, eval_strategy="steps", eval_steps=1, gap_eval_max_new_tokens=4, **kwargs)


def test_metrics_and_files_are_those_of_the_evaluator(config, tmp_path):
    rows = answered_dataset(9)
    # What the model says of the first row before it is trained: something is right
    model, processor = tiny_llava()
    asked = ModalityGapEvaluator(rows.select([0]), conditions=["vision_centric"], show_progress=False)
    said = asked(TransformersGenerator(model, processor, max_new_tokens=4)).answers[0]["answer"]
    rows = rows.map(lambda row: {"answer": said or "1"})
    args = evaluating(config, gap_eval_rows=3, learning_rate=1e-5)
    trainer = trainer_of(args, rows)
    trainer.train()
    logged = [log for log in trainer.state.log_history if "eval_accuracy_gap" in log]
    assert [log["step"] for log in logged] == [1, 2]
    folder = Path(args.output_dir, "evals", "step-2")
    gap = json.loads((folder / "gap.json").read_text())
    assert gap["name"] == "step-2"
    assert gap["rows"] == 3
    for view in ("text_rich", "vision_centric"):
        assert logged[1][f"eval_{view}_accuracy"] == gap["conditions"][view]["accuracy"]
    assert logged[1]["eval_accuracy_gap"] == gap["gap"]["estimate"]
    assert logged[1]["eval_vision_centric_accuracy"] > 0
    # Again outside of training, of the same weights: the same, and nothing is written
    before = {file: os.stat(file).st_mtime_ns for file in folder.rglob("*")}
    metrics = trainer.evaluate()
    assert {name: metrics[name] for name in metrics if "accuracy" in name} == {
        name: logged[1][name] for name in metrics if "accuracy" in name
    }
    assert {file: os.stat(file).st_mtime_ns for file in folder.rglob("*")} == before
    assert [file.name for file in folder.parent.iterdir() if "step" not in file.name] == []


def test_each_set_of_several_has_its_own(config):
    sets = {"charts": answered_dataset(4), "plane geometry": answered_dataset(2)}
    sets["text"] = Dataset.from_list([{"prompt": "1 +", "completion": " 1", "images": []}])
    args = evaluating(config, gap_eval_rows=-1, metric_for_best_model="eval_charts_balanced_accuracy")
    trainer = trainer_of(args, sets)
    metrics = trainer.evaluate()
    assert {name for name in metrics if name.endswith("accuracy_gap")} == {
        "eval_charts_accuracy_gap",
        "eval_plane geometry_accuracy_gap",
    }
    trainer.train()
    evals = Path(args.output_dir, "evals")
    names = [f"step-{step}-{name}" for step in (1, 2) for name in ("charts", "plane_geometry")]
    assert sorted(folder.name for folder in evals.iterdir()) == names
    assert [json.loads((evals / name / "gap.json").read_text())["rows"] for name in names] == [4, 2, 4, 2]
    # Another set than those of the trainer
    assert trainer.evaluate(answered_dataset(1))["eval_accuracy_gap"] in (-1.0, 0.0, 1.0)
    assert "eval_charts_accuracy_gap" in trainer.evaluate("charts", metric_key_prefix="eval_charts")
    # Predictions are none of its business
    assert not any("accuracy_gap" in name for name in trainer.predict(answered_dataset(2)).metrics)


def test_rows_are_spread_over_the_pairs():
    plain = {"prompt": [{"role": "user", "content": "1"}], "text_rich_prompt": None, "vision_centric_prompt": None}
    features = Features({**answered_dataset(1).features, "prompt": MESSAGES})
    pairs = [{**pair_row(i), "answer": "1", "prompt": None} for i in range(10)]
    mixed = [row for pair in pairs for row in ({**pair, **plain}, pair)]
    dataset = Dataset.from_list(mixed, features=features)
    assert pairs_of(dataset, 3, "x")["id"][:] == ["pair-0", "pair-3", "pair-6"]
    assert pairs_of(dataset, -1, "x")["id"][:] == pairs_of(dataset, 99, "x")["id"][:] == [row["id"] for row in pairs]
    assert [row["id"] for row in pairs_of(dataset.to_iterable_dataset(), 3, "x")] == ["pair-0", "pair-1", "pair-2"]
    with pytest.raises(ValueError, match="`x` has the columns of pairs, but no row is one"):
        pairs_of(dataset.select([0, 2]), 1, "x")


def test_of_a_stream_the_first_rows_are_asked(config):
    args = evaluating(config, gap_eval_rows=3)
    metrics = trainer_of(args, answered_dataset(5).to_iterable_dataset()).evaluate()
    stored = trainer_of(args, answered_dataset(3)).evaluate()
    for view in ("text_rich", "vision_centric"):
        assert metrics[f"eval_{view}_accuracy"] == stored[f"eval_{view}_accuracy"]
    with pytest.raises(ValueError, match="`eval_dataset` is a stream, and `gap_eval_rows=-1` would keep all of it"):
        trainer_of(evaluating(config, gap_eval_rows=-1), answered_dataset(5).to_iterable_dataset())


@pytest.mark.parametrize(
    ("options", "dataset", "message"),
    [
        (
            {},
            lambda: pair_dataset(3),
            "asks rows of `eval_dataset`.* id='pair-0': `answer` is missing",
        ),
        ({}, lambda: Dataset.from_list([{"text": "1 2"}]), "`eval_dataset`, which has no pairs"),
        ({}, lambda: None, "`eval_dataset`, which is missing"),
        ({"gap_evaluator": "given"}, lambda: answered_dataset(2), "both given"),
    ],
)
def test_what_cannot_be_asked_fails_at_the_start(config, options, dataset, message):
    if "gap_evaluator" in options:
        options = {"gap_evaluator": ModalityGapEvaluator(answered_dataset(2), show_progress=False)}
    args = config(gap_eval_rows=2)
    with pytest.raises(ValueError, match=message):
        trainer_of(args, dataset(), **options)


def test_an_evaluator_of_ones_own(config):
    """With controls; asked once for an evaluation."""
    evaluator = ModalityGapEvaluator(answered_dataset(3), show_progress=False)
    metrics = trainer_of(evaluating(config), pair_dataset(3), gap_evaluator=evaluator).evaluate()
    assert {"eval_blind_accuracy", "eval_shuffled_accuracy", "eval_accuracy_gap"} <= metrics.keys()
    rows = Dataset.from_list(written_out([pair_row(0), pair_row(1)]))
    model, processor = tiny_llava()
    options = {"train_dataset": rows, "eval_dataset": rows, "processing_class": processor}
    plain = ModalityBalancedSFTTrainer(model, evaluating(config), gap_evaluator=evaluator, **options)
    assert plain.evaluate()["eval_accuracy_gap"] == metrics["eval_accuracy_gap"], "also where no row is a pair"
    with pytest.raises(ValueError, match="would do so again for each set of `eval_dataset`"):
        trainer_of(evaluating(config), {"charts": pair_dataset(3)}, gap_evaluator=evaluator)
    measures_nats = ModalityGapEvaluator(answered_dataset(3), nats=True, show_progress=False)
    with pytest.raises(ValueError, match=r"measures nats.*Leave them out"):
        trainer_of(evaluating(config), pair_dataset(3), gap_evaluator=measures_nats)


@pytest.mark.parametrize(("name", "value"), [("rows", -2), ("max_new_tokens", 0), ("tolerance", 1.0)])
def test_options_are_checked(config, name, value):
    with pytest.raises(ValueError, match=f"`gap_eval_{name}` must be .*, got {value}"):
        config(**{f"gap_eval_{name}": value})


WORKER = """
import json, sys
import torch
from datasets import Dataset
from tests.testing.tiny import answered_dataset, tiny_llava
from transformers import EarlyStoppingCallback
from trl_modality import GapCallback, ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer
from trl_modality.evaluation.gap import ModalityGapEvaluator

torch.set_num_threads(1)
out, batch_size = sys.argv[1], int(sys.argv[2])
args = ModalityBalancedSFTConfig(
    out, per_device_train_batch_size=batch_size, per_device_eval_batch_size=2, max_steps=2, logging_steps=1,
    eval_strategy="steps", eval_steps=1, learning_rate=1e-2, optim="sgd", use_cpu=True, bf16=False,
    gradient_checkpointing=False, report_to="none", save_strategy="no", disable_tqdm=True,
    gap_eval_rows=7, gap_eval_max_new_tokens=4,
)
trainer = ModalityBalancedSFTTrainer(
    tiny_llava()[0].double(), args, train_dataset=answered_dataset(16, first=0), eval_dataset=answered_dataset(9),
    processing_class=tiny_llava()[1],
)
evaluator = ModalityGapEvaluator(answered_dataset(3, first=80), batch_size=2, show_progress=False)
trainer.add_callback(GapCallback(trainer, evaluator, every_n_steps=2, max_new_tokens=4, name="beside"))
trainer.train()
if trainer.is_world_process_zero():
    torch.save(trainer.state.log_history, out + ".pt")
trainer.end()
"""


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_measure_what_one_does(tmp_path):
    """Each answers its share: 7 and 3 rows in batches of 2, which neither can split evenly."""
    one, two = (launch(tmp_path, WORKER, f"run-{n}", n, str(8 // n)) for n in (1, 2))
    logs = [[log for log in logs if any(name.endswith("accuracy_gap") for name in log)] for logs in (one, two)]
    assert [(log["step"], "eval_beside_accuracy_gap" in log) for log in logs[0]] == [(1, False), (2, True), (2, False)]
    measured = [name for log in logs[0] for name in log if name.endswith(("accuracy", "gap"))]
    for log, other in zip(*logs, strict=True):
        assert {name: log[name] for name in measured if name in log} == {
            name: other[name] for name in measured if name in other
        }
    answers = [(tmp_path / f"run-{n}" / "evals" / "step-1" / "answers.jsonl").read_text().splitlines() for n in (1, 2)]
    assert answers[0][1:] == answers[1][1:], "the same answers, in the same order"
    assert len(answers[0]) == 1 + 2 * 7
