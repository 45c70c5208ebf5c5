"""The fake GPU of the tests, on planted faults: what it has to find is found, and nothing of it stays."""

import contextlib
import re

import pytest
import torch
import triton
import triton.language as tl
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from tests.testing.fake_cuda import DEVICE, FakeCudaError, FakeCudaTensor, fake_cuda
from tests.testing.fake_cuda.machine import _told
from tests.testing.fake_cuda.tensors import BLOCKING


@pytest.fixture
def gpu():
    with fake_cuda() as gpu:
        yield gpu


def on_gpu(*values, **options):
    """A tensor of these values that no copy was watched of."""
    return FakeCudaTensor.gpu_of_test.move(torch.tensor(values, **options))


@pytest.fixture(autouse=True)
def _moves_to_the_gpu_of_the_test(request, monkeypatch):
    if "gpu" in request.fixturenames:
        monkeypatch.setattr(FakeCudaTensor, "gpu_of_test", request.getfixturevalue("gpu"), raising=False)


# What is refused


REFUSED = {
    "sum": lambda x, cpu: x + cpu,
    "sum with the cpu first": lambda x, cpu: cpu + x,
    "written into": lambda x, cpu: x.add_(cpu),
    "product": lambda x, cpu: x @ cpu,
    "product with a number": lambda x, cpu: torch.cat([x[0], cpu.sum().reshape(1)]),
    "stack": lambda x, cpu: torch.stack([x[0, 0], cpu[0, 0]]),
    "index_select": lambda x, cpu: x.index_select(0, torch.tensor([0])),
    "embedding": lambda x, cpu: torch.nn.functional.embedding(torch.tensor([0]), x),
    "where": lambda x, cpu: torch.where(cpu > 0, x, x),
    "values put on the gpu": lambda x, cpu: x.index_put_((on_gpu(0),), cpu[0]),
    "index of the gpu for the cpu": lambda x, cpu: cpu[on_gpu(0)],
    "gather": lambda x, cpu: cpu.gather(0, on_gpu([0, 0])),
    "into a tensor of the cpu": lambda x, cpu: torch.add(x, x, out=cpu),
}


@pytest.mark.parametrize("name", REFUSED)
def test_tensors_of_two_devices_are_refused(gpu, name):
    x, cpu = gpu.move(torch.ones(2, 2)), torch.ones(2, 2)
    with pytest.raises(FakeCudaError, match="cpu"):
        REFUSED[name](x, cpu)
    assert len(gpu.refusals) == 1


def test_numbers_of_the_cpu_are_arguments(gpu):
    x = gpu.move(torch.ones(2, 2))
    number = torch.tensor(3.0)
    results = [x + number, x * number, torch.where(x > 2, x, number), x.masked_fill(x == 1, number)]
    assert [float(gpu.values(result).sum()) for result in results] == [16, 12, 12, 12]
    assert not gpu.blocking


