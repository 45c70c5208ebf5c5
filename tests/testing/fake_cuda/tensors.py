"""The tensors of a fake GPU, and what a GPU makes of each operation on them: refuse it, wait for it, or do it."""

from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_leaves, tree_map


if TYPE_CHECKING:
    from .machine import FakeGpu

DEVICE = torch.device("cuda", 0)
aten: Any = torch.ops.aten

READ, MASKED = "a value is read", "as many results as the mask is true"
TO_HOST, TO_GPU = "a copy to the host", "a copy to the GPU, of pageable memory or not told `non_blocking`"
INDEX_TO_GPU = "an index on the CPU, which is copied to the GPU"
# The size of the result depends on values, or the result is a number
BLOCKING = {
    aten._local_scalar_dense.default: READ,
    aten.equal.default: READ,
    aten.allclose.default: READ,
    aten.is_nonzero.default: READ,
    aten.nonzero.default: MASKED,
    aten.masked_select.default: MASKED,
    aten._unique2.default: "as many results as there are values",
    aten.unique_dim.default: "as many results as there are values",
    aten.unique_consecutive.default: "as many results as there are values",
    aten.repeat_interleave.Tensor: "as many results as the repeats sum up to",
    aten.bincount.default: "as many results as the largest value",
}
INDEXING = {
    aten.index.Tensor,
    aten._unsafe_index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
# Not pointwise, but a number on the CPU is an argument of the kernel and not memory that it reads
TAKES_NUMBERS = {aten.fill_.Tensor, aten.fill.Tensor, aten.masked_fill.Tensor, aten.masked_fill_.Tensor}
# Where the first factor stands
PRODUCTS = {aten.mm: 0, aten.bmm: 0, aten.mv: 0, aten.dot: 0, aten.addmm: 1, aten.baddbmm: 1, aten.addmv: 1}


class FakeCudaError(RuntimeError):
    """What a GPU would not do."""


class FakeCudaTensor(torch.Tensor):
    """A tensor that says it is on `cuda:0`. C++ sees one on `meta` with the dispatch keys of CUDA, those of autocast
    among them, so that torch chooses what it would choose there and keeps the values to us."""

    elem: torch.Tensor
    """Its values, on the CPU."""
    gpu: "FakeGpu"
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, elem: torch.Tensor, gpu: "FakeGpu"):
        meta = torch.empty_strided(elem.size(), elem.stride(), dtype=elem.dtype, device="meta")
        own = torch.Tensor._make_subclass(cls, meta, False, dispatch_device=False, device_for_backend_keys=DEVICE)
        own.elem, own.gpu = elem, gpu
        return own

    @property
    def device(self) -> torch.device:
        return DEVICE

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_meta(self) -> bool:
        return False

    def get_device(self) -> int:
        return 0

    def to(self, *args, **kwargs) -> Any:
        """The tensor itself where there is nothing to do, as torch has it: C++ sees one that is on another device."""
        if kwargs.get("copy"):
            return super().to(*args, **kwargs)
        device, dtype, _, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        stays = (device is None or is_gpu(device)) and dtype in (None, self.dtype) and memory_format is None
        return self if stays else super().to(*args, **kwargs)

    def tolist(self) -> Any:
        self.gpu.block(READ)
        return self.elem.tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def __repr__(self, **kwargs) -> str:
        return f"FakeCudaTensor({self.elem})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        gpu = next(x.gpu for x in tree_leaves((args, kwargs)) if isinstance(x, FakeCudaTensor))
        return run(gpu, function, args, kwargs or {})


def values_of(x: Any) -> Any:
    """A tensor's values, on the CPU; anything else as it is."""
    return x.elem if isinstance(x, FakeCudaTensor) else x


def is_gpu(device: Any) -> bool:
    """Whether a device is the fake one, by either name: C++ makes tensors like those of the GPU on `meta`."""
    return device is not None and torch.device(device).type in ("cuda", "meta")


