"""Attention that a GPU has kernels for and a CPU has not, as it is defined: torch's varlen call, FlexAttention."""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from .tensors import FakeCudaTensor, values_of


if TYPE_CHECKING:
    from .machine import FakeGpu

HALVES = (torch.bfloat16, torch.float16)


def varlen_attention(gpu: "FakeGpu", function: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """`torch_attn::_varlen_attn` and its backward, run by run, aligned at the end."""
    names = [argument.name for argument in function._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    _check(gpu, given)
    values = {name: values_of(value) for name, value in given.items()}
    if function is torch.ops.torch_attn._varlen_attn_backward.default:
        return _backward(values)
    if function is not torch.ops.torch_attn._varlen_attn.default:
        raise NotImplementedError(f"{function}: the fake GPU has none.")
    query = values["query"]
    output = torch.empty_like(query)
    for queries, keys, weights_AQK in _runs(values):
        output[queries] = (weights_AQK @ _heads(values["value"], keys, query.shape[1])).transpose(0, 1).to(query.dtype)
    log_sums = torch.zeros(query.shape[1], query.shape[0])  # nobody's business but the kernel's own backward
    return output, log_sums, torch.zeros(2, dtype=torch.int64)


def _backward(values: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    query, key, value = (values[name] for name in ("query", "key", "value"))
    n_heads, n_key_heads = query.shape[1], key.shape[1]
    scale = _scale(values)
    gradients = [torch.zeros_like(x, dtype=torch.float32) for x in (query, key, value)]
    for queries, keys, weights in _runs(values):
        upstream = _heads(values["grad_out"], queries, n_heads)
        of_weights = upstream @ _heads(value, keys, n_heads).transpose(1, 2)
        of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdim=True)) * scale
        gradients[0][queries] = (of_scores @ _heads(key, keys, n_heads)).transpose(0, 1)
        for i, gradient in (
            (1, of_scores.transpose(1, 2) @ _heads(query, queries, n_heads)),
            (2, weights.transpose(1, 2) @ upstream),
        ):
            grouped = gradient.unflatten(0, (n_key_heads, -1)).sum(1)
            gradients[i][keys] = grouped.transpose(0, 1)
    return tuple(gradient.to(query.dtype) for gradient in gradients)


def _runs(values: dict[str, Any]):
    """Of each run its queries, its keys, and the weights of these `[A, queries, keys]`."""
    query, key = values["query"], values["key"]
    left, right = values.get("window_size") or (-1, 0 if values.get("is_causal") else -1)
    bounds = zip(*(pairwise(values[name].tolist()) for name in ("cu_seq_q", "cu_seq_k")), strict=True)
    for (q0, q1), (k0, k1) in bounds:
        queries, keys = slice(q0, q1), slice(k0, k1)
        scores = _heads(query, queries, query.shape[1]) @ _heads(key, keys, query.shape[1]).transpose(1, 2)
        last = torch.arange(q1 - q0).unsqueeze(1) + (k1 - k0) - (q1 - q0)
        places = torch.arange(k1 - k0)
        hidden = torch.zeros(q1 - q0, k1 - k0, dtype=torch.bool)
        if right >= 0:
            hidden |= places > last + right
        if left >= 0:
            hidden |= places < last - left
        yield queries, keys, (scores * _scale(values)).masked_fill(hidden, -torch.inf).softmax(-1)


def _heads(x: torch.Tensor, places: slice, n_heads: int) -> torch.Tensor:
    """Some places of `[T, heads, D]` as `[A, places, D]` in float32."""
    return x[places].float().transpose(0, 1).repeat_interleave(n_heads // x.shape[1], 0)


def _scale(values: dict[str, Any]) -> float:
    scale = values.get("scale")
    return values["query"].shape[-1] ** -0.5 if scale is None else scale


def _check(gpu: "FakeGpu", given: dict[str, Any]) -> None:
    """What torch documents of the call and its kernels ask for."""
    for name, x in given.items():
        if isinstance(x, torch.Tensor) and not isinstance(x, FakeCudaTensor):
            gpu.refuse(f"varlen_attn: `{name}` is on the cpu")
    query, key, value = (given[name] for name in ("query", "key", "value"))
    dtypes = {x.dtype for x in (query, key, value)}
    if len(dtypes) > 1 or query.dtype not in HALVES:
        gpu.refuse(f"varlen_attn: {sorted(map(str, dtypes))}, not one dtype of half precision")
    size = query.shape[-1]
    if {key.shape[-1], value.shape[-1]} != {size} or size > 256 or size % 8:
        gpu.refuse(f"varlen_attn: heads of size {size}, {key.shape[-1]}, {value.shape[-1]}")
    if any(x.stride(-1) != 1 for x in (query, key, value)):
        gpu.refuse("varlen_attn: the numbers of a head are not side by side")
    for letter, x in (("q", query), ("k", key)):
        bounds = given[f"cu_seq_{letter}"]
        if bounds.dtype != torch.int32 or not bounds.is_contiguous():
            gpu.refuse(f"varlen_attn: `cu_seq_{letter}` is {bounds.dtype}, not contiguous int32")
        lengths = bounds.elem.diff()
        if bounds.elem[0] != 0 or bounds.elem[-1] != len(x) or lengths.max() > given[f"max_{letter}"]:
            gpu.refuse(f"varlen_attn: `cu_seq_{letter}` {bounds.elem.tolist()} for {len(x)} places")


def flex_attention_of(gpu: "FakeGpu") -> Any:
    """Stands for the compiled FlexAttention: every score, under the function of the mask."""

    def attend(query, key, value, mask, scale, options):
        if len({x.dtype for x in (query, key, value)}) > 1:
            gpu.refuse("flex_attention: queries, keys and values of several dtypes")
        parts = (query, key, value, mask.kv_num_blocks, mask.kv_indices)
        if not all(isinstance(x, FakeCudaTensor) for x in parts):
            gpu.refuse("flex_attention: tensors on the cpu")
        n_places = query.shape[2]
        places = torch.arange(n_places, device=query.device)
        visible = mask.mask_mod(None, None, places[:, None], places)
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
        scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scale is None else scale)
        return scores.masked_fill(~visible, -torch.inf).softmax(-1) @ value

    return attend
