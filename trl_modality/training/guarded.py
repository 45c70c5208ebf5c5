"""`GuardedSFTTrainer`: an `SFTTrainer` that stops at numbers that are not finite, and does not lose steps."""

from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers.utils import logging

from .health import HEALTH_STATE, HealthGate, NonFiniteError
from .metrics import LossMetrics
from .saving import SavingSFTTrainer


logger = logging.get_logger(__name__)


class GuardedSFTTrainer(SavingSFTTrainer):
    """An [`~trl.SFTTrainer`] that stops at losses, gradients, weights and metrics that are not finite.

    With no fault, a run is what it is with `SFTTrainer`, and on disk is what `SFTTrainer` leaves there.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._health = HealthGate(self)
        self._kept: list[tuple[LossMetrics, Any]] = []
        self._kept_loss, self._kept_lengths = torch.zeros(()), {}
        if self.args.fp16 and self.args.device.type == "cpu":
            logger.warning(
                "`fp16=True` does nothing on a CPU: the run is in float32. Use `bf16=True` there, or leave both out."
            )
        if not getattr(self, "_uses_views", False):
            self._warn_of_sharded_head()

    def _warn_of_sharded_head(self) -> None:
        """Say what the loss of TRL (1.16), which runs without pairs have, does to the head under FSDP2.

        It puts the head together by `full_tensor()`, whose backward leaves each rank with the gradient of its own rows
        for its shard.
        """
        if not (self.accelerator.is_fsdp2 and self.accelerator.num_processes > 1 and self.is_world_process_zero()):
            return
        model: Any = self.model
        weight = getattr(model.get_output_embeddings(), "weight", None)
        if weight is not None and weight.requires_grad:
            logger.warning(
                "FSDP2, and no pairs: TRL's own loss trains each rank's shard of the language model's head on the "
                "rows of that rank alone. Freeze the head (as LoRA does), or use DeepSpeed ZeRO-3 for such a run."
            )

    # To override

    def _sums_of_training(self) -> list[LossMetrics]:
        """Sums over micro-batches that a skipped step is taken out of again."""
        return []

    # Training

    def _run_epoch(self, *args, **kwargs):
        if kwargs["epoch"] == kwargs["epochs_trained"]:
            self._health.begin()
        try:
            # The host would read each loss twice, to leave those that are not finite out of its log; the gate once
            with self._args_set(logging_nan_inf_filter=False):
                super()._run_epoch(*args, **kwargs)
        except Exception as error:
            taken = self.state.global_step - self._initial_global_step
            if taken and self.args.auto_find_batch_size and should_reduce_batch_size(error):
                # The host would begin at the first step again, with weights that are those of a later one
                size = self._train_batch_size
                raise RuntimeError(
                    f"Memory ran out in step {self.state.global_step + 1}, with batches of {size} rows. "
                    "`auto_find_batch_size` finds a smaller batch at the first step alone: later the weights have "
                    f"been trained already. Set `per_device_train_batch_size` below {size}."
                ) from error
            raise

    def training_step(self, *args, **kwargs):
        if self._health.is_at_the_beginning:
            self._keep_sums()
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

    def _keep_sums(self) -> None:
        """Keep what the micro-batches of a step will be added to."""
        self._kept = [(sums, sums.kept()) for sums in self._sums_of_training()]
        if self._health.policy == "skip":
            self._kept_loss = self._tr_loss.clone()
            self._kept_lengths = {name: len(values) for name, values in self._metrics["train"].items()}

    def _forget_micro_batches(self) -> None:
        """Take the micro-batches of a step that is not made out of the sums over views."""
        for sums, kept in self._kept:
            sums.go_back_to(kept)

    def _forget_step(self) -> None:
        """Take a skipped step out of the means that are logged."""
        self._forget_micro_batches()
        self._tr_loss.copy_(self._kept_loss)
        host = self._metrics["train"]
        for name in list(host):
            host[name] = host[name][: self._kept_lengths.get(name, 0)]
            if not host[name]:
                del host[name]

    def _finalize_training(self, trial, num_train_samples, start_time):
        taken = self.state.global_step - self._initial_global_step
        if skipped := min(self._health.skipped_here, taken - 1):
            # The host divides by all steps
            factor = taken / (taken - skipped)
            self._total_loss_scalar *= factor
            self._tr_loss *= factor
        output = super()._finalize_training(trial, num_train_samples, start_time)
        self._health.check_weights(agree=True)  # no step comes after the last one that would show it
        return output

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

    # Saving

    def _may_save_after(self, error: Exception) -> bool:
        return not isinstance(error, NonFiniteError)

    def _check_before_saving(self) -> None:
        self._health.check_weights(agree=True)

    def _put_states(self, states: dict[str, Any]) -> None:
        if self._is_in_step:
            self._forget_micro_batches()
        if self._health.skipped:
            states[HEALTH_STATE] = {"skipped_steps": self._health.skipped}
        super()._put_states(states)

    @property
    def _saves_together(self) -> bool:
        """Whether saving a model takes every rank: those that another does not come to would wait for it."""
        state = self.accelerator.state
        if self.is_fsdp_enabled:
            return "FULL_STATE_DICT" in str(state.fsdp_plugin.state_dict_type)
        return self.is_deepspeed_enabled and state.deepspeed_plugin.zero_stage == 3

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not _internal_call:
            # A user may call it on one rank alone, unless all have to put the weights together
            self._health.check_weights(agree=self._saves_together)
        super().save_model(output_dir, _internal_call)
