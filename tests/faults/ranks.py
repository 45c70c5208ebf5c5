"""Runs on several processes."""

from functools import partial

import pytest

from tests.faults.fault import Fault, Scene
from tests.testing.forks import ROOT, run_script


SCRIPT = ROOT / "tests" / "testing" / "disagreeing.py"


def _on_ranks(what: str, ranks: int, scene: Scene) -> None:
    """The error of the first rank; every rank must be told, and none may wait for another."""
    run_script(SCRIPT, str(scene.folder), what, ranks=ranks, timeout=120).check()
    told = [(scene.folder / f"{rank}.txt").read_text() for rank in range(ranks)]
    assert all(told), told
    assert len(set(told)) == 1 or what == "unreadable", told
    raise ValueError(told[0])


def _not_a_step(scene: Scene) -> None:
    assert scene.checkpoints() == []
    assert not (scene.output / "run.json").exists()


def _rows(name: str, what: str, seen: str, ranks: int = 2) -> Fault:
    """A row of two or three processes that do not agree."""
    return Fault(
        name,
        "before the first step",
        seen,
        partial(_on_ranks, what, ranks),
        left="no step is trained; every process ends with the error",
        check=_not_a_step,
        marks=(pytest.mark.distributed,),
    )


def _others(name: str, what: str, seen: str) -> Fault:
    return Fault(name, "on resuming", seen, partial(_on_ranks, what, 2), marks=(pytest.mark.distributed,))


FAULTS = [
    _rows(
        "16 rows on one rank, 17 on the other",
        "rows",
        "do not agree.*`train_dataset.rows` is 16 on rank 0, 17 on rank 1",
    ),
    _rows("other rows on one of two ranks", "other rows", "`train_dataset.content` is '.*' on rank 0, '.*' on rank 1"),
    _rows(
        "the rows in another order on one of three ranks", "order", "content` is .* on rank 0, .* on rank 2", ranks=3
    ),
    _rows("another `kl_weight` on one of two ranks", "kl_weight", "`kl_weight` is 1.0 on rank 0, 0.25 on rank 1"),
    _rows(
        "another learning rate on one of three ranks",
        "learning_rate",
        "`learning_rate` is 0.001 on rank 0, 0.001 on rank 1, 0.5 on rank 2",
        ranks=3,
    ),
    _rows(
        "another vocabulary on one of two ranks", "tokenizer", r"`tokenizer.tokens` is \d+ on rank 0, \d+ on rank 1"
    ),
    _rows("a part of the model frozen on one of two ranks", "model", r"`model.trainable.tensors` is \d+ on rank 0"),
    _rows(
        "rows that one of two ranks cannot read",
        "unreadable",
        "rank 1 cannot say what it trains on: OSError: the disk",
    ),
    _rows("an output folder that is in use, on two ranks", "locked", "is in use by a training run"),
    _others(
        "a damaged checkpoint on two ranks", "damaged", "checkpoint-2 cannot be resumed from: model.safetensors has"
    ),
    _others("damaged checkpoints only, on two ranks", "all damaged", "none of the checkpoints in"),
    _others("a new run in an old folder on two ranks", "old folder", "has checkpoints of another run"),
]
