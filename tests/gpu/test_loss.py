"""Every variant of the Triton kernel on a GPU against float64, at vocabularies that are and are not multiples of 16.

The truth is plain autograd on full logits in float64, on the GPU itself. The loss and every gradient may be no further
from it than plain autograd in the case's own dtype, by a margin.
"""

from dataclasses import dataclass
from itertools import product

import pytest
import torch

from tests.gpu.device import IS_DRY
from tests.testing.losses import round_bfloat16_to_nearest
from trl_modality.kernels import LossSpec, TokenGroup, grouped_linear_loss, paired_linear_loss
from trl_modality.kernels.tiles import plan_tiles


DTYPES = (torch.bfloat16, torch.float16, torch.float32)
VOCABS = (336, 337) if IS_DRY else (151_936, 50_257)
M, H = (4, 16) if IS_DRY else (37, 256)
INPUTS = ("text_hidden", "vision_hidden", "lm_head_weight")


@dataclass(frozen=True)
class Variant:
    """What decides which kernel is compiled, but for the dtype and the vocabulary."""

    views: str
    divergence: str = "forward_kl"
    gradient: str = "both"
    """Views that have a loss; `none` in evaluation."""
    kl: bool = True
    temperature: float = 1.0
    softcap: float | None = None

    def options(self) -> dict:
        weights = {
            "text_weight": 1.0 if self.gradient in ("both", "text") else 0.0,
            "vision_weight": 0.5 if self.gradient in ("both", "vision") else 0.0,
            "kl_weight": 2.0 if self.kl else 0.0,
        }
        return weights | {
            "divergence": self.divergence,
            "beta": 0.3,
            "temperature": self.temperature,
            "logit_softcap": self.softcap,
        }

    def __str__(self) -> str:
        kl = "-kl" * self.kl
        return f"{self.views}-{self.divergence}-{self.gradient}{kl}-{self.temperature:g}-{self.softcap or 'uncapped'}"


def variants() -> list[Variant]:
    """The most used first: pairs with the forward KL at temperature 1."""
    gradients = [("both", True), ("vision", True), ("both", False), ("vision", False), ("text", False), ("none", True)]
    pairs = [
        Variant("both", divergence, *gradient, temperature=temperature, softcap=softcap)
        for softcap, temperature, divergence, gradient in product(
            (None, 5.0), (1.0, 2.0), ("forward_kl", "reverse_kl", "jsd"), gradients
        )
    ]
    alone = [
        Variant(view, gradient=gradient, softcap=softcap)
        for view, softcap in product(("vision", "text"), (None, 5.0))
        for gradient in (view, "none")
    ]
    return pairs + alone


def make_case(device: torch.device, dtype: torch.dtype, vocab_size: int, variant: Variant) -> dict:
    """Arguments of the loss, with logits of about 2 and some ignored labels."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        tensor = (scale * torch.randn(*shape, generator=generator)).to(device, dtype)
        return tensor.requires_grad_(variant.gradient != "none")

    text = normal(M, H)
    vision = (text.detach().cpu() + 0.5 * torch.randn(M, H, generator=generator).to(dtype)).to(device)
    labels = torch.randint(0, vocab_size, (M,), generator=generator)
    labels[::5] = -100
    return {
        "text_hidden": text if variant.views != "vision" else None,
        "vision_hidden": vision.requires_grad_(variant.gradient != "none") if variant.views != "text" else None,
        "lm_head_weight": normal(vocab_size, H, scale=2 / H**0.5),
        "labels": labels.to(device),
        **variant.options(),
    }


def run(case: dict, backend: str) -> tuple[torch.Tensor, dict[str, torch.Tensor], tuple]:
    leaves = {name: case[name] for name in INPUTS if case[name] is not None and case[name].requires_grad}
    output = paired_linear_loss(**case, backend=backend)
    if not leaves:
        return output.loss, {}, output[1:]
    gradients = torch.autograd.grad(output.loss, list(leaves.values()), allow_unused=True)
    found = {name: gradient for name, gradient in zip(leaves, gradients, strict=True) if gradient is not None}
    return output.loss.detach(), found, output[1:]


def widened(case: dict) -> dict:
    def widen(value):
        is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.detach().double().requires_grad_(value.requires_grad) if is_float else value

    return {name: widen(value) for name, value in case.items()}


def assert_no_further(
    value: torch.Tensor, eager: torch.Tensor, truth: torch.Tensor, dtype: torch.dtype, what: str
) -> float:
    """The root mean square of the error is at most twice eager's and an eighth of a step of the dtype (in float32: a
    few steps, of the largest value, which sums over the vocabulary have); returns it, relative to the values' own."""
    error, eager_error, size = (
        (x.double() - y).square().mean().sqrt().item() for x, y in ((value, truth), (eager, truth), (truth, 0 * truth))
    )
    if dtype == torch.float32:
        allowed = 1.5 * eager_error + 16 * torch.finfo(dtype).eps * max(size, truth.abs().max().item())
    else:
        allowed = 2 * eager_error + torch.finfo(dtype).eps / 8 * size
    allowed += 1e-9 if what != "statistics" else 4e-6  # a divergence is a small difference of large sums
    assert error <= allowed, f"{what}: {error:.3g} from float64, allowed {allowed:.3g}, its size {size:.3g}"
    return error / max(size, 1e-30)


