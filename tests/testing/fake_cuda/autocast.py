"""Autocast as on a GPU: torch's own asks C++ for the device of a tensor, where that of a fake one is `meta`.

Which operations are cast to what is read from torch's header, as it was compiled.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from .tensors import FakeCudaTensor


HEADER = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
_KEY = "AutocastCUDA"


@contextmanager
def autocast_of_fake_tensors() -> Iterator[None]:
    """A context in which `torch.autocast("cuda")` casts fake tensors; after it torch has its own kernels again."""
    library = torch.library.Library("aten", "IMPL")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*[Oo]verriding a previously registered kernel")
            for name, kernel in _kernels().items():
                library.impl(name, kernel, _KEY, allow_override=True)
        yield
    finally:
        library._destroy()


@cache
def _kernels() -> dict[str, Callable[..., Any]]:
    """The kernel of each operation in the lists, by its name."""
    text = HEADER.read_text(encoding="utf-8")

    def listed(macro: str) -> list[str]:
        body = re.search(rf"#define AT_FORALL_{macro}\(_\)(.*?)\n\n", text, re.DOTALL)
        assert body is not None, f"torch's list of operations has moved: {macro}"
        found = re.findall(r"_\((\w+)(?:, (\w+))?\)", body[1])
        names = [f"{name}.{overload}" if overload else name for name, overload in found]
        return [name for name in names if _operation(name) is not None]

    kernels: dict[str, Callable[..., Any]] = {}
    for macro, make in (
        ("LOWER_PRECISION_FP", _lowering),
        ("FP32", _widening),
        ("FP32_SET_OPT_DTYPE", _widening_result),
        ("PROMOTE", _promoting),
    ):
        kernels |= {name: make(_operation(name)) for name in listed(macro)}
    return kernels


def _operation(name: str) -> Any:
    name, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, name, None), overload or "default", None)


def _is_cast(x: Any) -> bool:
    return isinstance(x, FakeCudaTensor) and x.is_floating_point() and x.dtype != torch.float64


def _called(operation: Any, dtype: torch.dtype | None, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The operation below autocast, its tensors cast to a dtype first."""
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)):
        if dtype is not None:
            args, kwargs = tree_map(lambda x: x.to(dtype) if _is_cast(x) else x, (args, kwargs))
        return operation(*args, **kwargs)


def _lowering(operation: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: _called(operation, torch.get_autocast_dtype("cuda"), args, kwargs)


def _widening(operation: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: _called(operation, torch.float32, args, kwargs)


def _widening_result(operation: Any) -> Callable[..., Any]:
    """Of operations that can be told the dtype of their result: float32, unless they are told another one."""

    def kernel(*args, **kwargs):
        if any(_is_cast(x) for x in args[:1]) and kwargs.get("dtype") is None:
            names = [argument.name for argument in operation._schema.arguments]
            if "dtype" in names[len(args) :]:
                kwargs = {**kwargs, "dtype": torch.float32}
            elif args[names.index("dtype")] is None:
                place = names.index("dtype")
                args = (*args[:place], torch.float32, *args[place + 1 :])
        return _called(operation, None, args, kwargs)

    return kernel


def _promoting(operation: Any) -> Callable[..., Any]:
    """Of operations with several tensors that must have one dtype: the widest."""

    def kernel(*args, **kwargs):
        wide = any(_is_cast(x) and x.dtype == torch.float32 for x in tree_leaves((args, kwargs)))
        return _called(operation, torch.float32 if wide else torch.get_autocast_dtype("cuda"), args, kwargs)

    return kernel
