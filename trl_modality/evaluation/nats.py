"""The gap as a loss: nats per token of the right completion in each condition, without generating anything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..images import PixelLimits
from ..resumable.batches import in_batches
from ..views import describe_row
from .checked_rows import CheckedRows
from .conditions import Condition, make_request, rows_with_other_images
from .intervals import MeanDifference, mean_difference
from .json_fields import Fields, JsonObject


if TYPE_CHECKING:
    from .models.generation import TransformersGenerator


@dataclass(frozen=True)
class NatsGap:
    """Cross-entropy of the right completions by condition, in nats per token, and two differences of it.

    `gap` is vision_centric minus text_rich (positive: the model reads the image worse than the words), `vision_gain`
    is blind minus vision_centric (what the image saves). Both have bootstrap-t intervals over rows, and are `None`
    where one of their conditions was not scored.
    """

    means: dict[str, float]
    """By condition, summed loss over number of tokens: every token counts alike, as in training."""
    tokens: dict[str, int]
    """By condition, how many completion tokens were scored."""
    gap: MeanDifference | None
    vision_gain: MeanDifference | None

    def to_dict(self) -> dict[str, Any]:
        """`mean` and `tokens` under the name of each condition; `gap` and `vision_gain` where measured."""
        differences = {"gap": self.gap, "vision_gain": self.vision_gain}
        return {
            **{name: {"mean": mean, "tokens": self.tokens[name]} for name, mean in self.means.items()},
            **{name: difference.to_dict() for name, difference in differences.items() if difference is not None},
        }

    @classmethod
    def from_dict(cls, data: JsonObject) -> NatsGap:
        """The losses of a dict as `to_dict` gives it; `ValueError` names a field that is wrong."""
        fields = Fields.of(data)
        entries = {name: fields.inner(name) for name in fields.data if fields.has(name)}
        gap, vision_gain = (
            MeanDifference.from_dict(entries[name]) if name in entries else None for name in ("gap", "vision_gain")
        )
        found = {name: entry for name, entry in entries.items() if entry.has("mean")}
        means = {name: entry.number("mean") for name, entry in found.items()}
        return cls(means, {name: entry.count("tokens") for name, entry in found.items()}, gap, vision_gain)


def measure_nats(
    generator: TransformersGenerator,
    checked: CheckedRows,
    conditions: Sequence[str],
    *,
    batch_size: int = 16,
    confidence: float = 0.95,
    seed: int = 0,
    file: str | os.PathLike | None = None,
    show_progress: bool = True,
    restart: bool = False,
    pixels: PixelLimits | None = None,
) -> NatsGap:
    """Score the completion of every row in each condition, by the forward pass and the loss of training.

    Args:
        generator: Holds the model and its processor; of a family that pairs can be trained on.
        checked: The rows; each needs its `completion`.
        conditions: The conditions to score in; not `zoom`.
        batch_size: Rows in a batch.
        confidence: Of the intervals, between 0 and 1.
        seed: Of the bootstrap resamples.
        file: JSONL file for the loss of each row; an interrupted file is continued. `None`: nothing is written.
        show_progress: Draw a progress bar.
        restart: Where the file has losses of other settings, move it aside and begin a new one.
        pixels: Into which images are scaled.
    """
    others = rows_with_other_images(checked.shown) if Condition.SHUFFLED in conditions else None
    items = [(row, condition) for condition in conditions for row in range(len(checked))]

    def score(batch: list[tuple[int, str]]) -> list[dict[str, Any]]:
        rows = []
        for position, condition in batch:
            other = checked.rows[others[position]] if others is not None and condition == Condition.SHUFFLED else None
            rows.append(_as_plain(generator.processor, checked.rows[position], condition, other, pixels))
        losses = completion_losses(generator.model, generator.processor, rows)
        return [
            {"key": _key(item), "row": item[0], "condition": item[1], "nll": nll, "tokens": tokens}
            for item, (nll, tokens) in zip(batch, losses, strict=True)
        ]

    settings = {**_settings_of(generator), **(pixels or PixelLimits()).set_ones}
    records = in_batches(
        items,
        [_key(item) for item in items],
        [condition for _, condition in items],
        score,
        batch_size=batch_size,
        file=file,
        settings={**settings, "batch_size": batch_size, "conditions": list(conditions), "rows": checked.digest},
        title=f"scoring {generator.name}",
        show_progress=show_progress,
        asks_together=generator.asks_together,
        restart=restart,
    )
    return _summary(records, conditions, confidence, seed)


def _settings_of(generator: TransformersGenerator) -> dict[str, Any]:
    """What losses depend on of a generator: all but how it generates."""
    settings = {name: value for name, value in generator.settings.items() if name != "max_new_tokens"}
    return {"model": generator.name, **settings}


def completion_losses(model: Any, processor: Any, rows: Sequence[dict[str, Any]]) -> list[tuple[float, int]]:
    """For each row, the summed cross-entropy of its completion in nats, and how many tokens the completion has.

    The rows have `prompt`, `completion` and `images`. Of a completion of several turns its answers count, as in
    training. The rows go through the fused forward pass of training, which never holds the logits of a whole batch,
    without a gradient.
    """
    import torch

    from ..collation.collator import PairedCollator
    from ..collation.turns import mask_other_turns
    from ..modeling.forward import LossSettings, paired_loss_added
    from .models.generation import base_of, evaluation_mode

    batch = PairedCollator(processor)(rows)
    mask_other_turns(batch, rows, [describe_row(row) for row in rows], processor)  # as training does in pairs
    inputs = {key: _on(value, model) for key, value in batch.items()}
    with torch.no_grad(), paired_loss_added(base_of(model)), evaluation_mode(model):
        output = model(**inputs, paired_loss=LossSettings(kl_weight=0.0))
    counts = (batch["labels"][:, 1:] != -100).sum(1).tolist()
    losses = output.plain.vision_nll.cpu().double().split(counts)
    return [(float(loss.sum()), count) for loss, count in zip(losses, counts, strict=True)]


def _as_plain(
    processor: Any, row: Any, condition: str, other: Any, pixels: PixelLimits | None = None
) -> dict[str, Any]:
    """A row in one condition as a prompt-completion row, such as the collator takes."""
    from ..collation.image_slots import without_image_slots

    request = make_request(row, condition, other, pixels)
    prompt = request.prompt
    if isinstance(prompt, str) and not request.images:
        prompt = without_image_slots(prompt, processor)
    kept = {"prompt": prompt, "completion": row["completion"], "images": list(request.images)}
    return {**{name: row[name] for name in ("id", "__index__") if name in row}, **kept}


def _key(item: tuple[int, str]) -> str:
    return f"{item[0]}/{item[1]}"


def _on(value: Any, model: Any) -> Any:
    import torch

    if not isinstance(value, torch.Tensor):
        return value
    return value.to(model.device, model.dtype if value.is_floating_point() else None)


def _summary(records: list[dict[str, Any]], conditions: Sequence[str], confidence: float, seed: int) -> NatsGap:
    means, tokens, rows = {}, {}, {}
    for condition in conditions:
        own = [record for record in records if record["condition"] == condition]
        tokens[condition] = sum(record["tokens"] for record in own)
        means[condition] = sum(record["nll"] for record in own) / tokens[condition]
        rows[condition] = ([record["nll"] / record["tokens"] for record in own], [record["tokens"] for record in own])

    def difference(first: str, second: str) -> MeanDifference | None:
        if not {first, second} <= rows.keys():
            return None
        (losses, weights), (others, _) = rows[first], rows[second]
        return mean_difference(losses, others, weights=weights, confidence=confidence, seed=seed)

    return NatsGap(
        means,
        tokens,
        gap=difference(Condition.VISION_CENTRIC, Condition.TEXT_RICH),
        vision_gain=difference(Condition.BLIND, Condition.VISION_CENTRIC),
    )
