"""Sizes of tiles and blocks: a budget in MiB sets the tokens of a tile, the caches the rows worked on at a time."""

import functools
from dataclasses import dataclass

import torch

from .spec import accumulation_dtype


MIB = 2**20
# Measured: below this the products lose speed (the head is read once a tile), above it nothing is gained
CPU_TILE_MIB = 256.0
# Bounds elsewhere. Not measured: 1,000 rows at H=4,096 and V=151,936, and what a GPU of 80 GB can spare. Free memory
# is not asked for: the allocator's cache makes it a poor answer, and sizes that depend on it make runs differ
ACCELERATOR_TILE_MIB, LARGEST_TILE_MIB = 512.0, 4096.0
# Results of a product that one multiprocessor makes at a time
PRODUCT_BLOCK = (128, 256)
# What a GPU does in the time of a byte to or from its memory: 400e12 multiplications and 3.35e12 bytes a second (H100)
MULTIPLICATIONS_A_BYTE = 120
# Cache of one core that a row of both views and the scratch rows beside it should fit in
CPU_CACHE_BYTES = 1.5 * MIB
# Share of the budget for rows of the head that are converted or gathered
HEAD_BLOCK_SHARE = 1 / 8
# Share of a given budget that a converted copy of the whole head may take at most
HEAD_COPY_SHARE = 1 / 2
MIN_HEAD_ROWS = 64
# Bytes that the gradient filter needs for each column of a tile, and for each column that it sums at a time
FILTER_COLUMN_BYTES, FILTER_ROW_BYTES = 24, 64 * 24
# Rows of the tile start at multiples of 128 bytes, in any dtype; on a CPU from this many columns on
ALIGNED_COLUMNS, MIN_PADDED_COLUMNS = 64, 512


@dataclass(frozen=True)
class TilePlan:
    """Sizes of everything that is allocated once and used again for every tile; none grows with the token count."""

    tokens: int
    """Tokens of one tile (`N`), each a row in every view that its group has."""
    block_rows: int
    """Rows of one view that the elementwise work takes at a time (`R`)."""
    head_rows: int
    """Rows of the head that are converted or gathered at a time."""
    copies_head: bool = False
    """Whether the head is converted once, as a whole, to the dtype of the products."""


