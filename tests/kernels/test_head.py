"""The products of the head: what they are summed in, how often the head is converted, and what is allocated."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.testing.counting import PeakMemory, Products
from tests.testing.losses import in_float64, make_case, run
from trl_modality.kernels import one_pass, paired_linear_loss, tiles
from trl_modality.kernels.head import HeadProducts, multiply_into, needs_temporary, takes_out_dtype


MM, ADDMM = torch.mm, torch.addmm


@pytest.fixture(params=["none", "mm", "mm and addmm"])
def mixed(request, monkeypatch):
    """Which products torch writes to float32 without rounding: none on a CPU; `mm` alone, as CUDA's before 2.10."""

    def mm(a, b, *, out_dtype=None, out=None):
        if out_dtype is None:
            return MM(a, b, out=out)
        assert out is None or out.dtype == out_dtype
        if "mm" not in request.param:
            raise NotImplementedError("Could not run 'aten::mm.dtype_out'")
        return MM(a.float(), b.float(), out=out)

    def addmm(total, a, b, *, out_dtype=None, out=None):
        if out_dtype is None:
            return ADDMM(total, a, b, out=out)
        if "addmm" not in request.param:
            raise RuntimeError("self and mat2 must have the same dtype, but got Float and BFloat16")
        return ADDMM(total, a.float(), b.float(), out=out)

    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr(torch, "addmm", addmm)
    monkeypatch.setattr(tiles, "_multiplies_natively", lambda dtype: True)
    takes_out_dtype.cache_clear()
    yield request.param
    takes_out_dtype.cache_clear()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("accumulate", [False, True])
def test_products_are_as_exact_as_torch_allows(mixed, dtype, accumulate):
    a, b, total = torch.randn(20, 50).to(dtype), torch.randn(50, 30).to(dtype), torch.randn(20, 30)
    product = a.double() @ b.double()
    truth = total.double() + product if accumulate else product
    multiply_into(total, a, b, accumulate)
    allowed = torch.finfo(dtype).eps * product.abs() if mixed == "none" else 0.0
    assert ((total - truth).abs() <= allowed + 1e-5).all()
    assert (total - truth).abs().max() > (1e-4 if mixed == "none" else 0.0)


def test_what_torch_takes_is_tried_once(mixed, monkeypatch):
    device = torch.device("cpu")
    for _ in range(2):
        assert takes_out_dtype("mm", torch.bfloat16, device) == (mixed != "none")
        assert takes_out_dtype("addmm", torch.bfloat16, device) == (mixed == "mm and addmm")
        monkeypatch.setattr(torch, "zeros", None)
    assert needs_temporary(torch.bfloat16, device) == (mixed != "mm and addmm")
    assert not needs_temporary(torch.float32, device)


def test_a_torch_without_the_argument_is_understood(monkeypatch):
    def old(a, b, *, out=None):
        raise AssertionError("not asked for")

    takes_out_dtype.cache_clear()
    monkeypatch.setattr(torch, "mm", old)
    assert not takes_out_dtype("mm", torch.bfloat16, torch.device("cpu"))
    takes_out_dtype.cache_clear()


@pytest.mark.parametrize("tile_mib", [0.05, None])
@pytest.mark.parametrize("trained", [True, False])
def test_losses_of_half_precision(mixed, tile_mib, trained):
    case = make_case(m=40, h=24, v=400, dtype=torch.bfloat16, bias=True)
    case["lm_head_weight"].requires_grad_(trained)
    _, truth = run(in_float64(case), "reference")
    _, eager = run(case, "reference")
    _, gradients = run(case, "torch", tile_mib=tile_mib)
    for name, gradient in gradients.items():
        errors = [(each[name].cpu().double() - truth[name]).norm() for each in (gradients, eager)]
        assert errors[0] <= 1.1 * errors[1], name
        assert gradient.dtype == torch.bfloat16


def test_a_temporary_is_no_larger_than_a_block(mixed):
    products = HeadProducts(torch.randn(4000, 64).bfloat16(), None, torch.bfloat16, 100, True, False)
    gradient, hidden = torch.randn(8, 4000).bfloat16(), torch.randn(8, 64).bfloat16()
    for _ in range(2):
        with PeakMemory() as memory:
            products.add_head_gradient(gradient, hidden)
    most = {"none": 100 * 64 * 2, "mm": 100 * 64 * 4}.get(mixed)
    if most is not None:  # the stand-in converts its factors
        converted = 0 if mixed == "none" else 2 * (8 * 4000 + 8 * 64) * 4
        assert memory.peak_mib * 2**20 <= most + converted


