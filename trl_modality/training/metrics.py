"""Metrics of runs on pairs: sums and counts over tokens, added up over micro-batches and ranks, and divided once."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainerCallback

from ..collation.layout import ViewLayout
from ..kernels.spec import weighted_sum
from ..modeling.forward import LossSettings, PairedModelOutput
from ..views import View


VIEWS = tuple(View)
# Counts of a batch: its tokens without padding, those of them that a shared prefix spared the model, and its rows
# above `max_length` by what was done with them, and those left out because they are bad
COUNTS = ("input_tokens", "saved_tokens", "overlong_dropped", "overlong_cut", "bad_rows")
SUMS = (
    *(f"{view}_{what}" for view in VIEWS for what in ("nll", "correct", "entropy", "tokens")),
    "gap",
    "kl",
    "kl_share",
    "paired_tokens",
    "anchor",
    "anchored_tokens",
    *(f"teacher_{what}" for what in ("nll", "correct", "entropy", "tokens")),
    "loss",
    "loss_tokens",
    "tokens",
    *COUNTS,
    "aux_loss",
    "micro_batches",
)


def sum_dtype(device: torch.device) -> torch.dtype:
    """Float64, so that the order of micro-batches and ranks does not show; float32 where there is nothing wider."""
    return torch.float32 if device.type in ("mps", "npu") else torch.float64


class LossMetrics:
    """Sums over supervised tokens since the last report: those of losses on their device, counts on the host.

    Adding a micro-batch waits for no device.
    """

    def __init__(self):
        self._sums: torch.Tensor | None = None
        self._counts: Counter[str] = Counter()

    def add(self, output: PairedModelOutput, settings: LossSettings, layout: ViewLayout) -> None:
        """Add one micro-batch.

        Args:
            output: Its losses.
            settings: The weights and options that it was run with.
            layout: Of its rows.
        """
        values: dict[str, torch.Tensor] = {}
        tokens: Counter[View] = Counter()
        pairs = output.pairs
        if pairs is not None:
            _add_view(values, tokens, View.TEXT_RICH, pairs.text_nll, pairs.text_is_top1, pairs.text_entropy)
            _add_view(
                values, tokens, View.VISION_CENTRIC, pairs.vision_nll, pairs.vision_is_top1, pairs.vision_entropy
            )
            if pairs.kl is not None:
                values["gap"] = values["vision_centric_nll"] - values["text_rich_nll"]
                values["kl"] = pairs.kl.sum()
                share = torch.ones_like(pairs.kl) if pairs.kl_share is None else pairs.kl_share
                values["shared_kl"], values["kl_share"] = weighted_sum(pairs.kl, share), share.sum()
                self._counts["paired_tokens"] += tokens[View.TEXT_RICH]
            self._add_teachers(values, pairs, settings.anchor_weight)
        for view in VIEWS:
            if (single := getattr(output, view)) is not None:
                _add_view(values, tokens, view, single.vision_nll, single.vision_is_top1, single.vision_entropy)
                self._add_teachers(values, single, settings.anchor_weight)
        weights = {
            "text_rich_nll": settings.text_rich_weight,
            "vision_centric_nll": settings.vision_centric_weight,
            "plain_nll": 1.0,
            "replay_nll": 1.0,
            "shared_kl": settings.kl_weight * layout.kl_factor,
            "anchored": 1.0,
        }
        zero = torch.zeros((), dtype=sum_dtype(output.loss.device), device=output.loss.device)
        values["loss"] = sum((w * values[name] for name, w in weights.items() if w and name in values), start=zero)
        if output.aux_loss is not None:
            values["aux_loss"] = output.aux_loss.detach()
            self._counts["micro_batches"] += 1
        self._counts.update({f"{view}_tokens": count for view, count in tokens.items()})
        self._counts["tokens"] += tokens.total()
        self._counts["loss_tokens"] += sum(tokens[view] for view in settings.supervised_views)
        self._counts.update(counts_of(layout, settings))
        # `.to`: with a model split over devices, some were made on another one than the losses
        sums = torch.stack([values.get(name, zero).to(zero) for name in SUMS])
        self._sums = sums if self._sums is None else self._sums.to(sums) + sums

    def _add_teachers(self, values: dict[str, torch.Tensor], stats: Any, anchor_weight: float) -> None:
        """Add what teachers of their own say, and how far what they hold is from them."""
        if stats.anchor_kl is not None:
            anchor = stats.anchor_kl.sum()
            values["anchor"] = values.get("anchor", 0) + anchor
            values["anchored"] = values.get("anchored", 0) + anchor_weight * anchor
            self._counts["anchored_tokens"] += stats.anchor_kl.numel()
        if stats.teacher_nll is not None:
            values["teacher_nll"], values["teacher_entropy"] = stats.teacher_nll.sum(), stats.teacher_entropy.sum()
            values["teacher_correct"] = stats.teacher_is_top1.sum()
            self._counts["teacher_tokens"] += stats.teacher_nll.numel()

    def kept(self) -> tuple[torch.Tensor | None, Counter[str]]:
        """What `go_back_to` goes back to; nothing is copied from a device."""
        return self._sums, self._counts.copy()

    def go_back_to(self, kept: tuple[torch.Tensor | None, Counter[str]]) -> None:
        """Take out the micro-batches since `kept`, of a step that is skipped."""
        self._sums, counts = kept
        self._counts = counts.copy()

    def sums(self, device: torch.device) -> torch.Tensor:
        """The sums since the last report on this rank, `[len(SUMS)]`; another run goes on from them with `load`."""
        counts = torch.tensor([self._counts[name] for name in SUMS], dtype=sum_dtype(device), device=device)
        return counts if self._sums is None else self._sums.to(counts) + counts

    def load(self, sums: Sequence[float]) -> None:
        """Go on from the sums of another run."""
        self._counts.clear()
        self._sums = torch.tensor(sums, dtype=torch.float64)

    def report(self, reduce: Callable[[torch.Tensor], torch.Tensor], device: torch.device) -> dict[str, float]:
        """Means over all ranks since the last report, and start anew; what has no token is left out.

        Every rank must call it: `reduce` sums over the ranks.

        Returns:
            nats per token: `{view}_nll`, `{view}_entropy`, `kl`, `gap_nats` (vision_centric minus text_rich, over the
            tokens scored in both), `anchor_kl`, and of a teacher of its own `teacher_nll` and `teacher_entropy`;
            shares: `{view}_token_accuracy`, `teacher_token_accuracy`, `kl_share` (of the divergence's weight that
            masks leave); counts: `{view}_tokens` and `COUNTS` (those of
            overlong and bad rows where there are any); `loss`; and over all rows, under the host's names, `entropy`
            and `mean_token_accuracy`.
        """
        sums = self.sums(device)
        self._sums = None
        self._counts.clear()
        total = dict(zip(SUMS, reduce(sums).tolist(), strict=True))
        report = {}
        for view in VIEWS:
            if tokens := total[f"{view}_tokens"]:
                report[f"{view}_nll"] = total[f"{view}_nll"] / tokens
                report[f"{view}_token_accuracy"] = total[f"{view}_correct"] / tokens
                report[f"{view}_entropy"] = total[f"{view}_entropy"] / tokens
                report[f"{view}_tokens"] = tokens
        if tokens := total["paired_tokens"]:
            report["gap_nats"] = total["gap"] / tokens
            report["kl"] = total["kl"] / tokens
            if total["kl_share"] != tokens:
                report["kl_share"] = total["kl_share"] / tokens
        if tokens := total["anchored_tokens"]:
            report["anchor_kl"] = total["anchor"] / tokens
        if tokens := total["teacher_tokens"]:
            report["teacher_nll"] = total["teacher_nll"] / tokens
            report["teacher_token_accuracy"] = total["teacher_correct"] / tokens
            report["teacher_entropy"] = total["teacher_entropy"] / tokens
        if tokens := total["loss_tokens"]:
            report["loss"] = total["loss"] / tokens
        if tokens := total["tokens"]:
            report["entropy"] = sum(total[f"{view}_entropy"] for view in VIEWS) / tokens
            report["mean_token_accuracy"] = sum(total[f"{view}_correct"] for view in VIEWS) / tokens
        if total["micro_batches"]:
            report["aux_loss"] = total["aux_loss"] / total["micro_batches"]
        report |= {name: total[name] for name in COUNTS if total[name] or name.endswith("_tokens")}
        return report


def _add_view(values, tokens, view: View, nll, is_top1, entropy) -> None:
    if nll is None:
        return
    dtype = sum_dtype(nll.device)
    tokens[view] += nll.numel()
    sums = {"nll": nll.sum(dtype=dtype), "correct": is_top1.sum(), "entropy": entropy.sum(dtype=dtype)}
    for name, value in sums.items():
        # A view has tokens in pairs and by itself
        values[f"{view}_{name}"] = values.get(f"{view}_{name}", 0) + value


def counts_of(layout: ViewLayout, settings: LossSettings) -> dict[str, int]:
    """`COUNTS` of a batch, those of overlong and of bad rows where there are any."""
    n_tokens = sum(sum(lengths) for lengths in layout.lengths.values()) - layout.filler_tokens
    saved = sum(layout.prefixes) if settings.share_prefix else 0
    overlong = {f"overlong_{what}": count for what, count in layout.overlong.items()}
    return {"input_tokens": n_tokens, "saved_tokens": saved, **overlong, "bad_rows": layout.bad_rows}


class RunMetrics(TrainerCallback):
    """The metrics of a trainer: what it logs of training, and reports of an evaluation.

    Args:
        accelerator: Of the trainer.
        tp_size: Ranks of a tensor-parallel group, which hold the same rows.
    """

    def __init__(self, accelerator: Accelerator, tp_size: int = 1):
        self._accelerator, self._tp_size = accelerator, tp_size
        self._training, self._evaluation = LossMetrics(), LossMetrics()
        self._tokens_seen = {"num_tokens": 0.0, "num_tokens_saved": 0.0}

    def on_train_begin(self, args, state, control, **kwargs):
        self._training = LossMetrics()  # without what an earlier training did not report

    def add(self, output: PairedModelOutput, settings: LossSettings, layout: ViewLayout, *, training: bool) -> None:
        """Add one micro-batch of training or of an evaluation."""
        (self._training if training else self._evaluation).add(output, settings, layout)

    def training_logs(self, *, at_the_end: bool) -> dict[str, float]:
        """Means since the last report, and the tokens seen since the trainer was made; `at_the_end` these alone.

        Every rank must call it.
        """
        report = self._training.report(self.sum_over_ranks, self._accelerator.device)
        self._tokens_seen["num_tokens"] += report.pop("input_tokens")
        self._tokens_seen["num_tokens_saved"] += report.pop("saved_tokens")
        report.pop("loss", None)  # that of the host has every part
        return dict(self._tokens_seen) if at_the_end else {**self._tokens_seen, **report}

    @property
    def training_sums(self) -> LossMetrics:
        """Those of training since the last report."""
        return self._training

    def begin_evaluation(self) -> None:
        """Forget what is left of an evaluation that failed half-way."""
        self._evaluation = LossMetrics()

    def evaluation_metrics(self, prefix: str) -> dict[str, float]:
        """Means over the evaluation, with the prefix of its metrics. Every rank must call it."""
        report = self._evaluation.report(self.sum_over_ranks, self._accelerator.device)
        for name in ("input_tokens", "saved_tokens"):
            report.pop(name)
        return {f"{prefix}_{name}": value for name, value in (report | self._tokens_seen).items()}

    def sum_over_ranks(self, sums: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all ranks with rows of their own. Every rank must call it."""
        total: Any = self._accelerator.reduce(sums, "sum")
        return total / self._tp_size
