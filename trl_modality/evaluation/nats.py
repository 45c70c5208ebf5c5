"""The gap without generating: nats that a model needs for the right completion, in every condition."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .asking.batches import in_batches
from .checked_rows import CheckedRows
from .conditions import Condition, make_request, rows_with_other_images
from .intervals import MeanDifference, mean_difference


if TYPE_CHECKING:
    from .models.generation import TransformersGenerator


@dataclass(frozen=True)
class NatsGap:
    """Mean nats of a completion token in each condition, weighted by tokens: every token counts alike, as in training.

    `gap` is vision_centric minus text_rich (positive: the image is harder to read), `vision_gain` is blind minus
    vision_centric (what the image saves); both over the same completions, with bootstrap-t intervals over rows.
    """

    means: dict[str, float]
    tokens: dict[str, int]
    gap: MeanDifference | None
    vision_gain: MeanDifference | None

    def to_dict(self) -> dict[str, Any]:
        differences = {"gap": self.gap, "vision_gain": self.vision_gain}
        return {
            **{name: {"mean": mean, "tokens": self.tokens[name]} for name, mean in self.means.items()},
            **{name: difference.to_dict() for name, difference in differences.items() if difference is not None},
        }


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
) -> NatsGap:
    """The loss of every completion, given its prompt, in each condition; through the loss of training.

    Args:
        generator: Has the model and the processor, of a family whose pairs can be trained on.
        checked: The rows; each needs its `completion`.
        conditions: In which the completions are scored; not `zoom`.
        batch_size: Rows in a batch.
        confidence, seed: Of the intervals.
        file: JSONL where the losses of the rows go; an interrupted one is continued.
        show_progress: Draw a progress bar.
    """
    others = rows_with_other_images(checked.shown) if Condition.SHUFFLED in conditions else None
    items = [(row, condition) for condition in conditions for row in range(len(checked))]

    def score(batch: list[tuple[int, str]]) -> list[dict[str, Any]]:
        rows = []
        for position, condition in batch:
            other = checked.rows[others[position]] if others is not None and condition == Condition.SHUFFLED else None
            rows.append(_as_plain(generator.processor, checked.rows[position], condition, other))
        losses = completion_losses(generator.model, generator.processor, rows)
        return [
            {"key": _key(item), "row": item[0], "condition": item[1], "nll": nll, "tokens": tokens}
            for item, (nll, tokens) in zip(batch, losses, strict=True)
        ]

    settings = {name: value for name, value in generator.settings.items() if name != "max_new_tokens"}
    records = in_batches(
        items,
        [_key(item) for item in items],
        [condition for _, condition in items],
        score,
        batch_size=batch_size,
        file=file,
        settings={
            "model": generator.name,
            "batch_size": batch_size,
            **settings,
            "conditions": list(conditions),
            "rows": checked.digest,
        },
        title=f"scoring {generator.name}",
        show_progress=show_progress,
        asks_together=generator.asks_together,
    )
    return _summary(records, conditions, confidence, seed)


def completion_losses(model: Any, processor: Any, rows: Sequence[dict[str, Any]]) -> list[tuple[float, int]]:
    """For each row of `prompt`, `completion` and `images`: the summed loss of its completion in nats, and its tokens.

    No logits are kept: it is the forward of training, without a gradient.
    """
    import torch

    from ..collation.collator import PairedCollator
    from ..modeling.forward import LossSettings, paired_loss_added
    from .models.generation import base_of, evaluation_mode

    batch = PairedCollator(processor)(rows)
    inputs = {key: _on(value, model) for key, value in batch.items()}
    with torch.no_grad(), paired_loss_added(base_of(model)), evaluation_mode(model):
        output = model(**inputs, paired_loss=LossSettings(kl_weight=0.0))
    counts = (batch["labels"][:, 1:] != -100).sum(1).tolist()
    losses = output.plain.vision_nll.cpu().double().split(counts)
    return [(float(loss.sum()), count) for loss, count in zip(losses, counts, strict=True)]


def _as_plain(processor: Any, row: Any, condition: str, other: Any) -> dict[str, Any]:
    """The condition as a row of its own, as it is trained on."""
    from .models.slots import without_image_slots

    request = make_request(row, condition, other)
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
