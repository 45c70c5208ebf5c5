"""Faults of rows in a run that leaves them out."""

import json

from tests.faults.fault import Fault, Scene
from tests.faults.images import encoded, pairs_with
from tests.testing.tiny import picture


BROKEN = encoded(picture(1))[:-40]
SKIP = {"bad_rows": "skip", "train_sampling_strategy": "sequential", "check_rows": 1, "per_device_train_batch_size": 2}


def listed(scene: Scene) -> list[dict]:
    """The lines of the list of bad rows."""
    return [json.loads(line) for line in (scene.output / "bad_rows.jsonl").read_text().splitlines()]


def one_is_listed(scene: Scene) -> None:
    (row,) = listed(scene)
    assert (row["dataset"], row["index"], row["id"], row["field"]) == ("train_dataset", 5, "pair-5", "images")
    assert "image file is truncated" in row["reason"]


def run(rows=None, **options):
    def provoke(scene: Scene) -> None:
        dataset = pairs_with(BROKEN, at=5, count=8) if rows is None else rows()
        trainer = scene.trainer(dataset, **SKIP, **options)
        trainer.train()
        assert trainer.state.global_step == 4
        assert sum(log.get("bad_rows", 0) for log in trainer.state.log_history) > 0

    return provoke


FAULTS = [
    Fault(
        "a bad row",
        "in training",
        r"`train_dataset` row 5, .* The row is left out \(`bad_rows='skip'`\); all such rows are in '.*bad_rows.jsonl'",
        run(),
        left="the row is in `bad_rows.jsonl` and was left out, the steps are made",
        check=one_is_listed,
        warns=True,
    ),
    Fault(
        "a bad row that is met in several epochs, by several data loader workers",
        "in training",
        r"",
        run(dataloader_num_workers=2, max_steps=12),
        left="the row is in `bad_rows.jsonl` once",
        check=one_is_listed,
        warns=True,
    ),
]
