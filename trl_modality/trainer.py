"""`ModalityBalancedSFTTrainer`: `SFTTrainer` for datasets with pairs. Wiring only."""

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from datasets import Dataset
from trl import SFTTrainer

from .collation.collator import PairedCollator
from .curriculum.deadline import saying_why_workers_die, with_deadline
from .curriculum.options import RunSchedule
from .curriculum.schedule import Schedule
from .evaluation.gap import ModalityGapEvaluator
from .modeling.attention import follows_segments, shared_prefix_attention
from .modeling.forward import LossSettings, PairedModelOutput, loss_to_backward, output_with_logits
from .modeling.token_layout import counted_labels
from .training.bad_rows import evaluated_rows
from .training.checks import check_collator, reject_late_pairs, reject_parallelism
from .training.choosing import check_choosing
from .training.datasets import named_datasets
from .training.gap import EvaluationGap
from .training.metrics import RunMetrics
from .training.prepare import check_run, collating_with, collator_options, prepare_model, prepare_run
from .training.run_plan import PLAN_STATE, RunPlan
from .training.run_record import RunRecord
from .training.taught import TaughtSFTTrainer
from .views import PAIR_COLUMNS, PLAIN_COLUMNS


class ModalityBalancedSFTTrainer(TaughtSFTTrainer):
    """Supervised fine-tuning on pairs: a cross-entropy in both views of a question, and a KL from one to the other.

    A drop-in replacement for [`~trl.SFTTrainer`], with its arguments. A dataset without pairs takes the path of
    `SFTTrainer`, step for step, but for resuming, which is mended, and `padding_free=True` on rows with images, which
    is added. With pairs (columns `images`, `text_rich_prompt`, `vision_centric_prompt`, `completion`),
    [`PairedCollator`] collates every row and the loss is

        L = 1/N · Σ_t [ w_r·CE_r + w_v·CE_v + λ·D( stopgrad p_r ‖ p_v ) ]

    where N counts the tokens of every supervised view (weight above 0) in the global batch, so that λ=0 is what
    `SFTTrainer` gives on the rows written out twice. A dataset may mix pairs with plain rows, with images or without.

    Example:

    ```python
    args = ModalityBalancedSFTConfig(kl_weight=1.0)
    trainer = ModalityBalancedSFTTrainer("llava-hf/llava-1.5-7b-hf", args, train_dataset=pairs)
    trainer.train()
    ```

    Args:
        replay_dataset: Rows without pairs, usually text alone, that are mixed in at `replay_ratio` so that an old
            skill stays. A `Dataset` or an `IterableDataset` of `messages`, `prompt` and `completion`, or `text`.
        schedule: In place of the `curriculum` of the config: a function from progress in [0, 1] to a
            [`~trl_modality.curriculum.Mix`].
        teacher_model: A model that teaches in place of the `teacher` of the config, loaded, of the student's family.
        gap_evaluator: A [`~trl_modality.evaluation.ModalityGapEvaluator`] that is run at every evaluation, with pairs,
            conditions and grading of its own, in place of rows of the `eval_dataset` (`gap_eval_rows`).
        *args, **kwargs: As for `SFTTrainer`. `args` may be a [`ModalityBalancedSFTConfig`] or any config of the host;
            the settings of pairs then have their defaults. `compute_metrics` is refused on datasets with pairs.

    To change a part of a run with pairs, set `data_collator_class`, `run_plan_class` (the rows and views of a step) or
    `run_metrics_class` (what is logged) in a class of your own, or override a `get_*` method.

    Raises:
        PairError, ValueError: before the first step, on rows or options that cannot be trained on as they are.
    """

    _tag_names = ["trl", "sft", "trl-modality"]
    _name = "Modality-balanced SFT"
    _paper = {
        "title": "Rethinking the Text-Vision Reasoning Imbalance in MLLMs through the Lens of Training Recipes",
        "id": "2510.22836",
    }

    data_collator_class: type[PairedCollator] = PairedCollator
    run_plan_class: type[RunPlan] = RunPlan
    run_metrics_class: type[RunMetrics] = RunMetrics

    def __init__(
        self,
        *args,
        replay_dataset: Any = None,
        schedule: Schedule | None = None,
        gap_evaluator: ModalityGapEvaluator | None = None,
        teacher_model: Any = None,
        **kwargs,
    ):
        given = inspect.signature(SFTTrainer.__init__).bind_partial(None, *args, **kwargs).arguments
        run = prepare_run(given, replay_dataset, schedule, teacher_model)
        self._uses_views, self.replay_dataset = run.uses_views, run.replay_dataset
        self._run_plan: RunPlan | None = None
        super().__init__(**run.arguments)
        if self._uses_views:
            self.args.padding_free = run.padding_free
            self._set_up_pairs(schedule, teacher_model, own_collator=given.get("data_collator") is not None)
        self._gap = EvaluationGap(self, gap_evaluator)
        if self._uses_views:
            check_choosing(self, gap_evaluator, measures_gap=self._gap.is_on)

    def _set_up_pairs(self, schedule: Schedule | None, teacher_model: Any, own_collator: bool) -> None:
        """Everything that only a run with pairs has; `SFTTrainer` is complete by now."""
        args: Any = self.args
        reject_parallelism(self.accelerator, args.loss_backend)
        prepared = prepare_model(self.model, self.processing_class, args)
        self._decoder, self._shares_prefix, self._token_layouts = prepared
        # Qwen-VL and others say no, since their own loss ignores the count; ours does not, so that accumulation and
        # ranks weigh every token alike with them too
        self.model_accepts_loss_kwargs = True
        self._loss_settings = self.get_loss_settings()
        self._set_up_teaching(self._token_layouts, teacher_model)
        if not own_collator:
            self.data_collator = self.get_paired_collator()
        check_collator(self.data_collator, args)
        self._run_metrics = self.run_metrics_class(self.accelerator, self.get_tp_size())
        self._run_plan = self.get_run_plan(RunSchedule(args, schedule))
        for callback in (self._run_metrics, self._run_plan, RunRecord(self, schedule)):
            self.add_callback(callback)
        datasets = named_datasets(self.train_dataset, self.eval_dataset, self.replay_dataset)
        check_run(args, datasets, self.data_collator, self._run_plan.schedule, shares_prefix=self._shares_prefix)

    # To override

    def get_paired_collator(self) -> PairedCollator:
        """The collator of a run with pairs, with the settings of the one that `SFTTrainer` made."""
        given, more = collator_options(self.args)
        return self.data_collator_class.from_host(self.data_collator, *given, **more)

    def get_run_plan(self, schedule: RunSchedule) -> RunPlan:
        """The plan of a run with pairs: which rows and views its steps have."""
        return self.run_plan_class(self.args, schedule, self.replay_dataset, self.accelerator, self._run_metrics)

    def get_loss_settings(self) -> LossSettings:
        """The weights and options of the paired loss, made once for each training, and evaluation outside of one."""
        return LossSettings.from_config(self.args, share_prefix=self._shares_prefix)

    # Data

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        if self._uses_views:
            extra = [*PAIR_COLUMNS, *PLAIN_COLUMNS, self.args.dataset_text_field]
            self._signature_columns = list(dict.fromkeys([*self._signature_columns, *extra]))

    def _remove_unused_columns(self, dataset, description=None) -> Any:
        dataset = super()._remove_unused_columns(dataset, description)
        return evaluated_rows(dataset, self.args) if self._uses_views else dataset

    def get_train_dataloader(self) -> Any:
        if self._run_plan is None or self.train_dataset is None:
            return with_deadline(super().get_train_dataloader(), getattr(self.args, "data_timeout", 0))
        self._loss_settings = self.get_loss_settings()  # the config may have been changed, by a search or its user
        given: Any = self.train_dataset
        used = super()._remove_unused_columns(given, "training") if isinstance(given, Dataset) else given
        collate = self._collating(self.data_collator, self._loss_settings)
        return self._run_plan.data_loader(used, given, collate, self._train_batch_size, self.get_tp_size())

    def get_eval_dataloader(self, eval_dataset=None) -> Any:
        with collating_with(self, self._loss_settings if self._uses_views else None):
            return with_deadline(super().get_eval_dataloader(eval_dataset), getattr(self.args, "data_timeout", 0))

    def _get_num_items_in_batch(self, batch_samples, device):
        if self._uses_views:
            batch_samples = counted_labels(batch_samples, self._token_layouts, self._loss_settings, device)
        return super()._get_num_items_in_batch(batch_samples, device)

    # Training and its loss

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs) -> Any:
        with saying_why_workers_die(), self._attention():
            output = super().train(resume_from_checkpoint, *args, **kwargs)
        if self._uses_views:
            self.save_state()  # the curves, for whoever has no checkpoint
        return output

    def _attention(self) -> AbstractContextManager[None]:
        """A context in which the decoder takes rows laid into one sequence, if the run has any."""
        packs = self._uses_views and (self._shares_prefix or self.args.padding_free)
        return shared_prefix_attention(self._decoder) if packs else nullcontext()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> Any:
        if not self._uses_views:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        settings, training = self._loss_settings, self.model.training
        if not follows_segments(self._decoder):
            settings = settings.with_rows_apart()  # called by the user, outside of `train` and `evaluate`
        inputs, teachings = self._taught(model, inputs, settings)
        inputs |= {"output_router_logits": True} if self.aux_loss_enabled else {}
        teachings |= {"paired_loss": settings, "num_items_in_batch": num_items_in_batch}
        output: PairedModelOutput = model(**inputs, **teachings)
        is_counted, layout = num_items_in_batch is not None, inputs["view_layout"]
        averages = is_counted and self.args.average_tokens_across_devices
        loss = loss_to_backward(
            output,
            ranks=self.accelerator.num_processes // self.get_tp_size() if averages else 1,
            aux_weight=self.router_aux_loss_coef if self.aux_loss_enabled else 0.0,
            # The host leaves accumulation to the loss once that is divided by N
            accumulation_steps=self.current_gradient_accumulation_steps if is_counted and self.aux_loss_enabled else 1,
        )
        self._run_metrics.add(output, settings, layout, training=training)
        if training and self._run_plan is not None:
            self._run_plan.add(output, settings, layout)
            self._health.show(output, inputs)
        return (loss, output_with_logits(model, inputs)) if return_outputs else loss

    # Evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        if not self._uses_views:
            reject_late_pairs(eval_dataset, self.args.dataset_text_field)
        with self._gap.of(eval_dataset):
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        if self._uses_views:
            self._run_metrics.begin_evaluation()
            self._loss_settings = self._loss_settings if self.is_in_train else self.get_loss_settings()
        # Of pairs losses only: a pair is two rows, so the host's logits would not line up with its examples
        losses_only = self._uses_views or prediction_loss_only
        with saying_why_workers_die(), self._attention():
            output = super().evaluation_loop(dataloader, description, losses_only, ignore_keys, metric_key_prefix)
        metrics: Any = output.metrics
        if self._uses_views:
            metrics.update(self._run_metrics.evaluation_metrics(metric_key_prefix))
        metrics.update(self._gap.measure(metric_key_prefix))
        self._check_metrics(metrics)
        return output

    # Checkpoints and logs

    def _put_states(self, states):
        super()._put_states(states)
        if self._run_plan is not None:
            states[PLAN_STATE] = self._run_plan.state_dict(self.state.global_step)

    def _sums_of_training(self):
        return [] if self._run_plan is None else [self._run_metrics.training_sums, self._run_plan.window_sums]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # The host's own reports of training, which every rank makes; a log of the user's, perhaps on one rank alone,
        # must not wait for the others
        if self._run_plan is not None and ("train_loss" in logs or (self.model.training and "loss" in logs)):
            logs.update(self._run_metrics.training_logs(at_the_end="loss" not in logs))
            logs.update(self._run_plan.logs(self.state) if "loss" in logs else {})
        super().log(logs, start_time)
