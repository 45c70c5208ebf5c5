"""Attention in which several branches continue one prefix, for models that take their attention from transformers.

A *segment* is a run of tokens that attends causally to itself and, before that, to all of its prefix: an earlier run
that other segments see too. Within a segment, the tokens of an image may see one another in both directions
(`image_blocks`). A pair is two of them, `[prefix | text_rich suffix]` and `[vision_centric suffix]` with the prefix of
the first; a row without a partner is one. Every token sees what it would see in a row of its own, without a mask of
the whole sequence: one variable-length call on GPUs, or one of FlexAttention where that cannot go, and one SDPA call
for each segment elsewhere.

Legend of the shapes: B rows, L places of a row, T = B·L, K keys, A heads, D head size.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .._compat import attention_named, name_attention
from .._compat_kernels import VarlenKernel, varlen_kernel
from . import recurrence
from .cross_attention import TileAttention
from .flex import block_mask, flex_attend, flex_takes, visible_ranges
from .image_blocks import Blocks, mask_with_blocks, own_ends


NAME = "shared_prefix"
# The name of a decoder's own attention, by the name that was registered in its place
_ORIGINALS = {NAME: "sdpa"}
# Of the name under which the same attention has no mask function: transformers then asks for no mask. One that returns
# none would not do: whether positions begin anew is read back from the device before it is called
WITHOUT_MASK = "_without_mask"


class Segment(NamedTuple):
    """Tokens at consecutive places of a batch `[B, L]`, whose B·L places are counted row after row."""

    start: int
    end: int
    prefix_start: int = 0
    prefix_end: int = 0
    """End of the prefix, which is consecutive places before `start`; equal to `prefix_start` if there is none."""


@dataclass(frozen=True)
class SegmentLayout:
    """The segments of a batch, in order and without gaps; layers get it as the keyword argument `segment_layout`."""

    segments: tuple[Segment, ...]
    blocks: Blocks = ()
    """Runs of places, each within one segment, that see one another: images, in decoders where they see themselves."""
    blocks_in_windows: bool = False
    """Whether they do so in layers with a sliding window alone."""
    _on_device: dict[torch.device, "SegmentTensors"] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self):
        end = 0
        for segment in self.segments:
            if not (segment.start == end < segment.end and 0 <= segment.prefix_start <= segment.prefix_end <= end):
                raise ValueError(f"{segment} does not begin at place {end}, or its prefix is not before it.")
            end = segment.end

    @cached_property
    def query_lengths(self) -> list[int]:
        return [segment.end - segment.start for segment in self.segments]

    @cached_property
    def key_lengths(self) -> list[int]:
        """Number of keys of each segment: its prefix and its own tokens."""
        return [segment.prefix_end - segment.prefix_start + segment.end - segment.start for segment in self.segments]

    def n_rows(self) -> torch.Tensor:
        """The number of rows that each place is in, `[T]`: that of its segment, and those that it is a prefix of."""
        counts = torch.ones(self.segments[-1].end, dtype=torch.long)
        for segment in self.segments:
            counts[segment.prefix_start : segment.prefix_end] += 1
        return counts

    def has_blocks(self, window: int | None) -> bool:
        """Whether the places of a block see one another in a layer with this window (`None`: without one)."""
        return bool(self.blocks) and (window is not None or not self.blocks_in_windows)

    def host_tensors(self) -> dict[str, torch.Tensor]:
        """What the attention calls need, on the CPU: `cu_seqlens_q`, `cu_seqlens_k`, the `bounds` of the segments
        `[S, 4]`, `own_end` `[T]` where there are blocks, and `key_places` where segments have prefixes."""
        bounds = ([0, *accumulate(lengths)] for lengths in (self.query_lengths, self.key_lengths))
        tensors = {
            name: torch.tensor(bound, dtype=torch.int32)
            for name, bound in zip(("cu_seqlens_q", "cu_seqlens_k"), bounds, strict=True)
        }
        tensors["bounds"] = torch.tensor(self.segments, dtype=torch.int32)
        if self.blocks:
            tensors["own_end"] = own_ends(self.segments[-1].end, self.blocks)
        if self.query_lengths != self.key_lengths:
            tensors["key_places"] = torch.cat(
                [
                    torch.arange(*span)
                    for segment in self.segments
                    for span in ((segment.prefix_start, segment.prefix_end), (segment.start, segment.end))
                ]
            )
        return tensors

    def put(self, tensors: dict[str, torch.Tensor]) -> None:
        """Use these tensors, `host_tensors` moved with their batch, on their device."""
        device = tensors["cu_seqlens_q"].device
        self._on_device[device] = SegmentTensors(self, tensors, device)

    # Not `to`: accelerate's hooks of a split model call that of whatever has one
    def on(self, device: torch.device) -> "SegmentTensors":
        """The tensors that the attention calls need, made once for all layers."""
        if device not in self._on_device:
            moved = {name: tensor.to(device) for name, tensor in self.host_tensors().items()}
            self._on_device[device] = SegmentTensors(self, moved, device)
        return self._on_device[device]


class SegmentTensors:
    """A layout as tensors on one device."""

    def __init__(self, layout: SegmentLayout, tensors: dict[str, torch.Tensor], device: torch.device):
        self.cu_seqlens_q, self.cu_seqlens_k = tensors["cu_seqlens_q"], tensors["cu_seqlens_k"]
        self.max_q, self.max_k = max(layout.query_lengths), max(layout.key_lengths)
        self.key_places = tensors.get("key_places")
        """The place of each key in the sequence, `[K]`; `None` where no segment has a prefix."""
        self._masks: dict[tuple[int, int, int | None], torch.Tensor] = {}
        self._block_masks: dict[tuple[int | None, bool], Any] = {}
        self._bounds_S4, self._own_end = tensors["bounds"], tensors.get("own_end")
        self._with_block = [
            any(segment.start <= start < segment.end for start, _ in layout.blocks) for segment in layout.segments
        ]
        self._segment_masks: dict[tuple[int, int | None], torch.Tensor] = {}
        self.pieces = recurrence.PieceTensors(layout.segments, tensors, device)
        """The same for layers that carry a state."""
        self._n_places = layout.segments[-1].end
        self._segments, self._device = layout.segments, device

    def gathered(self, x_T: torch.Tensor, dim: int) -> torch.Tensor:
        """Keys or values in the order of the segments, each with its prefix."""
        return x_T if self.key_places is None else x_T.index_select(dim, self.key_places)

    def mask(self, n_queries: int, n_keys: int, window: int | None) -> torch.Tensor | None:
        """The mask of a segment `[queries, keys]`, true where a query sees a key: causal, aligned at the bottom right.

        `None` where it is the lower triangle. It grows neither with the number of segments nor, for short suffixes,
        with the square of the prefix.
        """
        is_cut = window is not None and window < n_keys
        if n_queries == n_keys and not is_cut:
            return None
        key = n_queries, n_keys, window if is_cut else None
        if key not in self._masks:
            mask = torch.ones(n_queries, n_keys, dtype=torch.bool, device=self._device).tril(n_keys - n_queries)
            if window is not None and is_cut:
                mask = mask.triu(n_keys - n_queries - window + 1)
            self._masks[key] = mask
        return self._masks[key]

    def mask_of(self, index: int, n_queries: int, n_keys: int, window: int | None, sees_blocks: bool) -> Any:
        """The mask of the segment at an index, in which the places of a block may see one another."""
        if not (sees_blocks and self._with_block[index]):
            return self.mask(n_queries, n_keys, window)
        if (index, window) not in self._segment_masks:
            assert self._own_end is not None
            start = self._segments[index].start
            own_end = self._own_end[start : start + n_queries] - start
            self._segment_masks[index, window] = mask_with_blocks(own_end, n_keys - n_queries, window)
        return self._segment_masks[index, window]

    def block_mask(self, window: int | None, sees_blocks: bool = False) -> Any:
        """FlexAttention's mask of all places, made at the first layer of a batch that asks for its window."""
        key = window, sees_blocks
        if key not in self._block_masks:
            own_end = self._own_end if sees_blocks else None
            self._block_masks[key] = block_mask(visible_ranges(self._bounds_S4, self._n_places, window, own_end))
        return self._block_masks[key]


