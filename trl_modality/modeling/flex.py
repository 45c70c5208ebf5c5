"""FlexAttention over segments that continue a prefix: one call a layer where no variable-length kernel goes.

For GPUs: float32, head sizes that flash kernels do not have, torch or GPUs from before them. The mask is a function of
two places of the sequence itself, so that no key is gathered, and it is block-sparse.

Legend of the shapes: S segments, T places, N blocks of places, A heads, D head size.
"""

import warnings
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F

from .._compat_kernels import compile_for_any_length, has_ragged_block_masks


if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


BLOCK = 128
"""Places in a block of the mask: FlexAttention's own default, of which its tiles are parts."""


class VisibleRanges(NamedTuple):
    """What each place sees, `[T]` int32 each: the places from `own` to itself, and those of its prefix."""

    own: torch.Tensor
    prefix_start: torch.Tensor
    prefix_end: torch.Tensor
    own_end: torch.Tensor | None = None
    """End of what it sees of its own segment; `None` where that is the place itself, for every one."""


def visible_ranges(
    bounds_S4: torch.Tensor, n_places: int, window: int | None = None, own_end: torch.Tensor | None = None
) -> VisibleRanges:
    """What each place sees, made on the device of `bounds_S4` and without waiting for it.

    Args:
        bounds_S4: start, end, start of the prefix, end of the prefix of each segment, `[S, 4]` int32.
        n_places: T, the end of the last segment.
        window: number of tokens that a token sees, itself included; the tokens of the prefix are those before the
            segment. It does not cut off what a place sees after itself.
        own_end: `image_blocks.own_ends`, where there are blocks.
    """
    places = torch.arange(n_places, dtype=bounds_S4.dtype, device=bounds_S4.device)
    segments = torch.searchsorted(bounds_S4[:, 1].contiguous(), places, right=True)
    start, _, prefix_start, prefix_end = bounds_S4.index_select(0, segments).unbind(1)
    own = start
    if window is not None:
        own = torch.maximum(start, places - (window - 1))
        n_left = (window - 1 - (places - start)).clamp(min=0)
        prefix_start = torch.maximum(prefix_start, prefix_end - n_left)
    return VisibleRanges(own.contiguous(), prefix_start.contiguous(), prefix_end.contiguous(), own_end)


