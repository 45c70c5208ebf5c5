"""Leaving out what hardly matters: within the stated bound, of the products alone, and with less work."""

import pytest
import torch

from tests.testing.counting import Products
from tests.testing.losses import DEVICE, FAST_BACKENDS, make_case, run
from trl_modality.kernels import group_pass, paired_linear_loss
from trl_modality.kernels.gradient_filter import MOST_KEPT, kept_columns


backends = pytest.mark.parametrize("backend", FAST_BACKENDS)


def peaked_case(m=12, h=24, v=600, **options):
    """Hidden states that point at their label's row of the head, the vision_centric ones less clearly."""
    case = make_case(m=m, h=h, v=v, size=3.0, **options)
    with torch.no_grad():
        rows = case["lm_head_weight"][case["labels"].clamp(min=0)]
        case["text_hidden"] += 4 * rows
        case["vision_hidden"] += 3 * rows
    return case


@backends
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("threshold", [1e-4, 1e-2, 0.3])
@pytest.mark.parametrize("normalizer", [None, 1000.0])
def test_errors_stay_within_the_bound(backend, divergence, threshold, normalizer):
    case = peaked_case(divergence=divergence, kl_weight=0.5, vision_weight=2.0, normalizer=normalizer, bias=True)
    exact, exact_gradients = run(case, backend)
    output, gradients = run(case, backend, gradient_filter=threshold)
    assert torch.equal(output.loss, exact.loss)
    assert torch.equal(output.kl, exact.kl)
    n_kept = (case["labels"] != -100).sum().item()
    allowed = threshold * 2.5 / (normalizer or 2 * n_kept)  # the largest weight of a token: vision_weight + kl_weight
    longest_row = case["lm_head_weight"].norm(dim=1).max().item()
    error_of_head = 0.0
    for view in ("text_hidden", "vision_hidden"):
        errors = (gradients[view] - exact_gradients[view]).norm(dim=1)
        assert errors.max() <= allowed * longest_row
        error_of_head += allowed * case[view][case["labels"] != -100].norm(dim=1).sum().item()
    head_errors = (gradients["lm_head_weight"] - exact_gradients["lm_head_weight"]).norm(dim=1)
    assert head_errors.sum() <= error_of_head
    assert torch.equal(gradients["lm_head_bias"], exact_gradients["lm_head_bias"])
    if threshold == 0.3:
        assert head_errors.sum() > 0  # something was left out: the bound is not met by doing nothing


@backends
@pytest.mark.parametrize("threshold", [1e-3, 1e-2, 0.1])
def test_of_every_token_as_much_is_left_out_as_is_allowed(backend, threshold, monkeypatch):
    """Not more, and in the tile not much less: the allowance is that of the largest weights, and of N."""
    text_weight = torch.tensor([0.5, 1.5] * 6, device=DEVICE)
    case = peaked_case(ignored=False, kl_weight=2.0, vision_weight=1.0, text_weight=text_weight, normalizer=7)
    lost = []

    def watched(gradient_NV, *arguments):
        columns = kept_columns(gradient_NV, *arguments)
        lost.append(gradient_NV.abs().sum(1) - (0 if columns is None else gradient_NV[:, columns].abs().sum(1)))
        return columns

    monkeypatch.setattr(group_pass, "kept_columns", watched)
    run(case, backend, gradient_filter=threshold)
    allowed = threshold * (1.0 + 2.0) / 7
    assert 0.5 * allowed < torch.cat(lost).max() <= allowed * (1 + 1e-5)


@backends
@pytest.mark.parametrize("trained", [True, False])
def test_less_work(backend, trained):
    case = peaked_case(h=512, ignored=False)
    case["lm_head_weight"].requires_grad_(trained)
    multiplications = []
    for threshold in (0.0, 0.05):
        with Products() as products:
            paired_linear_loss(**case, backend=backend, gradient_filter=threshold).loss.backward()
        multiplications.append(products.multiplications)
    dense, filtered = multiplications
    logits = 2 * 12 * 512 * 600
    assert dense == (3 if trained else 2) * logits
    assert logits < filtered < 0.8 * dense


@pytest.mark.parametrize("frozen", ["lm_head_weight", "text_hidden", "vision_hidden"])
def test_with_what_is_frozen(frozen):
    case = peaked_case(ignored=False)
    case[frozen].requires_grad_(False)
    _, exact = run(case, "torch")
    _, gradients = run(case, "torch", gradient_filter=0.01)
    for name, gradient in gradients.items():
        assert 0 < (gradient - exact[name]).norm() < 0.1 * exact[name].norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_over_several_tiles_and_dtypes(dtype):
    case = peaked_case(m=40, dtype=dtype)
    _, exact = run(case, "torch")
    for tile_mib in (0.05, None):
        _, gradients = run(case, "torch", gradient_filter=1e-3, tile_mib=tile_mib)
        for name, gradient in gradients.items():
            assert (gradient - exact[name]).norm() < 0.02 * exact[name].norm(), name


@pytest.mark.parametrize("block_columns", [1000, 7])
@pytest.mark.parametrize("allowed", [1e-4, 0.01, 0.1, 0.7])
def test_no_token_loses_more_than_is_allowed_nor_much_less(allowed, block_columns):
    generator = torch.Generator().manual_seed(0)
    gradient = (3 * torch.randn(16, 1000, generator=generator)).softmax(1).to(DEVICE)
    gradient[3, 5] = -0.9
    columns = kept_columns(gradient, torch.tensor(allowed, device=DEVICE), block_columns)
    if columns is None:
        columns = torch.arange(1000, device=DEVICE)
    left_out = torch.ones(1000, dtype=torch.bool, device=DEVICE)
    left_out[columns] = False
    lost = gradient.abs()[:, left_out].sum(1).max()
    assert lost <= allowed
    assert 5 in columns
    # The next quarter of an octave of columns would have been too much for some token, or gains too little
    largest = gradient.abs().amax(0)
    threshold = largest[columns].min()
    with_next = gradient.abs()[:, largest < 2**0.26 * threshold].sum(1).max()
    assert with_next > allowed or len(columns) > MOST_KEPT * 1000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_allowance_holds_however_sums_are_rounded(dtype):
    """1,027 entries of 2⁻¹⁰ are 1.0029 together, which bfloat16 rounds to 1."""
    gradient = torch.zeros(2, 5000, dtype=dtype, device=DEVICE)
    gradient[0, :1027], gradient[1, 2000] = 2.0**-10, -2.0
    for allowed, n_kept in ((1.002, 1028), (1.005, 1)):
        columns = kept_columns(gradient, torch.tensor(allowed, device=DEVICE), 5000)
        assert len(columns) == n_kept


def test_nothing_is_left_out_of_a_zero_gradient_but_zeros():
    columns = kept_columns(torch.zeros(3, 50, device=DEVICE), torch.tensor(0.1, device=DEVICE), 50)
    assert columns.tolist() == []


def test_flat_distributions_are_left_alone():
    """Where most columns matter, gathering them would cost more than it saves: the products are the dense ones."""
    case = make_case(m=6, v=300, size=0.01)
    _, exact = run(case, "torch")
    _, gradients = run(case, "torch", gradient_filter=1e-3)
    for name, gradient in gradients.items():
        assert torch.equal(gradient, exact[name])
