"""The loss against float64 computed from full logits by hand, its gradients, and its edges."""

import functools
import math

import pytest
import torch
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

from trl_modality import kernels
from trl_modality.kernels.reference import _divergence


DIVERGENCES = [("forward_kl", 0.5), ("reverse_kl", 0.5), ("jsd", 0.3)]
TRL_BETA = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": 0.3}


@pytest.fixture(params=["reference", "torch"])
def paired_linear_loss(request):
    """Triton has no float64; `test_hard_cases` and `test_random_configurations` compare it."""
    return functools.partial(kernels.paired_linear_loss, backend=request.param)


def inputs(m=7, h=5, v=11, dtype=torch.float64, bias=False):
    generator = torch.Generator().manual_seed(m * 1000 + v)
    text, vision = (torch.randn(m, h, generator=generator, dtype=dtype).requires_grad_() for _ in range(2))
    weight = torch.randn(v, h, generator=generator, dtype=dtype).requires_grad_()
    labels = torch.randint(0, v, (m,), generator=generator)
    labels[::3] = -100
    head_bias = torch.randn(v, generator=generator, dtype=dtype).requires_grad_() if bias else None
    return text, vision, weight, labels, head_bias


def by_hand(text, vision, weight, labels, bias, *, weights, divergence, beta, temperature, scale, softcap):
    """Every token and every vocabulary entry written out: no shared code with the implementation."""

    def logits(hidden):
        z = hidden @ weight.T + (0 if bias is None else bias)
        z = z * scale
        return z if softcap is None else softcap * torch.tanh(z / softcap)

    def kl(p, q):
        return (p * (p.log() - q.log())).sum()

    total, count = 0.0, 0
    for t, label in enumerate(labels.tolist()):
        if label == -100:
            continue
        z_r, z_v = logits(text[t]), logits(vision[t])
        count += 2
        total = total - weights[0] * z_r.softmax(0)[label].log() - weights[1] * z_v.softmax(0)[label].log()
        p, q = (z_r / temperature).softmax(0).detach(), (z_v / temperature).softmax(0)
        m = beta * p + (1 - beta) * q
        d = {"forward_kl": kl(p, q), "reverse_kl": kl(q, p), "jsd": beta * kl(p, m) + (1 - beta) * kl(q, m)}
        total = total + weights[2] * d[divergence]
    return total / count


@pytest.mark.parametrize(("divergence", "beta"), DIVERGENCES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("temperature", "scale", "softcap"), [(1.0, 1.0, None), (0.5, 0.25, 3.0), (4.0, 2.0, None)])
def test_loss_and_gradients_equal_the_formula(divergence, beta, bias, temperature, scale, softcap, paired_linear_loss):
    text, vision, weight, labels, head_bias = inputs(bias=bias)
    weights = (0.7, 1.3, 2.0)
    leaves = [x for x in (text, vision, weight, head_bias) if x is not None]
    truth = by_hand(
        text,
        vision,
        weight,
        labels,
        head_bias,
        weights=weights,
        divergence=divergence,
        beta=beta,
        temperature=temperature,
        scale=scale,
        softcap=softcap,
    )
    truth_grads = torch.autograd.grad(truth, leaves)
    options = {
        "lm_head_bias": head_bias,
        "text_weight": weights[0],
        "vision_weight": weights[1],
        "kl_weight": weights[2],
        "divergence": divergence,
        "beta": beta,
        "temperature": temperature,
        "logit_scale": scale,
        "logit_softcap": softcap,
    }
    loss = paired_linear_loss(text, vision, weight, labels, **options).loss
    torch.testing.assert_close(loss, truth, rtol=1e-12, atol=1e-12)
    for grad, truth_grad in zip(torch.autograd.grad(loss, leaves), truth_grads, strict=True):
        torch.testing.assert_close(grad, truth_grad, rtol=1e-10, atol=1e-12)
    # And in float32: the criterion is 1e-6 from the float64 value
    single = [x.detach().float().requires_grad_() for x in leaves]
    options["lm_head_bias"] = single[3] if bias else None
    loss = paired_linear_loss(single[0], single[1], single[2], labels, **options).loss
    assert abs(loss.item() - truth.item()) <= 1e-6 * max(1, abs(truth.item()))
    for grad, truth_grad in zip(torch.autograd.grad(loss, single), truth_grads, strict=True):
        assert (grad - truth_grad).norm() <= 1e-6 * truth_grad.norm().clamp(min=1)


