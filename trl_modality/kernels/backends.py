"""The backends of the loss: `reference`, `torch`, `triton`, or `auto`, which chooses by device and dtype."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from . import one_pass, reference
from .torch_rows import TorchRows


BACKENDS = ("reference", "torch", "triton")
GPUS = ("cuda", "xpu")


def get_backend(name: str, device: torch.device, dtype: torch.dtype) -> Callable[..., Any]:
    """The `linear_losses` of a backend; `auto` is `triton` on GPUs where it is installed, and `torch` elsewhere.

    Args:
        name: name of the backend.
        device: device of the tensors.
        dtype: dtype of the matrix products.

    Raises:
        ValueError: on an unknown name; on `triton` where it is not installed or has no kernels for the input.
    """
    if name not in ("auto", *BACKENDS):
        raise ValueError(f"`backend` must be one of {('auto', *BACKENDS)}, got {name!r}.")
    if name == "reference":
        return reference.linear_losses
    if name == "torch" or (name == "auto" and (device.type not in GPUS or _why_not_triton(device, dtype))):
        return functools.partial(one_pass.linear_losses, rows_class=TorchRows)
    if reason := _why_not_triton(device, dtype):
        raise ValueError(f"`backend='triton'` {reason}; use 'torch' or 'auto'.")
    from .triton_rows import TritonRows

    return functools.partial(one_pass.linear_losses, rows_class=TritonRows)


def _why_not_triton(device: torch.device, dtype: torch.dtype) -> str:
    if dtype == torch.float64:
        return "has no kernels for float64"
    try:
        from triton import JITFunction

        from .triton_kernels import rows_kernel
    except ImportError:
        return "needs Triton, which is not installed"
    # With TRITON_INTERPRET=1 the kernel is no `JITFunction`: the interpreter takes tensors of any device
    if device.type not in GPUS and isinstance(rows_kernel, JITFunction):
        return f"has no kernels for a {device.type} device"
    return ""
