"""What a computation costs: the products it makes, and the memory its tensors take while it runs."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Products(TorchDispatchMode):
    """Multiplications in matrix products under it: `.multiplications` afterwards."""

    multiplications = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_):
            a, b = args[-2:]
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
        given = {id(x.untyped_storage()) for x in torch.utils._pytree.tree_leaves((args, kwargs)) if _is_tensor(x)}
        for x in torch.utils._pytree.tree_leaves(result):
            if _is_tensor(x) and id(storage := x.untyped_storage()) not in given | self._alive.keys():
                key, size = id(storage), storage.nbytes()
                self._alive[key] = (weakref.ref(storage, lambda _, key=key: self._forget(key)), size)
                self._bytes += size
                self._peak = max(self._peak, self._bytes)
        return result

    def _forget(self, key: int) -> None:
        self._bytes -= self._alive.pop(key)[1]


def _is_tensor(x) -> bool:
    return isinstance(x, torch.Tensor)