@pytest.mark.parametrize(("divergence", "beta"), DIVERGENCES)
def test_divergence_is_trls(divergence, beta, paired_linear_loss):
    text, vision, weight, labels, _ = inputs(m=9, v=17, dtype=torch.float32)
    ours = paired_linear_loss(text, vision, weight, labels, divergence=divergence, beta=beta, temperature=2.0).kl
    theirs, _ = ChunkedDivergenceFunction.apply(
        vision, weight, None, text.detach(), weight.detach(), None, TRL_BETA[divergence], 2.0
    )
    torch.testing.assert_close(ours, theirs * (labels != -100), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("beta", "same"), [(0.0, "forward_kl"), (1.0, "reverse_kl")])
def test_jsd_at_its_ends_is_a_kl(beta, same, paired_linear_loss):
    text, vision, weight, labels, _ = inputs()
    jsd = paired_linear_loss(text, vision, weight, labels, divergence="jsd", beta=beta)
    assert torch.equal(jsd.kl, paired_linear_loss(text, vision, weight, labels, divergence=same).kl)
    assert jsd.kl.sum() > 0


@pytest.mark.parametrize(("divergence", "beta"), DIVERGENCES)
def test_divergence_sends_no_gradient_into_the_text_view(divergence, beta, paired_linear_loss):
    text, vision, weight, labels, _ = inputs()
    kl = {"text_weight": 0.0, "vision_weight": 0.0, "divergence": divergence, "beta": beta}
    grads = torch.autograd.grad(paired_linear_loss(text, vision, weight, labels, **kl).loss, [text, vision, weight])
    assert torch.all(grads[0] == 0)
    assert grads[1].abs().sum() > 0
    # The head learns through the vision view alone: a teacher with a head of its own gives the same gradient
    kl_of = paired_linear_loss(text.detach(), vision, weight, labels, **kl).loss
    assert torch.equal(torch.autograd.grad(kl_of, weight)[0], grads[2])


def test_one_view_is_its_cross_entropy(paired_linear_loss):
    text, vision, weight, labels, _ = inputs()
    both = paired_linear_loss(text, vision, weight, labels, kl_weight=0.0)
    alone = paired_linear_loss(None, vision, weight, labels)
    assert torch.equal(alone.vision_nll, both.vision_nll)
    assert alone.text_nll is alone.kl is None
    keep = labels != -100
    torch.testing.assert_close(
        alone.loss, torch.nn.functional.cross_entropy((vision @ weight.T)[keep], labels[keep]), rtol=1e-12, atol=0
    )


def test_metrics_of_a_token(paired_linear_loss):
    text, vision, weight, labels, _ = inputs()
    labels[1] = (vision @ weight.T)[1].argmax()
    out = paired_linear_loss(text, vision, weight, labels)
    p = (vision @ weight.T).softmax(-1)
    torch.testing.assert_close(out.vision_entropy[1], -(p[1] * p[1].log()).sum())
    assert out.vision_is_top1[1]
    for field in out[1 : out._fields.index("kl_share")]:
        assert not field.requires_grad
        assert torch.all(field[labels == -100] == 0)


@pytest.mark.parametrize("m", [0, 6])
def test_no_supervised_token_is_a_connected_zero(m, paired_linear_loss):
    text, vision, weight, labels, _ = inputs(m=max(m, 1))
    text, vision, labels = text[:m], vision[:m], torch.full((m,), -100)
    out = paired_linear_loss(text, vision, weight, labels)
    assert out.loss == 0
    grads = torch.autograd.grad(out.loss, [weight, text, vision])
    assert all(torch.all(grad == 0) for grad in grads)


def test_weights_per_token_are_a_mask(paired_linear_loss):
    text, vision, weight, labels, _ = inputs(m=8)
    mask = torch.tensor([1.0, 0, 1, 1, 0, 1, 0, 1])
    masked = paired_linear_loss(text, vision, weight, labels, text_weight=mask, vision_weight=mask, kl_weight=mask)
    ignored = labels.masked_fill(mask == 0, -100)
    apart = paired_linear_loss(text, vision, weight, ignored, normalizer=2 * (labels != -100).sum())
    torch.testing.assert_close(masked.loss, apart.loss, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("divergence", "beta"), DIVERGENCES)
