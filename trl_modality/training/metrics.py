"""What a paired step is judged by: sums and counts over tokens, reduced across ranks and divided once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..modeling.forward import LossSettings, PairedModelOutput
from ..views import View


VIEWS = tuple(View)
# What a batch is counted by: its tokens without padding, those of them that were in a prefix shared with another row
# and did not go through the model again, and its rows above `max_length`
COUNTS = ("input_tokens", "saved_tokens", "overlong_dropped", "overlong_cut")
SUMS = (
    *(f"{view}_{what}" for view in VIEWS for what in ("nll", "correct", "entropy", "tokens")),
    "gap",
    "kl",
    "paired_tokens",
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
    """Sums over the supervised tokens since the last report, kept on the device without a sync."""

    def __init__(self):
        self._sums: torch.Tensor | None = None

    def add(
        self, output: PairedModelOutput, settings: LossSettings, counts: Mapping[str, torch.Tensor | float]
    ) -> None:
        """Add one micro-batch, trained (or evaluated) with the weights of `settings`; `counts` are its `COUNTS`."""
        values: dict[str, torch.Tensor] = {}
        pairs = output.pairs
        if pairs is not None:
            _add_view(values, View.TEXT_RICH, pairs.text_nll, pairs.text_is_top1, pairs.text_entropy)
            _add_view(values, View.VISION_CENTRIC, pairs.vision_nll, pairs.vision_is_top1, pairs.vision_entropy)
            if pairs.kl is not None:
                values["gap"] = values["vision_centric_nll"] - values["text_rich_nll"]
                values["kl"] = pairs.kl.sum()
                values["paired_tokens"] = values["text_rich_tokens"]
        for view in VIEWS:
            if (single := getattr(output, view)) is not None:
                _add_view(values, view, single.vision_nll, single.vision_is_top1, single.vision_entropy)
        weights = {
            "text_rich_nll": settings.text_rich_weight,
            "vision_centric_nll": settings.vision_centric_weight,
            "plain_nll": 1.0,
            "replay_nll": 1.0,
            "kl": settings.kl_weight,
        }
        zero = torch.zeros((), dtype=sum_dtype(output.loss.device), device=output.loss.device)
        values["loss"] = sum((w * values[name] for name, w in weights.items() if w and name in values), start=zero)
        values["tokens"] = sum((values.get(f"{view}_tokens", zero) for view in VIEWS), start=zero)
        supervised = settings.supervised_views
        values["loss_tokens"] = sum((values.get(f"{view}_tokens", zero) for view in supervised), start=zero)
        values |= {name: torch.as_tensor(count) for name, count in counts.items()}
        if output.aux_loss is not None:
            values["aux_loss"], values["micro_batches"] = output.aux_loss.detach(), zero + 1
        # `.to`: with a model split over devices, the tokens were counted on another one than the losses
        sums = torch.stack([values.get(name, zero).to(zero) for name in SUMS])
        self._sums = sums if self._sums is None else self._sums.to(sums) + sums

    def sums(self, device: torch.device) -> torch.Tensor:
        """What was added up since the last report, on this rank, to be `load`ed by another run."""
        nothing = torch.zeros(len(SUMS), dtype=sum_dtype(device), device=device)
        return nothing if self._sums is None else self._sums.to(nothing)

    def load(self, sums: Sequence[float]) -> None:
        """Go on from the sums of another run."""
        self._sums = torch.tensor(sums, dtype=torch.float64)

    def report(self, reduce: Callable[[torch.Tensor], torch.Tensor], device: torch.device) -> dict[str, float]:
        """Means over all ranks since the last report, and start anew; what has no token is left out.

        Every rank must call it: `reduce` sums over the ranks.

        Returns:
            nats per token: `{view}_nll`, `{view}_entropy`, `kl`, `gap_nats` (vision_centric minus text_rich, over the
            tokens scored in both); shares: `{view}_token_accuracy`; counts: `{view}_tokens` and `COUNTS` (those of
            overlong rows where there are any); `loss`; and over all rows, under the host's names, `entropy` and
            `mean_token_accuracy`.
        """
        sums = self.sums(device)
        self._sums = None
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
        if tokens := total["loss_tokens"]:
            report["loss"] = total["loss"] / tokens
        if tokens := total["tokens"]:
            report["entropy"] = sum(total[f"{view}_entropy"] for view in VIEWS) / tokens
            report["mean_token_accuracy"] = sum(total[f"{view}_correct"] for view in VIEWS) / tokens
        if total["micro_batches"]:
            report["aux_loss"] = total["aux_loss"] / total["micro_batches"]
        report |= {name: total[name] for name in COUNTS if total[name] or not name.startswith("overlong")}
        return report


def _add_view(values, view: View, nll, is_top1, entropy) -> None:
    if nll is None:
        return
    dtype = sum_dtype(nll.device)
    sums = {
        "nll": nll.sum(dtype=dtype),
        "correct": is_top1.sum(),
        "entropy": entropy.sum(dtype=dtype),
        "tokens": nll.new_full((), nll.numel(), dtype=dtype),
    }
    for name, value in sums.items():
        # A view has tokens in pairs and by itself
        values[f"{view}_{name}"] = values.get(f"{view}_{name}", 0) + value


def counts_of(inputs: Mapping[str, Any], settings: LossSettings) -> dict[str, Any]:
    """What `LossMetrics` counts of a batch."""
    layout = inputs["view_layout"]
    overlong = {f"overlong_{what}": count for what, count in layout.overlong.items()}
    saved = sum(layout.prefixes) if settings.share_prefix else 0
    return {"input_tokens": inputs["attention_mask"].sum(), "saved_tokens": saved, **overlong}
