"""Cases for the loss, and what it should be: float64 from full logits, and eager PyTorch in the case's own dtype."""

from typing import Any

import torch

from trl_modality.kernels import paired_linear_loss
from trl_modality.kernels.paired_loss import PairedLossOutput
from trl_modality.kernels.tiles import product_dtype


# The Triton kernels run under the interpreter on a CPU, and compiled where a GPU is made visible to the tests
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FAST_BACKENDS = ("torch", "triton")
INPUTS = ("text_hidden", "vision_hidden", "lm_head_weight", "lm_head_bias")


def round_bfloat16_to_nearest(monkeypatch) -> None:
    """Triton's interpreter cuts float32 to bfloat16 where GPUs round: without this every gradient is biased."""
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def rounding_convert(values, source, target, mode):
        if target.name == "bf16" and source.name == "fp32":
            return torch.from_numpy(values).bfloat16().view(torch.uint16).numpy()
        return convert(values, source, target, mode)

    monkeypatch.setattr(interpreter, "_convert_float", rounding_convert)


def make_case(
    m: int = 7,
    h: int = 16,
    v: int = 37,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    size: float = 1.0,
    **options,
) -> dict[str, Any]:
    """Arguments of `paired_linear_loss`, with logits of about `size`; `bias` adds one, `ignored` some −100."""
    generator = torch.Generator().manual_seed(seed)
    bias, ignored = options.pop("bias", False), options.pop("ignored", True)

    def normal(*shape, scale: float = 1.0):
        return (scale * torch.randn(*shape, generator=generator)).to(DEVICE, dtype).requires_grad_()

    case = {
        "text_hidden": normal(m, h),
        "vision_hidden": normal(m, h),
        "lm_head_weight": normal(v, h, scale=size / h**0.5),
        "lm_head_bias": normal(v, scale=size) if bias else None,
        "labels": torch.randint(0, v, (m,), generator=generator).to(DEVICE),
    }
    if ignored:
        case["labels"][::3] = -100
    return {**case, **options}


def run(case: dict[str, Any], backend: str, **options) -> tuple[PairedLossOutput, dict[str, torch.Tensor]]:
    """The output and the gradients, by name, of the inputs that require one."""
    leaves = {name: case[name] for name in INPUTS if case.get(name) is not None and case[name].requires_grad}
    output = paired_linear_loss(**{**case, **options}, backend=backend)
    gradients = torch.autograd.grad(output.loss, list(leaves.values())) if leaves else ()
    return output, dict(zip(leaves, gradients, strict=True))


def in_float64(case: dict[str, Any]) -> dict[str, Any]:
    """The same values, wider."""

    def widen(value):
        if isinstance(value, tuple):  # a teacher
            return type(value)(*map(widen, value))
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value.cpu() if isinstance(value, torch.Tensor) else value
        return value.detach().cpu().double().requires_grad_(value.requires_grad)

    return {name: widen(value) for name, value in case.items()}


def assert_no_further_than_eager(
    case: dict[str, Any], backend: str, *, half_products: bool | None = None, **options
) -> None:
    """The loss and every gradient of `backend` are no further from float64 than the reference in the case's dtype.

    Plus 1e-6 (relative above 1). With products in half precision both round the logits and their gradients to half
    alike, so that either may be the closer one: of tensors as small as these, the root mean square is compared, and
    may be twice as large (`test_half_products_are_as_exact_as_eager` takes larger ones). `half_products` is whether
    there are such; by default what the device does. What is reported per token is
    a small difference of large sums: its last digits are spared.
    """
    if half_products is None:
        hidden = [case[name] for name in INPUTS[:2] if case.get(name) is not None]
        half_products = product_dtype(hidden).itemsize == 2
    truth, truth_gradients = run(in_float64(case), "reference")
    eager, eager_gradients = run(case, "reference")
    output, gradients = run(case, backend, **options)
    assert gradients.keys() == truth_gradients.keys()
    exact = [("loss", output.loss, eager.loss, truth.loss)]
    exact += [(name, gradients[name], eager_gradients[name], truth_gradients[name]) for name in gradients]
    for name, value, eager_value, truth_value in exact:
        assert (value.dtype, value.shape) == (eager_value.dtype, eager_value.shape), name
        error, allowed = _errors(value, eager_value, truth_value, root_mean_square=half_products)
        allowed += 1e-6 * max(1.0, _largest(truth_value))  # beyond 16, float32 has no step as small as 1e-6
        if half_products:
            allowed += allowed + torch.finfo(value.dtype).eps / 2 * _largest(truth_value)
        assert error <= allowed, f"{name}: {error:.3g} from float64, allowed {allowed:.3g}"
    for name, values, eager_values, truth_values in zip(
        output._fields[1:], output[1:], eager[1:], truth[1:], strict=True
    ):
        if truth_values is None:
            assert values is None
        elif values.dtype != torch.bool:
            error, allowed = _errors(values, eager_values, truth_values, root_mean_square=half_products)
            allowed = 1.1 * allowed + 4e-6 * max(1.0, _largest(truth_values))
            assert error <= allowed, f"{name}: {error:.3g} from float64, allowed {allowed:.3g}"
        elif not half_products:  # of two likeliest tokens next to each other eager may take the wrong one, in half
            is_right = (values == eager_values) | (values.cpu() == truth_values.cpu()).to(values.device)
            assert is_right.all(), name


def _errors(value, eager, truth, root_mean_square: bool) -> tuple[float, float]:
    """How far two values are from a third; where that is infinite they have to be so too."""
    truth = truth.detach()
    finite = torch.isfinite(truth)
    errors = []
    for x in (value, eager):
        x = x.detach().cpu().double()
        assert torch.equal(x[~finite], truth[~finite])
        difference = (x - truth)[finite]
        if not difference.numel():
            errors.append(0.0)
        elif root_mean_square:
            errors.append(difference.square().mean().sqrt().item())
        else:
            errors.append(difference.abs().max().item())
    return errors[0], errors[1]


def _largest(truth: torch.Tensor) -> float:
    finite = truth.detach()[torch.isfinite(truth)]
    return finite.abs().max().item() if finite.numel() else 0.0