def block_mask(ranges: VisibleRanges) -> "BlockMask":
    """The mask of FlexAttention for these ranges: `create_block_mask`'s, without its T² scores of one byte each.

    Its size and its time are T·N. Nothing waits for the device.
    """
    from torch.nn.attention.flex_attention import BlockMask

    own, prefix_start, prefix_end, own_end = ranges
    n_places = own.shape[0]
    n_blocks = -(-n_places // BLOCK)
    places = torch.arange(n_places, dtype=own.dtype, device=own.device)
    first_N = torch.arange(n_blocks, dtype=own.dtype, device=own.device) * BLOCK

    def n_seen_TN(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        first = torch.maximum(start[:, None], first_N)
        return (torch.minimum(end[:, None], first_N + BLOCK) - first).clamp_(min=0)

    # The ranges of a place do not overlap: a prefix is before its segment
    n_seen = n_seen_TN(own, places + 1 if own_end is None else own_end).add_(n_seen_TN(prefix_start, prefix_end))
    n_seen = F.pad(n_seen, (0, 0, 0, n_blocks * BLOCK - n_places)).view(n_blocks, BLOCK, n_blocks)
    is_full = n_seen.amin(1) == BLOCK
    is_partial = (n_seen.amax(1) > 0) & ~is_full

    def mask_mod(batch, head, query, key):
        in_own = (key >= own[query]) & (key <= query if own_end is None else key < own_end[query])
        in_prefix = (key >= prefix_start[query]) & (key < prefix_end[query])
        return in_own | in_prefix

    return BlockMask.from_kv_blocks(
        *_ordered(is_partial),
        *_ordered(is_full),
        BLOCK_SIZE=BLOCK,
        mask_mod=mask_mod,
        seq_lengths=(n_places, n_places),
    )


def _ordered(dense_NN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Number of the marked blocks of each row, `[1, 1, N]`, and all blocks, marked ones first, `[1, 1, N, N]`."""
    dense = dense_NN.to(torch.int32)
    order = dense.argsort(dim=-1, descending=True, stable=True)
    return dense.sum(-1, dtype=torch.int32)[None, None], order.to(torch.int32).contiguous()[None, None]


def flex_attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: "BlockMask", scale: float | None
) -> torch.Tensor:
    """Attention under a `block_mask` of the T places.

    Args:
        query: `[1, A, T, D]`.
        key, value: `[1, A or fewer, T, D]`; the head size of values may be another one.
        mask: of the T places.
        scale: of the scores; `None` for 1/√D.

    Returns:
        `[1, A, T, D of the values]`.
    """
    return _flex()(query, key, value, mask, scale, _kernel_options(query))


def _kernel_options(query: torch.Tensor) -> dict[str, Any]:
    """Options of the kernels: torch's defaults do not fit into a GPU's shared memory at every head size.

    With three stages of keys and values, float32 of size 96 takes 178 KiB forward, of which an A100 has 163. Half
    precision of size 512 goes backward in tiles of 64, whose keys and values alone are 128 KiB before any stage.
    """
    options: dict[str, Any] = {"FORCE_USE_FLEX_ATTENTION": True}  # the kernel for decoding would compile once more
    head_size, is_float32 = query.shape[-1], query.dtype == torch.float32
    if head_size > (64 if is_float32 else 256):
        options["fwd_num_stages"] = 1
    if head_size > 256 and not is_float32:  # which has tiles of 16
        options |= {f"bwd_{name}": 32 for name in ("BLOCK_M1", "BLOCK_N1", "BLOCK_M2", "BLOCK_N2")}
        options["bwd_num_stages"] = 1
    return options


def _attend(query, key, value, mask, scale, options):
    from torch.nn.attention.flex_attention import flex_attention

    is_grouped = query.shape[1] != key.shape[1]
    output: Any = flex_attention(
        query, key, value, block_mask=mask, scale=scale, enable_gqa=is_grouped, kernel_options=options
    )
    return output


@cache
def _flex() -> Any:
    """The compiled attention, of a function of our own: the compiler counts the variants of each function.

    Variants are compiled for gradients or none, heads, head sizes, the scale, and sequences shorter than a block.
    """
    return compile_for_any_length(_attend)


def flex_takes(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float, scale: float | None
) -> bool:
    """Whether FlexAttention goes for the queries, keys and values of a layer, `[B, heads, L, D]`.

    It has no dropout, no gradients on CPUs, and no head size below 16. The rest is tried once for each shape of a
    layer, with a warning if it fails.
    """
    is_possible = (
        query.device.type == "cuda"
        and dropout == 0.0
        and min(query.shape[-1], value.shape[-1]) >= 16
        and has_ragged_block_masks()
    )
    return is_possible and _runs(
        query.device, query.dtype, query.shape[1], key.shape[1], query.shape[-1], value.shape[-1], scale
    )


@cache
def _runs(
    device: torch.device,
    dtype: torch.dtype,
    n_heads: int,
    n_key_heads: int,
    head_size: int,
    value_size: int,
    scale: float | None,
) -> bool:
    """Compile and run attention of this shape, forward and backward: a GPU can lack the shared memory for either, and
    the compiler what it needs. The kernels are those of the training."""
    sizes = ((n_heads, head_size), (n_key_heads, head_size), (n_key_heads, value_size))
    length = 2 * BLOCK + 1
    try:
        # Hooks of the tensors saved: those of activation checkpointing would count these among its own
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
            bounds = torch.tensor([[0, length, 0, 0]], dtype=torch.int32, device=device)
            mask = block_mask(visible_ranges(bounds, length))
            query, key, value = (
                torch.zeros(1, length, heads, size, dtype=dtype, device=device).transpose(1, 2).requires_grad_()
                for heads, size in sizes
            )
            output = flex_attend(query, key, value, mask, scale)
            torch.autograd.grad(output.sum(), (query, key, value))
    except torch.OutOfMemoryError:  # which says nothing of the kernels
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        warnings.warn(
            f"FlexAttention does not run on {device} with heads of size {head_size} in {dtype} "
            f"({type(error).__name__}: {reason}). Every segment is an SDPA call of its own: right, but slower.",
            stacklevel=2,
        )
        return False
    return True
