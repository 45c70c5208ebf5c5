"""A GPU that is not there: tensors that say `cuda:0`, hold their values on the CPU, and complain as a GPU would.

    with fake_cuda() as gpu:
        model, batch = gpu.move(model), gpu.move(batch, pinned=True)
        model(**batch).loss.backward()
        gpu.check_blocking()

Refused, as a GPU refuses it: tensors of a GPU and of the CPU in one operation, products of two dtypes, tensors of the
CPU in a Triton kernel or in attention over runs of variable length. Recorded, with its place: whatever makes the host
wait for the GPU. What it cannot tell: memory, time, the order of streams, and the rounding of the GPU's own kernels.
"""

from .known import KNOWN_BLOCKING, ONCE_A_RUN
from .machine import FakeGpu, fake_cuda
from .places import BlockingPoint
from .tensors import DEVICE, FakeCudaError, FakeCudaTensor


__all__ = [
    "DEVICE",
    "KNOWN_BLOCKING",
    "ONCE_A_RUN",
    "BlockingPoint",
    "FakeCudaError",
    "FakeCudaTensor",
    "FakeGpu",
    "fake_cuda",
]
