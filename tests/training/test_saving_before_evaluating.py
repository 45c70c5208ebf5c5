"""A checkpoint is written before the evaluation of its step, and afterwards on disk is what the host leaves."""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from tests.faults.fault import listening
from tests.test_drop_in import TEXTS, text_model
from tests.testing.tiny import pair_dataset, tiny_llava
from trl_modality import ModalityBalancedSFTTrainer
from trl_modality.training.checkpoints import newest_whole_checkpoint, whole_checkpoint
from trl_modality.training.guarded import GuardedSFTTrainer
from trl_modality.training.manifest import MANIFEST, mark_changing, read_manifest, verify_files
from trl_modality.training.resume import RunIdentity


class Watch(TrainerCallback):
    """The checkpoints after every step, and whether that of the step is there when its evaluation ends."""

    def __init__(self, folder: Path):
        self.folder, self.left, self.in_evaluation = folder, [], []

    def names(self):
        return sorted(path.name for path in self.folder.glob("checkpoint-*"))

    def on_step_begin(self, args, state, control, **kwargs):
        self.left.append(self.names())

    def on_evaluate(self, args, state, control, **kwargs):
        self.in_evaluation.append(f"checkpoint-{state.global_step}" in self.names())


def trained_on_text(trainer_class, folder, losses, **options):
    """A run whose evaluations give these losses; what was seen of it."""
    texts = Dataset.from_dict({"text": TEXTS[:8]})
    args = SFTConfig(
        str(folder),
        max_steps=5,
        per_device_train_batch_size=2,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="loss",
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        **options,
    )
    watch = Watch(folder)

    class Given(trainer_class):
        def evaluation_loop(self, *args, **kwargs):
            output = super().evaluation_loop(*args, **kwargs)
            output.metrics["eval_loss"] = losses[self.state.global_step - 1]
            return output

    trainer = Given(
        text_model(),
        args,
        train_dataset=texts,
        eval_dataset=texts.select(range(2)),
        processing_class=tiny_llava()[1].tokenizer,
        callbacks=[watch],
    )
    trainer.train()
    return trainer, watch


@pytest.mark.parametrize("load_best", [False, True])
@pytest.mark.parametrize("limit", [None, 1, 2, 3])
def test_what_is_left_is_what_the_host_leaves(tmp_path, limit, load_best):
    losses = [3.0, 1.0, 2.0, 0.5, 0.7]
    options = {"save_total_limit": limit, "load_best_model_at_end": load_best}
    host, theirs = trained_on_text(SFTTrainer, tmp_path / "host", losses, **options)
    own, ours = trained_on_text(GuardedSFTTrainer, tmp_path / "own", losses, **options)
    assert ours.left == theirs.left
    assert ours.names() == theirs.names()
    assert ours.in_evaluation == [True] * 5
    assert theirs.in_evaluation == [False] * 5
    assert Path(own.state.best_model_checkpoint).name == Path(host.state.best_model_checkpoint).name == "checkpoint-4"
    for weight, other in zip(own.model.parameters(), host.model.parameters(), strict=True):
        assert torch.equal(weight, other)
    for name in ours.names():
        files, other = ({path.name for path in (tmp_path / run / name).iterdir()} for run in ("own", "host"))
        assert files == other | {MANIFEST}
        verify_files(tmp_path / "own" / name, read_manifest(tmp_path / "own" / name))
        states = [json.loads((tmp_path / run / name / "trainer_state.json").read_text()) for run in ("own", "host")]
        for state in states:
            state["best_model_checkpoint"] = Path(state["best_model_checkpoint"]).name
            for log in state["log_history"]:
                for key in [key for key in log if "runtime" in key or "per_second" in key]:
                    del log[key]
        assert states[0] == states[1]
        # Equal to the options that were given, and to each other, but for the folder
        args = [torch.load(tmp_path / run / name / "training_args.bin", weights_only=False) for run in ("own", "host")]
        assert args[0].save_total_limit == args[1].save_total_limit == limit
        assert args[0].logging_nan_inf_filter is args[1].logging_nan_inf_filter is True
        numbers = [torch.load(tmp_path / run / name / "rng_state.pth", weights_only=False) for run in ("own", "host")]
        assert torch.equal(numbers[0]["cpu"], numbers[1]["cpu"])