def test_impossible_tokens_in_both_views_add_nothing(divergence, beta, paired_linear_loss):
    """A bias of −inf (a masked vocabulary entry): 0·log 0 is 0, in the loss and in every gradient."""
    text, vision, weight, labels, _ = inputs()
    labels = labels.clamp(max=8)
    bias = torch.zeros(11, dtype=torch.float64)
    bias[9:] = -math.inf
    options = {"divergence": divergence, "beta": beta}
    out = paired_linear_loss(text, vision, weight, labels, lm_head_bias=bias, **options)
    short = paired_linear_loss(text, vision, weight[:9], labels, **options)
    torch.testing.assert_close(out.loss, short.loss, rtol=1e-12, atol=0)
    for grad, short_grad in zip(
        torch.autograd.grad(out.loss, [text, vision]), torch.autograd.grad(short.loss, [text, vision]), strict=True
    ):
        torch.testing.assert_close(grad, short_grad, rtol=1e-10, atol=1e-14)


def test_a_token_of_weight_zero_may_be_impossible(paired_linear_loss):
    """0·∞ is 0 there: its label has no probability, and nothing is asked of it."""
    text, vision, weight, labels, _ = inputs()
    bias = torch.zeros(11, dtype=torch.float64)
    bias[10] = -math.inf
    labels[1], labels[2] = 10, 3
    mask = (labels != 10).double()
    options = {"text_weight": mask, "vision_weight": mask, "kl_weight": mask}
    out = paired_linear_loss(text, vision, weight, labels, lm_head_bias=bias, **options)
    assert torch.isfinite(out.loss)
    assert out.vision_nll[1] == math.inf
    for grad in torch.autograd.grad(out.loss, [text, vision]):
        assert torch.isfinite(grad).all()
        assert torch.all(grad[1] == 0)


def test_divergence_says_infinity_where_one_view_excludes_what_the_other_says():
    log_p = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    log_q = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64).log().requires_grad_()
    assert _divergence(log_p, log_q, "forward_kl", 0.5).item() == math.inf
    reverse = _divergence(log_p, log_q, "reverse_kl", 0.5)
    torch.testing.assert_close(reverse.item(), math.log(2))
    assert torch.isfinite(torch.autograd.grad(reverse.sum(), log_q)[0]).all()
    assert 0 < _divergence(log_p, log_q, "jsd", 0.5).item() < math.log(2)


def test_huge_logits_stay_finite(paired_linear_loss):
    text, vision, weight, labels, _ = inputs(dtype=torch.float32)
    for divergence, beta in DIVERGENCES:
        out = paired_linear_loss(text * 1e4, vision * 1e4, weight, labels, divergence=divergence, beta=beta)
        assert torch.isfinite(out.loss)
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(out.loss, [text, vision, weight]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([0, 11, 0, 0, 0, 0, 0])}, "outside the 11 rows"),
        ({"labels": torch.tensor([0, -1, 0, 0, 0, 0, -100])}, "use -100"),
        ({"text_hidden": torch.zeros(3, 5)}, "expected \\[M, H\\]"),
        ({"text_hidden": None, "vision_hidden": None}, "both None"),
        ({"labels": torch.zeros(7)}, "`labels` must be .M. int64"),
        ({"lm_head_bias": torch.zeros(5)}, "`lm_head_bias` has shape"),
        ({"text_weight": -1.0}, "`text_weight` must be a finite number"),
        ({"kl_weight": math.nan}, "`kl_weight` must be a finite number"),
        ({"vision_weight": torch.ones(2)}, "`vision_weight` has shape"),
        ({"normalizer": -5}, "`normalizer` must be a finite number"),
        ({"normalizer": math.nan}, "`normalizer` must be a finite number"),
        ({"divergence": "kl"}, "`divergence` must be one of"),
        ({"divergence": "jsd", "beta": 1.5}, "`beta` must be in"),
        ({"temperature": 0.0}, "`temperature` must be positive"),
        ({"logit_softcap": -1.0}, "`logit_softcap` must be positive"),
        ({"tile_mib": 0}, "`tile_mib` must be positive"),
        ({"gradient_filter": 1.0}, "`gradient_filter` must be in"),
        ({"backend": "cuda"}, "`backend` must be one of"),
    ],
)
def test_bad_arguments_are_named(change, message, paired_linear_loss):
    text, vision, weight, labels, _ = inputs()
    given = {"text_hidden": text, "vision_hidden": vision, "lm_head_weight": weight, "labels": labels, **change}
    with pytest.raises(ValueError, match=message):
        paired_linear_loss(**given)
