"""`Teaching`: whom the model of a run learns from, beside its own live text_rich view, micro-batch by micro-batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import is_peft_model
from transformers.utils import logging

from ..collation.layout import OF_ROWS, TOKEN_FILL, ViewLayout
from ..collation.select import selected_views
from ..collation.teacher_view import TEACHER_BATCH, with_labels_of
from ..kernels import LossSpec, TokenGroup, grouped_linear_loss
from ..modeling.forward import add_paired_loss
from ..modeling.loss_settings import LossSettings
from ..modeling.teaching import PairedStates, Teachings, states_by_group
from ..modeling.token_layout import PAIRS, TokenLayouts, on_host
from ..views import View
from .weights import AdapterOff, KeptWeights, weights_at_start


logger = logging.get_logger(__name__)

ANCHOR_BATCH = "anchor_batch"
"""The key of the text_rich rows that anchors read, in a batch whose teacher sees something else."""
AVERAGES = "teacher_ema.pt"
"""The file of the moving averages in a checkpoint."""


class Teaching:
    """The teachers of a run on pairs. Without any but the live model, in its own text_rich view, it does nothing.

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
        self._is_apart = args.used_teacher_view != View.TEXT_RICH
        self._views = {View.TEXT_RICH}
        if args.anchor_weight:
            self._views.add(View.REPLAY)
        self._needs_blind = args.kl_mask == "visual_advantage" and (self._name != "live" or self._is_apart)
        if self._needs_blind:
            self._views.add(View.VISION_CENTRIC)
        self._reads = self._batches_read()
        self.needs_images = False
        """Whether ranks wait for each other in the tower, so that each teacher must be shown an image."""
        _warn_of_what_nothing_holds(args, self._name)

    def _batches_read(self) -> dict[str, tuple[str, ...]]:
        """For each teacher, the batches that it reads, the same on every rank."""
        names = [*self._weights, *(["model"] if self._teacher is not None else [])]
        if not self._is_apart:
            return dict.fromkeys(names, (TEACHER_BATCH,))
        is_held = self._args.anchor_of_pairs or self._args.anchor_weight
        reads = {name: (ANCHOR_BATCH,) for name in names if name == self._args.anchor and is_held}
        taught = (TEACHER_BATCH, *((ANCHOR_BATCH,) if self._needs_blind else ()))
        return reads | {self._name: tuple(dict.fromkeys((*taught, *reads.get(self._name, ()))))}

    @property
    def is_on(self) -> bool:
        """Whether there is any teacher but the live model in its own text_rich view."""
        return bool(self._reads)

    def collating(self, collate: Callable[[Any], Any], settings: LossSettings) -> Callable[[Any], Any]:
        """A collator whose batches have what the teachers read, if there are any."""
        if not self.is_on:
            return collate
        layouts, read = (
            self._layouts.of(self._row_settings(settings)),
            {key for keys in self._reads.values() for key in keys},
        )
        return CollatorWithTeacherBatch(collate, layouts, frozenset(self._views), frozenset(read), self._is_apart)

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
        batches = {key: inputs.pop(key, None) for key in (TEACHER_BATCH, ANCHOR_BATCH)}
        is_used = inputs["view_layout"].kl_factor > 0 or settings.anchor_weight
        if not self.is_on or not is_used:
            return inputs, None
        tokens, text_key = inputs.get("token_layout"), ANCHOR_BATCH if self._is_apart else TEACHER_BATCH
        if tokens is None:
            tokens = self._layouts.of(settings)(on_host(inputs)).to(inputs["labels"].device)
            batches[text_key] = selected_views(inputs, self._views)
            if self._is_apart and batches[TEACHER_BATCH] is not None:
                taught = {key: value for key, value in batches[TEACHER_BATCH].items() if key != "token_layout"}
                batches[TEACHER_BATCH] = with_labels_of(taught, inputs)
        if self._is_apart:
            self._check(batches[TEACHER_BATCH], inputs["view_layout"])
        states = self._states(model, inputs, batches, self._row_settings(settings))
        teachers = states_by_group(states.get((self._name, TEACHER_BATCH)), tokens)
        anchors = states_by_group(states.get((self._args.anchor, text_key)), tokens)
        found = Teachings(
            {name: who for name, who in teachers.items() if name == PAIRS},
            # Not rows that only a blind teacher reads
            {name: who for name, who in anchors.items() if name != View.VISION_CENTRIC},
        )
        if self._needs_blind and PAIRS in teachers:
            found.blind_nll[PAIRS] = _blind_nll(states[self._name, text_key], tokens, settings)
        return inputs, found

    def _check(self, batch: Any, layout: ViewLayout) -> None:
        """Raise where the batch of a teacher that sees a view of its own is missing, or shows no image but has to."""
        view = f"`teacher_view={self._args.teacher_view!r}`"
        if batch is None and layout.pairs:
            raise ValueError(
                f"a batch with pairs has no `{TEACHER_BATCH}`, which {view} reads: its data collator leaves the key "
                "out. Let it keep all that `PairedCollator` gives."
            )
        shown = () if batch is None else batch["view_layout"].entries.keys() - {*TOKEN_FILL, *OF_ROWS}
        if self.needs_images and batch is not None and not shown:
            raise ValueError(
                f"no row of a batch shows its teacher an image ({view}, rows {', '.join(layout.names[:3])}, ...), and "
                "with FSDP or ZeRO-3 other ranks wait for this one in the tower. Use DDP or ZeRO-2, or give every row "
                "an image in `teacher_images`."
            )

    def _states(
        self, model: Any, inputs: dict[str, Any], batches: dict[str, Any], settings: LossSettings
    ) -> dict[tuple[str, str], PairedStates]:
        """What each teacher makes of each of the batches that it reads, where there is such a batch."""
        states = {}
        for name, keys in self._reads.items():
            weights = self._weights.get(name)
            with nullcontext() if weights is None else weights.in_place():
                for key in keys:
                    batch = batches[key]
                    if batch is None and self._args.world_size == 1:
                        continue
                    if batch is None:  # where weights are sharded, others wait for this rank
                        self._read(name, model, selected_views(inputs, inputs["view_layout"].rows), settings)
                    else:
                        states[name, key] = self._read(name, model, batch, settings)
        return states

    def _read(self, name: str, model: Any, batch: Any, settings: LossSettings) -> PairedStates:
        if name != "model":
            return _states(model, batch, settings)
        without_layout = {key: value for key, value in batch.items() if key != "token_layout"}
        return _states(self._teacher, without_layout, settings.with_rows_apart())

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
    """A collator whose batches have what teachers read, each with a token layout of its own.

    Args:
        collate: The collator; with a `teacher_view`, its batches have `TEACHER_BATCH`.
        layouts: Makes the token layouts.
        views: The views of the student's batch that are read as they are.
        read: The keys of what is read.
        is_apart: Whether the teacher sees another view than the text_rich one.
    """

    collate: Callable[[Any], Any]
    layouts: TokenLayouts
    views: frozenset[View]
    read: frozenset[str]
    is_apart: bool = False

    def __call__(self, rows: Any) -> Any:
        batch = self.collate(rows)
        text_key = ANCHOR_BATCH if self.is_apart else TEACHER_BATCH
        found = {text_key: selected_views(batch, self.views) if text_key in self.read else None}
        if self.is_apart and TEACHER_BATCH in batch:
            found[TEACHER_BATCH] = with_labels_of(batch[TEACHER_BATCH], batch)
        for key, each in found.items():
            if each is not None:
                batch[key] = {**each, "token_layout": self.layouts(each)}
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
        is_apart = args.used_teacher_view != View.TEXT_RICH
        held = f"what the model says of its {args.teacher_view} view" if is_apart else "the text_rich view"
        logger.warning(
            f"`teacher='live'` with `text_rich_weight=0`: nothing holds {held}, which teaches the other, "
            "and both may run off together (docs/teachers.md). Give `anchor_weight=1.0`, `teacher='base'` or a "
            "`text_rich_weight`."
        )
