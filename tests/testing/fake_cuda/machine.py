"""The fake GPU of a `with` block: what torch is told while it is there, and what is found out meanwhile."""

import fnmatch
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map
from transformers.utils import import_utils

from trl_modality.kernels import head, tiles
from trl_modality.modeling import flex

from .attention import flex_attention_of
from .autocast import autocast_of_fake_tensors
from .known import KNOWN_BLOCKING
from .places import BlockingPoint, blocking_point
from .tensors import DEVICE, FakeCudaError, FakeCudaTensor, run, values_of


# An H100
PROPERTIES = SimpleNamespace(
    name="fake GPU", major=9, minor=0, multi_processor_count=132, total_memory=80 * 2**30, warp_size=32
)


class FakeGpu:
    """What happens on a fake GPU."""

    def __init__(self):
        self.blocking: Counter[BlockingPoint] = Counter()
        """How often the host waited, and where."""
        self.refusals: list[str] = []
        """What was refused: a caller may have caught the error and gone another way."""
        self.kernels: Counter[str] = Counter()
        """Launches of Triton kernels, by their names."""
        self._pinned: dict[int, torch.Tensor] = {}
        self._is_watching = True

    def block(self, kind: str) -> None:
        """Record that the host waits here."""
        if self._is_watching:
            self.blocking[blocking_point(kind)] += 1

    def refuse(self, message: str) -> None:
        """Raise what a GPU would."""
        self.refusals.append(message)
        raise FakeCudaError(message)

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """A context in which nothing is recorded: what the test itself does."""
        before, self._is_watching = self._is_watching, False
        try:
            yield
        finally:
            self._is_watching = before

    def move(self, value: Any, pinned: bool = False) -> Any:
        """A model with its parameters and buffers on the GPU, in place; or a batch, tensor or object moved there.

        Args:
            value: A module, a tensor, an object with `to`, or dicts, lists and tuples of these.
            pinned: Whether to move from pinned memory, as a data loader with `pin_memory` does. The copies then are
                not for the test: they are watched.
        """
        if isinstance(value, torch.nn.Module):
            with self.unwatched():
                return self._move_module(value)
        if isinstance(value, dict):
            return type(value)({key: self.move(each, pinned) for key, each in value.items()})
        if isinstance(value, list | tuple):
            moved = [self.move(each, pinned) for each in value]
            return type(value)(*moved) if hasattr(value, "_fields") else type(value)(moved)
        if not hasattr(value, "to"):
            return value
        if pinned:
            value = value.pin_memory() if hasattr(value, "pin_memory") else value
            return value.to(DEVICE, non_blocking=True)
        with self.unwatched():
            return value.to(DEVICE)

    def _move_module(self, module: torch.nn.Module) -> torch.nn.Module:
        moved: dict[int, torch.nn.Parameter] = {}  # shared ones stay shared
        kept = []
        for each in module.modules():
            for name, parameter in each._parameters.items():
                if parameter is None or isinstance(parameter, FakeCudaTensor):
                    continue
                if id(parameter) not in moved:
                    kept.append(parameter)  # or its id may be given to another
                    own = parameter.detach().to(DEVICE)
                    moved[id(parameter)] = torch.nn.Parameter(own, requires_grad=parameter.requires_grad)
                each._parameters[name] = moved[id(parameter)]
            for name, buffer in each._buffers.items():
                if buffer is not None:
                    each._buffers[name] = buffer.to(DEVICE)
        return module

    def values(self, tensor: torch.Tensor) -> torch.Tensor:
        """The values of a tensor of the GPU, on the CPU; nothing is recorded."""
        return values_of(tensor.detach()).clone()

    def unexplained(self, known: Mapping[str, str] = KNOWN_BLOCKING) -> dict[BlockingPoint, int]:
        """The blocking points that match no pattern of the list."""

        def is_known(point: BlockingPoint) -> bool:
            return any(fnmatch.fnmatch(point.by, pattern) for pattern in known)

        return {point: count for point, count in self.blocking.items() if not is_known(point)}

    def check_blocking(self, known: Mapping[str, str] = KNOWN_BLOCKING) -> None:
        """Raise `AssertionError` with the places, if the host waited where no reason is listed."""
        if found := self.unexplained(known):
            raise AssertionError("The host waits for the GPU where no reason is listed:\n" + table(found))

    def table(self) -> str:
        """All blocking points by place, for people."""
        return table(self.blocking)

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy in pinned memory."""
        if isinstance(tensor, FakeCudaTensor):
            self.refuse("pin_memory: only tensors of the CPU can be pinned")
        copy = tensor.clone()
        self._pinned[copy.untyped_storage().data_ptr()] = copy
        return copy

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is in pinned memory."""
        return not isinstance(tensor, FakeCudaTensor) and tensor.untyped_storage().data_ptr() in self._pinned


def table(points: Mapping[BlockingPoint, int]) -> str:
    """Lines of count, kind, place and, where that is another one, our line that led there; ours come first."""
    lines = []
    for point, count in sorted(points.items(), key=lambda item: (not item[0].is_ours, item[0].by, item[0].kind)):
        led = f"   under {point.ours}" if point.ours and point.ours != point.by else ""
        lines.append(f"{count:4d}  {point.kind:30s}  {point.by}{led}")
    ours = sum(count for point, count in points.items() if point.is_ours)
    under_ours = sum(count for point, count in points.items() if point.ours and not point.is_ours)
    total = sum(points.values())
    return "\n".join([*lines, f"{total:4d}  in all: {ours} ours, {under_ours} of hosts that we call"])


