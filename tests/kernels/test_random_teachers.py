"""Teachers, anchors, masks, clips, top tokens and estimates over random configurations: no further from float64 than
eager PyTorch."""

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.kernels.test_random_configurations import weights
from tests.testing.losses import (
    DEVICE,
    FAST_BACKENDS,
    assert_no_further_than_eager,
    make_case,
    round_bfloat16_to_nearest,
)
from trl_modality.kernels import Teacher, TeacherHead, TopTokens, tiles


def normal(seed, *shape, dtype, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator)).to(DEVICE, dtype)


@st.composite
def teachers(draw, m: int, v: int, dtype, divergence: str, tau: float):
    """One with a head of its own, or of which only the likeliest tokens are known."""
    seed = draw(st.integers(0, 10**6))
    if tau == 1.0 and draw(st.integers(0, 3)) == 0:
        logits = normal(seed, m, v, dtype=torch.float32, scale=2.0)
        top = logits.log_softmax(-1).topk(min(v, draw(st.sampled_from([1, 5]))), dim=-1)
        return TopTokens(top.indices, top.values, -normal(seed + 1, m, dtype=torch.float32).abs())
    h, vocab = draw(st.sampled_from([3, 16])), v
    softcap = draw(st.sampled_from([None, None, 5.0]))
    if softcap is None and divergence in ("forward_kl", "jsd"):
        vocab = max(1, v + draw(st.sampled_from([0, 0, -1, 3])))
    head = normal(seed + 1, vocab, h, dtype=dtype, scale=h**-0.5)
    bias = normal(seed + 2, vocab, dtype=dtype) if draw(st.booleans()) else None
    return Teacher(
        normal(seed, m, h, dtype=dtype), TeacherHead(head, bias, draw(st.sampled_from([1.0, 0.5, 2.0])), softcap)
    )


@st.composite
def cases(draw):
    m, v = draw(st.sampled_from([1, 5, 9])), draw(st.sampled_from([2, 37, 131, 300]))
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16]))
    divergence = draw(st.sampled_from(["forward_kl", "reverse_kl", "jsd", "sampled_k3", "sampled_reverse_kl"]))
    tau, is_sampled = draw(st.sampled_from([1.0, 1.0, 0.5, 2.0])), divergence.startswith("sampled")
    case = make_case(
        m=m,
        h=draw(st.sampled_from([7, 32])),
        v=v,
        dtype=dtype,
        seed=draw(st.integers(0, 10**6)),
        bias=draw(st.booleans()),
        ignored=draw(st.booleans()),
        text_weight=draw(weights(m)),
        vision_weight=draw(weights(m)),
        kl_weight=draw(weights(m)),
        divergence=divergence,
        beta=draw(st.sampled_from([0.1, 0.5])),
        temperature=tau,
        logit_scale=draw(st.sampled_from([1.0, 0.25])),
        logit_softcap=draw(st.sampled_from([None, None, 3.0])),
        # A gradient at the bound of a clip is one or the other by the last digit of half precision
        kl_clip=draw(st.sampled_from([None, None, 0.03])) if not is_sampled and dtype == torch.float32 else None,
        teacher_top_k=draw(st.sampled_from([None, None, 1, 4])) if not is_sampled else None,
        kl_mask=draw(st.sampled_from(["all", "teacher_correct", "confident", "visual_advantage"])),
        confidence=draw(st.sampled_from([0.05, 0.3])),
        normalizer=draw(st.sampled_from([None, 64])),
    )
    own = draw(st.booleans())
    if own:
        case["teacher"] = draw(teachers(m, v, dtype, divergence, tau))
    if own and draw(st.booleans()):
        case["anchor"], case["anchor_weight"] = case["teacher"], draw(weights(m))
    elif draw(st.booleans()):
        case["anchor"] = draw(teachers(m, v, dtype, divergence, tau))
        case["anchor_weight"] = draw(weights(m))
    nlls = normal(draw(st.integers(0, 99)), m, dtype=torch.float32).abs()
    if own and case["kl_mask"] == "visual_advantage":
        case["blind_nll"] = nlls
    if case["kl_mask"] == "visual_advantage" and not own:
        case["teacher_top_k"] = None
    if draw(st.booleans()):
        case["sampled_nll"] = torch.where(nlls < 0.2, -1.0, nlls)
        case["importance_clip"] = draw(st.sampled_from([0.5, 2.0]))
    if own and case.get("anchor") is None and draw(st.booleans()):
        case["text_hidden"] = None
    return case


@pytest.mark.slow
@pytest.mark.parametrize("backend", FAST_BACKENDS)
def test_no_further_from_float64_than_eager(monkeypatch, backend):
    round_bfloat16_to_nearest(monkeypatch)
    monkeypatch.setattr(tiles, "_multiplies_natively", lambda dtype: False)

    @settings(
        max_examples={"torch": 300, "triton": 30}[backend],
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(case=cases(), tile_mib=st.sampled_from([None, 1e-6, 0.01]))
    def check(case, tile_mib):
        assert_no_further_than_eager(case, backend, half_products=False, tile_mib=tile_mib)

    check()