def run(gpu: "FakeGpu", function: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """An operation on tensors of the CPU, the GPU, or both, as the two do it together."""
    from .attention import varlen_attention

    kwargs = dict(kwargs)
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    on_gpu = [x for x in tensors if isinstance(x, FakeCudaTensor)]
    device = kwargs.get("device")
    if not on_gpu and not is_gpu(device):
        return function(*args, **kwargs)
    if function is torch.ops.prim.device.default:
        return DEVICE
    if function in (aten._to_copy.default, aten.copy_.default):
        return _copied(gpu, function, args, kwargs)
    if on_gpu:
        _check_devices(gpu, function, args, tensors)
        _check_dtypes(gpu, function, args)
        _note_blocking(gpu, function, args, kwargs)
    if device is not None:
        kwargs["device"] = "cpu"
    if kwargs.get("pin_memory"):
        kwargs["pin_memory"] = False
    on_host = device is not None and not is_gpu(device)
    arguments = tree_map(values_of, args), tree_map(values_of, kwargs)
    if function.namespace == "torch_attn":
        results = varlen_attention(gpu, function, args, kwargs)
    elif "out_dtype" in {argument.name for argument in function._schema.arguments}:
        results = _wide_product(function, *arguments)
    elif function.overloadpacket in NOT_ON_CPUS:
        results = _in_float32(function, *arguments)
    else:
        results = function(*arguments[0], **arguments[1])
    if function._schema.is_mutable and any(x.shape != x.elem.shape for x in on_gpu):
        raise NotImplementedError(f"{function} changes the shape of its argument: the fake GPU does not follow.")
    return results if on_host else _wrapped(gpu, results, on_gpu)


def _wrapped(gpu: "FakeGpu", results: Any, on_gpu: list[FakeCudaTensor]) -> Any:
    """Results as tensors of the GPU: an argument that was written into is itself, and not a copy."""
    known = {id(x.elem): x for x in on_gpu}

    def wrapped(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or isinstance(x, FakeCudaTensor):
            return x
        return known.get(id(x)) if id(x) in known else FakeCudaTensor(x, gpu)

    return tree_map(wrapped, results)


def _copied(gpu: "FakeGpu", function: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """`_to_copy` and `copy_`, between the CPU and the GPU or on one of them."""
    is_new = function is aten._to_copy.default
    source = args[0] if is_new else args[1]
    non_blocking = kwargs.pop("non_blocking", False) if is_new else (*args, *kwargs.values())[2:3] == (True,)
    from_gpu = isinstance(source, FakeCudaTensor)
    if is_new:
        device = kwargs.pop("device", None)
        to_gpu = from_gpu if device is None else is_gpu(device)
    else:
        to_gpu = isinstance(args[0], FakeCudaTensor)
    if from_gpu and not to_gpu:
        gpu.block(TO_HOST)  # whoever uses the values has to wait, whatever `non_blocking` says
    # Of pageable memory told `non_blocking`, the driver makes a copy of its own: the host does not wait for the GPU
    if to_gpu and not from_gpu and not non_blocking:
        gpu.block(TO_GPU)
    if not is_new:
        values_of(args[0]).copy_(values_of(source))
        return args[0]
    copied = function(values_of(source), **kwargs)
    return FakeCudaTensor(copied, gpu) if to_gpu else copied


def _check_devices(gpu: "FakeGpu", function: Any, args: tuple, tensors: list[torch.Tensor]) -> None:
    """Refuse tensors of both devices, but for numbers, and indices of the CPU into tensors of the GPU."""
    if function in INDEXING:
        indices = [x for x in args[1] if x is not None]
        if not isinstance(args[0], FakeCudaTensor):
            gpu.refuse(f"{function}: indices on cuda:0 into a tensor on the cpu")
        tensors = [x for x in tensors if not any(x is index for index in indices)]
    takes_numbers = torch.Tag.pointwise in function.tags or function in TAKES_NUMBERS or function in INDEXING
    for x in tensors:
        if not isinstance(x, FakeCudaTensor) and not (takes_numbers and x.dim() == 0):
            shapes = [f"{x.device} {tuple(x.shape)}" for x in tensors]
            gpu.refuse(f"{function}: tensors on cuda:0 and on the cpu: {shapes}")


def _check_dtypes(gpu: "FakeGpu", function: Any, args: tuple) -> None:
    """Refuse products of two dtypes; a sum is of the dtype of the product. (Of attention torch does so itself.)"""
    factors: tuple = ()
    if function.overloadpacket in PRODUCTS:
        first = PRODUCTS[function.overloadpacket]
        is_wide = "out_dtype" in {argument.name for argument in function._schema.arguments}
        factors = args[first if is_wide else 0 : first + 2]
    elif function is aten.convolution.default:
        factors = tuple(x for x in args[:3] if x is not None)
    dtypes = {x.dtype for x in factors if isinstance(x, torch.Tensor)}
    if len(dtypes) > 1:
        gpu.refuse(f"{function}: tensors of {sorted(map(str, dtypes))} in one product")


def _note_blocking(gpu: "FakeGpu", function: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    if function in BLOCKING and kwargs.get("output_size") is None:
        gpu.block(BLOCKING[function])
    if function in INDEXING:
        indices = [x for x in args[1] if x is not None]
        is_masked = any(x.dtype in (torch.bool, torch.uint8) for x in indices)
        # A number under a mask is filled in
        if is_masked and not ("put" in function._schema.name and args[2].numel() == 1):
            gpu.block(MASKED)
        if any(not isinstance(x, FakeCudaTensor) for x in indices):
            gpu.block(INDEX_TO_GPU)


NOT_ON_CPUS = (aten._upsample_bilinear2d_aa, aten._upsample_bilinear2d_aa_backward)
"""Which CPUs have no kernels of half precision for."""


def _in_float32(function: Any, args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
    result = function(args[0].float(), *args[1:], **kwargs)
    return result.to(args[0].dtype)


def _wide_product(function: Any, args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
    """Products of half precision whose result is wider, which the CPU has no kernels for."""
    first = PRODUCTS[function.overloadpacket]
    a, b, out_dtype = args[first : first + 3]
    product = torch.matmul(a.to(out_dtype), b.to(out_dtype))
    if first:
        if args[0].dtype != out_dtype:
            raise FakeCudaError(f"{function}: a sum in {args[0].dtype} for products in {out_dtype}")
        product = kwargs.get("beta", 1) * args[0] + kwargs.get("alpha", 1) * product
    out = kwargs.get("out")
    return product if out is None else out.copy_(product)
