"""`TaughtSFTTrainer`: an `SFTTrainer` whose pairs may learn from other teachers than the live model."""

import os
from typing import Any

import torch
from accelerate.utils import is_peft_model
from transformers import TrainerCallback
from trl.trainer.utils import create_model_from_path

from ..collation.teacher_view import TeacherView
from ..distillation.config import OWN_TEACHERS
from ..distillation.teaching import AVERAGES, Teaching
from ..modeling.loss_settings import LossSettings
from ..modeling.teaching import Teachings
from ..modeling.token_layout import CollatorWithTokenLayout, TokenLayouts, without_stale_layout
from .datasets import without_repeated_rows
from .guarded import GuardedSFTTrainer
from .run_off import RunOffWatch


class TaughtSFTTrainer(GuardedSFTTrainer):
    """An [`~trl.SFTTrainer`] with the options of [`~trl_modality.distillation.config.DistillationConfig`].

    Without pairs they do nothing.
    """

    def _set_up_teaching(self, layouts: TokenLayouts, teacher_model: Any) -> None:
        """Make the teachers of a run on pairs, whose weights are those before training.

        Raises:
            ValueError: a teacher that cannot be had with how the model is sharded, or that is of another family.
        """
        args: Any = self.args
        if teacher_model is None and args.teacher not in OWN_TEACHERS and args.kl_weight:
            given = args.teacher_model_init_kwargs or args.model_init_kwargs or {}
            # Not spread over devices, as it would be by default: each process has one, beside its student
            loading = {"trust_remote_code": args.trust_remote_code, "device_map": None, **given}
            teacher_model = create_model_from_path(args.teacher, **loading)
        is_placed = getattr(teacher_model, "hf_device_map", None) or getattr(teacher_model, "is_quantized", False)
        if teacher_model is not None and not is_placed:
            teacher_model.to(args.device)
        self._token_layouts, self._teaching = layouts, Teaching(args, self.model, layouts, teacher_model)
        if self._teaching.is_on:
            self._check_sharding(args)
            self.add_callback(_StepsOfTeaching(self._teaching))
        if self._teaching.is_on or args.kl_weight:
            self.add_callback(RunOffWatch(args, args.teacher if teacher_model is None else "model"))

    def _check_sharding(self, args: Any) -> None:
        needs = args.own_teachers
        has_copies = "ema" in needs or ("base" in needs and not is_peft_model(self.model))
        plugin = self.accelerator.state.deepspeed_plugin if self.is_deepspeed_enabled else None
        if has_copies and plugin is not None and plugin.zero_stage == 3:
            raise ValueError(
                f"{sorted(needs)} as a teacher or anchor needs other weights in place of those that train, which "
                "DeepSpeed ZeRO-3 has in parts. Train an adapter, whose base needs none, or use FSDP2 or ZeRO-2."
            )
        is_sharded = self.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3)
        if is_sharded and args.world_size > 1:
            self._teaching.needs_images = True
            if args.used_teacher_view == TeacherView.TEXT_ONLY:
                raise ValueError(
                    "`teacher_view='text_only'` with FSDP or ZeRO-3: a teacher that is shown no image does not gather "
                    "the weights of the tower, which a rank without pairs would wait for. Use DDP or ZeRO-2, or show "
                    "the images with another `teacher_view`."
                )
        if "ema" in needs and self.is_fsdp_enabled:
            raise ValueError("`ema` is not kept over FSDP shards: take `base`, or train with DDP or ZeRO-2.")

    def _collating(self, collate: Any, settings: LossSettings) -> Any:
        """A collator whose batches have all that the loss needs beside what the host's have."""
        with_layout = CollatorWithTokenLayout(collate, self._token_layouts.of(settings))
        return self._teaching.collating(with_layout, settings)

    def _taught(
        self, model: Any, inputs: dict[str, Any], settings: LossSettings
    ) -> tuple[dict[str, Any], dict[str, Teachings]]:
        """A batch, and what its forward is given of the teachers beside it."""
        own: Any = self.model
        if not own.training:
            inputs = without_repeated_rows(inputs, self.args, self.accelerator)
        inputs, teachings = self._teaching.of(model, without_stale_layout(inputs), settings)
        return inputs, {} if teachings is None else {"teachings": teachings}

    def _averages(self) -> dict[str, torch.Tensor]:
        teaching: Teaching | None = getattr(self, "_teaching", None)  # of a run with pairs
        return {} if teaching is None else teaching.averages()

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        averages = self._averages()
        if averages and not self._writes_state_only and self.args.should_save:
            torch.save(averages, os.path.join(output_dir, AVERAGES))

    def _load_optimizer_and_scheduler(self, checkpoint):
        # The one that the host calls however weights are loaded: DeepSpeed loads them by itself
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not self._averages():
            return
        path = os.path.join(str(checkpoint), AVERAGES)
        if not os.path.isfile(path):
            raise ValueError(
                f"{checkpoint} has no {AVERAGES}: it was saved with `save_only_model`, or by a run without `ema` as a "
                "teacher or anchor, whose average is not known."
            )
        self._teaching.load_averages(torch.load(path, map_location="cpu", weights_only=True))


class _StepsOfTeaching(TrainerCallback):
    def __init__(self, teaching: Teaching):
        self._teaching = teaching

    def on_optimizer_step(self, args, state, control, **kwargs):
        self._teaching.end_step()
