"""What a computation costs: the products it makes, and the memory its tensors take while it runs."""

import weakref
from collections.abc import Iterator

import torch
from torch.utils._python_dispatch import TorchDispatchMode


# Where the factors stand among the arguments
FACTORS = {
    torch.ops.aten.mm: slice(0, 2),
    torch.ops.aten.addmm: slice(1, 3),
    torch.ops.aten.addmm_: slice(1, 3),
}


class Products(TorchDispatchMode):
    """Multiplications in matrix products under it: `.multiplications` afterwards."""

    multiplications = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        # Of all overloads, also those with the dtype of the result as one more positional argument
        if function.overloadpacket in FACTORS:
            a, b = args[FACTORS[function.overloadpacket]]
            self.multiplications += a.shape[0] * a.shape[1] * b.shape[1]
        return function(*args, **(kwargs or {}))


class PeakMemory(TorchDispatchMode):
    """Bytes of all tensors made under it and alive at once; `.peak_mib` afterwards."""

    def __init__(self):
        super().__init__()
        self._alive: dict[int, tuple[weakref.ref, int]] = {}
        self._bytes = self._peak = 0

    @property
    def peak_mib(self) -> float:
        return self._peak / 2**20

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in _tensors(result):
            storage = x.untyped_storage()
            key = id(storage)
            # Neither counted already nor one of the arguments, which were there before
            if key not in self._alive and all(key != id(y.untyped_storage()) for y in _tensors([args, kwargs])):
                size = storage.nbytes()
                self._alive[key] = (weakref.ref(storage, lambda _, key=key: self._forget(key)), size)
                self._bytes += size
                self._peak = max(self._peak, self._bytes)
        return result

    def _forget(self, key: int) -> None:
        self._bytes -= self._alive.pop(key)[1]


def _tensors(values) -> Iterator[torch.Tensor]:
    """Of the arguments or the results of an operation; a general walk through trees takes longer than most of them."""
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)
