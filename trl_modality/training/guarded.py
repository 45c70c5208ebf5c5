"""`GuardedSFTTrainer`: an `SFTTrainer` that stops at numbers that are not finite, and does not lose steps."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate.utils.memory import should_reduce_batch_size
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy
from transformers.utils import logging
from trl import SFTTrainer

from .._compat import (
    GreedyLR,
    load_renamed_checkpoint,
    replacing_its_file,
    rotate_checkpoints,
)
from .health import HEALTH_STATE, HealthGate, how_to_go_on
from .metrics import LossMetrics
from .ranks import waiting_for_others
from .resume import RunIdentity


logger = logging.get_logger(__name__)

EVALUATION_IS_DUE = "evaluation_is_due"
"""In the state of the gate: the checkpoint was written before an evaluation that did not end."""


class GuardedSFTTrainer(SFTTrainer):
    """An [`~trl.SFTTrainer`] that stops at losses, gradients, weights and metrics that are not finite.

    With no fault, a run is what it is with `SFTTrainer`, and on disk is what `SFTTrainer` leaves there. Where a
    checkpoint and an evaluation are due at the same step, the checkpoint is written first; its state, which names the
    best checkpoint, is brought up to date after the evaluation.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._health, self._identity = HealthGate(self), RunIdentity(self)
        self.add_callback(self._identity)
        # The step whose checkpoint is on disk, but for what the evaluation of that step adds to it
        self._saved_before_evaluation: int | None = None
        self._writes_state_only = False
        self._given_args: dict[str, Any] = {}
        self._kept: Any = None
        if self.args.fp16 and self.args.device.type == "cpu":
            logger.warning(
                "`fp16=True` does nothing on a CPU: the run is in float32. Use `bf16=True` there, or leave both out."
            )

    # To override

    def _sums_of_training(self) -> list[LossMetrics]:
        """Sums over micro-batches that a skipped step is taken out of again."""
        return []

    # Training

    def train(self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, *args, **kwargs) -> Any:
        identity = self._identity.training(resume_from_checkpoint, trial)
        with waiting_for_others(self.args), identity as checkpoint:
            return super().train(checkpoint, trial, *args, **kwargs)

    def create_scheduler(self, *args, **kwargs) -> Any:
        scheduler = super().create_scheduler(*args, **kwargs)
        self._identity.remember_hyperparameters()
        return scheduler

    def _run_epoch(self, *args, **kwargs):
        # The host would read each loss twice to leave those that are not finite out of its log; the gate reads once
        with self._args_set(logging_nan_inf_filter=False):
            if kwargs["epoch"] == kwargs["epochs_trained"]:
                self._health.begin()
                self._evaluate_what_is_due(kwargs["trial"], kwargs["ignore_keys_for_eval"], kwargs["start_time"])
            if self.state.global_step >= self.state.max_steps:  # resumed after it: the host would make another step
                self.control.should_training_stop = True
            if not self.control.should_training_stop:
                self._run_steps(*args, **kwargs)

    def _run_steps(self, *args, **kwargs) -> None:
        try:
            super()._run_epoch(*args, **kwargs)
        except Exception as error:
            taken = self.state.global_step - self._initial_global_step
            if taken and self.args.auto_find_batch_size and should_reduce_batch_size(error):
                # The host would begin at the first step again, with weights that are those of a later one
                size = self._train_batch_size
                raise RuntimeError(
                    f"Memory ran out in step {self.state.global_step + 1}, with batches of {size} rows. "
                    "`auto_find_batch_size` finds a smaller batch at the first step alone: later the weights have "
                    f"been trained already. Set `per_device_train_batch_size` below {size}. "
                    f"{how_to_go_on(self.args.output_dir)}"
                ) from error
            raise

    def training_step(self, *args, **kwargs):
        if self._health.is_at_the_beginning and self._health.policy == "skip":
            self._keep_for_skipping()
        loss = super().training_step(*args, **kwargs)
        self._health.add(loss)
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        # The last thing that the host does before the optimizer's step
        norm = super()._get_grad_norm(model, grad_norm)
        if self._health.passes(norm):
            return norm
        for parameter in model.parameters():
            parameter.grad = None  # of no gradient an optimizer changes neither weights nor its own state
        self._forget_step()
        return None

    def _keep_for_skipping(self) -> None:
        """Keep what the micro-batches of a step will be added to."""
        host = self._metrics["train"]
        self._kept = (
            self._tr_loss.clone(),
            [(sums, sums.kept()) for sums in self._sums_of_training()],
            {name: len(values) for name, values in host.items()},
        )

    def _forget_step(self) -> None:
        """Take a skipped step out of the means that are logged."""
        loss, sums, lengths = self._kept
        self._tr_loss.copy_(loss)
        for each, kept in sums:
            each.go_back_to(kept)
        host = self._metrics["train"]
        for name in list(host):
            host[name] = host[name][: lengths.get(name, 0)]
            if not host[name]:
                del host[name]

    def _finalize_training(self, trial, num_train_samples, start_time):
        self._evaluate_what_is_due(trial, None, start_time)  # resumed after the last step
        taken = self.state.global_step - self._initial_global_step
        if skipped := min(self._health.skipped_here, taken - 1):
            # The host divides by all steps
            factor = taken / (taken - skipped)
            self._total_loss_scalar *= factor
            self._tr_loss *= factor
        return super()._finalize_training(trial, num_train_samples, start_time)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self.model.training:
            self._health.correct(logs)
        super().log(logs, start_time)

    # Evaluation

    def _check_metrics(self, metrics: Any) -> None:
        """Stop at what an evaluation has measured where it is not finite."""
        self._health.check_metrics(metrics, self.args.metric_for_best_model)

    def evaluation_loop(self, *args, **kwargs):
        output = super().evaluation_loop(*args, **kwargs)
        self._check_metrics(output.metrics)
        return output

    def _evaluate(self, trial, ignore_keys_for_eval, skip_scheduler=False):
        # `skip_scheduler`: the evaluation before the first step
        if self.control.should_save and self.args.save_strategy != SaveStrategy.BEST and not skip_scheduler:
            self._save_before_evaluation(trial)
        try:
            return super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        except Exception as error:
            if self._saved_before_evaluation is not None:
                folder = self._checkpoint_folder(trial)
                error.add_note(
                    f"The evaluation at step {self.state.global_step} failed; the step is saved. Once what it failed "
                    f"of is mended, go on with `resume_from_checkpoint={folder!r}`."
                )
            raise

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, model, trial, *args, **kwargs):
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        if self._saved_before_evaluation is not None:  # a callback decided against saving, by what was evaluated
            if self.args.should_save:
                shutil.rmtree(self._checkpoint_folder(trial), ignore_errors=True)
            self._saved_before_evaluation = None

    def _evaluate_what_is_due(self, trial, ignore_keys_for_eval, start_time) -> None:
        """Evaluate the step that a training goes on from, if its evaluation did not end in the training before."""
        state: Any = self.state
        if not (state.stateful_callbacks.get(HEALTH_STATE) or {}).get(EVALUATION_IS_DUE):
            return
        del state.stateful_callbacks[HEALTH_STATE][EVALUATION_IS_DUE]
        if self.args.eval_strategy == "no":
            return
        folder = self._checkpoint_folder(trial)
        if os.path.isfile(os.path.join(folder, TRAINER_STATE_NAME)):
            # An evaluation may draw random numbers. The host loads those of the checkpoint when it has the first
            # batch, and finds in it what the evaluation left
            self._load_rng_state(folder)
            self._saved_before_evaluation = state.global_step
        self.control.should_evaluate = self.control.should_save = True
        self._maybe_log_save_evaluate(
            self._tr_loss, None, self.model_wrapped, trial, state.epoch, ignore_keys_for_eval, start_time
        )

    # Checkpoints

    def _checkpoint_folder(self, trial: Any) -> str:
        return os.path.join(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")

    def _save_before_evaluation(self, trial: Any) -> None:
        """Write the checkpoint of a step that is to be evaluated, and delete none yet."""
        if self._saved_before_evaluation == self.state.global_step:
            return  # resumed from it
        states: Any = self.state.stateful_callbacks
        states[HEALTH_STATE] = {**(states.get(HEALTH_STATE) or {}), EVALUATION_IS_DUE: True}
        with self._args_set(push_to_hub=False):
            self._write_checkpoint(trial, state_only=False)
        del states[HEALTH_STATE][EVALUATION_IS_DUE]
        self._saved_before_evaluation = self.state.global_step

    def _save_checkpoint(self, model, trial):
        is_written = self._saved_before_evaluation == self.state.global_step
        self._saved_before_evaluation = None
        self._write_checkpoint(trial, state_only=is_written and not self._evaluation_changes_optimizer())
        if self.args.should_save:
            # After everything else: what is deleted is not needed any more
            rotate_checkpoints(
                self._get_output_dir(trial),
                self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def _write_checkpoint(self, trial: Any, *, state_only: bool) -> None:
        """Write the checkpoint of the current step; or only what an evaluation changes, where the rest is written."""
        if state_only:
            self._identity.checkpoint_changes(self._checkpoint_folder(trial))
        else:
            self._health.check_weights(agree=True)
        states: Any = self.state.stateful_callbacks
        if self._health.skipped:
            states[HEALTH_STATE] = {**(states.get(HEALTH_STATE) or {}), "skipped_steps": self._health.skipped}
        elif not states.get(HEALTH_STATE):
            states.pop(HEALTH_STATE, None)  # with no fault, a checkpoint is what the host's is
        model: Any = self.model_wrapped
        self._writes_state_only = state_only
        try:
            with self._args_set(save_total_limit=None), replacing_its_file(self.state):
                super()._save_checkpoint(model, trial)
        finally:
            self._writes_state_only = False
        self._identity.checkpoint_saved(self._checkpoint_folder(trial))

    def _evaluation_changes_optimizer(self) -> bool:
        """Whether an evaluation changes learning rates, or in which of their two modes an optimizer's weights are."""
        by_metric = isinstance(self.lr_scheduler, (ReduceLROnPlateau, GreedyLR))
        own = getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate's wrapper has the method for all
        return by_metric or callable(getattr(own, "eval", None))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if self._writes_state_only:
            return
        if not _internal_call:
            self._health.check_weights(agree=False)  # a user may call it on one rank alone
        super().save_model(output_dir, _internal_call)

    def _save(self, *args, **kwargs):
        with self._args_set(**self._given_args):  # they are saved with the weights
            super()._save(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir):
        if not self._writes_state_only:
            super()._save_optimizer_and_scheduler(output_dir)

    def _save_rng_state(self, output_dir):
        if not self._writes_state_only:
            super()._save_rng_state(output_dir)
            return
        with tempfile.TemporaryDirectory(prefix=".rng-", dir=self.args.output_dir) as folder:
            super()._save_rng_state(folder)
            for name in os.listdir(folder):
                os.replace(os.path.join(folder, name), os.path.join(output_dir, name))

    def _save_scaler(self, output_dir):
        if not self._writes_state_only:
            super()._save_scaler(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if not load_renamed_checkpoint(self, resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self):
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
