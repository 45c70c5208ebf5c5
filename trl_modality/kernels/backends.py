"""Which code computes the losses: `reference`, `torch`, `triton`, or by device and dtype (`auto`)."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from . import one_pass, reference
from .torch_rows import TorchRows


BACKENDS = ("reference", "torch", "triton")


def get_backend(name: str, head: torch.Tensor) -> Callable[..., Any]:
    """The `linear_losses` of a backend; `auto` is `triton` on GPUs where it is installed, and `torch` elsewhere.

    Raises:
        ValueError: on an unknown name, or on `triton` without Triton, on a device or for a dtype that it has no
            kernels for.
    """
    if name not in ("auto", *BACKENDS):
        raise ValueError(f"`backend` must be one of {('auto', *BACKENDS)}, got {name!r}.")
    if name == "auto":
        name = "torch" if _why_not_triton(head) else "triton"
    if name == "reference":
        return reference.linear_losses
    if name == "torch":
        return functools.partial(one_pass.linear_losses, rows_class=TorchRows)
    if reason := _why_not_triton(head):
        raise ValueError(f"`backend='triton'` {reason}; use 'torch' or 'auto'.")
    from .triton_rows import TritonRows

    return functools.partial(one_pass.linear_losses, rows_class=TritonRows)


def _why_not_triton(head: torch.Tensor) -> str:
    try:
        import triton
    except ImportError:
        return "needs Triton, which is not installed"
    if head.device.type not in ("cuda", "xpu") and not triton.knobs.runtime.interpret:
        return f"has no kernels for a {head.device.type} device (but under TRITON_INTERPRET=1)"
    if head.dtype == torch.float64:
        return "has no kernels for float64"
    return ""
