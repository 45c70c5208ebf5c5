"""Training that ends before its end, by an exception, a signal or a full disk: no step is lost, and the rest is the
same."""

import os
import resource
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback
from trl import SFTTrainer

from tests.testing.interrupts import obeying_ctrl_c
from tests.testing.tiny import pair_dataset, tiny_llava
from trl_modality import ModalityBalancedSFTTrainer
from trl_modality._compat import UNFINISHED_MARK
from trl_modality.training import saving
from trl_modality.training.manifest import read_manifest


class Fails(ModalityBalancedSFTTrainer):
    """Its forward draws random numbers, and fails in a micro-batch if told to."""

    fails_at, error, n = None, RuntimeError, 0

    def compute_loss(self, model, inputs, *args, **kwargs):
        if self.model.training:
            type(self).n += 1
            if type(self).n == self.fails_at:
                raise self.error("a broken kernel")
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        return loss * (1 + torch.rand(()))


OPTIONS = {"curriculum": "adaptive", "curriculum_window": 2}


def trainer_of(config, folder, callbacks=(), cls=Fails, fails_at=None, error=RuntimeError, **options):
    cls.n, cls.fails_at, cls.error = 0, fails_at, error
    model, processor = tiny_llava()
    given = {"save_strategy": "steps", "save_steps": 4, "max_steps": 6, **options}
    args = config(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        optim="adamw_torch",
        **given,
    )
    return cls(
        model,
        args,
        train_dataset=pair_dataset(12),
        eval_dataset=pair_dataset(2, first=20),
        processing_class=processor,
        callbacks=list(callbacks),
    )


def assert_same_run(own, other, *, without_logs_of=()):
    for weight, expected in zip(own.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(weight, expected)
    drop = ("runtime", "per_second", "num_tokens", "num_tokens_saved", "train_loss")
    logs = [
        [
            {key: value for key, value in log.items() if not key.endswith(drop)}
            for log in trainer.state.log_history
            if "train_loss" not in log and log["step"] not in without_logs_of
        ]
        for trainer in (own, other)
    ]
    assert logs[0] == logs[1]


def checkpoints(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))


@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["", "adaptive"])
@pytest.mark.parametrize("fails_at", [7, 8])
def test_an_exception_leaves_the_last_step(tmp_path, config, options, fails_at):
    """Both in the first micro-batch of step 4 and in its second."""
    whole = trainer_of(config, tmp_path / "whole", **options)
    whole.train()
    failed = trainer_of(config, tmp_path / "failed", fails_at=fails_at, **options)
    with pytest.raises(RuntimeError, match="a broken kernel") as raised:
        failed.train()
    assert checkpoints(tmp_path / "failed") == ["checkpoint-3"]
    assert raised.value.__notes__ == [
        f"Step 3 is saved: go on with `resume_from_checkpoint='{tmp_path}/failed/checkpoint-3'`."
    ]
    resumed = trainer_of(config, tmp_path / "failed", **options)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(resumed, whole)


def test_an_exception_of_a_callback_after_a_step(tmp_path, config):
    class Breaks(TrainerCallback):
        breaks = True

        def on_step_end(self, args, state, control, **kwargs):
            if self.breaks and state.global_step == 2:  # where a window of the curriculum ends
                raise KeyError("a tracker")

    whole = trainer_of(config, tmp_path / "whole", **OPTIONS)
    whole.train()
    with pytest.raises(KeyError, match="a tracker"):
        trainer_of(config, tmp_path / "failed", [Breaks()], **OPTIONS).train()
    assert checkpoints(tmp_path / "failed") == ["checkpoint-2"]
    resumed = trainer_of(config, tmp_path / "failed", **OPTIONS)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(resumed, whole, without_logs_of=(2,))


@pytest.mark.parametrize(
    ("fails_at", "options", "left"),
    [
        (9, {}, ["checkpoint-4"]),  # which is the last step
        (1, {}, []),
        (7, {"save_strategy": "no"}, []),
    ],
)
def test_where_there_is_nothing_to_save(tmp_path, config, fails_at, options, left):
    with pytest.raises(RuntimeError, match="a broken kernel") as raised:
        trainer_of(config, tmp_path, fails_at=fails_at, **options).train()
    assert checkpoints(tmp_path) == left
    assert not hasattr(raised.value, "__notes__")


