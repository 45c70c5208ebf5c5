"""FlexAttention over segments: its mask against torch's own construction, its results against float64, and when it
goes. Flash and Triton kernels are tested on GPUs; here the same calls run uncompiled on the CPU."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import flex_attention as torch_flex

from tests.testing.segments import LAYOUTS, under_one_mask, visible
from trl_modality import _compat_kernels
from trl_modality.modeling import attention, flex
from trl_modality.modeling.attention import Segment, SegmentLayout, segmented_attention


# Longer than a block, no multiple of one, prefixes that fill blocks, suffixes that begin within one
LONG = {
    "pairs": (Segment(0, 300), Segment(300, 390, 0, 290), Segment(390, 700), Segment(700, 705, 390, 391)),
    "a prefix next to its suffix": (Segment(0, 256), Segment(256, 512, 0, 256), Segment(512, 513)),
    "whole blocks": (Segment(0, 256), Segment(256, 384, 0, 128), Segment(384, 512)),
    "one place": (Segment(0, 1),),
}


@pytest.fixture
def uncompiled(monkeypatch):
    """FlexAttention's reference on the CPU, which torch has, gradients too, but does not let anybody ask for."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(flex, "_flex", lambda: flex._attend)
    flex._runs.cache_clear()
    yield
    flex._runs.cache_clear()


def mask_of(segments: tuple[Segment, ...], window: int | None = None):
    layout = SegmentLayout(segments)
    layout.put(layout.host_tensors())
    return layout.on(torch.device("cpu")).block_mask(window)


@pytest.mark.parametrize("window", [None, 1, 4, 100, 200])
@pytest.mark.parametrize("segments", [*(segments for _, segments in LAYOUTS.values()), *LONG.values()])
def test_a_place_sees_its_segment_up_to_itself_and_its_prefix(segments, window):
    mask = mask_of(segments, window)
    places = torch.arange(segments[-1].end)
    assert torch.equal(mask.mask_mod(None, None, places[:, None], places), visible(SegmentLayout(segments), window))


@pytest.mark.parametrize("window", [None, 1, 100, 200])
@pytest.mark.parametrize("name", LONG)
def test_the_blocks_are_those_that_torch_finds_in_the_scores(name, window):
    segments = LONG[name]
    mask, n_places = mask_of(segments, window), segments[-1].end
    truth = torch_flex.create_block_mask(mask.mask_mod, None, None, n_places, n_places, device="cpu")
    assert mask.seq_lengths == truth.seq_lengths
    assert mask.BLOCK_SIZE == truth.BLOCK_SIZE
    for kind in ("kv", "full_kv", "q", "full_q"):
        own_counts, counts = (getattr(each, f"{kind}_num_blocks") for each in (mask, truth))
        own_order, order = (getattr(each, f"{kind}_indices") for each in (mask, truth))
        assert torch.equal(own_counts, counts)
        for row in range(counts.shape[-1]):
            n = counts[0, 0, row]
            assert torch.equal(own_order[0, 0, row, :n], order[0, 0, row, :n])
        assert own_counts.dtype == own_order.dtype == torch.int32


CASES = [
    *((name, batch, segments, window) for name, (batch, segments) in LAYOUTS.items() for window in (None, 4, 100)),
    *((name, 1, segments, window) for name, segments in LONG.items() for window in (None, 100)),
]


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("n_key_heads", [1, 2, 4])
@pytest.mark.parametrize(("name", "batch", "segments", "window"), CASES)
def test_it_is_attention_under_one_mask(name, batch, segments, window, n_key_heads, monkeypatch):
    monkeypatch.setattr(attention, "flex_takes", lambda *arguments: True)
    monkeypatch.setattr(attention, "_by_segment", None)
    layout = SegmentLayout(segments)
    length = segments[-1].end // batch
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(batch, length, n_heads, size, dtype=torch.float64).transpose(1, 2).requires_grad_()
        for n_heads, size in ((4, 16), (n_key_heads, 16), (n_key_heads, 24))
    )
    options = {"original": "sdpa", "segment_layout": layout, "scaling": 0.3, "sliding_window": window}
    output, weights = segmented_attention(torch.nn.Identity(), query, key, value, None, **options)
    expected = under_one_mask(query, key, value, visible(layout, window), 0.3)
    assert weights is None
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-12)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(output, (query, key, value), upstream)
    for own, truth in zip(gradients, torch.autograd.grad(expected, (query, key, value), upstream), strict=True):
        torch.testing.assert_close(own, truth, rtol=1e-9, atol=1e-12)


def test_the_mask_of_a_batch_is_made_once_for_each_window():
    tensors = SegmentLayout(LONG["pairs"]).on(torch.device("cpu"))
    assert tensors.block_mask(None) is tensors.block_mask(None)
    assert tensors.block_mask(7) is tensors.block_mask(7)
    assert tensors.block_mask(7) is not tensors.block_mask(None)


