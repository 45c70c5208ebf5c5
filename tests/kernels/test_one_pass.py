"""How the one pass behaves among the things around it: what it computes and keeps, and how its gradients are used."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tests.testing.counting import PeakMemory, Products
from tests.testing.losses import DEVICE, FAST_BACKENDS, INPUTS, make_case, run
from trl_modality.kernels import LossSpec, TokenGroup, grouped_linear_loss, paired_linear_loss
from trl_modality.kernels.backends import get_backend
from trl_modality.kernels.torch_rows import TorchRows
from trl_modality.kernels.triton_rows import TritonRows


backends = pytest.mark.parametrize("backend", FAST_BACKENDS)


def products(case, **options) -> float:
    """Matrix products of forward and backward, in units of one `[M, H]` by `[H, V]`."""
    with Products() as counted:
        loss = paired_linear_loss(**case, **options).loss
        if loss.requires_grad:
            loss.backward()
    (m, h), v = case["vision_hidden"].shape, len(case["lm_head_weight"])
    return counted.multiplications / (m * h * v)


FROZEN_HEAD, FROZEN_TEXT = {"lm_head_weight": False}, {"text_hidden": False}


@backends
@pytest.mark.parametrize(
    ("requires_grad", "options", "units"),
    [
        ({}, {}, 6),
        (FROZEN_HEAD, {}, 4),
        ({}, {"text_weight": 0.0}, 4),
        (FROZEN_HEAD, {"text_weight": 0.0}, 3),
        (FROZEN_HEAD | FROZEN_TEXT, {}, 3),
        (FROZEN_TEXT, {}, 5),  # the head learns from the text_rich view too
        ({}, {"vision_weight": 0.0, "kl_weight": 0.0}, 4),
        (dict.fromkeys(INPUTS, False), {}, 2),
        ({}, {"text_hidden": None}, 3),
    ],
)
def test_only_what_is_wanted_is_computed(backend, requires_grad, options, units):
    case = make_case(m=12, ignored=False, **options)
    for name, flag in requires_grad.items():
        if case[name] is not None:
            case[name].requires_grad_(flag)
    assert products(case, backend=backend, tile_mib=0.004) == units


@backends
def test_without_gradients_only_logits_are_computed(backend):
    case = make_case(m=12, ignored=False)
    with torch.no_grad():
        assert products(case, backend=backend) == 2
    with torch.inference_mode():
        assert products(case, backend=backend) == 2


@backends
def test_ignored_tokens_are_not_computed(backend):
    case = make_case(m=12)
    assert (case["labels"] == -100).sum() == 4
    assert products(case, backend=backend) == pytest.approx(6 * 8 / 12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"divergence": "jsd", "temperature": 2.0, "logit_softcap": 30.0},
        {"bias": True, "gradient_filter": 1e-3},
        {"gradient_filter": 0.9},
        {"head": torch.bfloat16},
    ],
)
@pytest.mark.parametrize("h", [32, 512])
def test_memory_stays_within_the_budget_and_does_not_grow(dtype, trained, options, h):
    """Above the gradients themselves; a head in half precision has its gradient summed in float32."""
    tile_mib, v, options = 2, 4000, dict(options)
    head_dtype = options.pop("head", dtype)
    for m in (128, 512):
        case = make_case(m=m, h=h, v=v, dtype=dtype, ignored=False, **options)
        case["lm_head_weight"] = case["lm_head_weight"].detach().to(head_dtype).requires_grad_(trained)
        with PeakMemory() as memory:
            loss = paired_linear_loss(**case, backend="torch", tile_mib=tile_mib).loss
            loss.backward()
        gradients = 2 * m * h * dtype.itemsize
        if trained:
            gradients += v * h * (4 if head_dtype == torch.float32 else 4 + 2)
        assert memory.peak_mib - gradients / 2**20 <= 1.05 * tile_mib, f"{m} tokens"


@backends
def test_accumulation_is_one_large_batch(backend):
    case = make_case(m=12, ignored=False, normalizer=24)
    whole, whole_gradients = run(case, backend)
    total = 0.0
    for rows in (slice(0, 5), slice(5, 12)):
        part = case | {name: case[name][rows] for name in ("text_hidden", "vision_hidden", "labels")}
        loss = paired_linear_loss(**part, backend=backend).loss
        loss.backward()
        total += loss.detach()
    torch.testing.assert_close(total, whole.loss.detach())
    for name, gradient in whole_gradients.items():
        torch.testing.assert_close(case[name].grad, gradient, rtol=1e-5, atol=1e-7)


@backends
def test_a_loss_scaled_later_scales_the_gradients(backend):
    case = make_case()
    _, gradients = run(case, backend)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=3.0)
    scaler.scale(paired_linear_loss(**case, backend=backend).loss * 0.5).backward()
    for name, gradient in gradients.items():
        torch.testing.assert_close(case[name].grad, 1.5 * gradient)


@backends
def test_autocast_decides_the_dtype_of_the_products(backend):
    case = make_case(m=9, v=131, bias=True)
    with torch.autocast(DEVICE, torch.bfloat16):
        output, gradients = run(case, backend)
        eager, eager_gradients = run(case, "reference")
    assert output.loss.dtype == torch.float32
    torch.testing.assert_close(output.loss, eager.loss, rtol=2e-3, atol=0)
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        assert (gradient - eager_gradients[name]).norm() <= 2e-2 * eager_gradients[name].norm()


@backends
def test_the_graph_may_be_walked_again(backend):
    """`retain_graph`, as for the gradients of one loss with respect to one thing after the other."""
    case = make_case(m=9)
    loss = paired_linear_loss(**case, backend=backend).loss
    leaves = [case[name] for name in ("text_hidden", "lm_head_weight")]
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    kept = [gradient.clone() for gradient in first]
    second = torch.autograd.grad(2 * loss, leaves, retain_graph=True)
    third = torch.autograd.grad(loss, leaves)
    for a, before, b, c in zip(first, kept, second, third, strict=True):
        assert torch.equal(a, before)
        assert torch.equal(b, 2 * a)
        assert torch.equal(c, a)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, leaves)


@backends
def test_double_backward_is_an_error(backend):
    case = make_case()
    loss = paired_linear_loss(**case, backend=backend).loss
    (gradient,) = torch.autograd.grad(loss * loss, case["vision_hidden"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@backends
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing(backend, use_reentrant):
    case = make_case()
    _, gradients = run(case, backend)

    def loss_of(text, vision, head):
        views = {"text_hidden": text, "vision_hidden": vision, "lm_head_weight": head}
        return paired_linear_loss(**{**case, **views}, backend=backend).loss

    leaves = [case[name] for name in INPUTS[:3]]
    checkpoint(loss_of, *leaves, use_reentrant=use_reentrant).backward()
    for name, leaf in zip(INPUTS, leaves, strict=False):
        torch.testing.assert_close(leaf.grad, gradients[name])


def test_in_a_compiled_model():
    """A step of its own between two compiled ones."""
    torch.manual_seed(0)
    model = torch.nn.Linear(16, 16).to(DEVICE)
    case = make_case()
    options = {name: case[name] for name in ("lm_head_weight", "labels")}

    def loss_of(model):
        return paired_linear_loss(model(case["text_hidden"]), model(case["vision_hidden"]).relu(), **options).loss * 2

    def gradients(function, own):
        return torch.autograd.grad(function(own), [*own.parameters(), case["lm_head_weight"]])

    compiled = torch.compile(loss_of, backend="aot_eager")
    for eager, own in zip(gradients(loss_of, model), gradients(compiled, copy.deepcopy(model)), strict=True):
        torch.testing.assert_close(own, eager, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("backend", ["reference", *FAST_BACKENDS])
def test_groups_together_are_the_sum_of_each(backend):
    """Pairs and rows without a partner in one pass, with one gradient of the head."""
    pairs, plain = make_case(m=9, seed=1), make_case(m=5, seed=2)
    head, spec = pairs["lm_head_weight"], LossSpec("jsd", beta=0.3)
    groups = [
        TokenGroup(pairs["text_hidden"], pairs["vision_hidden"], pairs["labels"], 0.5, 1.0, 2.0),
        TokenGroup(None, plain["vision_hidden"], plain["labels"], 0.0, 1.5, 0.0),
    ]
    leaves = [pairs["text_hidden"], pairs["vision_hidden"], plain["vision_hidden"], head]

    def together(groups):
        return grouped_linear_loss(groups, head, spec=spec, normalizer=10, backend=backend)

    loss, stats = together(groups)
    parts = [together([group]) for group in groups]
    torch.testing.assert_close(loss, sum(part for part, _ in parts))
    for own, (_, (alone,)) in zip(stats, parts, strict=True):
        for value, expected in zip(own, alone, strict=True):
            assert (value is None and expected is None) or torch.equal(value, expected)
    gradients = torch.autograd.grad(loss, leaves)
    expected = torch.autograd.grad(sum(part for part, _ in parts), leaves)
    for gradient, of_parts in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, of_parts, rtol=1e-5, atol=1e-7)


def test_auto_takes_what_suits_the_device():
    device, expected = torch.device(DEVICE), TorchRows if DEVICE == "cpu" else TritonRows
    assert get_backend("auto", device, torch.float32).keywords["rows_class"] is expected
    assert get_backend("auto", device, torch.float64).keywords["rows_class"] is TorchRows


def test_triton_says_why_it_cannot_be_used():
    with pytest.raises(ValueError, match="`backend='triton'` has no kernels for float64; use 'torch' or 'auto'"):
        get_backend("triton", torch.device(DEVICE), torch.float64)
    code = """
import sys, torch
from trl_modality.kernels.backends import get_backend
for hidden in ([], ["triton"]):
    sys.modules.update(dict.fromkeys(hidden))
    try:
        get_backend("triton", torch.device("cpu"), torch.float32)
    except ValueError as error:
        print(error)
"""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    device, lacks = done.stdout.splitlines()
    assert "has no kernels for a cpu device" in device
    assert "needs Triton" in lacks