def test_half_a_step_of_the_optimizer_is_not_saved(tmp_path, config):
    trainer = trainer_of(config, tmp_path)

    class Breaks(TrainerCallback):
        def on_train_begin(self, args, state, control, optimizer=None, **kwargs):
            step = optimizer.step

            def breaks(*given, **more):
                if trainer.state.global_step == 2:
                    raise RuntimeError("half-way")
                return step(*given, **more)

            optimizer.step = breaks

    trainer.add_callback(Breaks())
    with pytest.raises(RuntimeError, match="half-way"):
        trainer.train()
    assert checkpoints(tmp_path) == []


def test_an_evaluation_that_fails_beside_any_checkpoint(tmp_path, config):
    """The step is saved after it, and evaluated first when training goes on."""

    class FailsToEvaluate(Fails):
        def prediction_step(self, *args, **kwargs):
            if self.is_broken and self.state.global_step == 2:
                raise RuntimeError("a bad row")
            return super().prediction_step(*args, **kwargs)

    options = {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "loss"}
    FailsToEvaluate.is_broken = False
    whole = trainer_of(config, tmp_path / "whole", cls=FailsToEvaluate, **options)
    whole.train()
    FailsToEvaluate.is_broken = True
    with pytest.raises(RuntimeError, match="a bad row"):
        trainer_of(config, tmp_path / "failed", cls=FailsToEvaluate, **options).train()
    assert checkpoints(tmp_path / "failed") == ["checkpoint-2"]
    FailsToEvaluate.is_broken = False
    resumed = trainer_of(config, tmp_path / "failed", cls=FailsToEvaluate, **options)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(resumed, whole)
    assert resumed.state.best_metric == whole.state.best_metric


@pytest.mark.parametrize("event", ["on_step_begin", "on_pre_optimizer_step", "on_step_end"])
@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["", "adaptive"])
def test_sigterm(tmp_path, config, event, options):
    """The host's own checkpoint (`enable_jit_checkpoint`), wherever the signal reaches it."""
    whole = trainer_of(config, tmp_path / "whole", **options)
    whole.train()

    class Terminates(TrainerCallback):
        def __init__(self):
            self.trainer = None

        def signal(self, state, now):
            if now == event and state.global_step == 2:
                manager = next(
                    each.jit_manager
                    for each in self.trainer.callback_handler.callbacks
                    if hasattr(each, "jit_manager")
                )
                os.kill(os.getpid(), signal.SIGTERM)
                deadline = time.monotonic() + 10
                while not manager.is_checkpoint_requested and time.monotonic() < deadline:
                    time.sleep(0.01)

        def on_step_begin(self, args, state, control, **kwargs):
            self.signal(state, "on_step_begin")

        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            self.signal(state, "on_pre_optimizer_step")

        def on_step_end(self, args, state, control, **kwargs):
            self.signal(state, "on_step_end")

    before = signal.getsignal(signal.SIGTERM)
    callback = Terminates()
    stopped = trainer_of(config, tmp_path / "stopped", enable_jit_checkpoint=True, **options)
    handler = stopped.callback_handler
    handler.callbacks.insert(0, callback)  # before the host's own, so that the signal is seen at this event
    callback.trainer = stopped
    for each in handler.callbacks:
        if getattr(each, "jit_manager", None):
            each.jit_manager.kill_wait = 0
    stopped.train()
    assert signal.getsignal(signal.SIGTERM) is before
    assert stopped.state.global_step < 6
    assert "checkpoint-2" in checkpoints(tmp_path / "stopped")
    resumed = trainer_of(config, tmp_path / "stopped", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "stopped" / "checkpoint-2"))
    assert_same_run(resumed, whole, without_logs_of=(2,) if event == "on_step_end" else ())


