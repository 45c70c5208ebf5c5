"""The three ways to attention over segments on a GPU, against every score in float64: varlen, FlexAttention, SDPA."""

import pytest
import torch

from tests.gpu.device import IS_DRY
from tests.testing.segments import LAYOUTS, under_one_mask, visible
from trl_modality import _compat_kernels
from trl_modality.modeling import attention, flex
from trl_modality.modeling.attention import Segment, SegmentLayout, segmented_attention


# Longer than blocks of any kernel, and no multiple of one
LONG = (Segment(0, 700), Segment(700, 790, 0, 690), Segment(790, 1100), Segment(1100, 1105, 790, 791))
CASES = {**LAYOUTS, "long": (1, LONG)} if not IS_DRY else {"pairs and rows": LAYOUTS["pairs and rows"]}
HALVES = (torch.bfloat16, torch.float16)


def force(monkeypatch, way: str) -> None:
    """Leave one way open."""
    if way != "varlen":
        monkeypatch.setattr(attention, "varlen_kernel", lambda *args, **kwargs: None)
    if way == "segments":
        monkeypatch.setattr(attention, "flex_takes", lambda *args: False)


def tensors(gpu, dtype, batch, length, n_key_heads, head_size):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, length, n_heads, head_size, generator=generator)
        .to(gpu, dtype)
        .transpose(1, 2)
        .requires_grad_()
        for n_heads in (4, n_key_heads, n_key_heads)
    ]


def assert_as_exact_as_eager(gpu, way, dtype, name, n_key_heads, head_size, window, scale=0.3) -> None:
    batch, segments = CASES[name]
    layout, length = SegmentLayout(segments), segments[-1].end // batch
    inputs = tensors(gpu, dtype, batch, length, n_key_heads, head_size)
    mask = visible(layout, window).to(gpu)
    upstream = torch.randn(batch, length, 4, head_size, generator=torch.Generator().manual_seed(1)).to(gpu, dtype)

    def with_gradients(function, inputs, upstream):
        output = function(*inputs)
        return [output, *torch.autograd.grad(output, inputs, upstream)]

    def own(query, key, value):
        options = {"original": "sdpa", "segment_layout": layout, "scaling": scale, "sliding_window": window}
        return segmented_attention(torch.nn.Identity(), query, key, value, None, **options)[0]

    def eager(query, key, value):
        return under_one_mask(query, key, value, mask, scale)

    wide = [x.detach().double().requires_grad_() for x in inputs]
    truth = with_gradients(eager, wide, upstream.double())
    of_eager = with_gradients(eager, inputs, upstream)
    found = with_gradients(own, inputs, upstream)
    for value, eager_value, expected in zip(found, of_eager, truth, strict=True):
        error, allowed = ((x.double() - expected).norm().item() for x in (value, eager_value))
        # Kernels in float32 have exponentials of their own, a few steps off
        steps = 8 if dtype == torch.float32 else 1
        allowed = 1.5 * allowed + steps * torch.finfo(dtype).eps * expected.norm().item()
        assert value.dtype == dtype
        assert error <= allowed, f"{way}: {error:.3g} from float64, allowed {allowed:.3g}"


@pytest.mark.parametrize("window", [None, 4, 100])
@pytest.mark.parametrize("n_key_heads", [1, 2, 4])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", HALVES)
def test_varlen(gpu, dtype, name, n_key_heads, window, record_property):
    """torch's kernel, or flash-attn's where it is installed; which one it was is reported."""
    query, _, value = tensors(gpu, dtype, 1, 8, n_key_heads, 64)
    kernel = _compat_kernels.varlen_kernel(query, value, dropout=0.0, scale=0.3, window=window)
    if kernel is None:
        pytest.skip(f"torch {torch.__version__} has no varlen call for this, and flash-attn is not installed")
    record_property("kernel", getattr(kernel, "__name__", str(kernel)))
    assert_as_exact_as_eager(gpu, "varlen", dtype, name, n_key_heads, 64, window)


@pytest.mark.parametrize("head_size", [8, 80, 128, 256])
def test_varlen_at_other_head_sizes(gpu, head_size):
    query, _, value = tensors(gpu, torch.bfloat16, 1, 8, 2, head_size)
    if _compat_kernels.varlen_kernel(query, value, dropout=0.0, scale=0.3, window=None) is None:
        pytest.skip(f"torch {torch.__version__} has no varlen call, and flash-attn is not installed")
    assert_as_exact_as_eager(gpu, "varlen", torch.bfloat16, [*CASES][-1], 2, head_size, None)


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("n_key_heads", [1, 4])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flex(gpu, dtype, name, n_key_heads, window, monkeypatch):
    force(monkeypatch, "flex")
    query, key, value = tensors(gpu, dtype, 1, 8, n_key_heads, 64)
    if gpu.type == "cpu":
        pytest.skip("needs a GPU, if a fake one")
    assert flex.flex_takes(query, key, value, 0.0, 0.3), "FlexAttention does not run on this GPU: see the warnings"
    assert_as_exact_as_eager(gpu, "flex", dtype, name, n_key_heads, 64, window)


@pytest.mark.parametrize("head_size", [16, 100, 512])
def test_flex_at_other_head_sizes(gpu, head_size, monkeypatch):
    force(monkeypatch, "flex")
    query, key, value = tensors(gpu, torch.bfloat16, 1, 8, 2, head_size)
    if gpu.type == "cpu":
        pytest.skip("needs a GPU, if a fake one")
    if not flex.flex_takes(query, key, value, 0.0, 0.3):
        assert head_size > 256, "FlexAttention does not run on this GPU: see the warnings"
        pytest.skip("this GPU has no shared memory for such heads; segments go one by one")
    assert_as_exact_as_eager(gpu, "flex", torch.bfloat16, [*CASES][-1], 2, head_size, None)


@pytest.mark.parametrize("window", [None, 4, 100])
@pytest.mark.parametrize("n_key_heads", [1, 4])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_segment_by_segment(gpu, dtype, name, n_key_heads, window, monkeypatch):
    force(monkeypatch, "segments")
    assert_as_exact_as_eager(gpu, "segments", dtype, name, n_key_heads, 64, window)
