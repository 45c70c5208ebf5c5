"""Layouts hard for layers that carry a state, and what such layers compute, row by row and token by token."""

from itertools import pairwise

import torch
import torch.nn.functional as F

from tests.testing.segments import LAYOUTS
from trl_modality.modeling.attention import Segment, SegmentLayout


def pairs_layout(*lengths: tuple[int, int, int]) -> SegmentLayout:
    """`[prefix | suffix]` and `[suffix]` for each prefix and two suffixes of these lengths; a plain row at the end."""
    segments, end = [], 0
    for prefix, first, second in lengths:
        segments.append(Segment(end, end + prefix + first))
        segments.append(Segment(end + prefix + first, end + prefix + first + second, end, end + prefix))
        end += prefix + first + second
    return SegmentLayout((*segments, Segment(end, end + 5)))


HARD = {
    **{name: SegmentLayout(segments) for name, (batch, segments) in LAYOUTS.items() if batch == 1},
    "prefixes within the window": pairs_layout((1, 3, 3), (2, 1, 4), (3, 4, 1), (4, 1, 1)),
    "one token each": pairs_layout((1, 1, 1), (1, 1, 1)),
    "all lengths": pairs_layout((1, 1, 70), (2, 64, 1), (63, 1, 2), (64, 3, 65), (65, 5, 63), (130, 2, 1), (7, 1, 1)),
    "prefixes of several lengths": SegmentLayout(
        (Segment(0, 20), Segment(20, 25, 0, 12), Segment(25, 31, 0, 3), Segment(31, 33, 0, 20), Segment(33, 34, 0, 12))
    ),
}


def rows_of(layout: SegmentLayout) -> list[list[int]]:
    """The places of each row: of its prefix, then its own."""
    return [
        [*range(segment.prefix_start, segment.prefix_end), *range(segment.start, segment.end)]
        for segment in layout.segments
    ]


def by_rows(layout: SegmentLayout, function, *inputs: torch.Tensor) -> torch.Tensor:
    """What a function of `[1, tokens, …]` gives for each row by itself, without those of its prefix: `[1, T, …]`."""
    outputs = []
    for segment, places in zip(layout.segments, rows_of(layout), strict=True):
        row = function(*(x[:, places] for x in inputs))
        outputs.append(row[:, segment.prefix_end - segment.prefix_start :])
    return torch.cat(outputs, 1)


def assert_same_gradients(output, expected, leaves, tolerance: float = 1e-9) -> None:
    """Of two outputs of the same leaves, the same values and gradients, each relative to its own norm."""
    assert (output - expected).norm() <= tolerance * expected.norm()
    upstream = torch.sin(torch.arange(expected.numel(), dtype=expected.dtype)).view_as(expected)
    gradients = torch.autograd.grad(output, leaves, upstream, retain_graph=True)
    for own, truth in zip(gradients, torch.autograd.grad(expected, leaves, upstream), strict=True):
        assert (own - truth).norm() <= tolerance * truth.norm()
        assert truth.norm() > 0


def slow_convolution(x_1TC: torch.Tensor, weight_CK: torch.Tensor, bias_C: torch.Tensor) -> torch.Tensor:
    """A causal convolution of one row `[1, tokens, C]`, then SiLU."""
    before = F.pad(x_1TC, (0, 0, weight_CK.shape[1] - 1, 0))
    windows = before.unfold(1, weight_CK.shape[1], 1)
    return F.silu((windows * weight_CK).sum(-1) + bias_C)


def slow_rule(query, key, value, g, beta, state_AKV=None):
    """The gated delta rule of one row `[1, tokens, A, …]`, and its last state.

    With q and k of length 1: S ← e^g·S, then S ← S + k·β·(v − kᵀS), and the output is qᵀS/√K.
    """
    query, key = (x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt() for x in (query, key))
    state = value.new_zeros(*value.shape[2:3], key.shape[3], value.shape[3]) if state_AKV is None else state_AKV
    outputs = []
    for q_AK, k_AK, v_AV, g_A, beta_A in zip(*(x[0] for x in (query, key, value, g, beta)), strict=True):
        state = state * g_A.exp().view(*g_A.shape, *[1] * (3 - g_A.ndim))
        change = (v_AV - torch.einsum("ak,akv->av", k_AK, state)) * beta_A.unsqueeze(-1)
        state = state + torch.einsum("ak,av->akv", k_AK, change)
        outputs.append(torch.einsum("ak,akv->av", q_AK, state) * q_AK.shape[-1] ** -0.5)
    return torch.stack(outputs).unsqueeze(0), state


def fla_rule(
    q,
    k,
    v,
    g,
    beta,
    scale=None,
    initial_state=None,
    output_final_state=False,
    use_qk_l2norm_in_kernel=False,
    cu_seqlens=None,
    head_first=False,
):
    """What fla documents of its `chunk_gated_delta_rule`: runs one after the other, each from a state of its own."""
    assert scale is None
    assert use_qk_l2norm_in_kernel
    assert q.shape[0] == 1
    assert q.shape == k.shape
    assert all(x.shape[:2] == q.shape[:2] for x in (v, g, beta))
    assert cu_seqlens.dtype == torch.long
    assert cu_seqlens[-1] == q.shape[1]
    q, k = (x.repeat_interleave(v.shape[2] // x.shape[2], 2) for x in (q, k))
    n_runs = len(cu_seqlens) - 1
    assert initial_state is None or initial_state.shape == (n_runs, v.shape[2], k.shape[3], v.shape[3])
    found = []
    for n, (start, end) in enumerate(pairwise(cu_seqlens.tolist())):
        run = (x[:, start:end] for x in (q, k, v, g, beta))
        found.append(slow_rule(*run, None if initial_state is None else initial_state[n]))
    outputs, states = zip(*found, strict=True)
    return torch.cat(outputs, 1), torch.stack(states) if output_final_state else None


def causal_conv1d(
    x,
    weight,
    bias=None,
    seq_idx=None,
    initial_states=None,
    return_final_states=False,
    final_states_out=None,
    activation=None,
):
    """What causal-conv1d documents of its `causal_conv1d_fn`, `[1, C, tokens]`."""
    assert (seq_idx, initial_states, return_final_states, final_states_out) == (None, None, False, None)
    assert activation in (None, "silu", "swish")
    assert 1 in x.stride()[1:]
    output = F.conv1d(x, weight.unsqueeze(1), bias, padding=weight.shape[1] - 1, groups=x.shape[1])
    output = output[..., : x.shape[2]]
    return output if activation is None else F.silu(output)