@pytest.mark.parametrize("event", ["on_evaluate", "on_save", "on_epoch_end"])
def test_sigterm_after_a_save(tmp_path, config, monkeypatch, event):
    """The checkpoint that is there is not written again in its place, where a kill would leave nothing of it."""
    written = []
    write = SFTTrainer._save_optimizer_and_scheduler
    monkeypatch.setattr(
        SFTTrainer, "_save_optimizer_and_scheduler", lambda self, folder: (written.append(folder), write(self, folder))
    )

    class Terminates(TrainerCallback):
        def __init__(self):
            self.manager = None

        def asked(self, args, state, control, **kwargs):
            if state.global_step == 3 and self.manager is not None:
                self.manager.is_checkpoint_requested = True

    setattr(Terminates, event, Terminates.asked)
    callback = Terminates()
    options = {"save_steps": 3, "save_total_limit": 1, "eval_strategy": "steps", "eval_steps": 3}
    whole = trainer_of(config, tmp_path / "whole", **options)
    whole.train()
    written.clear()
    stopped = trainer_of(config, tmp_path / "stopped", [callback], enable_jit_checkpoint=True, **options)
    callback.manager = next(
        each.jit_manager for each in stopped.callback_handler.callbacks if getattr(each, "jit_manager", None)
    )
    stopped.train()
    folder = str(tmp_path / "stopped" / "checkpoint-3")
    assert written == [folder]
    assert stopped.state.global_step < 6
    assert not Path(folder, UNFINISHED_MARK).exists()
    assert UNFINISHED_MARK not in read_manifest(folder).files
    resumed = trainer_of(config, tmp_path / "stopped", **options)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(resumed, whole)


def test_ctrl_c(tmp_path, config, monkeypatch):
    said = []
    monkeypatch.setattr(saving.logger, "warning", said.append)
    trainer = trainer_of(config, tmp_path, max_steps=100_000, save_steps=2)

    class Stops(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    trainer.add_callback(Stops())
    with obeying_ctrl_c(), pytest.raises(KeyboardInterrupt):
        trainer.train()
    (line,) = said
    assert line.startswith(
        f"Stopped in step {trainer.state.global_step + 1} of 100000. Go on from the last checkpoint"
    )
    assert Path(line.partition("resume_from_checkpoint='")[2].partition("'")[0]).name in checkpoints(tmp_path)


@pytest.fixture
def full_disk():
    """A switch that lets no file grow beyond some bytes, as a full disk would, and the one back."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [100_000, 400_000])
def test_a_full_disk(tmp_path, config, full_disk, size):
    class Fills(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4:
                full_disk(size)

    trainer = trainer_of(config, tmp_path, [Fills()], save_steps=2, save_total_limit=1)
    with pytest.raises(OSError, match="The checkpoint of step 4 could not be written") as raised:
        trainer.train()
    full_disk(resource.RLIM_INFINITY)
    message = str(raised.value)
    assert f"to {tmp_path}/checkpoint-4" in message
    assert "GiB are free there" in message
    assert f"`resume_from_checkpoint='{tmp_path}/checkpoint-2'`" in message
    assert checkpoints(tmp_path) == ["checkpoint-2"]
    resumed = trainer_of(config, tmp_path)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6


def test_memory_that_runs_out_at_a_later_step(tmp_path, config):
    trainer = trainer_of(config, tmp_path, fails_at=7, auto_find_batch_size=True)
    type(trainer).error = staticmethod(lambda _: torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(RuntimeError, match="Memory ran out in step 4, with batches of 2 rows.*below 2") as raised:
        trainer.train()
    assert checkpoints(tmp_path) == ["checkpoint-3"]
    assert "Step 3 is saved" in raised.value.__notes__[0]


def test_memory_that_runs_out_at_the_first_step(tmp_path, config):
    trainer = trainer_of(config, tmp_path, fails_at=1, auto_find_batch_size=True)
    type(trainer).error = staticmethod(lambda _: torch.OutOfMemoryError("CUDA out of memory."))
    trainer.train()
    assert trainer.state.global_step == 6