class TileBuffers:
    """The hidden states, the logits and the gradients of the hidden states of one tile, used again for every tile."""

    def __init__(self, plan: TilePlan, n_views: int, head: torch.Tensor, dtype: torch.dtype):
        n_rows, (vocab_size, hidden_size) = plan.tokens * n_views, head.shape
        stride = padded_columns(vocab_size, head.device)
        self._hidden = torch.empty(n_rows, hidden_size, dtype=dtype, device=head.device)
        self._logits = torch.empty(n_rows, stride, dtype=dtype, device=head.device)[:, :vocab_size]
        self._gradient = torch.empty(n_rows, hidden_size, dtype=accumulation_dtype(dtype), device=head.device)

    def of(self, n_rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The first `n_rows` rows of the hidden states, the logits and the gradients."""
        return self._hidden[:n_rows], self._logits[:n_rows], self._gradient[:n_rows]


def padded_columns(vocab_size: int, device: torch.device) -> int:
    """Elements from one row of a tile to the next; aligned rows are read faster, and multiplied in less time.

    On a CPU the loss over 70,001 columns of float32 took 1.12 times as long a column as over 70,016, and takes 1.00
    times as long with aligned rows. But short rows without gaps are walked as one there, which is worth more.
    """
    if device.type == "cpu" and vocab_size < MIN_PADDED_COLUMNS:
        return vocab_size
    return -(-vocab_size // ALIGNED_COLUMNS) * ALIGNED_COLUMNS


def product_dtype(hidden: list[torch.Tensor]) -> torch.dtype:
    """The dtype of the logits and of the matrix products.

    It is the model's (the widest of its hidden states) or, unless that is float64, autocast's. On CPUs without
    instructions for half precision float32 stands in for it: there such products are both faster and more exact.
    """
    device_type = hidden[0].device.type
    dtype = functools.reduce(torch.promote_types, (each.dtype for each in hidden))
    if torch.is_autocast_enabled(device_type) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device_type)
    if device_type == "cpu" and dtype in (torch.bfloat16, torch.float16) and not _multiplies_natively(dtype):
        return torch.float32
    return dtype


def _multiplies_natively(dtype: torch.dtype) -> bool:
    """Whether the CPU has matrix units (AMX) or, for bfloat16, vector instructions (AVX512-BF16), and oneDNN is used.

    With the latter, products of bfloat16 take half the time of float32 or less (measured on an AMD EPYC).
    """
    if not torch.backends.mkldnn.is_available():
        return False
    # Private names, with the safe answer where a release of torch lacks them
    names = {
        torch.bfloat16: ("_is_amx_tile_supported", "_is_avx512_bf16_supported"),
        torch.float16: ("_is_amx_fp16_supported",),
    }[dtype]
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def plan_tiles(
    *,
    n_tokens: int,
    n_views: int,
    n_scratch: int,
    head: torch.Tensor,
    dtype: torch.dtype,
    tile_mib: float | None,
    filters: bool,
    trains_head: bool = True,
    needs_temporary: bool = False,
    n_multiprocessors: int | None = None,
) -> TilePlan:
    """Sizes such that all buffers together stay within `tile_mib`.

    Args:
        n_tokens: tokens of the largest group.
        n_views: 2 if any group is paired, else 1.
        n_scratch: rows in the dtype of the sums that the elementwise work needs for each token of a block.
        head: `[V, H]`; its device decides what is worth while, its values are not read.
        dtype: dtype of the products.
        tile_mib: the budget; `None` for the default (`default_tile_mib`). Where it is too small for a single token,
            one token is taken all the same.
        filters: whether columns of the gradient are gathered, with the rows of the head that go with them.
        trains_head: whether the head's gradient is needed.
        needs_temporary: whether products of the gradients are made in a tensor of their own before they are added.
        n_multiprocessors: of a GPU; then tiles of such sizes are chosen as keep all of them at work.
    """
    is_cpu, converts = head.device.type == "cpu", head.dtype != dtype
    copies_head = converts and not is_cpu and _may_copy(head, dtype, tile_mib)
    (vocab_size, hidden_size), sum_itemsize = head.shape, accumulation_dtype(dtype).itemsize
    padded_size = padded_columns(vocab_size, head.device)
    token_bytes = n_views * (padded_size * dtype.itemsize + hidden_size * (dtype.itemsize + sum_itemsize))
    scratch_bytes = n_scratch * padded_size * sum_itemsize
    if tile_mib is None:
        budget = default_tile_mib(head, dtype, trains_head) * MIB
    else:
        budget = tile_mib * MIB - (_copy_mib(head, dtype) * MIB if copies_head else 0.0)
    head_budget = budget * HEAD_BLOCK_SHARE
    if filters or (converts and not copies_head) or (trains_head and needs_temporary):
        budget -= head_budget
    if filters:
        budget = max(0.0, budget - FILTER_COLUMN_BYTES * vocab_size)
    if needs_temporary:
        token_bytes += n_views * hidden_size * sum_itemsize
    if not is_cpu:
        tokens = int(budget / (token_bytes + scratch_bytes))
        block_rows = n_tokens
    else:
        threads = torch.get_num_threads()
        row_bytes = scratch_bytes + n_views * padded_size * dtype.itemsize
        block_rows = max(threads, int(threads * CPU_CACHE_BYTES / row_bytes))
        # With a small budget, scratch rows take at most a quarter
        block_rows = max(1, min(block_rows, int(budget / 4 / max(scratch_bytes, 1))))
        tokens = int((budget - block_rows * scratch_bytes) / token_bytes)
    tokens = max(1, min(tokens, n_tokens))
    if tokens < n_tokens:
        # As many tiles of equal size instead of full ones and a small rest; rounded up to 8 where that fits
        even = -(-n_tokens // -(-n_tokens // tokens))
        most, tokens = tokens, min(tokens, -(-even // 8) * 8)
        if n_multiprocessors is not None:
            bytes_a_tile = 2 * vocab_size * hidden_size * sum_itemsize if trains_head else 0
            tokens = tokens_in_full_waves(
                most, n_tokens, n_views, (vocab_size, hidden_size), n_multiprocessors, bytes_a_tile
            )
    head_row_bytes = hidden_size * sum_itemsize
    if filters:  # rows gathered and multiplied, columns of the tile gathered and laid out anew
        head_row_bytes = 2 * head_row_bytes + 2 * tokens * n_views * sum_itemsize + FILTER_ROW_BYTES
    head_rows = max(MIN_HEAD_ROWS, min(int(head_budget / head_row_bytes), vocab_size))
    return TilePlan(tokens, min(block_rows, tokens), head_rows, copies_head)


def default_tile_mib(head: torch.Tensor, dtype: torch.dtype, trains_head: bool = True) -> float:
    """The budget in MiB where none is given.

    On a CPU 256. Elsewhere, with a trained head, the size of its gradient in the dtype of the sums, within bounds: it
    is read and written once a tile, which then is a small part of the tile's products, however large the head. With a
    frozen head a tile costs nothing by itself but reading the head twice, which a thousand rows hide behind
    arithmetic; half the size has more, so that few sizes between it and its half leave multiprocessors without work.
    The copy of a head that has to be converted comes on top.
    """
    if head.device.type == "cpu":
        return CPU_TILE_MIB
    gradient_mib = head.numel() * accumulation_dtype(dtype).itemsize / MIB
    return max(ACCELERATOR_TILE_MIB, min(gradient_mib if trains_head else gradient_mib / 2, LARGEST_TILE_MIB))


def _copy_mib(head: torch.Tensor, dtype: torch.dtype) -> float:
    return head.numel() * dtype.itemsize / MIB


def _may_copy(head: torch.Tensor, dtype: torch.dtype, tile_mib: float | None) -> bool:
    """Whether the head is converted as a whole: block by block, every tile would convert it twice."""
    most = LARGEST_TILE_MIB if tile_mib is None else tile_mib * HEAD_COPY_SHARE
    return _copy_mib(head, dtype) <= most


@functools.lru_cache
def tokens_in_full_waves(
    most: int, n_tokens: int, n_views: int, head_shape: tuple[int, int], n_multiprocessors: int, bytes_a_tile: int
) -> int:
    """The tokens of a tile, at most `most` and not below half of it, with which all tiles together take least time.

    A GPU gives every multiprocessor a block of 128 × 256 results at a time, and the last of these waves takes as long
    as a full one. That is little for the logits and the gradient of the head, whose blocks are thousands, and much for
    the gradient of the hidden states: at 1,280 rows and H=4,096 it has 160 blocks, which take 132 multiprocessors as
    long as 264 do. Against it stands what every tile costs by itself, `bytes_a_tile` of memory traffic.
    """
    vocab_size, hidden_size = head_shape
    block_rows, block_columns = PRODUCT_BLOCK

    def multiplications(tokens: int) -> float:
        row_blocks = -(-n_views * tokens // block_rows)
        waves_of_logits = -(-row_blocks * -(-vocab_size // block_columns) // n_multiprocessors)
        waves_of_hidden = -(-row_blocks * -(-hidden_size // block_columns) // n_multiprocessors)
        in_a_wave = n_multiprocessors * block_rows * block_columns
        return in_a_wave * (waves_of_logits * hidden_size + waves_of_hidden * vocab_size)

    def cost(tokens: int) -> float:
        n_full, rest = divmod(n_tokens, tokens)
        last = multiplications(rest) if rest else 0.0
        return n_full * multiplications(tokens) + last + -(-n_tokens // tokens) * bytes_a_tile * MULTIPLICATIONS_A_BYTE

    step = max(1, block_rows // n_views)
    candidates = [most, *range(most // step * step, max(most // 2, step - 1), -step)]
    return min(candidates, key=cost)


@functools.cache
def count_multiprocessors(device: torch.device) -> int | None:
    """Of a CUDA or ROCm GPU; `None` where torch does not say."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(device).multi_processor_count
