"""`ModalityBalancedSFTTrainer`: `SFTTrainer` for datasets with pairs. Wiring only."""

import copy
import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import is_peft_model
from datasets import Dataset
from transformers import BitsAndBytesConfig
from transformers.utils import logging
from trl import SFTTrainer

from ._compat import keep_4bit_trainable, last_complete_checkpoint, load_renamed_checkpoint
from ._extras import require
from .collation.collator import PairedCollator
from .collation.layout import labels_of, with_images_repeated, without_examples_from
from .config import paired_config
from .curriculum import BatchCut, Mix, Schedule
from .curriculum.loader import lengths_of
from .data.rows import PairRows
from .modeling.attention import follows_segments, shared_prefix_attention
from .modeling.forward import LossSettings, PairedModelOutput, add_paired_loss
from .training import checks as preflight
from .training.gap import EvaluationGap
from .training.metrics import LossMetrics, counts_of
from .training.run_plan import PLAN_STATE, RunPlan, Steps
from .training.run_record import count_parameters, write_run_record
from .views import PAIR_COLUMNS, PLAIN_COLUMNS


if TYPE_CHECKING:
    from .evaluation.gap import ModalityGapEvaluator

logger = logging.get_logger(__name__)


class ModalityBalancedSFTTrainer(SFTTrainer):
    """Supervised fine-tuning on pairs: both views of a question, and a KL from the text_rich view to the other.

    A drop-in replacement for [`~trl.SFTTrainer`], with its arguments. A dataset without pairs takes the host's own
    path, step for step; only resuming is mended (`_compat.load_renamed_checkpoint`), and `padding_free=True` on rows
    with images, which the host refuses, takes ours. With pairs (columns `images`, `text_rich_prompt`,
    `vision_centric_prompt`, `completion`), [`PairedCollator`] collates every row and the loss is

        L = 1/N · Σ_t [ w_r·CE_r + w_v·CE_v + λ·D( stopgrad p_r ‖ p_v ) ]

    where N counts the tokens of every supervised view (weight above 0) in the global batch, so that λ=0 is what
    `SFTTrainer` gives on the rows written out twice. A dataset may mix pairs with plain rows, with images or without.

    Example:

    ```python
    from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer

    trainer = ModalityBalancedSFTTrainer(
        model="llava-hf/llava-1.5-7b-hf",
        args=ModalityBalancedSFTConfig(kl_weight=1.0),
        train_dataset=pairs,
    )
    trainer.train()
    ```

    Args:
        replay_dataset: Rows without pairs, usually text alone, that are mixed in at `replay_ratio` so that an old
            skill stays. A `Dataset` or an `IterableDataset` of `messages`, `prompt` and `completion`, or `text`.
        schedule: In place of the `curriculum` of the config: a function from progress in [0, 1] to a
            [`~curriculum.Mix`].
        gap_evaluator: Asked at every evaluation, in place of rows of the `eval_dataset` (`gap_eval_rows`): a
            [`~evaluation.gap.ModalityGapEvaluator`] of pairs, conditions and grading of your own.
        *args, **kwargs: As for `SFTTrainer`. `args` may be a [`ModalityBalancedSFTConfig`] or any config that the host
            takes; the settings of pairs then have their defaults. `compute_metrics` and what goes with it is refused
            on datasets with pairs: a pair is two rows of logits.

    Raises:
        PairError, ValueError: before the first step, on rows or options that cannot be trained on as they are.
    """

    _tag_names = ["trl", "sft", "trl-modality"]
    _name = "Modality-balanced SFT"
    _paper = {
        "title": "Rethinking the Text-Vision Reasoning Imbalance in MLLMs through the Lens of Training Recipes",
        "id": "2510.22836",
    }

    def __init__(
        self,
        *args,
        replay_dataset: Any = None,
        schedule: Schedule | None = None,
        gap_evaluator: "ModalityGapEvaluator | None" = None,
        **kwargs,
    ):
        given = inspect.signature(SFTTrainer.__init__).bind_partial(self, *args, **kwargs).arguments
        given.pop("self")
        if isinstance(given.get("quantization_config"), BitsAndBytesConfig):
            require("bitsandbytes", extra="quant", purpose="A model in 4 or 8 bits needs")
        train_dataset, eval_dataset = given.get("train_dataset"), given.get("eval_dataset")
        datasets = preflight.named_datasets(train_dataset, eval_dataset)
        text_field = getattr(given.get("args"), "dataset_text_field", "text")
        with_pairs = [name for name, dataset in datasets.items() if preflight.has_pairs(dataset, name, text_field)]
        # Rows with images and without padding are ours too: the host has no such batch
        padding_free = getattr(given.get("args"), "padding_free", False)
        self._uses_views = bool(with_pairs) or (padding_free and preflight.has_images(datasets))
        self.replay_dataset = preflight.replay_of(replay_dataset, given.get("args"), datasets, self._uses_views)
        self._run_plan: RunPlan | None = None
        self._loss_metrics = {"train": LossMetrics(), "eval": LossMetrics()}
        preflight.check_schedule(schedule, given.get("args"), self._uses_views)
        if self._uses_views:
            given["args"] = copy.copy(paired_config(given.get("args"), given.get("model")))
            given["args"].padding_free = False
            preflight.reject_unsupported(given)
            preflight.reject_text_run(datasets)
            preflight.keep_ranks_apart(given["args"], datasets)
        prepare = preflight.as_stored if self._uses_views else preflight.guard
        given["train_dataset"] = preflight.each(prepare, train_dataset)
        given["eval_dataset"] = preflight.each(prepare, eval_dataset)
        if self._uses_views and train_dataset is not None:
            preflight.check_first_image(given["train_dataset"])
        super().__init__(**given)
        if self._uses_views:
            self.args.padding_free = padding_free
            self._set_up_pairs(schedule, own_collator=given.get("data_collator") is None)
        self._gap = EvaluationGap(self, gap_evaluator)

    def _set_up_pairs(self, schedule: Schedule | None, own_collator: bool) -> None:
        """Everything that only a run with pairs has; the host is complete by now."""
        args: Any = self.args
        preflight.reject_parallelism(self.accelerator, args.loss_backend)
        model: Any = self.model
        base_model = model.get_base_model() if is_peft_model(model) else model
        processor: Any = self.processing_class
        preflight.reject_text_model(base_model, processor)
        # Qwen-VL and others say no, since their own loss ignores the count; ours does not, so that accumulation and
        # ranks weigh every token alike with them too
        self.model_accepts_loss_kwargs = True
        keep_4bit_trainable(base_model)
        add_paired_loss(base_model)
        self._decoder = base_model.get_decoder()
        adapter = getattr(model, "active_peft_config", None)
        self._shares_prefix = preflight.shares_prefix(
            args, base_model, self.aux_loss_enabled, has_virtual_tokens=getattr(adapter, "is_prompt_learning", False)
        )
        self._set_up_collator(own_collator)
        self._run_plan = RunPlan(args, schedule, self.replay_dataset)
        self._schedule = schedule
        self.parameter_counts = count_parameters(model)  # (trainable, all), before FSDP shards them
        train_dataset: Any = self.train_dataset
        preflight.check_levels(self._run_plan.mixes, train_dataset)
        self.add_callback(Steps(self))
        self._tokens_seen = {"num_tokens": 0.0, "num_tokens_saved": 0.0}
        if args.check_rows:
            self._check_rows()

    def _set_up_collator(self, own_collator: bool) -> None:
        args: Any = self.args
        if own_collator:
            host: Any = self.data_collator
            self.data_collator = PairedCollator.from_host(host, args.completion_only_loss is not False, args.overlong)
        elif not isinstance(self.data_collator, PairedCollator):
            raise ValueError(
                f"`data_collator` is a {type(self.data_collator).__name__}, which does not know the views of a pair. "
                "Give a `PairedCollator` (or a subclass), or leave it out."
            )
        elif self.data_collator.overlong != args.overlong:
            logger.warning(
                f"`overlong={args.overlong!r}` is not used: the given `data_collator` has "
                f"{self.data_collator.overlong!r}."
            )

    def _check_rows(self) -> None:
        args: Any = self.args
        not_shared = []
        datasets = preflight.named_datasets(self.train_dataset, self.eval_dataset, self.replay_dataset)
        for name, dataset in datasets.items():
            not_shared += preflight.check_rows(
                dataset,
                self.data_collator,
                args.check_rows,
                name=name,
                rank=args.process_index,
                world_size=args.world_size,
                levels=self._run_plan is not None and any(m.vision_ratio is not None for m in self._run_plan.mixes),
            )
        if self._shares_prefix and self.is_world_process_zero():
            preflight.say_what_is_not_shared(not_shared)

    # Data

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        if self._uses_views:
            extra = [*PAIR_COLUMNS, *PLAIN_COLUMNS, self.args.dataset_text_field]
            self._signature_columns = list(dict.fromkeys([*self._signature_columns, *extra]))

    def _remove_unused_columns(self, dataset, description=None) -> Any:
        dataset = super()._remove_unused_columns(dataset, description)
        return PairRows(dataset) if self._uses_views else dataset

    def get_train_dataloader(self) -> Any:
        if not self._uses_views or self.train_dataset is None:
            return super().get_train_dataloader()
        full: Any = self.train_dataset
        dataset = full
        if isinstance(dataset, Dataset):
            dataset = super()._remove_unused_columns(dataset, description="training")
        tp_size = self.get_tp_size()
        cut = BatchCut(
            # The whole batch of all ranks where accelerate is told to split it
            self._train_batch_size // (self.args.world_size if self.accelerator.split_batches else 1),
            self.args.gradient_accumulation_steps,
            ranks=self.args.world_size // tp_size,
            rank=self.args.process_index // tp_size,
        )
        assert self._run_plan is not None
        by_length = isinstance(dataset, Dataset) and self.args.train_sampling_strategy == "group_by_length"
        lengths = lengths_of(full, self.args.length_column_name) if by_length else None
        return self._run_plan.data_loader(
            dataset,
            lengths,
            cut,
            self.data_collator,
            self.accelerator,
            lambda: self.state if self.is_in_train else None,
        )

    def _save_checkpoint(self, model, trial):
        if self._run_plan is not None:
            states: Any = self.state.stateful_callbacks
            gather: Any = self.accelerator.gather
            states[PLAN_STATE] = self._run_plan.kept(self.state.global_step, gather, self.accelerator.device)
        super()._save_checkpoint(model, trial)

    def begin_training(self) -> None:
        """Before the first step of a training: nothing is left of an earlier one."""
        self._loss_metrics["train"] = LossMetrics()
        if self._run_plan is not None:
            self._run_plan.begin()
        write_run_record(self, self._schedule)

    def end_step(self) -> None:
        """After every step."""
        if self._run_plan is not None:
            self._run_plan.end_step(self.state.global_step, self._sum_over_ranks, self.accelerator.device)

    def _get_num_items_in_batch(self, batch_samples, device):
        if self._uses_views:
            supervised = self._loss_settings().supervised_views
            labels = [labels_of(batch, supervised) for batch in batch_samples]
            # Both names: what the host counts of plain `labels` depends on the model's own loss
            batch_samples = [{"labels": each, "shift_labels": each[:, 1:]} for each in labels]
        return super()._get_num_items_in_batch(batch_samples, device)

    # Attention

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs) -> Any:
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir) or True
        with self._attention():
            output = super().train(resume_from_checkpoint, *args, **kwargs)
        if self._uses_views:
            self.save_state()  # the curves, for whoever has no checkpoint
        return output

    def _attention(self) -> AbstractContextManager[None]:
        """While it lasts, the decoder takes rows in one sequence, if the run has any; then it is what it was."""
        if self._uses_views and (self._shares_prefix or self.args.padding_free):
            return shared_prefix_attention(self._decoder)
        return nullcontext()

    # Loss

    def _mix(self) -> Mix:
        """What the step trains on; of an evaluation, everything."""
        in_training = self.is_in_train and self.model.training and self._run_plan is not None
        return self._run_plan.mix(self.state.global_step) if in_training else Mix()

    def _loss_settings(self) -> LossSettings:
        args: Any = self.args
        return LossSettings(
            # Which pairs have a cross-entropy in which view is in the batch
            text_rich_weight=args.text_rich_weight,
            vision_centric_weight=args.vision_centric_weight,
            kl_weight=args.kl_weight * self._mix().kl,
            divergence=args.divergence,
            beta=args.beta,
            temperature=args.kl_temperature,
            backend=args.loss_backend,
            tile_mib=args.loss_tile_mib,
            gradient_filter=args.gradient_filter,
            share_prefix=self._shares_prefix and follows_segments(self._decoder),
            padding_free=args.padding_free and follows_segments(self._decoder),
        )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> Any:
        if not self._uses_views:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        training = self.model.training
        settings = self._loss_settings()
        if not training:
            inputs = self._without_duplicates(inputs)
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        output: PairedModelOutput = model(**inputs, paired_loss=settings, num_items_in_batch=num_items_in_batch)
        loss: Any = output.loss
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            # N counts the tokens of every rank, and DDP averages the gradients over the ranks
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())
        if self.aux_loss_enabled:
            # A mean of its micro-batch: the host leaves accumulation to the loss once that is divided by N
            steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
            aux_loss: Any = output.aux_loss
            loss = loss + self.router_aux_loss_coef * aux_loss / steps
        counts = counts_of(inputs, settings)
        self._loss_metrics["train" if training else "eval"].add(output, settings, counts)
        if training and self._run_plan is not None:
            self._run_plan.add(output, settings, counts)
        if return_outputs:
            logits_inputs = with_images_repeated(inputs, inputs["view_layout"])
            logits_inputs = {key: logits_inputs[key] for key in inputs.keys() - {"labels", "view_layout"}}
            with torch.no_grad():
                return loss, model(**logits_inputs, use_cache=False)
        return loss

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        for name, dataset in preflight.named_datasets(None, eval_dataset).items():
            if preflight.has_pairs(dataset, name, self.args.dataset_text_field) and not self._uses_views:
                raise ValueError(
                    f"`{name}` has pairs, but the trainer was set up without. Give it a dataset with pairs at the "
                    "start (as `train_dataset` or `eval_dataset`)."
                )
        with self._gap.of(eval_dataset):
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        self._loss_metrics["eval"] = LossMetrics()  # not those of an evaluation that failed half-way
        # Losses only: a pair is two rows, so the host's logits would not line up with its examples
        losses_only = True if self._uses_views else prediction_loss_only
        with self._attention():
            output = super().evaluation_loop(dataloader, description, losses_only, ignore_keys, metric_key_prefix)
        metrics: Any = output.metrics
        if self._uses_views:
            report = self._loss_metrics["eval"].report(self._sum_over_ranks, self.accelerator.device)
            report = {key: value for key, value in report.items() if key not in ("input_tokens", "saved_tokens")}
            report |= self._tokens_seen
            metrics.update({f"{metric_key_prefix}_{key}": value for key, value in report.items()})
        metrics.update(self._gap.measure(metric_key_prefix))
        return output

    def _without_duplicates(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Ignore the rows that a sampler repeats to fill the last batch of all ranks, so that each row counts once."""
        state = self.accelerator.gradient_state
        if not (state.end_of_dataloader and state.remainder > 0):
            return inputs
        per_process = self.args.eval_batch_size // (self.args.world_size if self.accelerator.split_batches else 1)
        return without_examples_from(inputs, state.remainder - self.args.process_index * per_process)

    # Checkpoints

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if not self._load_renamed(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self):
        if not self._load_renamed(self.state.best_model_checkpoint):
            super()._load_best_model()

    def _load_renamed(self, folder: Any) -> bool:
        # DeepSpeed and FSDP checkpoints are in formats of their own, without renaming
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            return False
        return load_renamed_checkpoint(self.model, folder)

    # Metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # The host's own reports of training, in its course and at its end, which every rank makes; a log of the
        # user's, perhaps on one rank alone, must not wait for the others
        if self._uses_views and ("train_loss" in logs or (self.model.training and "loss" in logs)):
            report = self._loss_metrics["train"].report(self._sum_over_ranks, self.accelerator.device)
            self._tokens_seen["num_tokens"] += report.pop("input_tokens")
            self._tokens_seen["num_tokens_saved"] += report.pop("saved_tokens")
            logs.update(self._tokens_seen)
            if "loss" in logs:
                logs |= self._run_plan.logs(self.state) if self._run_plan is not None else {}
                # The host's own has every part
                logs.update({key: value for key, value in report.items() if key != "loss"})
        super().log(logs, start_time)

    def _sum_over_ranks(self, sums: torch.Tensor) -> torch.Tensor:
        total: Any = self.accelerator.reduce(sums, "sum")
        return total / self.get_tp_size()  # ranks of one tensor-parallel group hold the same rows