class Conversions(TorchDispatchMode):
    """Elements that are converted to bfloat16 under it: `.elements` afterwards."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[-1]
            self.elements += source.numel() if (source.dtype, result.dtype) == (torch.float32, torch.bfloat16) else 0
        return result


@pytest.mark.parametrize("copies", [True, False])
def test_a_float32_head_is_converted_once_where_its_copy_may_be_whole(copies):
    weight, bias = torch.randn(300, 16), torch.randn(300)
    n_tiles, results = 3, []
    with Conversions() as conversions:
        products = HeadProducts(weight, bias, torch.bfloat16, 64, True, False, copies=copies)
        for seed in range(n_tiles):
            generator = torch.Generator().manual_seed(seed)
            hidden = torch.randn(5, 16, generator=generator).bfloat16()
            logits, gradient = torch.empty(5, 300, dtype=torch.bfloat16), torch.empty(5, 16)
            products.logits(hidden, logits)
            products.hidden_gradient(logits, gradient)
            products.add_head_gradient(logits, hidden)
            results += [hidden, logits, gradient]
    inputs = n_tiles * 5 * 16
    assert conversions.elements == (weight.numel() if copies else 2 * n_tiles * weight.numel()) + len(bias) + inputs
    half = weight.bfloat16()
    for hidden, logits, gradient in zip(*(results[i::3] for i in range(3)), strict=True):
        assert torch.equal(logits, torch.addmm(bias.bfloat16(), hidden, half.t()))
        expected = logits.double() @ half.double()
        assert (gradient - expected).norm() <= 1e-2 * expected.norm()
    assert products.finished()[0].dtype == torch.float32


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.0])
def test_of_one_tile_a_bfloat16_head_has_its_gradient_written_in_bfloat16(scale, monkeypatch):
    """As exact as eager's, without a float32 gradient beside it."""
    monkeypatch.setattr(tiles, "_multiplies_natively", lambda dtype: True)
    case = make_case(m=16, h=512, v=2000, dtype=torch.bfloat16, ignored=False)
    for name in ("text_hidden", "vision_hidden"):
        case[name].requires_grad_(False)
    head = case["lm_head_weight"]

    def gradient(backend, own, **options):
        loss = paired_linear_loss(**own, **options, backend=backend).loss * scale
        return torch.autograd.grad(loss, own["lm_head_weight"])[0]

    truth = gradient("reference", in_float64(case))
    with PeakMemory() as memory:
        own = gradient("torch", case)
    summed = gradient("torch", case, tile_mib=0.4)
    eager = gradient("reference", case)
    assert own.dtype == summed.dtype == torch.bfloat16
    errors = [(each.cpu().double() - truth).norm() for each in (own, summed, eager)]
    assert errors[0] <= 1.05 * errors[2]
    assert errors[1] <= 1.05 * errors[2]
    tile, scratch_rows = 2 * 16 * 2000 * 2, 5 * 16 * 2000 * 4
    assert memory.peak_mib * 2**20 < 2 * head.numel() + 1.2 * (tile + scratch_rows)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("dtypes", [("bfloat16", "bfloat16"), ("float32", "bfloat16"), ("float32", "float32")])
@pytest.mark.parametrize("shape", [(50, 7), (50,), (0, 7)])
def test_a_scale_is_applied_in_float32_and_rounded_once(in_place, dtypes, shape, monkeypatch):
    monkeypatch.setattr(one_pass, "SCALED_AT_A_TIME", 20)
    own, target = (getattr(torch, name) for name in dtypes)
    gradient, scale = torch.randn(shape).to(own), torch.tensor(1.0 / 3)
    before = gradient.clone()
    scaled = one_pass._scaled(gradient, scale, target, in_place)
    assert scaled.dtype == target
    assert torch.equal(scaled, (before.float() * scale).to(target))
    assert in_place or torch.equal(gradient, before)
    assert torch.equal(one_pass._scaled(before, torch.tensor(1.0), target, in_place), before.to(target))


def test_every_overload_is_counted():
    a, b = (torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in ((3, 5), (5, 7)))
    total = torch.empty(3, 7, device="meta")
    for make in (
        lambda: torch.mm(a, b),
        lambda: torch.mm(a, b, out_dtype=torch.float32),
        lambda: torch.mm(a, b, out_dtype=torch.float32, out=total),
        lambda: torch.addmm(total, a, b, out_dtype=torch.float32),
        lambda: torch.addmm(total, a, b, out_dtype=torch.float32, out=total),
        lambda: total.addmm_(a.float(), b.float()),
        lambda: torch.addmm(total, a.float(), b.float(), out=total),
    ):
        with Products() as products:
            make()
        assert products.multiplications == 3 * 5 * 7
