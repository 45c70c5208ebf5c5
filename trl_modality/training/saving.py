"""`SavingSFTTrainer`: an `SFTTrainer` that does not lose steps: to evaluations, exceptions, signals or full disks."""

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy
from transformers.utils import logging

from .._compat import GreedyLR, keeping_dtypes, load_renamed_checkpoint, replacing_its_file, rotate_checkpoints
from .checkpoints import newest_finished_checkpoint
from .parts import PartsSFTTrainer
from .ranks import waiting_for_others
from .resume import RunIdentity


logger = logging.get_logger(__name__)

EVALUATION_IS_DUE = "trl_modality_evaluation_is_due"
"""The key of `TrainerState.stateful_callbacks` of a checkpoint that was written before the evaluation of its step."""


class SavingSFTTrainer(PartsSFTTrainer):
    """An [`~trl.SFTTrainer`] that keeps the steps it has made.

    Where a checkpoint and an evaluation are due at the same step, the checkpoint is written first; its state, which
    names the best checkpoint, is brought up to date after the evaluation, and then older ones are deleted. What is on
    disk after a step is what `SFTTrainer` leaves. A checkpoint whose evaluation did not end is evaluated when a
    training goes on from it. An exception in the training of one process is followed by a checkpoint of the last
    step, unless there is one, or `save_strategy` is "no".
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._identity = RunIdentity(self)
        self.add_callback(self._identity)
        # The step whose checkpoint is on disk, but for what the evaluation of that step adds to it
        self._saved_before_evaluation: int | None = None
        # `None` before the first step may begin: what is loaded until then is not to be saved again
        self._last_saved: int | None = None
        self._whole: str | None = None
        """The checkpoint that was written, or resumed from, last."""
        self._is_saving = self._writes_state_only = False
        self._numbers: RandomNumbers | None = None
        self._begun_step = self._step_at_optimizer = -1
        self._given_args: dict[str, Any] = {}

    # To override

    def _check_before_saving(self) -> None:
        """Called by every rank before a file of a checkpoint is touched; what it raises prevents the checkpoint."""

    def _put_states(self, states: dict[str, Any]) -> None:
        """Called by every rank to put what a checkpoint keeps beside the host's into `stateful_callbacks`."""

    def _may_save_after(self, error: Exception) -> bool:
        """Whether an exception leaves weights that are worth a checkpoint."""
        return True

    # Training

    def train(self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, *args, **kwargs) -> Any:
        identity = self._identity.training(resume_from_checkpoint, trial)
        with waiting_for_others(self.args), identity as checkpoint:
            # With overrides, the learning rates in it are others by now
            self._whole = None if checkpoint is None or self._identity.overrides else os.path.abspath(checkpoint)
            return self._train(checkpoint, trial, *args, **kwargs)

    def _train(self, *args, **kwargs) -> Any:
        self._saved_before_evaluation = self._last_saved = self._numbers = None
        self._begun_step = self._step_at_optimizer = -1
        try:
            return super().train(*args, **kwargs)
        except KeyboardInterrupt:
            # No checkpoint: that could take minutes, and whoever stops a run wants it to stop
            logger.warning(
                f"Stopped in step {self.state.global_step + 1} of {self.state.max_steps}. "
                f"{how_to_go_on(self.args.output_dir)}"
            )
            raise
        except Exception as error:
            self._save_after(error)
            raise

    def create_scheduler(self, *args, **kwargs) -> Any:
        scheduler = super().create_scheduler(*args, **kwargs)
        self._identity.remember_hyperparameters()
        return scheduler

    def _run_epoch(self, *args, **kwargs):
        if kwargs["epoch"] == kwargs["epochs_trained"]:
            self._last_saved = self.state.global_step
            self._evaluate_what_is_due(kwargs["trial"], kwargs["ignore_keys_for_eval"], kwargs["start_time"])
        if self.state.global_step >= self.state.max_steps:  # resumed after it: the host would make another step
            self.control.should_training_stop = True
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def training_step(self, *args, **kwargs):
        self._begun_step = self.state.global_step
        return super().training_step(*args, **kwargs)

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm)
        self._step_at_optimizer = self.state.global_step
        return norm

    @property
    def _is_in_step(self) -> bool:
        """Whether a micro-batch has been trained on whose step is not made yet."""
        return self._begun_step == self.state.global_step

    def _finalize_training(self, trial, num_train_samples, start_time):
        self._evaluate_what_is_due(trial, None, start_time)  # resumed after the last step
        return super()._finalize_training(trial, num_train_samples, start_time)

    def _save_after(self, error: Exception) -> None:
        """Save the last whole step after an exception, and say so in a note of it."""
        args, step = self.args, self.state.global_step
        if (
            str(getattr(args.save_strategy, "value", args.save_strategy)) == "no"
            or self._last_saved is None
            or step <= self._last_saved
            or args.world_size > 1  # the others may be elsewhere, and would not come
            or self._is_saving
            or self.hp_search_backend is not None
            or not self._may_save_after(error)
            or self._step_at_optimizer == step  # which may have been made by half
        ):
            return
        folder = self._checkpoint_folder(None)
        try:
            with self._args_set(push_to_hub=False):
                self._write_checkpoint(None, state_only=False)
        except Exception as second:
            error.add_note(f"Step {step} could not be saved ({second}). {how_to_go_on(args.output_dir)}")
            return
        error.add_note(f"Step {step} is saved: go on with `resume_from_checkpoint={folder!r}`.")

    # Evaluation

    def _evaluate(self, trial, ignore_keys_for_eval, skip_scheduler=False):
        # `skip_scheduler`: the evaluation before the first step
        if self.control.should_save and self.args.save_strategy != SaveStrategy.BEST and not skip_scheduler:
            with self._args_set(push_to_hub=False):
                self._write_checkpoint(trial, state_only=self._is_saved(trial))
            self._saved_before_evaluation = self.state.global_step
        self._numbers = RandomNumbers(self.state.global_step, self.args.device)
        try:
            metrics = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
            self._numbers = None
            return metrics
        except Exception as error:
            if 0 < self.state.global_step == self._last_saved:
                folder = self._checkpoint_folder(trial)
                error.add_note(
                    f"The evaluation at step {self.state.global_step} failed; the step is saved. Once what it failed "
                    f"of is mended, go on with `resume_from_checkpoint={folder!r}`."
                )
            raise

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, model, trial, *args, **kwargs):
        self._numbers = None
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        self._numbers = RandomNumbers(self.state.global_step, self.args.device)
        if self._saved_before_evaluation is not None:  # a callback decided against saving, by what was evaluated
            if self.args.should_save:
                shutil.rmtree(self._checkpoint_folder(trial), ignore_errors=True)
            self._saved_before_evaluation = None
        elif self._last_saved == self.state.global_step:
            self._identity.callbacks_ran(self._checkpoint_folder(trial))

    def _evaluate_what_is_due(self, trial, ignore_keys_for_eval, start_time) -> None:
        """Evaluate the step that a training goes on from, if its evaluation did not end in the training before."""
        state: Any = self.state
        if not state.stateful_callbacks.pop(EVALUATION_IS_DUE, False) or self.args.eval_strategy == "no":
            return
        folder = self._checkpoint_folder(trial)
        is_here = os.path.isfile(os.path.join(folder, TRAINER_STATE_NAME))
        if is_here:
            # An evaluation may draw random numbers. The host loads those of the checkpoint when it has the first
            # batch, and finds in it what the evaluation left
            self._load_rng_state(folder)
        self.control.should_evaluate, self.control.should_save = True, not is_here
        model: Any = self.model_wrapped
        self._maybe_log_save_evaluate(self._tr_loss, None, model, trial, state.epoch, ignore_keys_for_eval, start_time)
        if is_here:
            self._saved_before_evaluation = state.global_step
            self._save_checkpoint(model, trial)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    # Checkpoints

    def _checkpoint_folder(self, trial: Any) -> str:
        return os.path.join(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")

    def _save_checkpoint(self, model, trial):
        is_new = self._saved_before_evaluation == self.state.global_step and self._evaluation_changes_optimizer()
        self._saved_before_evaluation = None
        self._write_checkpoint(trial, state_only=self._is_saved(trial) and not is_new)
        if self.args.should_save:
            # After everything else: what is deleted is not needed any more
            rotate_checkpoints(
                self._get_output_dir(trial),
                self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def _is_saved(self, trial: Any) -> bool:
        """Whether the checkpoint of the current step is on disk already.

        It is not written again in its place, as the host does at a signal after it: a kill meanwhile, which is what
        follows such signals, would leave nothing of it.
        """
        return self._whole == os.path.abspath(self._checkpoint_folder(trial))

    def _write_checkpoint(self, trial: Any, *, state_only: bool) -> None:
        """Write the checkpoint of the current step; or only what an evaluation changes, where the rest is written.

        Raises:
            OSError: it cannot be written; the message names the folder and the free space. What was written of it is
                removed, and other checkpoints are as they were.
        """
        if state_only:
            self._identity.checkpoint_changes(self._checkpoint_folder(trial))
        else:
            self._check_before_saving()
        states: Any = self.state.stateful_callbacks
        self._put_states(states)
        if self.control.should_evaluate:
            states[EVALUATION_IS_DUE] = True
        model: Any = self.model_wrapped
        self._writes_state_only, self._is_saving = state_only, True
        folder, is_pushed = self._checkpoint_folder(trial), self.args.push_to_hub
        try:
            with self._args_set(save_total_limit=None, push_to_hub=False), replacing_its_file(self.state):
                super()._save_checkpoint(model, trial)
            self._identity.checkpoint_saved(folder)
        except Exception as error:
            if self.args.should_save and not os.path.isfile(os.path.join(folder, TRAINER_STATE_NAME)):
                shutil.rmtree(folder, ignore_errors=True)
            if not is_of_writing(error):
                raise
            raise OSError(
                f"The checkpoint of step {self.state.global_step} could not be written to {folder} ({error}). "
                f"{free_space(str(self.args.output_dir))} Make room, or take another `output_dir`. "
                f"{how_to_go_on(self.args.output_dir)}"
            ) from error
        finally:
            states.pop(EVALUATION_IS_DUE, None)
            self._writes_state_only = False
        self._is_saving = False  # an exception leaves it: nothing is to be saved after it
        self._last_saved, self._whole = self.state.global_step, os.path.abspath(folder)
        if is_pushed:
            with self._args_set(**self._given_args):
                self._push_from_checkpoint(folder)  # the host would push it without its manifest

    def _evaluation_changes_optimizer(self) -> bool:
        """Whether an evaluation changes learning rates, or in which of their two modes an optimizer's weights are."""
        by_metric = isinstance(self.lr_scheduler, (ReduceLROnPlateau, GreedyLR))
        own = getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate's wrapper has the method for all
        return by_metric or callable(getattr(own, "eval", None))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not self._writes_state_only:
            super().save_model(output_dir, _internal_call)

    def _save(self, *args, **kwargs):
        with self._args_set(**self._given_args):  # they are saved with the weights
            super()._save(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir):
        if not self._writes_state_only:
            super()._save_optimizer_and_scheduler(output_dir)

    def _save_scaler(self, output_dir):
        if not self._writes_state_only:
            super()._save_scaler(output_dir)

    def _save_rng_state(self, output_dir):
        numbers = self._numbers
        is_of_step = numbers is not None and numbers.step == self.state.global_step
        with numbers.restored() if is_of_step else nullcontext():  # what came after the step will come anew
            if not self._writes_state_only:
                super()._save_rng_state(output_dir)
                return
            with tempfile.TemporaryDirectory(prefix=".rng-", dir=self.args.output_dir) as folder:
                super()._save_rng_state(folder)
                for name in os.listdir(folder):
                    os.replace(os.path.join(folder, name), os.path.join(output_dir, name))

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if not load_renamed_checkpoint(self, resume_from_checkpoint):
            own: Any = self.model
            with keeping_dtypes(own):
                super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self):
        self._identity.verify(self.state.best_model_checkpoint)
        if not load_renamed_checkpoint(self, self.state.best_model_checkpoint):
            super()._load_best_model()

    @contextmanager
    def _args_set(self, **values: Any) -> Iterator[None]:
        """A context in which some options are others, but in the options that are saved with weights."""
        before = {name: getattr(self.args, name) for name in values}
        given = self._given_args
        self._given_args = {**before, **given}
        for name, value in values.items():
            setattr(self.args, name, value)
        try:
            yield
        finally:
            self._given_args = given
            for name, value in before.items():
                setattr(self.args, name, value)


class RandomNumbers:
    """The random numbers that are to come after a step, as its checkpoint has them.

    Keeping them takes some microseconds and waits for no device.
    """

    def __init__(self, step: int, device: torch.device):
        self.step = step
        self._device = device if device.type == "cuda" else None
        self._states = self._now()

    def _now(self) -> tuple[Any, ...]:
        device = None if self._device is None else torch.cuda.get_rng_state(self._device)
        return random.getstate(), np.random.get_state(), torch.random.get_rng_state(), device

    def _set(self, states: tuple[Any, ...]) -> None:
        python, numpy, cpu, device = states
        random.setstate(python)
        np.random.set_state(numpy)
        torch.random.set_rng_state(cpu)
        if self._device is not None:
            torch.cuda.set_rng_state(device, self._device)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """A context in which they are to come again."""
        now = self._now()
        self._set(self._states)
        try:
            yield
        finally:
            self._set(now)


def how_to_go_on(output_dir: Any) -> str:
    """The newest finished checkpoint of a folder, in words."""
    checkpoint = newest_finished_checkpoint(output_dir)
    if checkpoint is None:
        return "No checkpoint has been saved, so the run has to begin anew."
    return f"Go on from the last checkpoint with `resume_from_checkpoint={str(checkpoint)!r}`."


def is_of_writing(error: Exception) -> bool:
    """Whether an exception says that a file could not be written: those of safetensors and torch are classes apart."""
    text = str(error)
    return (
        (isinstance(error, OSError) and error.errno is not None)
        or type(error).__name__ == "SafetensorError"
        or (isinstance(error, RuntimeError) and ("PytorchStreamWriter" in text or "unexpected pos" in text))
    )


def free_space(folder: str) -> str:
    """The free space of the disk that a folder is on, in words."""
    while folder and not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return f"{shutil.disk_usage(folder or '.').free / 2**30:.2f} GiB are free there."
