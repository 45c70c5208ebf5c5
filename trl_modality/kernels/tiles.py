"""Sizes of tiles and blocks: a budget in MiB sets the tokens of a tile, the caches the rows worked on at a time."""

import functools
from dataclasses import dataclass

import torch

from .spec import accumulation_dtype


MIB = 2**20
# Measured: below this the products lose speed (the head is read once a tile), above it nothing is gained
CPU_TILE_MIB = 256.0
ACCELERATOR_TILE_MIB = 512.0
# Cache of one core that a row of both views and the scratch rows beside it should fit in
CPU_CACHE_BYTES = 1.5 * MIB
# Share of the budget for rows of the head that are converted or gathered
HEAD_BLOCK_SHARE = 1 / 8
MIN_HEAD_ROWS = 64
# Bytes that the gradient filter needs for each column of a tile, and for each column that it sums at a time
FILTER_COLUMN_BYTES, FILTER_ROW_BYTES = 24, 64 * 24
# Rows of the tile start at multiples of 128 bytes, in any dtype
ALIGNED_COLUMNS = 64


@dataclass(frozen=True)
class TilePlan:
    """Sizes of everything that is allocated once and used again for every tile; none grows with the token count."""

    tokens: int
    """Tokens of one tile (`N`), each a row in every view that its group has."""
    block_rows: int
    """Rows of one view that the elementwise work takes at a time (`R`)."""
    head_rows: int
    """Rows of the head that are converted or gathered at a time."""


class TileBuffers:
    """The hidden states, the logits and the gradients of the hidden states of one tile, used again for every tile."""

    def __init__(self, plan: TilePlan, n_views: int, head: torch.Tensor, dtype: torch.dtype):
        n_rows, (vocab_size, hidden_size) = plan.tokens * n_views, head.shape
        # GPUs read aligned rows faster; on a CPU rows without gaps are walked as one
        stride = vocab_size if head.device.type == "cpu" else -(-vocab_size // ALIGNED_COLUMNS) * ALIGNED_COLUMNS
        self._hidden = torch.empty(n_rows, hidden_size, dtype=dtype, device=head.device)
        self._logits = torch.empty(n_rows, stride, dtype=dtype, device=head.device)[:, :vocab_size]
        self._gradient = torch.empty(n_rows, hidden_size, dtype=accumulation_dtype(dtype), device=head.device)

    def of(self, n_rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The first `n_rows` rows of the hidden states, the logits and the gradients."""
        return self._hidden[:n_rows], self._logits[:n_rows], self._gradient[:n_rows]


def product_dtype(hidden: list[torch.Tensor]) -> torch.dtype:
    """The dtype of the logits and of the matrix products.

    It is the model's (the widest of its hidden states) or, unless that is float64, autocast's. On CPUs without matrix
    units (AMX) float32 stands in for half precision: there such products are both faster and more exact.
    """
    device_type = hidden[0].device.type
    dtype = functools.reduce(torch.promote_types, (each.dtype for each in hidden))
    if torch.is_autocast_enabled(device_type) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device_type)
    if device_type == "cpu" and dtype in (torch.bfloat16, torch.float16) and not _has_matrix_units(dtype):
        return torch.float32
    return dtype


def _has_matrix_units(dtype: torch.dtype) -> bool:
    # Private names, with the safe answer where a release of torch lacks them
    name = "_is_amx_tile_supported" if dtype == torch.bfloat16 else "_is_amx_fp16_supported"
    return getattr(torch.cpu, name, lambda: False)()


def plan_tiles(
    *,
    n_tokens: int,
    n_views: int,
    n_scratch: int,
    head: torch.Tensor,
    dtype: torch.dtype,
    tile_mib: float | None,
    filters: bool,
) -> TilePlan:
    """Sizes such that all buffers together stay within `tile_mib`.

    Args:
        n_tokens: tokens of the largest group.
        n_views: 2 if any group is paired, else 1.
        n_scratch: rows in the dtype of the sums that the elementwise work needs for each token of a block.
        head: `[V, H]`.
        dtype: dtype of the products.
        tile_mib: the budget; `None` for the device's default. Where it is too small for a single token, one token is
            taken all the same.
        filters: whether columns of the gradient are gathered, with the rows of the head that go with them.
    """
    is_cpu = head.device.type == "cpu"
    if tile_mib is None:
        tile_mib = CPU_TILE_MIB if is_cpu else ACCELERATOR_TILE_MIB
    (vocab_size, hidden_size), sum_itemsize = head.shape, accumulation_dtype(dtype).itemsize
    token_bytes = n_views * (vocab_size * dtype.itemsize + hidden_size * (dtype.itemsize + sum_itemsize))
    scratch_bytes = n_scratch * vocab_size * sum_itemsize
    budget = tile_mib * MIB
    head_budget = budget * HEAD_BLOCK_SHARE
    if filters or head.dtype != dtype:
        budget -= head_budget
    if filters:
        budget = max(0.0, budget - FILTER_COLUMN_BYTES * vocab_size)
    if not is_cpu:
        tokens = int(budget / (token_bytes + scratch_bytes))
        block_rows = n_tokens
    else:
        threads = torch.get_num_threads()
        row_bytes = scratch_bytes + n_views * vocab_size * dtype.itemsize
        block_rows = max(threads, int(threads * CPU_CACHE_BYTES / row_bytes))
        # With a small budget, scratch rows take at most a quarter
        block_rows = max(1, min(block_rows, int(budget / 4 / max(scratch_bytes, 1))))
        tokens = int((budget - block_rows * scratch_bytes) / token_bytes)
    tokens = max(1, min(tokens, n_tokens))
    if tokens < n_tokens:
        # As many tiles of equal size instead of full ones and a small rest; rounded up to 8 where that fits
        even = -(-n_tokens // -(-n_tokens // tokens))
        tokens = min(tokens, -(-even // 8) * 8)
    head_row_bytes = hidden_size * sum_itemsize
    if filters:  # rows gathered and multiplied, columns of the tile gathered and laid out anew
        head_row_bytes = 2 * head_row_bytes + 2 * tokens * n_views * sum_itemsize + FILTER_ROW_BYTES
    head_rows = max(MIN_HEAD_ROWS, min(int(head_budget / head_row_bytes), vocab_size))
    return TilePlan(tokens, min(block_rows, tokens), head_rows)
