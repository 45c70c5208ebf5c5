"""Rows of a batch → one sequence without padding, in which the two views of a pair share their prefix."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..collation.layout import ViewLayout
from ..views import View
from .attention import Segment, SegmentLayout


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
    )


def pack_views(layout: ViewLayout, length: int, shares_prefix: bool) -> Packing:
    """Lay out the rows of a batch in their order, so that images come in the order of their places: the text_rich
    rows, the vision_centric rows (with `shares_prefix` only what they add), the rows without a partner.

    Args:
        layout: Of the batch.
        length: Padded length of its rows.
    """
    rows = [PackedRow(0, tokens) for lengths in layout.lengths.values() for tokens in lengths]
    if shares_prefix:
        n_text_rich = layout.rows.get(View.TEXT_RICH, 0)
        for i, prefix in enumerate(layout.prefixes):
            rows[n_text_rich + i] = PackedRow(0, rows[n_text_rich + i].length, partner=i, prefix=prefix)
    return pack(rows, length, range(len(rows)))
