"""Where a training begins again: from a checkpoint, a second time, after an epoch that was stopped."""

import json

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from tests.testing.tiny import pair_dataset
from trl_modality.views import View


TEXT = [{"text": f"{i} + {i} = {2 * i}"} for i in range(5)]
BOTH = (View.TEXT_RICH, View.VISION_CENTRIC)


def logs_of(trainer):
    return [log for log in trainer.state.log_history if "loss" in log]


def test_adaptive_follows_the_gap_and_resumes(config, tmp_path, make_trainer):
    def make(name):
        options = {"curriculum": "adaptive", "curriculum_window": 2, "curriculum_target_gap": 0.01, "max_steps": 10}
        args = config(output_dir=str(tmp_path / name), save_strategy="steps", save_steps=3, kl_weight=0.5, **options)
        return make_trainer(args, pair_dataset(24))

    whole = make("whole")
    whole.train()
    logs = logs_of(whole)
    shares = [log["vision_centric_share"] for log in logs]
    assert shares[:4] == [0.5] * 4
    for window in range(3):
        of_window = logs[2 * window : 2 * window + 2]
        tokens = [sum(log[f"{view}_tokens"] for log in of_window) for view in BOTH]
        nll = [
            sum(log[f"{view}_nll"] * log[f"{view}_tokens"] for log in of_window) / n
            for view, n in zip(BOTH, tokens, strict=True)
        ]
        change = min(max(0.5 * (nll[1] - nll[0] - 0.01), -0.1), 0.1)
        assert shares[2 * window + 4] == pytest.approx(shares[2 * window + 2] + change, abs=1e-6)
    resumed = make("resumed")
    # In the middle of a window, of which a part is measured
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for a, b in zip(logs[3:], logs_of(resumed)[3:], strict=True):
        assert (a["loss"], a["vision_centric_share"]) == (b["loss"], b["vision_centric_share"])
    logged = logs[4]["curriculum_gap_nats"]
    assert shares[6] == pytest.approx(shares[4] + min(max(0.5 * (logged - 0.01), -0.1), 0.1), abs=1e-6)


def test_adaptive_must_know_before_workers_ask(config, make_trainer):
    args = config(curriculum="adaptive", curriculum_window=4, dataloader_num_workers=2)
    with pytest.raises(ValueError, match="2 data loader workers read 6 steps ahead. Set it to 6"):
        make_trainer(args).get_train_dataloader()


def test_a_dataset_that_grew_is_noticed(config, tmp_path, make_trainer):
    def make(count, **kwargs):
        args = config(output_dir=str(tmp_path / "run"), max_steps=4, save_strategy="steps", save_steps=1, **kwargs)
        return make_trainer(args, pair_dataset(count))

    make(16).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    with pytest.raises(ValueError, match=r"`train_dataset.rows` was 16 and is 20.*resume_overrides=\['train_dataset"):
        make(20).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match="`global_batch` was 4 and is 8"):
        make(16, gradient_accumulation_steps=2).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match="`seed` was 42 and is 7"):
        make(16, seed=7).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match="`curriculum` was 'none' and is 'linear'"):
        make(16, curriculum="linear").train(resume_from_checkpoint=checkpoint)
    trainer = make(20, ignore_data_skip=True)
    trainer.train(resume_from_checkpoint=checkpoint)
    assert trainer.state.global_step == 4
    state = json.loads((tmp_path / "run" / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["trl_modality_plan"]["plan"]["rows"] == 20


def test_the_plan_of_a_checkpoint_without_a_manifest_is_compared(config, tmp_path, make_trainer):
    def make(count, **kwargs):
        args = config(output_dir=str(tmp_path / "run"), max_steps=4, save_strategy="steps", save_steps=1, **kwargs)
        return make_trainer(args, pair_dataset(count))

    make(16, curriculum="mix").train()
    for manifest in (tmp_path / "run").glob("checkpoint-*/manifest.json"):
        manifest.unlink()
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    with pytest.raises(ValueError, match="number of rows is 16, this run has 20: .*`ignore_data_skip=True`"):
        make(20, curriculum="mix").train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match="a global batch .* of 4, this run has 8"):
        make(16, gradient_accumulation_steps=2).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match="the seed 42, this run has 7"):
        make(16, seed=7).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match="curriculum constant 0.5, 0.5, 1, this run has .* over 4 steps"):
        make(16, curriculum="linear").train(resume_from_checkpoint=checkpoint)
    overrides = ["curriculum", "train_dataset"]
    trainer = make(20, curriculum="linear", resume_overrides=overrides)
    trainer.train(resume_from_checkpoint=checkpoint)
    assert trainer.state.global_step == 4