class Random(TrainerCallback):
    """Makes training and evaluations draw random numbers, the first ones with an effect."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=1e-3)

    def on_prediction_step(self, args, state, control, **kwargs):
        torch.rand(3)


class Fails(ModalityBalancedSFTTrainer):
    """Its evaluation fails at a step."""

    fails_at = 2

    def prediction_step(self, *args, **kwargs):
        if self.state.global_step == self.fails_at:
            raise RuntimeError("a bad row")
        return super().prediction_step(*args, **kwargs)


@pytest.mark.parametrize("fails_at", [2, 4])
def test_after_a_failed_evaluation_the_run_is_what_it_would_have_been(tmp_path, config, monkeypatch, fails_at):
    """Also where the last step is the one whose evaluation failed."""
    monkeypatch.setattr(Fails, "fails_at", fails_at)

    def trainer(cls, name):
        args = config(
            output_dir=str(tmp_path / name),
            max_steps=4,
            save_strategy="steps",
            save_steps=2,
            eval_strategy="steps",
            eval_steps=2,
            per_device_train_batch_size=1,
            save_total_limit=1,
            load_best_model_at_end=True,
            curriculum="adaptive",
            curriculum_window=3,
            seed=3,
        )
        return cls(
            tiny_llava()[0],
            args,
            train_dataset=pair_dataset(6),
            eval_dataset=pair_dataset(2, first=8),
            processing_class=tiny_llava()[1],
            callbacks=[Random()],
        )

    whole = trainer(ModalityBalancedSFTTrainer, "whole")
    whole.train()
    failed = trainer(Fails, "failed")
    with pytest.raises(RuntimeError, match="a bad row") as raised:
        failed.train()
    assert "the step is saved. Once what it failed of is mended, go on with" in "".join(raised.value.__notes__)
    assert f"checkpoint-{fails_at}'" in "".join(raised.value.__notes__)
    resumed = trainer(ModalityBalancedSFTTrainer, "failed")
    resumed.train(resume_from_checkpoint=True)

    def logs(trainer):
        return [
            {key: value for key, value in log.items() if "time" not in key and "second" not in key}
            for log in trainer.state.log_history
            if "train_loss" not in log
        ]

    tokens = {key for log in logs(whole) for key in log if "num_tokens" in key}  # of this process
    for own, other in zip(logs(resumed), logs(whole), strict=True):
        assert {k: v for k, v in own.items() if k not in tokens} == {k: v for k, v in other.items() if k not in tokens}
    assert Path(resumed.state.best_model_checkpoint).name == Path(whole.state.best_model_checkpoint).name
    for weight, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(weight, other)
    left = [sorted(path.name for path in (tmp_path / name).glob("checkpoint-*")) for name in ("failed", "whole")]
    assert left[0] == left[1]
    for name in left[0]:
        numbers = [
            torch.load(tmp_path / run / name / "rng_state.pth", weights_only=False) for run in ("failed", "whole")
        ]
        assert torch.equal(numbers[0]["cpu"], numbers[1]["cpu"])


def test_a_callback_may_decide_against_a_checkpoint_by_what_was_evaluated(tmp_path):
    class Veto(TrainerCallback):
        def on_evaluate(self, args, state, control, **kwargs):
            control.should_save = state.global_step != 2

    class Vetoed(GuardedSFTTrainer):
        def __init__(self, *args, callbacks, **kwargs):
            super().__init__(*args, callbacks=[*callbacks, Veto()], **kwargs)

    _, watch = trained_on_text(Vetoed, tmp_path, [5.0, 4.0, 3.0, 2.0, 1.0])
    assert watch.names() == [f"checkpoint-{step}" for step in (1, 3, 4, 5)]


def test_a_run_that_has_ended_makes_no_step_when_it_is_resumed(tmp_path, config):
    args = config(output_dir=str(tmp_path), max_steps=3, save_strategy="steps", save_steps=3)
    for resume in (False, True):
        model, processor = tiny_llava()
        trainer = ModalityBalancedSFTTrainer(
            model, args, train_dataset=pair_dataset(16), processing_class=processor, callbacks=[Random()]
        )
        trainer.train(resume_from_checkpoint=resume)
        assert trainer.state.global_step == 3
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]


def test_an_evaluation_writes_no_weights_again(tmp_path, monkeypatch):
    saved = []
    save = SFTTrainer.save_model
    monkeypatch.setattr(SFTTrainer, "save_model", lambda self, *args, **kw: saved.append(1) or save(self, *args, **kw))
    trained_on_text(GuardedSFTTrainer, tmp_path, [5.0, 4.0, 3.0, 2.0, 1.0])
    assert len(saved) == 5


class Killed(BaseException):
    """Stands for a signal that no handler sees."""


def test_a_run_that_is_killed_while_it_notes_an_evaluation_keeps_the_checkpoint(tmp_path, config, monkeypatch):
    args = config(
        output_dir=str(tmp_path),
        max_steps=4,
        save_strategy="steps",
        save_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        per_device_train_batch_size=1,
    )

    def trainer():
        model, processor = tiny_llava()
        rows, held_out = pair_dataset(6), pair_dataset(2, first=8)
        return ModalityBalancedSFTTrainer(
            model, args, train_dataset=rows, eval_dataset=held_out, processing_class=processor, callbacks=[Random()]
        )

    original, written = RunIdentity.checkpoint_saved, []

    def checkpoint_saved(self, folder):
        written.append(folder)
        if written.count(folder) == 2:  # all files are written anew, and the manifest is not
            raise Killed
        original(self, folder)

    monkeypatch.setattr(RunIdentity, "checkpoint_saved", checkpoint_saved)
    with pytest.raises(Killed):
        trainer().train()
    monkeypatch.undo()
    resumed = trainer()
    with listening() as lines:
        resumed.train(resume_from_checkpoint=True)
    assert any("ended while rng_state.pth and trainer_state.json were brought up to date" in line for line in lines)
    assert [log["step"] for log in resumed.state.log_history if "eval_loss" in log] == [2, 4]
    assert sum("train_loss" in log for log in resumed.state.log_history) == 1
    assert resumed.state.global_step == 4
    # Another file than those is still looked at
    verify = newest_whole_checkpoint(tmp_path).path
    mark_changing(verify, ["trainer_state.json"])
    with (verify / "optimizer.pt").open("r+b") as file:
        file.seek(100)
        file.write(b"?")
    with pytest.raises(ValueError, match="optimizer.pt has other bytes"):
        whole_checkpoint(verify)


@pytest.mark.parametrize("options", [{}, {"eval_strategy": "steps", "eval_steps": 1}], ids=["", "evaluated"])
def test_a_checkpoint_is_pushed_once_with_its_manifest(config, make_trainer, monkeypatch, options):
    pushed = []

    def push(self, folder):
        verify_files(folder, read_manifest(folder))
        pushed.append((Path(folder).name, read_manifest(folder).changing, self.args.logging_nan_inf_filter))
        if len(pushed) == 2:
            raise ConnectionError(104, "the hub is away")

    monkeypatch.setattr(SFTTrainer, "_push_from_checkpoint", push)
    args = config(max_steps=3, save_strategy="steps", save_steps=1, **options)
    trainer = make_trainer(args, eval_dataset=pair_dataset(2))
    trainer.args.push_to_hub = True
    with pytest.raises(ConnectionError, match="the hub is away"):  # and not that it could not be written
        trainer.train()
    assert pushed == [("checkpoint-1", (), True), ("checkpoint-2", (), True)]
    assert newest_whole_checkpoint(args.output_dir).path.name == "checkpoint-2"


def test_callbacks_may_change_a_checkpoint_after_it_was_saved(config, make_trainer):
    """As those do that save a model in another way; what they put beside it is none of the checkpoint."""

    class Changes(TrainerCallback):
        def on_save(self, args, state, control, model=None, **kwargs):
            folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
            (folder / "training_args.bin").unlink()
            (folder / "notes.txt").write_text("mine")
            state.log_history[-1]["mine"] = 1.0
            state.save_to_json(str(folder / "trainer_state.json"))

    args = config(max_steps=2, save_strategy="steps", save_steps=1)
    make_trainer(args, callbacks=[Changes()]).train()
    newest = newest_whole_checkpoint(args.output_dir)
    assert newest.path.name == "checkpoint-2"
    assert not {"training_args.bin", "notes.txt"} & set(newest.manifest.files)
    trainer = make_trainer(args)
    trainer.train(resume_from_checkpoint=str(Path(args.output_dir, "checkpoint-1")))
    assert trainer.state.log_history[0]["mine"] == 1.0
