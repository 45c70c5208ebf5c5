"""A step on 64 short rows in one sequence without padding, and on a single row of the same tokens and images."""

from typing import Any

import numpy as np
from pair_models import PATCH, Layout, Size
from pair_steps import Run
from PIL import Image

from trl_modality import PairedCollator
from trl_modality.collation.layout import ViewLayout
from trl_modality.modeling.attention import use_shared_prefix
from trl_modality.modeling.forward import LossSettings, add_paired_loss
from trl_modality.views import View


SHORT, LONG, PADDED = "64 short rows, padding-free", "one long row", "64 short rows, padded"
N_IMAGE = 16


def packed_ways(size: Size) -> dict[str, tuple[Any, Run]]:
    """The model, and a step on the same tokens in each form."""
    model, processor = size.build(Layout(n_image=N_IMAGE))
    add_paired_loss(model)
    use_shared_prefix(model.get_decoder())
    batch = PairedCollator(processor)(_mixed_rows(size.vocab_size))
    steps = {
        SHORT: (batch, LossSettings(padding_free=True)),
        LONG: (_as_one_row(batch), LossSettings()),
        PADDED: (batch, LossSettings()),
    }
    return {name: (model, _step(model, *step)) for name, step in steps.items()}


def _step(model: Any, batch: dict[str, Any], settings: LossSettings) -> Run:
    return lambda: model(**batch, paired_loss=settings).loss


def _mixed_rows(vocab_size: int) -> list[dict]:
    """Rows of 40 to 120 tokens, two of three with a picture."""
    rng = np.random.default_rng(0)
    side = round(N_IMAGE**0.5) * PATCH
    rows = []
    for i in range(64):
        prompt, completion = (
            "".join(f" {word}" for word in rng.integers(1, vocab_size - 2, rng.integers(20, 50))) for _ in range(2)
        )
        pixels = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
        images = [Image.fromarray(pixels)] if i % 3 else []
        rows.append({"images": images, "prompt": "<image>" * len(images) + prompt, "completion": completion})
    return rows


def _as_one_row(batch: dict[str, Any]) -> dict[str, Any]:
    """The rows joined into one, with the same tokens, images and labels; a token attends to all tokens before it."""
    kept = batch["attention_mask"].bool()
    row = {key: batch[key][kept].unsqueeze(0) for key in ("input_ids", "attention_mask", "labels")}
    # What begins a row is predicted by nothing, here as there
    starts = kept.sum(1).cumsum(0)[:-1]
    row["labels"][0, starts] = -100
    length = int(kept.sum())
    entries = {key: {View.PLAIN: len(value)} for key, value in row.items()}
    entries["pixel_values"] = {View.PLAIN: len(batch["pixel_values"])}
    layout = ViewLayout(
        rows={View.PLAIN: 1}, tokens={View.PLAIN: length}, entries=entries, lengths={View.PLAIN: (length,)}
    )
    return {**row, "pixel_values": batch["pixel_values"], "view_layout": layout}