def test_a_checkpoint_that_was_cut_short_is_passed_over(config, tmp_path, make_trainer):
    args = config(output_dir=str(tmp_path / "run"), max_steps=3, save_strategy="steps", save_steps=1)
    trainer = make_trainer(args)
    trainer.train()
    for n, text in ((3, None), (2, '{"global_st')):
        state = tmp_path / "run" / f"checkpoint-{n}" / "trainer_state.json"
        state.unlink() if text is None else state.write_text(text)
    again = make_trainer(args)
    again.train(resume_from_checkpoint=True)
    assert logs_of(again)[1:] == [
        {**log, "num_tokens": mine["num_tokens"], "num_tokens_saved": mine["num_tokens_saved"]}
        for log, mine in zip(logs_of(trainer)[1:], logs_of(again)[1:], strict=True)
    ]


def test_resuming_into_a_step_of_replay_alone(config, tmp_path, make_trainer):
    """Its image has gradients of 0, as in the run that was not interrupted, and the optimizer moves on."""

    def make(name):
        args = config(
            output_dir=str(tmp_path / name),
            replay_ratio=0.5,
            per_device_train_batch_size=1,
            max_steps=6,
            save_strategy="steps",
            save_steps=1,
            learning_rate=1e-2,
        )
        return make_trainer(args, replay_dataset=Dataset.from_list(TEXT * 2))

    whole = make("whole")
    whole.train()
    for step in (2, 3):
        resumed = make(f"resumed {step}")
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        for (name, a), b in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
            assert torch.equal(a, b), (step, name)


def test_a_second_training_knows_nothing_of_the_first(config, make_trainer):
    args = config(curriculum="adaptive", curriculum_window=4, max_steps=7, logging_steps=5, learning_rate=0.0)
    trainer = make_trainer(args, pair_dataset(24))
    trainer.train()
    first = trainer.state.log_history
    trainer.train()
    for a, b in zip(first, trainer.state.log_history, strict=True):
        for key in a.keys() - {"num_tokens", "num_tokens_saved"}:  # those of the process
            assert a[key] == b[key] or "per_second" in key or "runtime" in key, key


def test_a_loader_on_the_side_is_not_that_of_the_training(config, make_trainer):
    class Curious(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            next(iter(self.trainer.get_train_dataloader()))

    runs = []
    for callbacks in ([], [Curious()]):
        args = config(curriculum="adaptive", curriculum_window=2, max_steps=6)
        trainer = make_trainer(args, pair_dataset(24), callbacks=callbacks)
        for callback in callbacks:
            callback.trainer = trainer
        trainer.train()
        runs.append([(log["loss"], log["vision_centric_share"]) for log in logs_of(trainer)])
    assert runs[0] == runs[1]


def test_an_epoch_that_a_callback_stops(config, make_trainer):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_epoch_stop = state.global_step % 2 == 0

    args = config(curriculum="linear", num_train_epochs=4, max_steps=-1, kl_weight=0.0)
    trainer = make_trainer(args, pair_dataset(16), callbacks=[Stop()])
    trainer.train()
    assert trainer.state.global_step == 8
    assert [log["vision_centric_share"] for log in logs_of(trainer)] == [step / 16 for step in range(8)]


def test_a_checkpoint_of_another_trainer_is_gone_on_from_with_a_warning(config, tmp_path, monkeypatch, make_trainer):
    args = config(output_dir=str(tmp_path / "run"), save_strategy="steps", save_steps=1)
    make_trainer(args).train()
    path = tmp_path / "run" / "checkpoint-1" / "trainer_state.json"
    state = json.loads(path.read_text())
    del state["stateful_callbacks"]["trl_modality_plan"]
    path.write_text(json.dumps(state))
    (path.parent / "manifest.json").unlink()
    warnings = []
    monkeypatch.setattr("trl_modality.training.run_plan.logger.warning", warnings.append)
    make_trainer(args).train(resume_from_checkpoint=str(path.parent))
    assert len(warnings) == 1
    assert "does not say which rows it was trained on" in warnings[0]
