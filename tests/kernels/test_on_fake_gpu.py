"""The loss on a fake GPU: every variant by the backend that a GPU gets, in every dtype, without waiting."""

import contextlib

import pytest
import torch

from tests.testing.fake_cuda import fake_cuda
from trl_modality.kernels import LossSpec, TokenGroup, grouped_linear_loss, paired_linear_loss, reference


if torch.cuda.is_available():
    pytest.skip("a fake GPU beside a real one", allow_module_level=True)

SPECS = {
    "forward_kl": LossSpec("forward_kl"),
    "reverse_kl at 0.5": LossSpec("reverse_kl", temperature=0.5),
    "jsd, soft-capped": LossSpec("jsd", beta=0.3, logit_softcap=5.0),
    "jsd at 2, scaled": LossSpec("jsd", temperature=2.0, logit_scale=0.5),
}
HALVES = (torch.bfloat16, torch.float16)
V, H = 37, 16


def case_of(dtype: torch.dtype, bias: bool = True):
    """Pairs and rows without a partner, head and bias, on the CPU."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    def labels(count):
        return torch.randint(0, V, (count,), generator=generator)

    groups = [
        TokenGroup(normal(7, H), normal(7, H), labels(7), 0.5, torch.rand(7, generator=generator), 2.0),
        TokenGroup(None, normal(4, H), labels(4), 0.0, 1.5, 0.0),
    ]
    return groups, normal(V, H) / 4, normal(V) if bias else None


def leaves_of(groups, head, bias, trained: bool = True):
    leaves = [hidden for group in groups for hidden in group.hidden] + [head] * trained
    leaves += [bias] * (trained and bias is not None)
    return [leaf.requires_grad_() for leaf in leaves]


def truth_of(groups, head, bias, spec, normalizer, trained: bool = True):
    """Loss and gradients in float64, by plain autograd on full logits."""

    def wide(x):
        return x.detach().double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x

    groups = [TokenGroup(*map(wide, group)) for group in groups]
    head, bias = wide(head), wide(bias)
    leaves = leaves_of(groups, head, bias, trained)
    loss, _ = reference.linear_losses(
        groups, head, bias, spec, torch.tensor(float(normalizer)), n_ignored=[0] * len(groups)
    )
    return loss.detach(), torch.autograd.grad(loss, leaves)


def assert_close(gpu, found, expected, tolerance: float) -> None:
    (loss, gradients), (true_loss, true_gradients) = found, expected
    torch.testing.assert_close(gpu.values(loss).double(), true_loss, rtol=tolerance, atol=0)
    for own, truth in zip(gradients, true_gradients, strict=True):
        assert own.is_cuda
        assert (gpu.values(own).double() - truth).norm() <= 2 * tolerance * truth.norm()


def loss_on(gpu, case, spec, trained=True, autocast=None, **options):
    groups, head, bias = gpu.move(case)
    leaves = leaves_of(groups, head, bias, trained)
    context = torch.autocast("cuda", autocast) if autocast else contextlib.nullcontext()
    with context:
        loss, _ = grouped_linear_loss(groups, head, lm_head_bias=bias, spec=spec, normalizer=9, **options)
    return loss, torch.autograd.grad(2 * loss, leaves)


def doubled(expected):
    """The gradients of twice the loss."""
    return expected[0], [2 * gradient for gradient in expected[1]]


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("tile_mib", [None, 0.004])
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("name", SPECS)
def test_every_variant_in_every_dtype(name, dtype, tile_mib, backend):
    """One tile or several; nobody waits."""
    case = case_of(dtype)
    with fake_cuda() as gpu:
        found = loss_on(gpu, case, SPECS[name], backend=backend, tile_mib=tile_mib, checked=True)
        assert not gpu.refusals
        gpu.check_blocking({})
        assert bool(gpu.kernels) == (backend == "auto")
        assert_close(gpu, found, doubled(truth_of(*case, SPECS[name], 9)), 2e-2 if dtype in HALVES else 1e-5)


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("autocast", HALVES)
def test_a_float32_head_under_autocast(autocast, trained, backend):
    case = case_of(torch.float32, bias=False)
    spec = SPECS["forward_kl"]
    with fake_cuda() as gpu:
        found = loss_on(gpu, case, spec, trained, autocast, backend=backend, checked=True)
        gpu.check_blocking({})
        assert {gradient.dtype for gradient in found[1]} == {torch.float32}
        assert_close(gpu, found, doubled(truth_of(*case, spec, 9, trained)), 2e-2)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_an_evaluation(backend):
    case = case_of(torch.bfloat16)
    expected, _ = truth_of(*case, SPECS["forward_kl"], 9)
    with fake_cuda() as gpu, torch.no_grad():
        groups, head, bias = gpu.move(case)
        loss, stats = grouped_linear_loss(
            groups, head, lm_head_bias=bias, spec=SPECS["forward_kl"], normalizer=9, backend=backend, checked=True
        )
        gpu.check_blocking({})
        assert all(value.is_cuda for group in stats for value in group if value is not None)
        assert_close(gpu, (loss, []), (expected, []), 2e-2)


def test_values_that_nobody_vouches_for_are_read_once():
    case = case_of(torch.bfloat16)
    with fake_cuda() as gpu:
        loss_on(gpu, case, SPECS["forward_kl"], backend="torch")
        (point,) = gpu.blocking
        assert gpu.blocking[point] == 1
        assert point.by.endswith("checked_values")


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_the_public_function_and_its_filter(backend):
    """The filter chooses columns by their values, for which it has to wait."""
    (group, _), head, bias = case_of(torch.bfloat16)
    labels = group.labels.clone()
    labels[::3] = -100
    with fake_cuda() as gpu:
        text, vision, head, bias, labels = gpu.move([group.text_hidden, group.vision_hidden, head, bias, labels])
        results = {}
        for name, epsilon in (("exact", 0.0), ("filtered", 1e-9)):
            leaves = [x.detach().requires_grad_() for x in (text, vision, head, bias)]
            output = paired_linear_loss(
                leaves[0],
                leaves[1],
                leaves[2],
                labels,
                lm_head_bias=leaves[3],
                backend=backend,
                gradient_filter=epsilon,
            )
            results[name] = output.loss, torch.autograd.grad(output.loss, leaves)
        assert not gpu.refusals
        exact = results["exact"]
        truth = gpu.values(exact[0]).double(), [gpu.values(gradient).double() for gradient in exact[1]]
        assert_close(gpu, results["filtered"], truth, 2e-2)
        assert not gpu.unexplained(
            {
                "trl_modality/kernels/checks.py:* checked_values": "once, of values that nobody vouches for",
                "trl_modality/kernels/gradient_filter.py:*": "columns by their values",
            }
        )


@pytest.mark.parametrize("which", ["labels", "text_hidden", "head", "vision_weight"])
def test_tensors_of_the_cpu_are_named(which):
    """Or moved, where they are weights."""
    groups, head, bias = case_of(torch.bfloat16)
    with fake_cuda() as gpu:
        moved = [gpu.move(TokenGroup(*group)) for group in groups]
        on_gpu = gpu.move(head)
        if which == "head":
            on_gpu = head
        else:
            moved[0] = moved[0]._replace(**{which: getattr(groups[0], which)})
        call = {"spec": SPECS["forward_kl"], "normalizer": 9, "backend": "torch", "checked": True}
        if which == "vision_weight":
            grouped_linear_loss(moved, on_gpu, **call)
            assert {point.kind.partition(",")[0] for point in gpu.blocking} == {"a copy to the GPU"}
            return
        with pytest.raises(ValueError, match="are on (cpu|cuda:0)"):
            grouped_linear_loss(moved, on_gpu, **call)
