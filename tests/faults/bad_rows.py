"""Faults of rows in a run that leaves them out."""

import json
import warnings

import pytest

from tests.faults.fault import Fault, Scene
from tests.faults.images import encoded, pairs_with
from tests.testing.bad_rows import unreadable
from tests.testing.processes import launch
from tests.testing.tiny import picture, tiny_llava
from trl_modality import PairedCollator, PairError
from trl_modality.data import PairRows
from trl_modality.data.quarantine import Quarantine


BROKEN = encoded(picture(1))[:-40]
SKIP = {"bad_rows": "skip", "train_sampling_strategy": "sequential", "check_rows": 1}
WORKER = """
import sys, torch
from tests.faults.bad_rows import SKIP
from tests.testing.bad_rows import unreadable
from tests.testing.tiny import tiny_llava
from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer

torch.set_num_threads(1)
args = ModalityBalancedSFTConfig(
    sys.argv[1], per_device_train_batch_size=2, max_steps=3, logging_steps=1, learning_rate=1e-2, use_cpu=True,
    bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no", disable_tqdm=True, **SKIP
)
model, processor = tiny_llava()
trainer = ModalityBalancedSFTTrainer(model, args, train_dataset=unreadable([2, 3, 5], 12), processing_class=processor)
trainer.train()
if trainer.is_world_process_zero():
    logs = [log for log in trainer.state.log_history if "loss" in log]
    torch.save([(log["loss"], log.get("bad_rows")) for log in logs], sys.argv[1] + ".pt")
trainer.end()
"""


def listed(scene: Scene) -> list[dict]:
    """The lines of the list of bad rows."""
    return [json.loads(line) for line in (scene.output / "bad_rows.jsonl").read_text().splitlines()]


def one_is_listed(scene: Scene) -> None:
    (row,) = listed(scene)
    assert (row["dataset"], row["index"], row["id"], row["field"]) == ("train_dataset", 5, "pair-5", "images")
    assert "image file is truncated" in row["reason"]


def rows_listed(*rows, dataset="train_dataset"):
    def check(scene: Scene) -> None:
        assert sorted((row["dataset"], row["index"]) for row in listed(scene)) == [(dataset, i) for i in rows]

    return check


def trained(rows=None, *, seen, **options):
    """A run that leaves rows out, and how many of them its logs tell of at each step."""

    def provoke(scene: Scene) -> None:
        dataset = pairs_with(BROKEN, at=5, count=8) if rows is None else rows()
        trainer = scene.trainer(dataset, **{**SKIP, **options})
        trainer.train()
        found = [log.get("bad_rows", 0) for log in trainer.state.log_history if "loss" in log]
        assert found == seen

    return provoke


def _in_evaluation(scene: Scene) -> None:
    trainer = scene.trainer(eval_dataset=unreadable([0, 1], 3), per_device_eval_batch_size=2, **SKIP)
    metrics = trainer.evaluate()
    assert (metrics["eval_bad_rows"], metrics["eval_text_rich_tokens"]) == (2, 6)


def _own_collator(scene: Scene) -> None:
    model, processor = tiny_llava()
    given = {"model": model, "processing_class": processor, "data_collator": PairedCollator(processor)}
    trainer = scene.trainer(unreadable([5]), **SKIP, **given)
    with pytest.raises(PairError, match="row 5: the transform"):
        trainer.train()


def _replayed(scene: Scene) -> None:
    rows = pairs_with(BROKEN)
    texts = rows.map(lambda row: {"text": "<image>red?"}).select_columns(["images", "text"])
    scene.trainer(replay_dataset=texts, replay_ratio=0.3, max_steps=8)


def _none_is_good(scene: Scene) -> None:
    collate = PairedCollator(tiny_llava()[1], quarantine=Quarantine(scene.output / "bad_rows.jsonl"))
    rows = pairs_with(BROKEN, at=0, count=1)
    collate([{**PairRows(rows)[0], "__index__": i} for i in (1, 2)])


def _on_two_ranks(scene: Scene) -> None:
    logs = launch(scene.folder, WORKER, "run", 2)
    assert [bad for _, bad in logs] == [2, 1, None]
    assert all(loss > 0 for loss, _ in logs)
    warnings.warn(listed(scene)[0]["reason"], stacklevel=1)  # what the other process has said


