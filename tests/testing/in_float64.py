"""What models of transformers compute in float32 whatever they are in, in float64."""

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


_CASTS = {torch.Tensor.float, torch.Tensor.to, torch.Tensor.type, torch.Tensor.new_zeros}
_SOFTMAXES = {F.softmax, torch.softmax, torch.Tensor.softmax, F.log_softmax, torch.log_softmax}
_LESS = (torch.float32, torch.bfloat16, torch.float16)


class InFloat64(TorchFunctionMode):
    """A context for a model in float64 in which nothing is cast to float32: norms, routers, rotations, softmaxes."""

    def __torch_function__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        is_cast = func in _CASTS or func in _SOFTMAXES
        if func is torch.zeros or (is_cast and args[0].dtype not in _LESS):
            if func is torch.Tensor.float:
                return args[0].double()
            args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs = {**kwargs, "dtype": torch.float64}
        return func(*args, **kwargs)
