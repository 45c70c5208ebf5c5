"""Which run a training is: its folder, its id, what it goes on from."""

import json
import re
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from datasets import Dataset
from transformers.trainer_utils import HPSearchBackend

from tests.testing.tiny import pair_dataset, pair_row, tiny_llava, written_out
from trl_modality.training.checkpoints import run_ids
from trl_modality.training.fingerprint import Difference, differences, run_fingerprint
from trl_modality.training.manifest import read_manifest
from trl_modality.training.run_record import versions


SAVING = {"save_strategy": "steps", "save_steps": 1}


class Trial(dict):
    """As of a library of searches."""

    number: int
    params: ClassVar[dict] = {}


def of_run(args):
    return json.loads(Path(args.output_dir, "run.json").read_text())


def test_a_run_has_one_id(config, make_trainer):
    args = config(max_steps=3, **SAVING)
    make_trainer(args).train()
    first = of_run(args)["run_id"]
    assert set(run_ids(args.output_dir).values()) == {first}
    make_trainer(args).train(resume_from_checkpoint=f"{args.output_dir}/checkpoint-2")
    assert of_run(args)["run_id"] == first
    assert set(run_ids(args.output_dir).values()) == {first}


def test_a_trainer_may_train_twice_and_is_another_run_then(config, make_trainer):
    args = config(**SAVING)
    trainer = make_trainer(args)
    trainer.train()
    first = of_run(args)["run_id"]
    trainer.train()
    assert of_run(args)["run_id"] != first
    assert set(run_ids(args.output_dir).values()) == {of_run(args)["run_id"]}


def test_a_run_that_saves_nothing_may_use_any_folder(config, make_trainer):
    args = config(**SAVING)
    make_trainer(args).train()
    before = run_ids(args.output_dir)
    make_trainer(config(save_strategy="no")).train()
    assert run_ids(args.output_dir) == before


def test_a_run_without_pairs_that_saves_nothing_writes_nothing(config, make_trainer):
    args = config(save_strategy="no")
    rows = Dataset.from_list(written_out([pair_row(i) for i in range(4)]))
    make_trainer(args, rows).train()
    assert not Path(args.output_dir).exists() or not list(Path(args.output_dir).iterdir())


def test_resuming_at_the_last_step_ends_at_once(config, make_trainer):
    """In the middle of an epoch, where the host would do one step more."""
    args = config(max_steps=3, **SAVING)
    trainer = make_trainer(args, pair_dataset(24))
    trainer.train()
    again = make_trainer(args, pair_dataset(24), model=tiny_llava(seed=9)[0])
    output = again.train(resume_from_checkpoint=True)
    assert output.global_step == again.state.global_step == 3
    for a, b in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert again.train(resume_from_checkpoint=True).global_step == 3


def test_trials_of_a_search_have_folders_of_their_own(config, make_trainer, monkeypatch):
    monkeypatch.setattr("transformers.integrations.hp_params", dict)  # which looks for the libraries of searches
    trainer = make_trainer(config(**SAVING))
    trainer.hp_search_backend = HPSearchBackend.OPTUNA
    trainer.hp_space, trainer.hp_name = dict, None
    for number, rate in enumerate((0.1, 0.01)):
        trial = Trial(learning_rate=rate)
        trial.number = number
        trainer.train(trial=trial)
    folders = [Path(trainer.args.output_dir, f"run-{number}") for number in range(2)]
    ids = [set(run_ids(folder).values()) for folder in folders]
    assert [len(each) for each in ids] == [1, 1]
    assert ids[0] != ids[1]
    rates = [read_manifest(folder / "checkpoint-1").fingerprint["learning_rate"] for folder in folders]
    assert rates == [0.1, 0.01]


def test_an_override_may_name_a_part_or_the_whole(config, make_trainer):
    args = config(max_steps=3, **SAVING)
    make_trainer(args).train()

    def go_on(*names):
        processor = tiny_llava()[1]
        processor.image_processor.image_mean = [0.1, 0.2, 0.3]
        trainer = make_trainer(config(max_steps=3, resume_overrides=list(names), **SAVING), processing_class=processor)
        trainer.train(resume_from_checkpoint=f"{args.output_dir}/checkpoint-2")

    go_on("image_processor.image_mean")
    go_on("image_processor", "kl_weight")
    with pytest.raises(ValueError, match=r"`image_processor.image_mean` was .* and is \[0.1, 0.2, 0.3\]"):
        go_on("image_processor.image_std")
    assert [each["name"] for each in of_run(args)["overrides"]] == ["image_processor.image_mean"] * 2


def test_another_version_is_no_difference_but_is_told(config, make_trainer, monkeypatch):
    args = config(max_steps=2, **SAVING)
    make_trainer(args).train()
    ours = versions()
    monkeypatch.setattr("trl_modality.training.resume.versions", lambda: {**ours, "torch": "9.9"})
    checkpoint = f"{args.output_dir}/checkpoint-1"
    with pytest.raises(ValueError, match=f"it was saved with torch {re.escape(ours['torch'])} and not 9.9"):
        make_trainer(config(max_steps=2, seed=7, **SAVING)).train(resume_from_checkpoint=checkpoint)
    make_trainer(args).train(resume_from_checkpoint=checkpoint)


def test_a_dataset_that_is_overridden_is_trained_on(config, make_trainer):
    args = config(max_steps=4, **SAVING)
    make_trainer(args).train()
    trainer = make_trainer(config(max_steps=4, resume_overrides=["train_dataset"], **SAVING), pair_dataset(20, 50))
    trainer.train(resume_from_checkpoint=f"{args.output_dir}/checkpoint-2")
    assert trainer.state.global_step == 4
    assert {each["name"] for each in of_run(args)["overrides"]} == {"train_dataset.content", "train_dataset.rows"}


def test_fingerprints_are_those_of_another_process(config, make_trainer):
    """Of the same run made again, with nothing in common but what is given."""
    one, other = (make_trainer(config(), replay_dataset=None) for _ in range(2))
    assert run_fingerprint(one, {}) == run_fingerprint(other, {})


def test_sections_come_and_go_and_keys_do_with_versions(config):
    args = config()
    saved = {"model": {"class": "A", "config": {"x": 1}}, "adapter": {"r": 4}}
    now = {"model": {"class": "A", "config": {"x": 1, "y": 2}}}
    for same_versions, expected in ((True, {"model.config.y", "adapter.r"}), (False, {"adapter.r"})):
        found = differences(saved, now, args, same_versions=same_versions)
        assert {each.name for each in found} == expected
    assert differences({"seed": 1}, {"seed": 2}, args, same_versions=False) == [Difference("seed", 1, 2)]
    assert differences({"a_field_of_old": 1}, {}, args, same_versions=False) == []
