"""`GapCallback` measures the gap every so many steps of any trainer."""

from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainerCallback

from .gap import evaluation_mode, measure_gap, step_folder


if TYPE_CHECKING:
    from ..evaluation.gap import ModalityGapEvaluator


class GapCallback(TrainerCallback):
    """Measures the gap on held-out pairs every so many steps and at the end of training, and logs it.

    For any trainer of transformers or TRL, [`~trl.SFTTrainer`] among them. The logs have `eval_text_rich_accuracy`,
    `eval_vision_centric_accuracy` and `eval_accuracy_gap` (text_rich minus vision_centric; shares from 0 to 1), and
    what else the evaluator measures; the answers are in `evals/step-N` of the output folder. Training goes on as if
    nothing had been measured. To choose the best checkpoint by these, or to stop early, use `gap_eval_rows` or
    `gap_evaluator` of [`ModalityBalancedSFTTrainer`], which are part of its evaluations.

    Several of them on one trainer, or one beside those options, need a `name` each: it stands in their logs
    (`eval_charts_accuracy_gap`) and folders (`evals/step-200-charts`), as that of one set of several does.

    With `load_best_model_at_end` nothing is measured at the end: the weights are then those of an earlier step.

    Example:

    ```python
    from trl import SFTTrainer
    from trl_modality import GapCallback
    from trl_modality.evaluation import ModalityGapEvaluator

    trainer = SFTTrainer(...)
    trainer.add_callback(GapCallback(trainer, ModalityGapEvaluator(pairs), every_n_steps=100))
    ```

    Args:
        trainer: The trainer that the callback is added to.
        evaluator: Asks the pairs and grades the answers.
        every_n_steps: Number of optimizer steps between two measurements.
        max_new_tokens: Largest number of tokens of an answer.
        name: Part of the names of logs and folders, where a trainer measures more than one thing.

    Raises:
        ValueError: `every_n_steps` or `max_new_tokens` is below 1; when training begins, two have one name.
    """

    def __init__(
        self,
        trainer: Trainer,
        evaluator: "ModalityGapEvaluator",
        every_n_steps: int,
        *,
        max_new_tokens: int = 256,
        name: str = "",
    ):
        for option, value in (("every_n_steps", every_n_steps), ("max_new_tokens", max_new_tokens)):
            if value < 1:
                raise ValueError(f"`{option}` must be at least 1, got {value}.")
        self._trainer, self._evaluator, self._name = trainer, evaluator, name
        self._every_n_steps, self._max_new_tokens = every_n_steps, max_new_tokens
        self._measured_step: int | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._measured_step = None
        trainer: Any = self._trainer
        callbacks = [each for each in trainer.callback_handler.callbacks if isinstance(each, GapCallback)]
        own_gap = getattr(trainer, "_gap", None)
        names = [each._name for each in callbacks] + [""] * bool(own_gap is not None and own_gap.is_on)
        if names.count(self._name) > 1:
            raise ValueError(
                f"two things that measure the gap are both called {self._name!r}, and would write over each other's "
                "answers: give each `GapCallback` a `name` of its own (that of `gap_eval_rows` and `gap_evaluator` is "
                "empty)."
            )

    def on_step_end(self, args, state, control, **kwargs):
        # The last step here, not in `on_train_end`: the trainer's own summary of training comes last in its logs
        if state.global_step % self._every_n_steps == 0 or state.global_step >= state.max_steps:
            self._measure(control)

    def on_train_end(self, args, state, control, **kwargs):
        has_best = args.load_best_model_at_end and state.best_model_checkpoint is not None
        if not has_best and self._measured_step != state.global_step:  # it was stopped early
            self._measure(control)

    def _measure(self, control) -> None:
        trainer = self._trainer
        folder = step_folder(trainer, self._name)
        prefix = f"eval_{self._name}_" if self._name else "eval_"
        metrics = measure_gap(trainer, self._evaluator, max_new_tokens=self._max_new_tokens, folder=folder)
        self._measured_step = trainer.state.global_step
        # The host takes any log for the one of this step that is due, and what is logged in training mode for losses
        is_log_due = control.should_log
        with evaluation_mode(trainer):
            trainer.log({f"{prefix}{name}": value for name, value in metrics.items()})
        control.should_log = is_log_due
