"""Sizes of tiles: within the budget on every device, and on a GPU such that no multiprocessor is left without work."""

import pytest
import torch

from trl_modality.kernels.spec import accumulation_dtype
from trl_modality.kernels.tiles import (
    ACCELERATOR_TILE_MIB,
    FILTER_COLUMN_BYTES,
    LARGEST_TILE_MIB,
    MIB,
    MIN_HEAD_ROWS,
    TileBuffers,
    TilePlan,
    count_multiprocessors,
    default_tile_mib,
    padded_columns,
    plan_tiles,
    tokens_in_full_waves,
)


LARGE = (151_936, 4096)
H100 = 132


def head_of(shape: tuple[int, int] = LARGE, dtype: torch.dtype = torch.bfloat16, device: str = "meta") -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=device)


def plan(head: torch.Tensor, n_tokens: int = 8192, dtype: torch.dtype = torch.bfloat16, **options) -> TilePlan:
    defaults = {"n_views": 2, "n_scratch": 0, "tile_mib": None, "filters": False}
    return plan_tiles(n_tokens=n_tokens, head=head, dtype=dtype, **{**defaults, **options})


def bytes_of(plan: TilePlan, head: torch.Tensor, dtype: torch.dtype, n_views: int, n_scratch: int, **options) -> int:
    """What the buffers of a plan take, counted one by one."""
    (vocab_size, hidden_size), sum_itemsize = head.shape, accumulation_dtype(dtype).itemsize
    stride = padded_columns(vocab_size, head.device)
    n_rows = n_views * plan.tokens
    total = n_rows * (stride * dtype.itemsize + hidden_size * (dtype.itemsize + sum_itemsize))
    total += n_scratch * plan.block_rows * vocab_size * sum_itemsize
    if plan.copies_head:
        total += vocab_size * hidden_size * dtype.itemsize
    # Rows of the head: converted for one product, the temporary of another, gathered for those of the filter
    rows = [0]
    if head.dtype != dtype and not plan.copies_head:
        rows.append(plan.head_rows * hidden_size * dtype.itemsize)
    if options["needs_temporary"]:
        total += n_rows * hidden_size * sum_itemsize
        rows.append(plan.head_rows * hidden_size * sum_itemsize)
    if options["filters"]:
        total += vocab_size * FILTER_COLUMN_BYTES
        rows.append(plan.head_rows * (hidden_size + n_rows) * sum_itemsize)
    return total + max(rows)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("head_dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("filters", [False, True])
@pytest.mark.parametrize("needs_temporary", [False, True])
@pytest.mark.parametrize("n_multiprocessors", [None, H100])
def test_all_buffers_fit_into_the_budget(device, head_dtype, filters, needs_temporary, n_multiprocessors):
    options = {"filters": filters, "needs_temporary": needs_temporary, "n_views": 2, "n_scratch": 3}
    for shape in ((4001, 64), (32_000, 512), (50_257, 768)):
        head = head_of(shape, head_dtype, device)
        for tile_mib in (32, 100, 400):
            for n_tokens in (1, 100, 5000):
                found = plan(
                    head, n_tokens, tile_mib=tile_mib, n_multiprocessors=n_multiprocessors, trains_head=True, **options
                )
                assert 1 <= found.tokens <= n_tokens
                assert MIN_HEAD_ROWS <= found.head_rows <= max(MIN_HEAD_ROWS, shape[0])
                if found.tokens > 1:
                    assert bytes_of(found, head, torch.bfloat16, **options) <= tile_mib * MIB


def test_by_default_a_gpu_has_the_size_of_the_heads_gradient_in_float32():
    gradient_mib = 151_936 * 4096 * 4 / MIB
    assert default_tile_mib(head_of(), torch.bfloat16) == gradient_mib == 2374
    assert default_tile_mib(head_of(), torch.bfloat16, trains_head=False) == gradient_mib / 2
    assert default_tile_mib(head_of((32_000, 512)), torch.bfloat16) == ACCELERATOR_TILE_MIB
    assert default_tile_mib(head_of((256_000, 8192)), torch.bfloat16) == LARGEST_TILE_MIB
    assert default_tile_mib(head_of((32_000, 512), device="cpu"), torch.float32) == 256
    # The gradient is read and written once for each of three tiles instead of eleven
    assert -(-8192 // plan(head_of()).tokens) == 3
    assert -(-8192 // plan(head_of(), tile_mib=512).tokens) == 11
    assert plan(head_of(), 2048).tokens == 2048


def share_of_work(tokens: int, n_tokens: int, n_views: int, hidden_size: int, n_multiprocessors: int) -> float:
    """The share of the multiprocessors' time in which the gradient of all hidden states gives them work."""
    waves = 0
    for start in range(0, n_tokens, tokens):
        rows = n_views * min(tokens, n_tokens - start)
        waves += -(-(-(-rows // 128) * -(-hidden_size // 256)) // n_multiprocessors)
    return n_views * n_tokens * hidden_size / (128 * 256) / (waves * n_multiprocessors)


@pytest.mark.parametrize("n_views", [1, 2])
@pytest.mark.parametrize("n_multiprocessors", [108, H100, 148])
@pytest.mark.parametrize("trains_head", [True, False])
@pytest.mark.parametrize("n_tokens", [8192, 12_345])
def test_tiles_of_a_gpu_fill_its_waves(n_views, n_multiprocessors, trains_head, n_tokens):
    for shape in (LARGE, (151_936, 3584), (128_256, 8192)):
        options = {"n_views": n_views, "trains_head": trains_head}
        chosen = plan(head_of(shape), n_tokens, n_multiprocessors=n_multiprocessors, **options).tokens
        equal = plan(head_of(shape), n_tokens, **options).tokens
        shares = [share_of_work(each, n_tokens, n_views, shape[1], n_multiprocessors) for each in (chosen, equal)]
        # The last tile is what it is; of this shape and device it was 0.71 with tiles of 512 MiB
        assert shares[0] > (0.96 if (shape, n_multiprocessors, n_tokens) == (LARGE, H100, 8192) else 0.84)
        assert shares[0] >= shares[1]
        assert chosen == n_tokens or 2 * chosen >= equal


def test_full_waves_of_a_known_case():
    """16 blocks of 256 columns: of 132 multiprocessors, 8 blocks of 128 rows take 128, 9 take all of them twice."""
    assert tokens_in_full_waves(620, 10_000, 2, LARGE, H100, bytes_a_tile=0) == 8 * 64
    assert tokens_in_full_waves(1240, 10_240, 1, LARGE, H100, bytes_a_tile=0) == 8 * 128
    assert tokens_in_full_waves(30, 10_000, 2, LARGE, H100, bytes_a_tile=0) == 30  # less than a block
    # Where a tile costs a lot by itself, fewer tiles are better than full waves
    assert tokens_in_full_waves(620, 1200, 2, LARGE, H100, bytes_a_tile=10**12) == 620


@pytest.mark.parametrize(
    ("tile_mib", "copies"), [(None, True), (4096, True), (2400, True), (2300, False), (512, False)]
)
@pytest.mark.parametrize("trains_head", [True, False])
def test_a_head_in_another_dtype_is_copied_where_memory_allows(tile_mib, copies, trains_head):
    """bfloat16 products of a float32 head: the copy takes 1,187 MiB."""
    head = head_of(dtype=torch.float32)
    assert plan(head, tile_mib=tile_mib, trains_head=trains_head).copies_head == copies
    assert not plan(head_of(), tile_mib=tile_mib, trains_head=trains_head).copies_head
    if tile_mib is None:  # the copy comes on top
        assert plan(head, trains_head=trains_head).tokens == plan(head_of(), trains_head=trains_head).tokens
    assert not plan(head_of((1000, 64), torch.float32, "cpu"), trains_head=trains_head).copies_head


def test_no_multiprocessors_are_counted_without_a_gpu():
    assert count_multiprocessors(torch.device("cpu")) is None
    if not torch.cuda.is_available():
        assert count_multiprocessors(torch.device("cuda:0")) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("device", "vocab_size", "stride"),
    [("cpu", 70_001, 70_016), ("cpu", 70_016, 70_016), ("cpu", 600, 640), ("cpu", 100, 100), ("meta", 100, 128)],
)
def test_rows_of_a_tile_are_aligned(device, vocab_size, stride, dtype):
    buffers = TileBuffers(TilePlan(3, 1, 64), 2, head_of((vocab_size, 8), dtype, device), dtype)
    _, logits, _ = buffers.of(6)
    assert logits.shape == (6, vocab_size)
    assert logits.stride() == (stride, 1)
