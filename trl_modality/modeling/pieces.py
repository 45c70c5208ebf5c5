"""Layers that carry a state along a row, over segments that continue one prefix.

A recurrent layer or a short convolution knows of the tokens before a place only its state, and its last few inputs. So
segments are cut into *pieces*: what several segments have in common is one, run once, and each piece begins with what
the piece before it ended with: nothing, at the beginning of a row. Gradients flow back the same way. No token is seen
by another row or branch, and no layer needs a mask.

Legend of the shapes: B rows, L places of a row, T = B·L, C channels, A heads, N pieces run together.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import torch


CHUNK = 64
"""Tokens of a chunk of the gated delta rule: pieces of as many chunks are run together without more padding."""


class Piece(NamedTuple):
    """Tokens at consecutive places, of which every later one sees the earlier ones."""

    start: int
    end: int
    before: int | None = None
    """Index of the earlier piece that it continues; `None` at the beginning of a row."""


def cut_into_pieces(segments: Iterable[Any]) -> tuple[Piece, ...]:
    """The pieces of a layout's segments, in the order of their places.

    Raises:
        ValueError: a prefix is not how a segment without a prefix begins, so that nothing ends in its state.
    """
    segments = tuple(segments)
    roots = {segment.start: segment for segment in segments if segment.prefix_start == segment.prefix_end}
    cuts: dict[int, set[int]] = {}
    for segment in segments:
        if segment.prefix_start < segment.prefix_end:
            root = roots.get(segment.prefix_start)
            if root is None or root.end < segment.prefix_end:
                raise ValueError(
                    f"The prefix of {segment} is not how a segment without a prefix begins: layers with a state "
                    "continue from the end of a prefix that was run from the beginning of its row."
                )
            cuts.setdefault(root.start, set()).add(segment.prefix_end)
    pieces: list[Piece] = []
    ending_at: dict[int, int] = {}
    for segment in segments:
        start = segment.start
        before = ending_at[segment.prefix_end] if segment.prefix_start < segment.prefix_end else None
        for end in sorted({*cuts.get(start, ()), segment.end}):
            pieces.append(Piece(start, end, before))
            before = ending_at[end] = len(pieces) - 1
            start = end
    return tuple(pieces)


class WindowTensors(NamedTuple):
    """How a convolution over `window` + 1 tokens runs all pieces in one sequence: each after what it continues."""

    sources: torch.Tensor
    """The place of each token of that sequence `[T + window·N]`; 0 where there is none."""
    is_empty: torch.Tensor
    """Where there is none, before the beginning of a row, `[T + window·N]`."""
    kept: torch.Tensor
    """Where each place stands in that sequence, `[T]`."""

    @classmethod
    def of(cls, pieces: Sequence[Piece], window: int) -> "WindowTensors":
        """Of the pieces, on the CPU."""
        sources: list[int] = []
        kept: list[int] = []
        tails: list[list[int]] = []
        for piece in pieces:
            context = [-1] * window if piece.before is None else tails[piece.before]
            places = [*context, *range(piece.start, piece.end)]
            tails.append(places[len(places) - window :])
            kept.extend(range(len(sources) + window, len(sources) + len(places)))
            sources.extend(places)
        found = torch.tensor(sources)
        return cls(found.clamp(min=0), found < 0, torch.tensor(kept))


class Group(NamedTuple):
    """Pieces that a recurrent function runs in one call."""

    places: torch.Tensor
    """Of their tokens: `[N, longest]`, or `[1, tokens]` one after the other."""
    is_padding: torch.Tensor | None = None
    """`[N, longest]`, of pieces of different lengths."""
    cu_seqlens: torch.Tensor | None = None
    """`[N + 1]`, of pieces one after the other."""
    before: torch.Tensor | None = None
    """The state that each continues, among those of all groups before, `[N]`; `None` at the beginnings of rows."""


class StateTensors(NamedTuple):
    """How a recurrent function runs all pieces, each after the one that it continues."""

    groups: tuple[Group, ...]
    order: torch.Tensor
    """Where each place stands among the outputs of all groups, `[T]`."""

    @classmethod
    def of(cls, pieces: Sequence[Piece], in_runs: bool) -> "StateTensors":
        """Of the pieces, on the CPU.

        Args:
            pieces: In the order of their places.
            in_runs: Whether the function takes pieces of any lengths one after the other (`cu_seqlens`). Others get
                them as rows, those of as many chunks together.
        """
        depths: list[int] = []
        for piece in pieces:
            depths.append(0 if piece.before is None else depths[piece.before] + 1)

        def kind(i: int) -> tuple[int, int]:
            length = pieces[i].end - pieces[i].start
            return depths[i], 0 if in_runs else -(-length // CHUNK)

        groups, order, numbers, end = [], torch.empty(pieces[-1].end, dtype=torch.long), {}, 0
        for _, members in groupby(sorted(range(len(pieces)), key=kind), kind):
            indices = list(members)
            group = _group([pieces[i] for i in indices], numbers, in_runs)
            numbers |= {i: len(numbers) + n for n, i in enumerate(indices)}
            places = torch.arange(end, end + group.places.numel()).view_as(group.places)
            is_token = slice(None) if group.is_padding is None else ~group.is_padding
            order[group.places[is_token]] = places[is_token]
            end += group.places.numel()
            groups.append(group)
        return cls(tuple(groups), order)


def _group(pieces: Sequence[Piece], numbers: dict[int, int], in_runs: bool) -> Group:
    lengths = [piece.end - piece.start for piece in pieces]
    befores = [numbers[piece.before] for piece in pieces if piece.before is not None]
    before = torch.tensor(befores) if befores else None
    if in_runs:
        places = torch.cat([torch.arange(piece.start, piece.end) for piece in pieces])
        return Group(places.unsqueeze(0), cu_seqlens=torch.tensor([0, *accumulate(lengths)]), before=before)
    offsets = torch.arange(max(lengths))
    is_padding = offsets >= torch.tensor(lengths).unsqueeze(1)
    places = torch.tensor([piece.start for piece in pieces]).unsqueeze(1) + offsets
    return Group(
        places.masked_fill(is_padding, 0), is_padding if is_padding.any() else None, cu_seqlens=None, before=before
    )


def convolve(
    function: Callable[..., torch.Tensor], x: torch.Tensor, tensors: WindowTensors, *args: Any, **kwargs: Any
) -> torch.Tensor:
    """A causal convolution over the pieces, in one call.

    Args:
        function: The causal convolution of `[1, C, tokens]`, called with the other arguments too.
        x: `[B, C, L]`, of the B·L places.
        tensors: For its kernel.

    Returns:
        `[B, C, L]`.
    """
    batch, channels, length = x.shape
    # Tokens as rows: their channels are gathered together, and kernels take that order without a copy
    x_1TC = x.transpose(1, 2).reshape(1, batch * length, channels)
    inserted = x_1TC.index_select(1, tensors.sources).masked_fill_(tensors.is_empty.unsqueeze(1), 0)
    output = function(inserted.transpose(1, 2), *args, **kwargs)
    return output.transpose(1, 2).index_select(1, tensors.kept).view(batch, length, channels).transpose(1, 2)


def continue_states(
    function: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    inputs: Sequence[torch.Tensor],
    tensors: StateTensors,
    **kwargs: Any,
) -> torch.Tensor:
    """A gated delta rule over the pieces: a call for each group, whose states the next groups begin with.

    Args:
        function: The rule, called with the other arguments too.
        inputs: query, key, value, g (of the decay, logarithm), beta (of the update), `[B, L, A, …]`.
        tensors: For what the function takes.

    Returns:
        `[B, L, A, D]`.
    """
    batch, length = inputs[0].shape[:2]
    flat = [x.reshape(batch * length, *x.shape[2:]) for x in inputs]
    outputs, states = [], []
    for n, group in enumerate(tensors.groups):
        places = group.places.flatten()
        query, key, value, g, beta = (x.index_select(0, places).unflatten(0, group.places.shape) for x in flat)
        if group.is_padding is not None:
            # No decay and no update: padding leaves the state as it is
            g, beta = (x.masked_fill(_like(group.is_padding, x), 0) for x in (g, beta))
        if group.cu_seqlens is not None:
            kwargs["cu_seqlens"] = group.cu_seqlens
        state = None if group.before is None else torch.cat(states).index_select(0, group.before)
        is_last = n == len(tensors.groups) - 1
        output, final_state = function(
            query, key, value, g=g, beta=beta, initial_state=state, output_final_state=not is_last, **kwargs
        )
        outputs.append(output.flatten(0, 1))
        states.append(final_state)
    rows = torch.cat(outputs).index_select(0, tensors.order)
    return rows.view(batch, length, *rows.shape[1:])


def _like(is_padding: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return is_padding.view(*is_padding.shape, *[1] * (x.ndim - is_padding.ndim))
