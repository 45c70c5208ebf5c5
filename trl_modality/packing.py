"""Rows of a batch → one sequence without padding, in which the two views of a pair share their prefix."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .attention import Segment, SegmentLayout
from .batch import TOKEN_FILL, ViewLayout
from .views import View


@dataclass(frozen=True)
class PackedRow:
    """Where the tokens of a row are, padding left out."""

    start: int
    """Place of its first token in the padded row."""
    length: int
    """Tokens."""
    partner: int | None = None
    """The row before it in the batch whose first `prefix` tokens are also its own."""
    prefix: int = 0


@dataclass(frozen=True)
class Packing:
    """How the rows `[R, L]` of a batch become one sequence `[1, T]`."""

    layout: SegmentLayout
    sources: torch.Tensor
    """`[T]`: the place of each token of the sequence in the rows, laid out one after another."""
    places: torch.Tensor
    """`[R, L]`: the place of each token of the rows in the sequence; that of padding is 0 and means nothing."""
    positions: torch.Tensor
    """`[T]`: how many tokens of its own row precede each token."""
    n_shared: int
    """Tokens that are in the rows but not again in the sequence."""

    def packed(self, rows: torch.Tensor) -> torch.Tensor:
        """`[..., R, L]` → `[..., 1, T]`."""
        flat = rows.flatten(-2)
        return flat.index_select(-1, self.sources.to(flat.device)).unsqueeze(-2)


def pack(rows: Sequence[PackedRow], length: int, order: Sequence[int]) -> Packing:
    """Lay rows one after another, each without the prefix that it shares with an earlier one.

    Args:
        rows: of the batch.
        length: L.
        order: in which rows follow each other; a partner comes before the row that shares its prefix.
    """
    segments: list[Segment] = []
    sources, positions = [], []
    places = torch.zeros(len(rows), length, dtype=torch.long)
    begins: dict[int, int] = {}
    end = 0
    for r in order:
        row = rows[r]
        own = row.length - row.prefix
        begins[r] = end
        first = r * length + row.start
        sources.append(torch.arange(first + row.prefix, first + row.length))
        positions.append(torch.arange(row.prefix, row.length))
        places[r, row.start + row.prefix : row.start + row.length] = torch.arange(end, end + own)
        prefix = (0, 0)
        if row.partner is not None and row.prefix:
            begin = begins[row.partner]
            prefix = begin, begin + row.prefix
            places[r, row.start : row.start + row.prefix] = torch.arange(*prefix)
        segments.append(Segment(end, end + own, *prefix))
        end += own
    return Packing(
        SegmentLayout(tuple(segments)),
        torch.cat(sources),
        places,
        torch.cat(positions),
        n_shared=sum(row.prefix for row in rows),
    )


def packed_inputs(backbone: Any, inputs: dict[str, Any], layout: ViewLayout) -> tuple[Packing, dict[str, Any]]:
    """A batch whose pairs share their prefixes as the inputs of a backbone with `shared_prefix` attention.

    Rows keep their order, so that images come in the order of their places: the text_rich rows, what the
    vision_centric rows add to them (which is no image), and the rows without a partner.

    Args:
        backbone: of the model; asked for positions if it has rules of its own for images (M-RoPE).
        inputs: of the batch, padded rows.
        layout: with `prefixes`.

    Raises:
        ValueError: for a model that reads images or prompts in both directions (Gemma3, PaliGemma).
    """
    if "token_type_ids" in inputs:
        raise ValueError(
            f"{type(backbone).__name__} takes `token_type_ids`, by which tokens see others that come after them: a "
            "shared prefix would not be what each row has. Run it without `share_prefix`."
        )
    n_pairs = layout.rows[View.TEXT_RICH]
    rows = [PackedRow(0, length) for lengths in layout.lengths.values() for length in lengths]
    for i, prefix in enumerate(layout.prefixes):
        rows[n_pairs + i] = PackedRow(0, rows[n_pairs + i].length, partner=i, prefix=prefix)
    packing = pack(rows, inputs["input_ids"].shape[1], range(len(rows)))
    packed = {}
    for key, value in inputs.items():
        if key in TOKEN_FILL:
            packed[key] = packing.packed(value)
        elif key in layout.entries:
            by_view = dict(zip(layout.entries[key], value.split(list(layout.entries[key].values())), strict=True))
            packed[key] = torch.cat([part for view, part in by_view.items() if view is not View.VISION_CENTRIC])
        else:
            packed[key] = value
    del packed["attention_mask"]
    packed["position_ids"] = _positions(backbone, inputs, packing)
    packed["segment_layout"] = packing.layout
    return packing, packed


def _positions(backbone: Any, inputs: dict[str, Any], packing: Packing) -> torch.Tensor:
    """`[1, T]`, or `[3, 1, T]` for M-RoPE: those that each row has by itself."""
    if not hasattr(backbone, "get_rope_index"):
        return packing.positions.unsqueeze(0).to(inputs["input_ids"].device)
    wanted = inspect.signature(backbone.get_rope_index).parameters
    positions, _ = backbone.get_rope_index(**{key: value for key, value in inputs.items() if key in wanted})
    return packing.packed(positions)