PRODUCTS = {
    "mm": lambda a, b: torch.mm(a, b),
    "matmul": lambda a, b: a @ b,
    "addmm": lambda a, b: torch.addmm(a, a, b),
    "a sum in another": lambda a, b: torch.addmm(b, a, a),
    "bmm": lambda a, b: torch.bmm(a[None], b[None]),
    "linear": lambda a, b: torch.nn.functional.linear(a, b),
    "attention": lambda a, b: torch.nn.functional.scaled_dot_product_attention(a[None], b[None], a[None]),
    "convolution": lambda a, b: torch.nn.functional.conv1d(a[None], b[:, :, None]),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_two_dtypes_are_refused(gpu, name):
    a, b = gpu.move(torch.ones(2, 2)), gpu.move(torch.ones(2, 2, dtype=torch.bfloat16))
    with pytest.raises(RuntimeError, match="have the same dtype" if name == "attention" else "in one product"):
        PRODUCTS[name](a, b)
    PRODUCTS[name](a, b.float())


@triton.jit
def doubled(source_ptr, target_ptr, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    tl.store(target_ptr + columns, 2.0 * tl.load(source_ptr + columns))


def test_a_kernel_takes_no_tensor_of_the_cpu(gpu):
    source, target = gpu.move(torch.ones(4)), torch.zeros(4, device="cuda")
    doubled[(1,)](source, target, BLOCK=4, num_warps=1)
    assert gpu.values(target).tolist() == [2, 2, 2, 2]
    assert gpu.kernels == {"doubled": 1}
    for arguments in ((torch.ones(4), target), (source, torch.zeros(4))):
        with pytest.raises(FakeCudaError, match="Pointer argument .* of doubled is a cpu tensor"):
            doubled[(1,)](*arguments, BLOCK=4)


# What makes the host wait


def mask(x):
    return x > 1


BLOCKS = {
    "item": (lambda x: x[0].item(), "a value is read"),
    "bool": (lambda x: bool((x > 0).all()), "a value is read"),
    "float": (lambda x: float(x.sum()), "a value is read"),
    "index": (lambda x: range(x.long()[0]), "a value is read"),
    "tolist": (lambda x: x.tolist(), "a value is read"),
    "equal": (lambda x: torch.equal(x, x), "a value is read"),
    "allclose": (lambda x: torch.allclose(x, x), "a value is read"),
    "nonzero": (lambda x: x.nonzero(), "as many results as the mask is true"),
    "where": (lambda x: torch.where(x > 1), "as many results as the mask is true"),
    "mask": (lambda x: x[mask(x)], "as many results as the mask is true"),
    "put under a mask": (lambda x: x.index_put_((mask(x),), 2 * x[:2]), "as many results as the mask is true"),
    "masked_select": (lambda x: x.masked_select(mask(x)), "as many results as the mask is true"),
    "unique": (lambda x: x.unique(), "as many results as there are values"),
    "unique_consecutive": (lambda x: x.unique_consecutive(), "as many results as there are values"),
    "unique of rows": (lambda x: x[None].unique(dim=0), "as many results as there are values"),
    "bincount": (lambda x: x.long().bincount(), "as many results as the largest value"),
    "repeats": (lambda x: x.repeat_interleave(x.long()), "as many results as the repeats sum up to"),
    "cpu": (lambda x: x.cpu(), "a copy to the host"),
    "to the cpu": (lambda x: x.to("cpu", non_blocking=True), "a copy to the host"),
    "copied into the cpu": (lambda x: torch.empty(3).copy_(x), "a copy to the host"),
    "to the gpu": (lambda x: torch.ones(3).to(x.device), "a copy to the GPU"),
    "to the gpu, pinned": (lambda x: torch.ones(3).pin_memory().to(x.device), "a copy to the GPU"),
    "copied into the gpu": (lambda x: x.copy_(torch.ones(3)), "a copy to the GPU"),
    "numbers": (lambda x: torch.tensor([1, 2], device=x.device), "a copy to the GPU"),
    "a number": (lambda x: torch.as_tensor(1.0, device="cuda"), "a copy to the GPU"),
    "new_tensor": (lambda x: x.new_tensor([1.0]), "a copy to the GPU"),
    "index of the cpu": (lambda x: x[torch.tensor([0, 1])], "an index on the CPU"),
    "synchronize": (lambda x: torch.cuda.synchronize(), "torch.cuda.synchronize"),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_whoever_waits_is_found_at_his_line(gpu, name):
    x = gpu.move(torch.tensor([1.0, 2.0, 3.0]))
    call, kind = BLOCKS[name]
    call(x)
    (point,) = gpu.blocking
    assert point.kind.startswith(kind)
    assert re.fullmatch(r".*tests/test_fake_cuda\.py:\d+ <lambda>", point.by)
    with pytest.raises(AssertionError, match=f"where no reason is listed:\n.*{point.kind}"):
        gpu.check_blocking()
    gpu.check_blocking({"*test_fake_cuda.py:* <lambda>": "planted"})


def test_every_operation_that_waits_is_planted(gpu):
    """So that none of the list is a name that nothing comes by."""
    kinds = {point for _, point in BLOCKS.values()}
    assert all(any(kind.startswith(planted) for planted in kinds) for kind in BLOCKING.values())


FREE = {
    "index of the gpu": lambda x: x[x.long() - 1],
    "filled under a mask": lambda x: x.__setitem__(x > 1, 0.0),
    "masked_fill": lambda x: x.masked_fill(x > 1, 0.0),
    "full": lambda x: torch.full((3,), 2.0, device=x.device),
    "arange": lambda x: torch.arange(3, device=x.device),
    "slice": lambda x: x[1:],
    "dtype": lambda x: x.to(torch.bfloat16),
    "pinned": lambda x: torch.ones(3).pin_memory().to(x.device, non_blocking=True),
    "part of pinned": lambda x: torch.ones(3).pin_memory()[1:].to(x.device, non_blocking=True),
    "repeats of known size": lambda x: x.repeat_interleave(x.long(), output_size=6),
    "same device": lambda x: x.to("cuda"),
    "backward": lambda x: x.clone().requires_grad_().exp().sum().backward(),
}


@pytest.mark.parametrize("name", FREE)
def test_whoever_does_not_wait_is_not_found(gpu, name):
    FREE[name](gpu.move(torch.tensor([1.0, 2.0, 3.0])))
    assert not gpu.blocking
    assert not gpu.refusals
    gpu.check_blocking({})


def test_the_line_of_the_package_is_found_and_whose_it_is(gpu, monkeypatch):
    from trl_modality.modeling import packing

    rows, sources = gpu.move(torch.ones(2, 3)), torch.tensor([0, 1])
    packing.in_sequence(rows, sources)
    (point,) = gpu.blocking
    assert point.is_ours
    assert point.by == point.ours
    assert point.by.startswith("trl_modality/modeling/packing.py:")
    assert point.by.endswith("in_sequence")


def test_waiting_in_the_backward_has_its_node(gpu):
    x = gpu.move(torch.tensor([1.0, 2.0, 3.0])).requires_grad_()
    total = x[torch.tensor([True, False, True])].sum()
    gpu.blocking.clear()
    total.backward()
    assert {point.by for point in gpu.blocking} == {"backward IndexBackward0"}


def test_a_refusal_that_is_caught_is_still_known(gpu):
    x = gpu.move(torch.ones(2))
    with contextlib.suppress(RuntimeError):
        x + torch.ones(2)
    assert gpu.refusals


# What it computes


def test_it_computes_what_the_cpu_computes(gpu):
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(8, 4), torch.randn(5, 8)
    expected = layer(x).tanh().sum()
    expected.backward()
    gradient = layer.weight.grad.clone()
    layer.zero_grad()
    gpu.move(layer)
    layer(gpu.move(x)).tanh().sum().backward()
    assert layer.weight.is_cuda
    assert layer.weight.grad.device == DEVICE
    assert torch.equal(gpu.values(layer.weight.grad), gradient)


def test_shared_parameters_stay_shared_and_batches_keep_their_form(gpu):
    model = torch.nn.Sequential(torch.nn.Embedding(4, 4), torch.nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    model[1].register_buffer("own", torch.ones(2))
    gpu.move(model)
    assert model[1].weight is model[0].weight
    assert isinstance(model[0].weight, torch.nn.Parameter)
    assert model[1].own.is_cuda
    assert model[0].weight.to(DEVICE, model[0].weight.dtype) is model[0].weight
    assert model[0].weight.to(DEVICE, torch.float64) is not model[0].weight
    assert model[0].weight.to(DEVICE, copy=True) is not model[0].weight
    batch = gpu.move({"a": [torch.ones(2)], "b": (torch.ones(1), "text"), "c": None}, pinned=True)
    assert batch["a"][0].is_cuda
    assert batch["b"][0].is_cuda
    assert batch["b"][1] == "text"
    assert not gpu.blocking


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_as_torch_says(gpu, dtype):
    x = gpu.move(torch.ones(2, 2))
    half = x.to(dtype)
    with torch.autocast("cuda", dtype):
        dtypes = {
            "product": (x @ x).dtype,
            "linear": torch.nn.functional.linear(x, half).dtype,
            "sum": (x + x).dtype,
            "softmax": half.softmax(-1).dtype,
            "total": half.sum().dtype,
            "norm": torch.nn.functional.layer_norm(half, (2,)).dtype,
            "scatter_add": x.scatter_add(0, x.long(), half).dtype,
        }
        with torch.autocast("cuda", enabled=False):
            assert (x @ x).dtype == torch.float32
    wide = {"sum", "softmax", "total", "norm", "scatter_add"}
    assert dtypes == {name: torch.float32 if name in wide else dtype for name in dtypes}


@pytest.mark.parametrize("operation", ["mm", "addmm"])
def test_half_products_into_float32(gpu, operation):
    torch.manual_seed(0)
    a, b, c = (torch.randn(4, 4).bfloat16() for _ in range(3))
    total = c.float()
    expected = a.float() @ b.float() + (total if operation == "addmm" else 0)
    a, b, total = (gpu.move(x) for x in (a, b, total))
    arguments = (total, a, b) if operation == "addmm" else (a, b)
    out = torch.zeros(4, 4, device="cuda")
    found = getattr(torch, operation)(*arguments, out_dtype=torch.float32, out=out)
    assert found is out
    assert torch.equal(gpu.values(out), expected)
    with pytest.raises(RuntimeError):
        torch.addmm(b, a, b, out_dtype=torch.float32)


# Nothing stays


def state():
    replaced = [(owner, name) for owner, name, _ in _told(None)]
    return {
        "names": [getattr(owner, name) for owner, name in replaced],
        "owned": [name in vars(owner) for owner, name in replaced],
        "modes": list(_get_current_dispatch_mode_stack()),
        "lifts": torch._C._only_lift_cpu_tensors(),
        "threads": torch._C._is_multithreading_enabled(),
        "autocast": torch._C._dispatch_has_kernel_for_dispatch_key("aten::mm", "AutocastCUDA"),
        "kernels": torch._C._dispatch_dump("aten::mm").count("AutocastCUDA"),
    }


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_stays(fails):
    before = state()
    try:
        with fake_cuda() as gpu:
            during = state()
            gpu.move(torch.ones(2))
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert state() == before
    for what in ("modes", "lifts", "threads", "kernels"):
        assert during[what] != before[what], what
    assert all(own is not old for own, old in zip(during["names"], before["names"], strict=True))
    assert not torch.cuda.is_available()
    with pytest.raises((RuntimeError, AssertionError)):
        torch.ones(2, device="cuda")
