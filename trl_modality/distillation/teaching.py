"""`Teaching`: whom the model of a run learns from, beside its own live text_rich view, micro-batch by micro-batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import is_peft_model
from transformers.utils import logging

from ..collation.select import selected_views
from ..kernels import LossSpec, TokenGroup, grouped_linear_loss
from ..modeling.forward import add_paired_loss
from ..modeling.loss_settings import LossSettings
from ..modeling.teaching import PairedStates, Teachings, states_by_group
from ..modeling.token_layout import PAIRS, TokenLayouts, on_host
from ..views import View
from .weights import AdapterOff, KeptWeights, weights_at_start


logger = logging.get_logger(__name__)

TEACHER_BATCH = "teacher_batch"
"""The key of what a teacher reads, in a batch of pairs."""
AVERAGES = "teacher_ema.pt"
"""The file of the moving averages in a checkpoint."""


class Teaching:
    """The teachers of a run on pairs. Without any but the live model it does nothing.

    Args:
        args: The config.
        model: Of the trainer, not wrapped.
        layouts: Makes the token layouts of its batches.
        teacher: A model of its own, loaded.
    """

    def __init__(self, args: Any, model: Any, layouts: TokenLayouts, teacher: Any = None):
        self._args, self._layouts, self._teacher = args, layouts, teacher
        if teacher is not None:
            _prepare(teacher, model)
        kept = args.own_teachers - ({args.teacher} if teacher is not None else set())
        self._weights: dict[str, AdapterOff | KeptWeights] = {}
        if "base" in kept:
            self._weights["base"] = weights_at_start(model)
        if "ema" in kept:
            self._weights["ema"] = KeptWeights(model, args.teacher_ema_decay)
        self._name = "model" if teacher is not None else args.teacher if args.kl_weight else "live"
        self._views = {View.TEXT_RICH}
        if args.anchor_weight:
            self._views.add(View.REPLAY)
        self._needs_blind = args.kl_mask == "visual_advantage" and self._name != "live"
        if self._needs_blind:
            self._views.add(View.VISION_CENTRIC)
        _warn_of_what_nothing_holds(args, self._name)

    @property
    def is_on(self) -> bool:
        """Whether there is any teacher but the live model."""
        return bool(self._weights) or self._teacher is not None

    def collating(self, collate: Callable[[Any], Any], settings: LossSettings) -> Callable[[Any], Any]:
        """A collator whose batches have what the teachers read, if there are any."""
        if not self.is_on:
            return collate
        return CollatorWithTeacherBatch(
            collate, self._layouts.of(self._row_settings(settings)), frozenset(self._views)
        )

    def of(
        self, model: Any, inputs: dict[str, Any], settings: LossSettings
    ) -> tuple[dict[str, Any], Teachings | None]:
        """The batch without what its teachers read, and what these say of it.

        Args:
            model: Of the trainer, wrapped as for training.
            inputs: A batch, without a token layout where its labels have been changed.
            settings: Of the loss.
        """
        inputs = dict(inputs)
        batch = inputs.pop(TEACHER_BATCH, None)
        is_used = inputs["view_layout"].kl_factor > 0 or settings.anchor_weight or settings.replay_anchor_weight
        if not self.is_on or not is_used:
            return inputs, None
        tokens = inputs.get("token_layout")
        if tokens is None:
            tokens = self._layouts.of(settings)(on_host(inputs)).to(inputs["labels"].device)
            batch = selected_views(inputs, self._views)
        if batch is None and self._args.world_size > 1:  # where weights are sharded, others wait for this rank
            batch = selected_views(inputs, inputs["view_layout"].rows)
        if batch is None:
            return inputs, None
        own = self._row_settings(settings)
        states: dict[str, PairedStates] = {}
        for name, weights in self._weights.items():
            with weights.in_place():
                states[name] = _states(model, batch, own)
        if self._teacher is not None:
            without_layout = {key: value for key, value in batch.items() if key != "token_layout"}
            states["model"] = _states(self._teacher, without_layout, own.with_rows_apart())
        by_group = {name: states_by_group(each, tokens) for name, each in states.items()}
        anchors = by_group.get(self._args.anchor, {})
        teachers = by_group.get(self._name, {})
        found = Teachings({name: who for name, who in teachers.items() if name == PAIRS}, anchors)
        if self._needs_blind and PAIRS in teachers:
            found.blind_nll[PAIRS] = _blind_nll(states[self._name], tokens, settings)
        return inputs, found

    def end_step(self) -> None:
        """Move the averages, after the optimizer has."""
        for weights in self._weights.values():
            if isinstance(weights, KeptWeights):
                weights.update()

    def averages(self) -> dict[str, torch.Tensor]:
        """The moving averages, for a checkpoint."""
        ema: Any = self._weights.get("ema")
        return {} if ema is None else ema.values

    def load_averages(self, values: dict[str, torch.Tensor]) -> None:
        """Go on from the averages of a checkpoint."""
        ema: Any = self._weights.get("ema")
        if ema is not None:
            ema.load(values)

    def _row_settings(self, settings: LossSettings) -> LossSettings:
        """How a teacher reads its rows: in one sequence, where the decoder takes such."""
        return replace(
            settings, share_prefix=self._needs_blind and settings.share_prefix, padding_free=settings.needs_segments
        )


@dataclass(frozen=True)
class CollatorWithTeacherBatch:
    """A collator whose batches have what teachers read, under `TEACHER_BATCH`, with a token layout of its own."""

    collate: Callable[[Any], Any]
    layouts: TokenLayouts
    views: frozenset[View]

    def __call__(self, rows: Any) -> Any:
        batch = self.collate(rows)
        selected = selected_views(batch, self.views)
        if selected is not None:
            batch[TEACHER_BATCH] = {**selected, "token_layout": self.layouts(selected)}
        return batch


@torch.no_grad()
def _states(model: Any, batch: dict[str, Any], settings: LossSettings) -> PairedStates:
    with _in_evaluation(model):
        return model(**batch, paired_loss=settings, paired_states=True)


@contextmanager
def _in_evaluation(model: Any) -> Iterator[None]:
    """A context without dropout. Modules that were in evaluation before, as frozen towers may be, stay so after."""
    trained = [module for module in model.modules() if module.training]
    for module in trained:
        module.training = False
    try:
        yield
    finally:
        for module in trained:
            module.training = True


@torch.no_grad()
def _blind_nll(states: PairedStates, tokens: Any, settings: LossSettings) -> torch.Tensor:
    """What a teacher says of the labels of pairs in their vision_centric view, `[M]`."""
    labels = tokens.groups[PAIRS]["labels"]
    hidden, head = states.states[View.VISION_CENTRIC.value][: len(labels)], states.head
    _, (stats,) = grouped_linear_loss(
        [TokenGroup(None, hidden, labels.to(hidden.device), 0.0, 0.0, 0.0)],
        head.weight,
        lm_head_bias=head.bias,
        spec=LossSpec(logit_scale=head.logit_scale, logit_softcap=head.logit_softcap),
        normalizer=1,
        backend=settings.backend,
        tile_mib=settings.tile_mib,
        checked=True,
    )
    nll: Any = stats.vision_nll
    return nll.clamp(min=0.0)  # of a label with all probability rounding may leave less


def _prepare(teacher: Any, student: Any) -> None:
    """Let a model of its own be read by as a teacher."""
    student = student.get_base_model() if is_peft_model(student) else student
    for name in ("model_type", "image_token_id", "image_token_index"):
        own, other = getattr(teacher.config, name, None), getattr(student.config, name, None)
        if own != other:
            raise ValueError(
                f"the teacher has `{name}` {own!r}, the student {other!r}: a teacher that is a model of its own reads "
                "the student's tokens. Take one of the same family, of any size."
            )
    n_own, n_student = (len(model.get_output_embeddings().weight) for model in (teacher, student))
    if n_own != n_student:
        rest = "those that the teacher lacks have no probability" if n_own < n_student else "the others are left out"
        logger.warning(
            f"The teacher has {n_own} tokens, the student {n_student}: the divergence is over the first "
            f"{min(n_own, n_student)}, and {rest}."
        )
    teacher.requires_grad_(False)
    teacher.eval()
    add_paired_loss(teacher)


def _warn_of_what_nothing_holds(args: Any, teacher: str) -> None:
    if teacher == "live" and args.kl_weight and not args.text_rich_weight and not args.anchor_of_pairs:
        logger.warning(
            "`teacher='live'` with `text_rich_weight=0`: nothing holds the text_rich view, which teaches the other, "
            "and both may run off together (docs/teachers.md). Give `anchor_weight=1.0`, `teacher='base'` or a "
            "`text_rich_weight`."
        )