class _OnGpu(TorchDispatchMode):
    """Every operation goes by the rules of the GPU, also those that make a tensor on it from none."""

    def __init__(self, gpu: FakeGpu):
        super().__init__()
        self._gpu = gpu

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return run(self._gpu, function, args, kwargs or {})


class _Event:
    """Stands for `torch.cuda.Event`: it knows no time."""

    def __init__(self, *args, **kwargs):
        pass

    def record(self, *args) -> None:
        pass

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Any) -> float:
        return 1.0


def _told(gpu: FakeGpu) -> Iterator[tuple[Any, str, Any]]:
    """Owner, name and stand-in of everything that is replaced while the GPU is there."""
    cuda = torch.cuda
    for name, result in {
        "_lazy_init": None,
        "is_available": True,
        "is_bf16_supported": True,
        "device_count": 1,
        "current_device": 0,
        "set_device": None,
        "get_device_capability": (9, 0),
        "get_device_name": PROPERTIES.name,
        "get_device_properties": PROPERTIES,
        "mem_get_info": (PROPERTIES.total_memory, PROPERTIES.total_memory),
        "reset_peak_memory_stats": None,
        # Of a generator of a GPU the host has seed and offset: nothing is waited for
        "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": None,
        # The device of a `with torch.cuda.device_of(tensor)`
        "_exchange_device": 0,
        "_maybe_exchange_device": 0,
    }.items():
        yield cuda, name, lambda *args, result=result, **kwargs: result
    yield cuda, "synchronize", lambda *args: gpu.block("torch.cuda.synchronize")
    yield cuda, "Event", _Event
    # By these a data loader decides whether it pins
    yield torch.accelerator, "is_available", lambda: True
    yield torch.accelerator, "current_accelerator", lambda *args: torch.device("cuda")
    yield torch.accelerator, "set_device_index", lambda *args: None
    yield cuda.amp.common, "amp_definitely_not_available", lambda: False
    yield torch.Tensor, "pin_memory", lambda tensor, *args: gpu.pin(tensor)
    yield torch.Tensor, "is_pinned", lambda tensor, *args: gpu.is_pinned(tensor)
    for name in ("tensor", "as_tensor"):
        yield torch, name, _reading(getattr(torch, name))
    yield flex, "_flex", lambda: flex_attention_of(gpu)
    try:
        from triton import JITFunction
        from triton.runtime.interpreter import InterpretedFunction
    except ImportError:
        return
    yield JITFunction, "run", _compiled
    yield InterpretedFunction, "run", _launch(gpu, InterpretedFunction.run)


def _reading(make: Any) -> Any:
    """`torch.tensor` or `as_tensor`, which read the tensors of a list one by one before they make one of them."""

    def made(data, *args, **kwargs):
        if isinstance(data, list | tuple):
            data = tree_map(lambda x: x.item() if isinstance(x, FakeCudaTensor) else x, data)
        return make(data, *args, **kwargs)

    return made


def _compiled(kernel, *args, **kwargs):
    raise RuntimeError(f"{kernel.fn.__name__} is compiled: set TRITON_INTERPRET=1 before it is imported.")


def _launch(gpu: FakeGpu, interpret: Any) -> Any:
    """The interpreter's launch of a kernel, which refuses what the compiled one could not read."""

    def launch(kernel, *args, **kwargs):
        for name, x in {**dict(zip(kernel.arg_names, args, strict=False)), **kwargs}.items():
            if isinstance(x, torch.Tensor) and not isinstance(x, FakeCudaTensor):
                gpu.refuse(f"Pointer argument `{name}` of {kernel.__name__} is a cpu tensor: Triton cannot access it")
        gpu.kernels[kernel.__name__] += 1
        with _disable_current_modes():
            own = {name: values_of(x) for name, x in kwargs.items()}
            return interpret(kernel, *map(values_of, args), **own)

    return launch


@contextmanager
def _restored(set_it: Any, value: Any, before: Any) -> Iterator[None]:
    set_it(value)
    try:
        yield
    finally:
        set_it(before)


def _forget_devices() -> None:
    """What is remembered of `cuda:0`, or of there being one, is of this GPU."""
    ours = (head.takes_out_dtype, tiles.count_multiprocessors, flex._runs)
    for remembering in (*ours, *vars(import_utils).values()):
        if hasattr(remembering, "cache_clear"):
            remembering.cache_clear()


@contextmanager
def fake_cuda() -> Iterator[FakeGpu]:
    """A context with a fake GPU, `cuda:0`, after which everything is as it was.

    The one thing that stays is that torch has a guard for devices of type CUDA that does nothing, as after any use of
    its own `FakeTensorMode`. The backward runs in the thread that asks for it, where the fake GPU is seen.

    Raises:
        RuntimeError: there is a real GPU.
    """
    if torch.cuda.is_available():
        raise RuntimeError("There is a real GPU: hide it (CUDA_VISIBLE_DEVICES='') from tests with a fake one.")
    gpu = FakeGpu()
    torch._C._ensureCUDADeviceGuardSet()
    with ExitStack() as stack:
        for owner, name, stand_in in _told(gpu):
            stack.enter_context(patch.object(owner, name, stand_in))
        stack.callback(_forget_devices)
        _forget_devices()
        # `torch.tensor(..., device="cuda")` is a tensor of the CPU that is copied, which the mode then sees
        lifts = torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors()
        stack.enter_context(_restored(lifts[0], True, lifts[1]))
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(autocast_of_fake_tensors())
        stack.enter_context(_OnGpu(gpu))
        yield gpu