@pytest.mark.usefixtures("uncompiled")
def test_batches_of_any_length_share_one_compilation(monkeypatch):
    """Forward and backward are compiled at the first layer; further lengths, layouts and windows find them."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(flex._attend, dynamic=True, backend=counter)  # as `compile_for_any_length` but for Triton
    monkeypatch.setattr(flex, "_flex", lambda: compiled)

    def step(segments, window, n_heads=2):
        total = segments[-1].end
        q, k, v = (torch.randn(1, total, n, 16).transpose(1, 2).requires_grad_() for n in (n_heads, 1, 1))
        flex.flex_attend(q, k, v, mask_of(segments, window), 0.25).sum().backward()
        return counter.frame_count

    n_first = step(LONG["pairs"], None)
    assert n_first > 0
    for total in (130, 256, 511, 1024):
        assert step((Segment(0, total - 20), Segment(total - 20, total, 0, 30)), total - 50) == n_first
    assert step(LONG["pairs"], None, n_heads=4) > n_first  # so the counter counts
    torch._dynamo.reset()


def layer(device="cuda", dtype=torch.float32, n_heads=4, head_size=64):
    """What is asked of a query, key or value, on a device that this machine may lack."""
    return SimpleNamespace(device=torch.device(device), dtype=dtype, shape=(1, n_heads, 300, head_size))


@pytest.mark.parametrize(
    ("query", "value", "dropout", "has_lengths", "runs", "takes"),
    [
        (layer(), layer(), 0.0, True, True, True),
        (layer(head_size=512), layer(head_size=512), 0.0, True, True, True),
        (layer(head_size=100), layer(head_size=20), 0.0, True, True, True),
        (layer(dtype=torch.bfloat16), layer(dtype=torch.bfloat16), 0.0, True, True, True),
        (layer("cpu"), layer("cpu"), 0.0, True, True, False),
        (layer("mps"), layer("mps"), 0.0, True, True, False),
        (layer(), layer(), 0.1, True, True, False),
        (layer(head_size=8), layer(), 0.0, True, True, False),
        (layer(), layer(head_size=8), 0.0, True, True, False),
        (layer(), layer(), 0.0, False, True, False),
        (layer(), layer(), 0.0, True, False, False),
    ],
)
def test_what_it_takes(query, value, dropout, has_lengths, runs, takes, monkeypatch):
    monkeypatch.setattr(flex, "has_ragged_block_masks", lambda: has_lengths)
    monkeypatch.setattr(flex, "_runs", lambda *shape: runs)
    assert flex.flex_takes(query, value, value, dropout, 0.125) == takes


def test_block_masks_of_old_torch_are_left_alone(monkeypatch):
    assert _compat_kernels.has_ragged_block_masks()

    class Old:
        @classmethod
        def from_kv_blocks(cls, kv_num_blocks, kv_indices, BLOCK_SIZE=128, mask_mod=None): ...

    monkeypatch.setattr(torch_flex, "BlockMask", Old)
    _compat_kernels.has_ragged_block_masks.cache_clear()
    assert not _compat_kernels.has_ragged_block_masks()
    monkeypatch.undo()
    _compat_kernels.has_ragged_block_masks.cache_clear()


def test_the_compiler_is_asked_for_any_length(monkeypatch):
    def old_compile(model=None, *, fullgraph=False, dynamic=None, backend="inductor"):
        return dynamic

    def new_compile(model=None, *, fullgraph=False, dynamic=None, backend="inductor", recompile_limit=None):
        return dynamic, recompile_limit

    monkeypatch.setattr(torch, "compile", old_compile)
    assert _compat_kernels.compile_for_any_length(max) is True
    monkeypatch.setattr(torch, "compile", new_compile)
    assert _compat_kernels.compile_for_any_length(max) == (True, 64)


@pytest.mark.parametrize(
    ("dtype", "head_size", "forward_stages", "backward_tile"),
    [
        (torch.float32, 64, None, None),
        (torch.float32, 96, 1, None),
        (torch.float32, 512, 1, None),
        (torch.bfloat16, 256, None, None),
        (torch.bfloat16, 320, 1, 32),
    ],
)
def test_large_heads_get_small_tiles(dtype, head_size, forward_stages, backward_tile):
    options = flex._kernel_options(layer(dtype=dtype, head_size=head_size))
    assert options.get("fwd_num_stages") == forward_stages
    assert {options.get(f"bwd_BLOCK_{name}") for name in ("M1", "N1", "M2", "N2")} == {backward_tile}
    assert options.get("bwd_num_stages") == (backward_tile and 1)


SHAPE = (torch.device("cpu"), torch.float32, 4, 2, 16, 24, 0.25)


def test_where_it_fails_segments_go_one_by_one_and_a_warning_says_so(monkeypatch):
    """As on a CPU, for which torch has no gradients. Asked again, it does not try again, nor warn."""
    monkeypatch.setattr(flex, "_flex", lambda: flex._attend)
    flex._runs.cache_clear()
    with pytest.warns(UserWarning, match="heads of size 16 in torch.float32 .*NotImplementedError: .*backward on CPU"):
        assert not flex._runs(*SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not flex._runs(*SHAPE)
    flex._runs.cache_clear()


def test_memory_that_runs_out_says_nothing_of_its_kernels(monkeypatch):
    """Else a run whose first trial met a full GPU would go segment by segment to its end."""

    def out_of_memory(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(flex, "flex_attend", out_of_memory)
    flex._runs.cache_clear()
    with pytest.raises(torch.OutOfMemoryError):
        flex._runs(*SHAPE)
    assert flex._runs.cache_info().currsize == 0


@pytest.mark.usefixtures("uncompiled")
def test_trying_it_is_invisible_to_checkpointing_and_evaluation():
    """Activation checkpointing counts the tensors that a layer saves; evaluation has gradients switched off."""
    saved = []
    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        assert flex._runs(*SHAPE)
        assert not torch.is_grad_enabled()
        assert saved == []
        with torch.enable_grad():
            torch.ones(2, requires_grad=True).exp()
        assert len(saved) == 1  # so the hook sees what is saved
