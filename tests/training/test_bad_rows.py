"""A run that leaves bad rows out trains on the others as if its batches had never had them, and resumes exactly."""

import pytest
import torch
from datasets import Dataset, concatenate_datasets

from tests.testing.bad_rows import unreadable
from tests.testing.tiny import pair_dataset, tiny_llava
from trl_modality import ModalityBalancedSFTTrainer
from trl_modality.training.bad_rows import BadRowBudget, TooManyBadRows


SKIP = {"bad_rows": "skip", "train_sampling_strategy": "sequential", "check_rows": 1, "optim": "adamw_torch"}


def train(args, dataset, resume=None, **given):
    model, processor = tiny_llava()
    trainer = ModalityBalancedSFTTrainer(
        model.double(), args, train_dataset=dataset, processing_class=processor, **given
    )
    trainer.train(resume)
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    return [log["loss"] for log in trainer.state.log_history if "loss" in log], weights


def assert_same(run, other):
    assert run[0] == other[0]
    for name, weight in run[1].items():
        assert torch.equal(weight, other[1][name]), name


def test_a_step_is_that_of_its_other_rows(config):
    """Rows 2 and 3 of steps of four are bad: the first step is that of rows 0 and 1."""
    args = {**SKIP, "max_steps": 1}
    skipped = train(config(**args, per_device_train_batch_size=4), unreadable([2, 3]))
    others = train(config(**args, per_device_train_batch_size=2), pair_dataset(8))
    assert_same(skipped, others)


@pytest.mark.parametrize("bad", [[4], [4, 5]], ids=["one", "a whole step"])
def test_a_resumed_run_is_the_same(config, tmp_path, bad):
    options = {**SKIP, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    whole = train(config(**options), unreadable(bad))
    rest = train(config(**options), unreadable(bad), str(tmp_path / "run" / "checkpoint-2"))
    assert_same(whole, rest)


def test_a_resumed_run_has_left_out_what_it_has(config, tmp_path):
    """Else a run that is resumed often enough would never come to its limit."""
    options = {**SKIP, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 1, "max_steps": 4}
    args = config(**options, bad_rows_limit=2)
    for resume in (None, str(tmp_path / "run" / "checkpoint-3")):
        with pytest.raises(TooManyBadRows, match="^3 of the 8 rows"):
            train(args, unreadable([1, 5, 7]), resume)
    train(config(**options, bad_rows_limit=3), unreadable([1, 5, 7]), resume)


@pytest.mark.parametrize(("ranks", "counts"), [(2, [2, 7]), (1, [3, 12]), (3, [1, 4])])
def test_counts_are_shared_by_other_numbers_of_processes(config, ranks, counts):
    budget = BadRowBudget(config())
    budget.load([[1, 5], [2, 7]], rank=ranks - 1, ranks=ranks)
    assert budget.counts() == counts


def test_nothing_changes_where_no_row_is_bad(config):
    options = {**SKIP, "per_device_train_batch_size": 2, "max_steps": 3}
    skipping = train(config(**options), pair_dataset(8))
    raising = train(config(**options | {"bad_rows": "error"}), pair_dataset(8))
    assert_same(skipping, raising)


def test_replayed_rows_may_be_bad_too(config, tmp_path):
    texts = Dataset.from_dict({"text": ["red=1 green=2", "", "red=3"]})
    args = config(**SKIP, replay_ratio=0.5, max_steps=3)
    losses, _ = train(args, pair_dataset(8), replay_dataset=texts)
    assert len(losses) == 3
    assert '"dataset": "replay_dataset", "index": 1,' in (tmp_path / "run" / "bad_rows.jsonl").read_text()


def test_rows_of_a_stream_may_be_bad_too(config, tmp_path):
    rows = concatenate_datasets([pair_dataset(3), pair_dataset(1, 9).map(lambda row: {"completion": []})])
    args = config(**SKIP, max_steps=2)
    losses, _ = train(args, rows.to_iterable_dataset())
    assert len(losses) == 2
    assert (
        '"dataset": "train_dataset", "index": 3, "id": "pair-9", "field": "completion"'
        in (tmp_path / "run" / "bad_rows.jsonl").read_text()
    )