def segmented_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    original: str,
    segment_layout: SegmentLayout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """An attention function of transformers that follows `segment_layout`; without one it is the `original`.

    Args:
        module: the attention layer.
        query: `[B, A, L, D]`.
        key, value: `[B, A or fewer, L, D]`.
        attention_mask: not used with a layout, unless it is a `TileAttention`.
        original: name of the attention that the model had.
        segment_layout: of the B·L places.
        scaling, dropout, sliding_window: as for every attention function. A window of w sees w tokens, itself
            included, and counts the tokens of the prefix as those before the segment.

    Returns:
        `[B, L, A, D]`, and `None`.

    Raises:
        ValueError: on what the layout's calls cannot do (soft-capped scores, sinks).
    """
    if segment_layout is None:
        function = ALL_ATTENTION_FUNCTIONS.get_interface(original, _eager_of(module))
        options = {"scaling": scaling, "dropout": dropout, **kwargs}
        if sliding_window is not None:
            options["sliding_window"] = sliding_window
        with attention_named(getattr(module, "config", None), original):
            return function(module, query, key, value, attention_mask, **options)
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise ValueError(f"Attention of {type(module).__name__} uses `{name}`, which segments do not know.")
    query, key, value = (_autocast(x) for x in (query, key, value))
    if isinstance(attention_mask, TileAttention):
        return attention_mask(query, key, value, scaling, dropout), None
    tensors = segment_layout.on(query.device)
    window = None if sliding_window is None or sliding_window >= tensors.max_k else sliding_window
    sees_blocks = segment_layout.has_blocks(sliding_window)
    kernel = None  # of those none sees past a token
    if not sees_blocks:
        kernel = varlen_kernel(query, value, dropout=dropout, scale=scaling, window=window)
    if kernel is not None:
        output = _in_one_call(kernel, query, key, value, tensors, scaling, dropout, window)
    elif flex_takes(query, key, value, dropout, scaling):
        mask = tensors.block_mask(window, sees_blocks)
        rows = flex_attend(_one_row(query), _one_row(key), _one_row(value), mask, scaling)
        output = _as_rows(rows, len(query))
    else:
        output = _by_segment(segment_layout, query, key, value, tensors, scaling, dropout, window, sees_blocks)
    return output, None


