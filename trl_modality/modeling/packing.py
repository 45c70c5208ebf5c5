"""Rows of a batch → one sequence without padding, in which the two views of a pair share their prefix."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..collation.layout import ViewLayout
from ..views import View
from .attention import Segment, SegmentLayout


@dataclass(frozen=True)
class PackedRow:
    """A row of a batch without its padding, and the prefix that it shares with an earlier row."""

    start: int
    """Place of its first token in the padded row."""
    length: int
    """Number of its tokens."""
    partner: int | None = None
    """Index of an earlier row that begins with the same `prefix` tokens."""
    prefix: int = 0
    """Number of tokens that are left out, since the partner has them."""


@dataclass(frozen=True)
class Packing:
    """How the rows `[R, L]` of a batch become one sequence `[1, T]`."""

    layout: SegmentLayout
    sources: torch.Tensor
    """For each token of the sequence, its place among the R·L places of the rows, `[T]`."""
    places: torch.Tensor
    """For each token of the rows, its place in the sequence, `[R, L]`; 0 for padding, which has none."""
    positions: torch.Tensor
    """For each token of the sequence, the number of tokens before it in its own row, `[T]`."""


def in_sequence(rows: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
    """Values of the rows `[..., R, L]` in the order of a sequence, `[..., 1, T]`; `sources` as in `Packing`."""
    flat = rows.flatten(-2)
    return flat.index_select(-1, sources.to(flat.device)).unsqueeze(-2)


def pack(rows: Sequence[PackedRow], length: int, order: Sequence[int]) -> Packing:
    """Lay the rows of a batch one after another, each without the prefix that it shares with an earlier row.

    Args:
        rows: Of the batch.
        length: Padded length L of the rows.
        order: Indices of the rows as they follow each other; a partner comes before the row that shares its prefix.
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
    """`pack` the rows of a batch in their order: text_rich rows, vision_centric rows, then rows without a partner.

    So images stand in the order of their image tokens. With `shares_prefix`, a vision_centric row is its suffix alone.

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