FAULTS = [
    Fault(
        "a bad row",
        "in training",
        r"`train_dataset` row 5, .* The row is left out \(`bad_rows='skip'`\); all such rows are in '.*bad_rows.jsonl",
        trained(seen=[0, 0, 1, 0]),
        left="the row is in `bad_rows.jsonl` and not in its step; all steps are made",
        check=one_is_listed,
        warns=True,
    ),
    Fault(
        "a bad row that data loader workers meet in several epochs",
        "in training",
        "",  # the workers say it, in processes of their own
        trained(seen=[0, 0, 1, 0] * 2, dataloader_num_workers=2, max_steps=8),
        left="the row is in `bad_rows.jsonl` once",
        check=one_is_listed,
        warns=True,
    ),
    Fault(
        "a batch of bad rows alone",
        "in training",
        r"`train_dataset` row 2: the transform of the dataset raises on it \(OSError: the disk is gone\)",
        trained(lambda: unreadable([2, 3]), seen=[0, 2, 0, 0]),
        left="both rows are in `bad_rows.jsonl`; their step has a gradient of 0",
        check=rows_listed(2, 3),
        warns=True,
    ),
    Fault(
        "a batch of bad rows alone on one of two ranks",
        "in training",
        r"`train_dataset` row [23]: the transform of the dataset raises on it",
        _on_two_ranks,
        left="the rows are in one `bad_rows.jsonl`; the ranks go on together",
        check=rows_listed(2, 3, 5),
        warns=True,
        marks=(pytest.mark.slow, pytest.mark.distributed),
    ),
    Fault(
        "more bad rows than are allowed",
        "in training",
        r"3 of the 8 rows that this process has trained on are bad, more than `bad_rows_limit`=2 allows\. "
        "They are listed in '.*bad_rows.jsonl': mend or remove them, or raise the limit; then resume",
        lambda scene: scene.trainer(unreadable([3, 4, 7]), bad_rows_limit=2, **SKIP).train(),
        left="the rows are in `bad_rows.jsonl`",
        check=rows_listed(3, 4, 7),
    ),
    Fault(
        "bad rows among those that are checked",
        "before the first step",
        r"1 of the 8 rows of `train_dataset` that were checked are bad\. The first: .* row 5.* They are left out",
        lambda scene: scene.trainer(pairs_with(BROKEN, at=5, count=8), **SKIP | {"check_rows": -1}),
        left="the row is in `bad_rows.jsonl`",
        check=one_is_listed,
        warns=True,
    ),
    Fault(
        "bad rows alone among those that are checked",
        "before the first step",
        r"2 of the 2 rows of `eval_dataset` that were checked are bad\. .* more than `bad_rows_limit`=0.01 allows",
        lambda scene: scene.trainer(eval_dataset=unreadable([0, 1], 2), **SKIP | {"check_rows": -1}),
    ),
    Fault(
        "a batch of bad rows alone in an evaluation",
        "in an evaluation",
        r"`eval_dataset` row 0: .* The row is left out",
        _in_evaluation,
        left="the metrics are of the other rows, and have the number of bad ones (`eval_bad_rows`)",
        check=rows_listed(0, 1, dataset="eval_dataset"),
        warns=True,
    ),
    Fault(
        "bad rows before any good one",
        "in training",
        r"row 1, .*: it is bad, like all 2 row\(s\) of its batch, and no row was good before it: image 0 cannot be "
        ".*Mend the first rows, or let `check_rows` find a good one",
        _none_is_good,
    ),
    Fault(
        "a collator of one's own without a list of bad rows",
        "before the first step",
        r"`bad_rows='skip'` is not used: the given `data_collator` has no `quarantine`, and stops at bad rows",
        _own_collator,
        left="the run stops at a bad row",
        warns=True,
    ),
    Fault(
        "a bad row that is the first one",
        "before the first step",
        r"`train_dataset` row 0, .*It is the first row, which `SFTTrainer` reads itself: it is never left out",
        lambda scene: scene.trainer(pairs_with(BROKEN, at=0), **SKIP),
    ),
    Fault(
        "a bad row in an evaluation that stops at bad rows",
        "in an evaluation",
        r"`eval_dataset` row 2, id='pair-2': image 0 cannot be read from its [\d,]+ bytes",
        lambda scene: scene.trainer(eval_dataset=pairs_with(BROKEN), check_rows=1).evaluate(),
    ),
    Fault(
        "a bad image among the rows that are replayed",
        "before the first step",
        r"`replay_dataset` row 2: image 0 cannot be read from its [\d,]+ bytes",
        _replayed,
    ),
    Fault(
        "a `bad_rows_limit` below 0",
        "when the config is made",
        r"`bad_rows_limit` must be a finite number ≥ 0, got -1; below 1 it is a share",
        lambda scene: scene.config(bad_rows_limit=-1),
    ),
    Fault(
        "a policy for bad rows that does not exist",
        "when the config is made",
        r"`bad_rows` must be one of error, skip, got 'drop'",
        lambda scene: scene.config(bad_rows="drop"),
    ),
    Fault(
        "a `data_timeout` that is no time",
        "when the config is made",
        r"`data_timeout` must be a finite number of seconds ≥ 0, got nan; 0 waits for ever",
        lambda scene: scene.config(data_timeout=float("nan")),
    ),
]
