"""What arguments of the loss may be: normalizers, weights and dtypes of all sizes; and the errors of the others."""

import math

import pytest
import torch

from tests.testing.losses import DEVICE, FAST_BACKENDS, in_float64, make_case, run
from trl_modality.kernels import paired_linear_loss, tiles


backends = pytest.mark.parametrize("backend", FAST_BACKENDS)


@pytest.mark.parametrize("backend", ["reference", *FAST_BACKENDS])
@pytest.mark.parametrize("normalizer", [0.25, 3, torch.tensor(0.25), torch.tensor([7])])
def test_any_positive_number_normalizes(backend, normalizer):
    case = make_case(m=5)
    whole, _ = run(case, "reference", normalizer=1)
    loss = run(case, backend, normalizer=normalizer)[0].loss
    assert loss.shape == ()
    torch.testing.assert_close(loss * float(normalizer), whole.loss)
    torch.testing.assert_close(run(case, backend, normalizer=0)[0].loss, whole.loss)


def test_large_weights_fit_into_float16(monkeypatch):
    """The largest gradient of a tile is near 1, whatever the weights and the count."""
    monkeypatch.setattr(tiles, "_multiplies_natively", lambda dtype: True)
    large = {"normalizer": 1_000_000, "vision_weight": 1e5, "text_weight": torch.full((8,), 2e5, device=DEVICE)}
    for options in (large, {"vision_weight": 0.0, "text_weight": 0.0, "kl_weight": 0.0}):
        case = make_case(m=8, dtype=torch.float16, ignored=False, **options)
        _, gradients = run(case, "torch")
        _, expected = run(case, "reference")
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], rtol=2e-2, atol=2e-3)


@backends
@pytest.mark.parametrize("wide", ["text_hidden", "vision_hidden"])
def test_views_of_different_dtypes(backend, wide, monkeypatch):
    """The wider one decides, whichever it is."""
    monkeypatch.setattr(tiles, "_multiplies_natively", lambda dtype: True)
    case = make_case(m=6)
    (narrow,) = {"text_hidden", "vision_hidden"} - {wide}
    case[narrow] = case[narrow].detach().bfloat16().requires_grad_()
    output, gradients = run(case, backend)
    expected, expected_gradients = run(in_float64(case), "reference")
    torch.testing.assert_close(output.loss.cpu().double(), expected.loss, rtol=1e-6, atol=1e-6)
    for name, gradient in gradients.items():
        tolerance = 1e-2 if name == narrow else 1e-5
        torch.testing.assert_close(
            gradient.cpu().double(), expected_gradients[name], rtol=tolerance, atol=tolerance / 10
        )


def test_autocast_spares_float64():
    case = in_float64(make_case())
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = run(case, "torch")
        assert output.loss.dtype == torch.float64
        assert torch.allclose(output.loss, run(case, "reference")[0].loss, rtol=1e-12)


BAD = {
    "`tile_mib` must be": {"tile_mib": math.inf},
    "`logit_softcap` must be": {"logit_softcap": math.inf},
    "`logit_scale` must be": {"logit_scale": math.nan},
    "`normalizer` must be a number": {"normalizer": torch.ones(2)},
    "`normalizer` must be a finite": {"normalizer": torch.tensor(-1.0)},
    "`normalizer` must be a finite number": {"normalizer": math.nan},
    "`text_weight` must be finite": {"text_weight": torch.full((7,), -1.0)},
    "`kl_weight` must be finite": {"kl_weight": torch.tensor(math.nan)},
    "`vision_weight` requires a gradient": {"vision_weight": torch.ones(7, requires_grad=True)},
    "the hidden states are on meta": {"text_hidden": torch.zeros(7, 16, device="meta")},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_options_are_named(message):
    with pytest.raises(ValueError, match=message):
        run(make_case(m=7) | BAD[message], "torch")


@backends
def test_half_precision_gradients_survive_a_long_batch(backend, monkeypatch):
    """Float16 has nothing below 6e-8: gradients divided by a large count must wait for the loss scale."""
    monkeypatch.setattr(tiles, "_multiplies_natively", lambda dtype: True)
    case = make_case(m=8, h=8, v=64, dtype=torch.float16, ignored=False, normalizer=1_000_000)
    leaves = [case[name] for name in ("text_hidden", "vision_hidden", "lm_head_weight")]
    scale = 2.0**16
    gradients = torch.autograd.grad(paired_linear_loss(**case, backend=backend).loss * scale, leaves)
    truth = torch.autograd.grad(
        (wide := in_float64(case)) and paired_linear_loss(**wide, backend="reference").loss * scale,
        [wide[name] for name in ("text_hidden", "vision_hidden", "lm_head_weight")],
    )
    for gradient, truth_gradient in zip(gradients, truth, strict=True):
        assert (gradient.cpu().double() - truth_gradient).norm() <= 2e-3 * truth_gradient.norm()


@pytest.mark.parametrize("backend", ["reference", *FAST_BACKENDS])
@pytest.mark.parametrize("label", [37, -1, -101, 2**40])
def test_labels_out_of_range_are_an_error(backend, label):
    case = make_case(v=37)
    case["labels"][1] = label
    with pytest.raises(ValueError, match="outside the 37 rows of the head"):
        run(case, backend)
