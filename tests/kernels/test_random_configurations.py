"""The fast backends against float64, over random configurations: never further from it than eager PyTorch."""

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from tests.testing.losses import (
    FAST_BACKENDS,
    assert_no_further_than_eager,
    in_float64,
    make_case,
    round_bfloat16_to_nearest,
    run,
)
from trl_modality.kernels import tiles


def weights(m: int):
    """A number, or one for each token, of which some are 0."""
    one = st.sampled_from([0.0, 0.3, 1.0, 2.5])
    return one | st.lists(one, min_size=m, max_size=m).map(torch.tensor)


@st.composite
def cases(draw):
    m = draw(st.sampled_from([0, 1, 2, 5, 9]))
    case = make_case(
        m=m,
        h=draw(st.sampled_from([1, 7, 32])),
        v=draw(st.sampled_from([1, 2, 37, 131, 300])),
        dtype=draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16])),
        seed=draw(st.integers(0, 10**6)),
        size=draw(st.sampled_from([0.1, 1.0, 10.0])),
        bias=draw(st.booleans()),
        ignored=draw(st.booleans()),
        text_weight=draw(weights(m)),
        vision_weight=draw(weights(m)),
        kl_weight=draw(weights(m)),
        divergence=draw(st.sampled_from(["forward_kl", "reverse_kl", "jsd"])),
        beta=draw(st.sampled_from([0.1, 0.5, 0.8])),
        temperature=draw(st.sampled_from([1.0, 1.0, 0.5, 4.0])),
        logit_scale=draw(st.sampled_from([1.0, 0.25])),
        logit_softcap=draw(st.sampled_from([None, None, 3.0, 30.0])),
        normalizer=draw(st.sampled_from([None, 64, 1000.0])),
    )
    for name in draw(st.sets(st.sampled_from(["text_hidden", "vision_hidden", "lm_head_weight", "lm_head_bias"]))):
        if case[name] is not None:
            case[name].requires_grad_(False)
    if lacks := draw(st.sampled_from([None, None, "text_hidden", "vision_hidden"])):
        case[lacks] = None
    return case


@pytest.mark.slow
@pytest.mark.parametrize("backend", FAST_BACKENDS)
@pytest.mark.parametrize("half_products", [False, True])
@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # shrinking runs the interpreter for minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(case=cases(), tile_mib=st.sampled_from([None, 1e-6, 0.01]))
def test_no_further_from_float64_than_eager(monkeypatch, backend, half_products, case, tile_mib):
    """`half_products`: as on a device that multiplies in half precision; else in float32, as most CPUs do."""
    round_bfloat16_to_nearest(monkeypatch)
    monkeypatch.setattr(tiles, "_multiplies_natively", lambda dtype: half_products)
    is_half = half_products and case["lm_head_weight"].dtype != torch.float32
    assume(not is_half or len(case["lm_head_weight"]) > 2)  # one rounding decides which of two sums is closer
    assert_no_further_than_eager(case, backend, half_products=is_half, tile_mib=tile_mib)


@pytest.mark.parametrize("backend", FAST_BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_products_are_as_exact_as_eager(monkeypatch, backend, dtype):
    """Where there are enough entries to average over, there is nothing to spare but two percent."""
    round_bfloat16_to_nearest(monkeypatch)
    monkeypatch.setattr(tiles, "_multiplies_natively", lambda dtype: True)
    case = make_case(m=40, h=48, v=300, dtype=dtype, bias=True, ignored=False)
    (truth, _), (eager, _), (found, _) = results = [
        run(in_float64(case), "reference"),
        run(case, "reference"),
        run(case, backend),
    ]
    values = {name: tuple(getattr(each, name) for each in (truth, eager, found)) for name in ("text_nll", "kl")}
    values |= {name: tuple(gradients[name] for _, gradients in results) for name in results[0][1]}
    for name, (exact, by_eager, by_ours) in values.items():
        error, allowed = ((x.cpu().double() - exact).norm().item() for x in (by_ours, by_eager))
        assert error <= 1.02 * allowed, (name, error, allowed)