@pytest.fixture(autouse=True)
def _rounding(monkeypatch):
    """Triton's interpreter rounds as a GPU does."""
    if IS_DRY:
        round_bfloat16_to_nearest(monkeypatch)


# Dry runs take a kernel of each kind: an interpreter is slow
CHOSEN = variants()[:: 11 if IS_DRY else 1]


@pytest.mark.parametrize("variant", CHOSEN, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("vocab_size", VOCABS)
def test_it_is_no_further_from_float64_than_eager(gpu, vocab_size, dtype, variant, record_property):
    case = make_case(gpu, dtype, vocab_size, variant)
    truth, truth_gradients, truth_stats = run(widened(case), "reference")
    eager, eager_gradients, eager_stats = run(case, "reference")
    loss, gradients, stats = run(case, "triton")
    errors = [assert_no_further(loss, eager, truth, dtype, "loss")]
    for name, gradient in truth_gradients.items():
        errors.append(assert_no_further(gradients[name], eager_gradients[name], gradient, dtype, name))
    for own, of_eager, expected in zip(stats, eager_stats, truth_stats, strict=True):
        assert (own is None) == (expected is None)
        if expected is not None and expected.dtype.is_floating_point:
            errors.append(assert_no_further(own, of_eager, expected, dtype, "statistics"))
    record_property("largest_relative_error", f"{max(errors):.2e}")


@pytest.mark.parametrize("trains_head", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_many_tiles_are_one(gpu, dtype, trains_head):
    """A budget of a few tokens, and one that takes all: the same sums, in another order."""
    case = make_case(gpu, dtype, VOCABS[0], Variant("both"))
    case["lm_head_weight"].requires_grad_(trains_head)
    truth, truth_gradients, _ = run(widened(case), "reference")
    eager, eager_gradients, _ = run(case, "reference")
    row_mib = VOCABS[0] * dtype.itemsize / 2**20
    for tile_mib in (5 * row_mib, 40 * row_mib, None):
        loss, gradients, _ = run(case | {"tile_mib": tile_mib}, "triton")
        assert_no_further(loss, eager, truth, dtype, "loss")
        for name, gradient in truth_gradients.items():
            assert_no_further(gradients[name], eager_gradients[name], gradient, dtype, name)


@pytest.mark.parametrize("tile_mib", [None, 8.0])
def test_a_float32_head_under_autocast(gpu, tile_mib):
    case = make_case(gpu, torch.float32, VOCABS[0], Variant("both"))
    with torch.autocast(gpu.type, torch.bfloat16):
        eager, eager_gradients, _ = run(case, "reference")
        loss, gradients, _ = run(case | {"tile_mib": tile_mib}, "triton")
    truth, truth_gradients, _ = run(widened(case), "reference")
    assert loss.dtype == torch.float32
    assert (loss - truth).abs() <= 2 * (eager - truth).abs() + 1e-3 * truth.abs()
    for name, gradient in truth_gradients.items():
        assert gradients[name].dtype == torch.float32
        error, eager_error = ((x[name] - gradient).norm() for x in (gradients, eager_gradients))
        assert error <= 2 * eager_error + 1e-6 * gradient.norm(), name


def test_a_tile_of_more_than_two_to_the_31_logits(real_gpu):
    """Offsets of rows do not overflow: 16,384 rows of 151,936 logits in one tile, 5 GB."""
    vocab_size, hidden_size, m = 151_936, 64, 8192
    torch.manual_seed(0)
    head = (0.2 * torch.randn(vocab_size, hidden_size, device=real_gpu)).bfloat16()
    text, vision = torch.randn(2, m, hidden_size, device=real_gpu).bfloat16()
    labels = torch.randint(vocab_size, (m,), device=real_gpu)
    sizes = {"n_tokens": m, "n_views": 2, "n_scratch": 0, "head": head, "dtype": torch.bfloat16, "filters": False}
    assert plan_tiles(**sizes, tile_mib=6000).tokens * 2 * vocab_size > 2**31
    whole = paired_linear_loss(text, vision, head, labels, backend="triton", tile_mib=6000)
    parts = paired_linear_loss(text, vision, head, labels, backend="triton", tile_mib=64)
    for own, expected in zip(whole, parts, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-5)


def test_nothing_waits_for_the_gpu(real_gpu):
    """Pairs and other rows whose values are vouched for, forward and backward, where torch raises on every wait."""
    torch.manual_seed(0)

    def states(m: int) -> torch.Tensor:
        return torch.randn(m, 64, device=real_gpu, dtype=torch.bfloat16, requires_grad=True)

    head = states(50_257)
    labels = torch.randint(50_257, (40,), device=real_gpu)
    groups = [
        TokenGroup(states(40), states(40), labels, 1.0, 1.0, 1.0),
        TokenGroup(None, states(9), labels[:9], 0.0, torch.ones(9, device=real_gpu), 0.0),
    ]
    normalizer = torch.tensor(89, device=real_gpu)

    def step() -> None:
        loss, _ = grouped_linear_loss(groups, head, spec=LossSpec(), normalizer=normalizer, checked=True)
        loss.backward()

    step()  # what is compiled or tried once
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