def _in_one_call(
    kernel: VarlenKernel, query, key, value, tensors: SegmentTensors, scaling, dropout: float, window: int | None
) -> torch.Tensor:
    batch, n_heads, length, _ = query.shape
    q_TAD, k_TAD, v_TAD = (x.transpose(1, 2).reshape(batch * length, -1, x.shape[-1]) for x in (query, key, value))
    output_TAD = kernel(
        q_TAD,
        tensors.gathered(k_TAD, 0),
        tensors.gathered(v_TAD, 0),
        cu_seqlens_q=tensors.cu_seqlens_q,
        cu_seqlens_k=tensors.cu_seqlens_k,
        max_seqlen_q=tensors.max_q,
        max_seqlen_k=tensors.max_k,
        dropout=dropout,
        scale=scaling,
        window=window,
    )
    return output_TAD.reshape(batch, length, n_heads, -1)


def _by_segment(
    layout: SegmentLayout,
    query,
    key,
    value,
    tensors: SegmentTensors,
    scaling: float | None,
    dropout: float,
    window: int | None,
    sees_blocks: bool,
) -> torch.Tensor:
    # Cut once: the backward of a cut is a concatenation, that of slices a sum of as many full tensors
    q, k, v = (_one_row(x) for x in (query, key, value))
    k, v = tensors.gathered(k, 2), tensors.gathered(v, 2)
    cuts = q.split(layout.query_lengths, 2), k.split(layout.key_lengths, 2), v.split(layout.key_lengths, 2)
    outputs = []
    for index, (q_part, k_part, v_part) in enumerate(zip(*cuts, strict=True)):
        mask = tensors.mask_of(index, q_part.shape[2], k_part.shape[2], window, sees_blocks)
        outputs.append(
            F.scaled_dot_product_attention(
                q_part,
                k_part,
                v_part,
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=k_part.shape[1] != q_part.shape[1],
            )
        )
    return _as_rows(torch.cat(outputs, 2), len(query))


