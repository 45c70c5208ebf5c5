"""Training that ends before its end."""

import os
import resource
import signal
import threading
import time

import pytest
import torch
from transformers import TrainerCallback

from tests.faults.fault import Fault, Scene
from tests.testing.interrupts import obeying_ctrl_c
from tests.testing.tiny import pair_dataset, tiny_llava
from trl_modality import ModalityBalancedSFTTrainer


SAVING = {"save_strategy": "steps", "save_steps": 2}


class Fails(ModalityBalancedSFTTrainer):
    """Its fourth step raises an error."""

    error = RuntimeError("a broken kernel")

    def compute_loss(self, model, inputs, *args, **kwargs):
        if self.model.training and self.state.global_step == 3:
            raise self.error
        return super().compute_loss(model, inputs, *args, **kwargs)


class OutOfMemory(Fails):
    error = torch.OutOfMemoryError("CUDA out of memory.")


class At(TrainerCallback):
    """Does something after a step."""

    def __init__(self, step, do):
        self.step, self.do = step, do

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.do()


def _checkpoints(*steps):
    def check(scene: Scene) -> None:
        assert scene.checkpoints() == [f"checkpoint-{step}" for step in steps]

    return check


def _resumes_as_if_it_had_not_stopped(scene: Scene) -> None:
    """The weights of a run that goes on are those of one that was never stopped."""
    resumed = scene.trainer(**SAVING)
    resumed.train(resume_from_checkpoint=True)
    whole = scene.trainer(output_dir=str(scene.folder / "whole"))
    whole.train()
    for weight, expected in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(weight, expected)


def _ctrl_c(scene: Scene) -> None:
    sent = []

    def send():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    trainer = scene.trainer(max_steps=100_000, callbacks=[At(3, lambda: threading.Timer(0.1, send).start())], **SAVING)
    with obeying_ctrl_c(), pytest.raises(KeyboardInterrupt):
        trainer.train()
    seconds = time.monotonic() - sent[0]
    print(f"Ctrl-C in training: stopped after {seconds:.2f} s")
    assert seconds < 10  # two on a machine that has nothing else to do


def _sigterm(scene: Scene) -> None:
    trainer = scene.trainer(enable_jit_checkpoint=True, callbacks=[At(3, lambda: None)], save_strategy="no")
    manager = next(filter(None, (getattr(each, "jit_manager", None) for each in trainer.callback_handler.callbacks)))
    manager.kill_wait = 0

    def terminate():
        os.kill(os.getpid(), signal.SIGTERM)
        while not manager.is_checkpoint_requested:
            time.sleep(0.01)

    trainer.add_callback(At(3, terminate))
    trainer.train()
    raise InterruptedError(", ".join(scene.checkpoints()))  # it ends without an error: what is left is to be seen


def _full_disk(scene: Scene) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        fill = At(4, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, before[1])))
        scene.trainer(callbacks=[fill], **SAVING, save_total_limit=1).train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def _no_folder(scene: Scene) -> None:
    """A file stands where the checkpoint has to be."""
    block = At(2, lambda: (scene.output / "checkpoint-2").write_text("a file"))
    trainer = scene.trainer(callbacks=[block], **SAVING)
    trainer.train()


def _ended(scene: Scene) -> None:
    """A run is resumed after its last step, in the middle of an epoch."""
    for resume in (False, True):
        model, _ = tiny_llava()
        trainer = scene.trainer(pair_dataset(24), model=model, **SAVING)
        trainer.train(resume_from_checkpoint=resume)
    raise InterruptedError(f"ended at step {trainer.state.global_step} of {trainer.state.max_steps}")


class FailsAtTheStart(TrainerCallback):
    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step:
            raise RuntimeError("the tracker is away")


def _fails_before_the_first_step(scene: Scene) -> None:
    """A callback fails after the checkpoint was loaded; weights on disk are those that were saved."""
    scene.trainer(**SAVING).train()
    scene.trainer(callbacks=[FailsAtTheStart()], **SAVING).train(resume_from_checkpoint=True)


FAULTS = [
    Fault(
        "a callback that fails before the first step of a run that goes on",
        "on resuming",
        "the tracker is away",
        _fails_before_the_first_step,
        error=RuntimeError,
    ),
    Fault(
        "an exception in a step",
        "in training",
        r"Step 3 is saved: go on with `resume_from_checkpoint='.*checkpoint-3'`",
        lambda scene: scene.trainer(trainer_class=Fails, **SAVING).train(),
        "a checkpoint of the last whole step; a run that goes on from it is the run that was not stopped",
        lambda scene: (_checkpoints(2, 3)(scene), _resumes_as_if_it_had_not_stopped(scene)),
        error=RuntimeError,
    ),
    Fault(
        "memory that runs out in a later step, with `auto_find_batch_size`",
        "in training",
        r"Memory ran out in step 4, with batches of 2 rows. .*Set `per_device_train_batch_size` below 2",
        lambda scene: scene.trainer(trainer_class=OutOfMemory, auto_find_batch_size=True, **SAVING).train(),
        "a checkpoint of the last whole step",
        _checkpoints(2, 3),
        error=RuntimeError,
    ),
    Fault(
        "Ctrl-C in training",
        "in training",
        r"Stopped in step \d+ of 100000. Go on from the last checkpoint with `resume_from_checkpoint='.*checkpoint-",
        _ctrl_c,
        "it stops within two seconds; the last checkpoint",
        lambda scene: scene.checkpoints()[0] == "checkpoint-2",
        warns=True,
    ),
    Fault(
        "SIGTERM, with `enable_jit_checkpoint`",
        "in training",
        r"checkpoint-3",
        _sigterm,
        "a checkpoint of the step; a run that goes on from it is the run that was not stopped",
        _resumes_as_if_it_had_not_stopped,
        error=InterruptedError,
    ),
    Fault(
        "the disk is full",
        "while saving",
        r"The checkpoint of step 4 could not be written to .*checkpoint-4 \(.*\). \d+.\d+ GiB are free there. Make "
        r"room, or take another `output_dir`. Go on from the last checkpoint with .*checkpoint-2'`",
        _full_disk,
        "the checkpoint before, whole (`save_total_limit=1`); nothing of the one that failed",
        lambda scene: (_checkpoints(2)(scene), _resumes_as_if_it_had_not_stopped(scene)),
        error=OSError,
    ),
    Fault(
        "a file stands where a checkpoint has to be written",
        "while saving",
        r"The checkpoint of step 2 could not be written to .*checkpoint-2 \(.*No checkpoint has been saved",
        _no_folder,
        error=OSError,
    ),
    Fault(
        "a run that has ended is resumed",
        "on resuming",
        r"ended at step 4 of 4",
        _ended,
        "it ends at once: the host would make another step",
        _checkpoints(2, 4),
        error=InterruptedError,
    ),
]
