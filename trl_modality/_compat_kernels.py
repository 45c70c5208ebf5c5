"""Kernels of attention and of recurrent layers that several releases offer in several forms, each with an expiry.

`tests/test_kernel_contract.py` pins what they take.
"""

import importlib.util
import inspect
import math
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import torch
from transformers.utils import is_flash_attn_2_available


class VarlenKernel(Protocol):
    """Causal attention of several runs in one call, aligned at the end where a run has more keys than queries."""

    def __call__(
        self,
        query_TAD: torch.Tensor,
        key_KAD: torch.Tensor,
        value_KAD: torch.Tensor,
        *,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout: float,
        scale: float | None,
        window: int | None,
    ) -> torch.Tensor: ...


def varlen_kernel(
    query: torch.Tensor, value: torch.Tensor, *, dropout: float, scale: float | None, window: int | None
) -> VarlenKernel | None:
    """The variable-length kernel that takes a layer's call: flash-attn's if installed, else torch's, else `None`.

    Args:
        query, value: `[..., D]`. Flash kernels have half precision, one head size up to 256 (torch's in steps of 8),
            and need compute capability 8.0.
        dropout: of the weights, which torch's does not have.
        scale: of the scores; torch 2.10 has none but 1/√D.
        window: number of tokens that a token sees, itself included; torch 2.10 has none.

    Expiry: when transformers' `flash_attention_forward` takes other keys than queries on its varlen path.
    """
    head_size = query.shape[-1]
    is_flash = (
        query.device.type == "cuda"
        and query.dtype in (torch.float16, torch.bfloat16)
        and value.shape[-1] == head_size <= 256
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )
    if not is_flash:
        return None
    if is_flash_attn_2_available():
        return _flash_attn_varlen
    found = _own_varlen()
    if found is None or dropout != 0.0 or head_size % 8 != 0:
        return None
    _, options = found
    has_window = window is None or "window_size" in options
    has_scale = "scale" in options or scale is None or math.isclose(scale, head_size**-0.5)
    return _torch_varlen if has_window and has_scale else None


@cache
def _own_varlen() -> tuple[Callable[..., Any], frozenset[str]] | None:
    """torch's `varlen_attn` and the names of its arguments, which grow: `is_causal` in 2.10; instead of it
    `window_size`, and `scale`, in 2.11; `enable_gqa` from 2.12 on. `None` before 2.10, and on AMD GPUs, where other
    kernels stand behind it, and nothing says how they align queries with more keys.

    Expiry: when the floor of torch is 2.12.
    """
    if torch.version.hip is not None or importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return None
    from torch.nn.attention import varlen

    return varlen.varlen_attn, frozenset(inspect.signature(varlen.varlen_attn).parameters)


def _flash_attn_varlen(
    query_TAD, key_KAD, value_KAD, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout, scale, window
) -> torch.Tensor:
    from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

    return flash_attn_varlen_func(
        query_TAD,
        key_KAD,
        value_KAD,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p=dropout,
        softmax_scale=scale,
        causal=True,
        window_size=(-1, -1) if window is None else (window - 1, 0),  # it counts the tokens beside the query
    )


def _torch_varlen(
    query_TAD, key_KAD, value_KAD, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout, scale, window
) -> torch.Tensor:
    found = _own_varlen()
    assert found is not None, "varlen_kernel says whether it is there"
    varlen_attn, names = found
    group = query_TAD.shape[1] // key_KAD.shape[1]
    if group > 1 and "enable_gqa" not in names:
        key_KAD, value_KAD = (x.repeat_interleave(group, 1) for x in (key_KAD, value_KAD))
    options = {
        "is_causal": True,
        "scale": scale,
        "window_size": (-1 if window is None else window - 1, 0),
        "enable_gqa": group > 1,
    }
    arguments = (query_TAD, key_KAD, value_KAD, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    return varlen_attn(*arguments, **{name: value for name, value in options.items() if name in names})


def kernel_behind(function: Any) -> Callable[..., Any]:
    """The function that one of transformers' layers' functions calls: that of a package that is installed (fla,
    causal-conv1d), or the function itself, of which then nothing is assumed.

    They look for it when they are defined and keep it to themselves; with `kernels` installed they are modules that
    call it. Expiry: when transformers says which it is.
    """
    for _ in range(3):
        call = type(function).forward if isinstance(function, torch.nn.Module) else function
        kept = inspect.getclosurevars(call).nonlocals if inspect.isfunction(call) else {}
        if "implementation" in kept:
            return kept["implementation"]
        if "func" not in kept or "forward" in vars(function):
            break
        function = kept["func"]
    return function


@cache
def has_ragged_block_masks() -> bool:
    """Whether FlexAttention takes a sequence whose length is no multiple of a block.

    Expiry: when the floor of torch is 2.7.
    """
    try:
        from torch.nn.attention.flex_attention import BlockMask
    except ImportError:
        return False
    return "seq_lengths" in inspect.signature(BlockMask.from_kv_blocks).parameters


def compile_for_any_length(function: Callable[..., Any]) -> Any:
    """`torch.compile` with sizes as variables from the first call on: else the second batch would compile anew.

    More than eight variants are allowed where torch can be told so: past its limit, a function runs uncompiled, and
    FlexAttention then makes every score. Expiry: when the floor of torch is 2.14, which can be told.
    """
    has_limit = "recompile_limit" in inspect.signature(torch.compile).parameters
    limit: dict[str, Any] = {"recompile_limit": 64} if has_limit else {}
    return torch.compile(function, dynamic=True, **limit)