def _one_row(x: torch.Tensor) -> torch.Tensor:
    """`[B, A, L, D]` with the rows one after the other, `[1, A, T, D]`."""
    batch, n_heads, length, size = x.shape
    return x.transpose(0, 1).reshape(1, n_heads, batch * length, size)


def _as_rows(output: torch.Tensor, batch: int) -> torch.Tensor:
    """The output of one row `[1, A, T, D]` as that of an attention function, `[B, L, A, D]`."""
    _, n_heads, total, size = output.shape
    return output.reshape(n_heads, batch, total // batch, size).permute(1, 2, 0, 3)


def _autocast(x: torch.Tensor) -> torch.Tensor:
    """The tensor in the dtype of autocast, as SDPA has it: rotary positions leave float32, which kernels refuse."""
    device = x.device.type
    is_cast = x.dtype == torch.float32 and torch.is_autocast_enabled(device)
    return x.to(torch.get_autocast_dtype(device)) if is_cast else x


def _eager_of(module: torch.nn.Module) -> Any:
    """The eager attention of a layer: transformers keeps it beside the layers of a model, not in its interface."""
    return getattr(sys.modules[recurrence.module_of(module)], "eager_attention_forward", None)


def use_shared_prefix(decoder: PreTrainedModel) -> None:
    """Give a decoder the attention that follows a `segment_layout` where it gets one. Calling it again does nothing.

    The decoder keeps it until `give_back`: with activation checkpointing, layers run again in the backward.
    """
    recurrence.borrow(decoder)
    if _has_name(decoder):
        return
    original: Any = decoder.config._attn_implementation
    # Opaque: a name that speaks of flash attention, or looks like a repository, is one to transformers
    name = next((name for name, other in _ORIGINALS.items() if other == original), f"{NAME}_{len(_ORIGINALS)}")
    _ORIGINALS[name] = original
    for each in (name, name + WITHOUT_MASK):
        AttentionInterface.register(each, partial(segmented_attention, original=original))
    if original in ALL_MASK_ATTENTION_FUNCTIONS:
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[original])
    name_attention(decoder.config, name)


def follows_segments(decoder: PreTrainedModel) -> bool:
    """Whether a decoder has been given `shared_prefix` attention, and its other layers follow segments too."""
    return _has_name(decoder) and recurrence.is_borrowed(decoder)


def _has_name(decoder: PreTrainedModel) -> bool:
    name: Any = decoder.config._attn_implementation
    return name in _ORIGINALS


def check_follows_segments(decoder: PreTrainedModel) -> None:
    """Raise unless a decoder has `shared_prefix` attention: any other would ignore a layout without a word, and every
    token would see all tokens before it, those of other rows among them.

    Raises:
        ValueError: the decoder has not been given `shared_prefix` attention.
    """
    if not follows_segments(decoder):
        raise ValueError(
            f"`share_prefix` and `padding_free` need a decoder whose attention follows segments, that of "
            f"{type(decoder).__name__} is {decoder.config._attn_implementation!r}. Call `use_shared_prefix` with it "
            "first."
        )


def give_back(decoder: PreTrainedModel) -> None:
    """Give a decoder the attention back that it had before `use_shared_prefix`."""
    name: Any = decoder.config._attn_implementation
    if _has_name(decoder):
        name_attention(decoder.config, _ORIGINALS[name])
    recurrence.give_back(decoder)


@contextmanager
def shared_prefix_attention(decoder: PreTrainedModel) -> Iterator[None]:
    """`use_shared_prefix` within a `with` block; a decoder that had it before keeps it afterwards."""
    had_it = follows_segments(decoder)
    use_shared_prefix(decoder)
    try:
        yield
    finally:
        if not had_it:
            give_back(decoder)


@contextmanager
def own_attention(decoder: PreTrainedModel) -> Iterator[None]:
    """A context in which a decoder has its own attention: to generate, where there are no segments."""
    had_it = follows_segments(decoder)
    give_back(decoder)
    try:
        yield
    finally:
        if had_it:
            use_shared_prefix(decoder)
