"""The variable-length kernel of a layer: which goes where, and torch's at each of its signatures."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from tests.testing.segments import LAYOUTS, slow_varlen, under_one_mask, visible
from trl_modality import _compat_kernels
from trl_modality.modeling import attention
from trl_modality.modeling.attention import SegmentLayout, segmented_attention


def documented(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, window_size):
    """What torch documents of `varlen_attn` for the windows that we ask for."""
    assert window_size[0] >= -1
    assert window_size[1] == 0, "not causal"
    return slow_varlen(
        query,
        key,
        value,
        cu_seqlens_q=cu_seq_q,
        cu_seqlens_k=cu_seq_k,
        max_seqlen_q=max_q,
        max_seqlen_k=max_k,
        dropout=0.0,
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        window=None if window_size[0] == -1 else window_size[0] + 1,
    )


def torch_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
    assert query.shape[1] == key.shape[1] == value.shape[1]
    window_size = (-1, 0 if is_causal else -1)
    return documented(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, None, window_size)


def torch_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)
):
    assert query.shape[1] == key.shape[1] == value.shape[1]
    return documented(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, window_size)


def torch_2_12(
    query,
    key,
    value,
    cu_seq_q,
    cu_seq_k,
    max_q,
    max_k,
    *,
    return_aux=None,
    scale=None,
    window_size=(-1, -1),
    enable_gqa=False,
    seqused_k=None,
    block_table=None,
    num_splits=None,
):
    if query.shape[1] != key.shape[1] and not enable_gqa:
        raise ValueError("Expect query and key/value to have the same number of heads")
    return documented(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, window_size)


RELEASES = {"2.10": torch_2_10, "2.11": torch_2_11, "2.12": torch_2_12}


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU as `varlen_kernel` sees it; what a test changes of it."""
    machine = SimpleNamespace(capability=(9, 0), has_flash_attn=False)

    def use_torch(release: str | None) -> None:
        module = ModuleType("torch.nn.attention.varlen")
        if release is not None:
            module.varlen_attn = RELEASES[release]
        monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
        monkeypatch.setattr(torch.nn.attention, "varlen", module, raising=False)
        monkeypatch.setattr(_compat_kernels.importlib.util, "find_spec", lambda name: release and object())
        _compat_kernels._own_varlen.cache_clear()

    machine.use_torch = use_torch
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: machine.capability)
    monkeypatch.setattr(_compat_kernels, "is_flash_attn_2_available", lambda: machine.has_flash_attn)
    use_torch("2.12")
    yield machine
    monkeypatch.undo()
    _compat_kernels._own_varlen.cache_clear()


def kernel_of(device="cuda", dtype=torch.bfloat16, size=64, value_size=None, dropout=0.0, scale=0.125, window=None):
    query, value = (
        SimpleNamespace(device=torch.device(device), dtype=dtype, shape=(1, 4, 300, each))
        for each in (size, value_size or size)
    )
    return _compat_kernels.varlen_kernel(query, value, dropout=dropout, scale=scale, window=window)


FLASH, TORCH = _compat_kernels._flash_attn_varlen, _compat_kernels._torch_varlen


@pytest.mark.parametrize(
    ("layer", "with_flash_attn", "without"),
    [
        ({}, FLASH, TORCH),
        ({"dtype": torch.float16, "size": 256, "scale": 0.3}, FLASH, TORCH),
        ({"window": 100}, FLASH, TORCH),
        ({"device": "cpu"}, None, None),
        ({"dtype": torch.float32}, None, None),
        ({"dtype": torch.float64}, None, None),
        ({"size": 264}, None, None),
        ({"size": 192, "value_size": 128}, None, None),
        ({"size": 100}, FLASH, None),
        ({"dropout": 0.1}, FLASH, None),
    ],
)
def test_which_kernel_a_layer_gets(gpu, layer, with_flash_attn, without):
    assert kernel_of(**layer) is without
    gpu.has_flash_attn = True
    assert kernel_of(**layer) is with_flash_attn


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), None), ((8, 0), TORCH), ((12, 0), TORCH)])
def test_flash_kernels_need_ampere(gpu, capability, expected):
    gpu.capability = capability
    assert kernel_of() is expected
    gpu.has_flash_attn = True
    assert kernel_of() is (expected and FLASH)


@pytest.mark.parametrize(
    ("release", "plain", "with_window", "with_scale"),
    [
        (None, None, None, None),
        ("2.10", TORCH, None, None),
        ("2.11", TORCH, TORCH, TORCH),
        ("2.12", TORCH, TORCH, TORCH),
    ],
)
def test_what_each_torch_takes(gpu, release, plain, with_window, with_scale):
    gpu.use_torch(release)
    assert kernel_of() is plain  # 0.125 is 1/√64
    assert kernel_of(scale=None) is plain
    assert kernel_of(window=100) is with_window
    assert kernel_of(scale=0.3) is with_scale


def test_amd_gpus_use_flash_attn_alone(gpu, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.0")
    _compat_kernels._own_varlen.cache_clear()
    assert kernel_of() is None
    gpu.has_flash_attn = True
    assert kernel_of() is FLASH


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("n_key_heads", [1, 2, 4])
@pytest.mark.parametrize(
    ("release", "scale", "window"),
    [("2.10", None, None), ("2.11", 0.3, None), ("2.11", 0.3, 4), ("2.12", 0.3, None), ("2.12", 0.3, 4)],
)
def test_torch_is_asked_in_its_own_words(gpu, name, n_key_heads, release, scale, window, monkeypatch):
    """Forward and backward under every signature, with heads that share keys where it has no option for them."""
    gpu.use_torch(release)
    monkeypatch.setattr(attention, "varlen_kernel", lambda *args, **kwargs: TORCH)
    batch, segments = LAYOUTS[name]
    layout = SegmentLayout(segments)
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(batch, segments[-1].end // batch, n_heads, 8, dtype=torch.float64).transpose(1, 2).requires_grad_()
        for n_heads in (4, n_key_heads, n_key_heads)
    )
    options = {"original": "sdpa", "segment_layout": layout, "scaling": scale, "sliding_window": window}
    output, _ = segmented_attention(torch.nn.Identity(), query, key, value, None, **options)
    expected = under_one_mask(query, key, value, visible(layout, window), scale or 8**-0.5)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-12)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(output, (query, key, value), upstream)
    for own, truth in zip(gradients, torch.autograd.grad(expected, (query, key, value), upstream), strict=True):
        torch.testing.assert_close(own, truth, rtol=1e-9, atol=1e-12)


def test_a_window_of_every_key_is_none(monkeypatch):
    """So that releases without windows take it: a model with windows of 4,096 has shorter batches too."""
    windows = []

    def kernel(query, value, *, window, **options):
        windows.append(window)

    monkeypatch.setattr(attention, "varlen_kernel", kernel)
    layout = SegmentLayout(LAYOUTS["pairs and rows"][1])  # whose longest segment has 9 keys
    q = torch.randn(1, 2, 31, 8)
    for window in (None, 100, 9, 8):
        options = {"original": "sdpa", "segment_layout": layout, "sliding_window": window}
        segmented_attention(torch.nn.Identity(), q, q, q, None, **options)
    assert windows == [None, None, None, 8]
