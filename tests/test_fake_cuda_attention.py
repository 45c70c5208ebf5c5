"""The attention of the fake GPU: it takes what the kernels of a GPU take, and computes what they compute."""

import inspect

import pytest
import torch

from tests.testing.fake_cuda import FakeCudaError, fake_cuda
from tests.testing.fake_cuda.attention import flex_attention_of
from tests.testing.segments import slow_varlen
from trl_modality.modeling.flex import block_mask, visible_ranges


@pytest.fixture
def gpu():
    with fake_cuda() as gpu:
        yield gpu


def varlen_attn(**case):
    """Torch's, where it has windows, a scale and heads that share keys."""
    own = pytest.importorskip("torch.nn.attention.varlen", reason="torch 2.12").varlen_attn
    if "enable_gqa" not in inspect.signature(own).parameters:
        pytest.skip("torch 2.12")
    return own(**case)


def varlen_case(gpu, dtype=torch.bfloat16, **changes):
    generator = torch.Generator().manual_seed(0)

    def heads(places, count):
        return gpu.move(torch.randn(places, count, 16, generator=generator).to(dtype)).requires_grad_()

    case = {
        "query": heads(9, 4),
        "key": heads(14, 2),
        "value": heads(14, 2),
        "cu_seq_q": gpu.move(torch.tensor([0, 5, 8, 9], dtype=torch.int32)),
        "cu_seq_k": gpu.move(torch.tensor([0, 5, 13, 14], dtype=torch.int32)),
        "max_q": 5,
        "max_k": 8,
        "scale": 0.3,
        "window_size": (-1, 0),
        "enable_gqa": True,
    }
    return {**case, **changes}


FAULTS = {
    "float32": lambda gpu: {"dtype": torch.float32},
    "two dtypes": lambda gpu: {"value": gpu.move(torch.ones(14, 2, 16, dtype=torch.float16))},
    "int64 bounds": lambda gpu: {"cu_seq_q": gpu.move(torch.tensor([0, 5, 8, 9]))},
    "bounds on the cpu": lambda gpu: {"cu_seq_k": torch.tensor([0, 5, 13, 14], dtype=torch.int32)},
    "keys on the cpu": lambda gpu: {"key": torch.ones(14, 2, 16, dtype=torch.bfloat16)},
    "bounds that end early": lambda gpu: {"cu_seq_q": gpu.move(torch.tensor([0, 5, 7, 8], dtype=torch.int32))},
    "a longer run": lambda gpu: {"max_k": 7},
    "heads of 12": lambda gpu: {name: gpu.move(torch.ones(n, h, 12).bfloat16()) for name, n, h in SHAPES},
    "heads of 264": lambda gpu: {name: gpu.move(torch.ones(n, h, 264).bfloat16()) for name, n, h in SHAPES},
}
SHAPES = (("query", 9, 4), ("key", 14, 2), ("value", 14, 2))


@pytest.mark.parametrize("name", FAULTS)
def test_what_the_varlen_call_does_not_take(gpu, name):
    changes = FAULTS[name](gpu)
    with pytest.raises(FakeCudaError, match="varlen_attn"):
        varlen_attn(**varlen_case(gpu, **changes))


@pytest.mark.parametrize("window", [None, 3])
def test_varlen_attention_is_attention_over_runs(gpu, window):
    """Forward and backward against every score in float64."""
    case = varlen_case(gpu, window_size=(-1 if window is None else window - 1, 0))
    upstream = torch.randn(9, 4, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    output = varlen_attn(**case)
    names = ("query", "key", "value")
    own = torch.autograd.grad(output, [case[name] for name in names], gpu.move(upstream))
    q, k, v = (gpu.values(case[name]).double().requires_grad_() for name in names)
    bounds = {f"cu_seqlens_{x}": gpu.values(case[f"cu_seq_{x}"]) for x in "qk"}
    lengths = {f"max_seqlen_{x}": case[f"max_{x}"] for x in "qk"}
    truth = slow_varlen(q, k, v, **bounds, **lengths, dropout=0.0, scale=0.3, window=window)
    expected = torch.autograd.grad(truth, (q, k, v), upstream.double())
    for found, right in zip((output, *own), (truth, *expected), strict=True):
        error = (gpu.values(found).double() - right.detach()).norm() / right.detach().norm()
        assert error < 5e-3  # one rounding to bfloat16


def test_flex_attention_is_attention_under_its_mask(gpu):
    bounds = gpu.move(torch.tensor([[0, 5, 0, 0], [5, 9, 0, 3]], dtype=torch.int32))
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, heads, 9, 16, dtype=torch.float64) for heads in (4, 2, 2))
    found = flex_attention_of(gpu)(*map(gpu.move, (q, k, v)), block_mask(visible_ranges(bounds, 9)), 0.3, {})
    seen = torch.ones(9, 9, dtype=torch.bool).tril()
    seen[5:, 3:5] = False
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, seen, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(gpu.values(found), expected)
    assert not gpu.blocking
    with pytest.raises(FakeCudaError, match="flex_attention"):
        flex_attention_of(gpu)(gpu.move(q), k, v, block_mask(visible_ranges(bounds, 9)), 0.3, {})
