"""The pieces of a layout, and functions over them against each row by itself, token by token, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.kimi_linear import modeling_kimi_linear
from transformers.models.qwen3_5 import modeling_qwen3_5

from tests.testing.recurrent_rows import (
    HARD,
    assert_same_gradients,
    by_rows,
    causal_conv1d,
    fla_rule,
    pairs_layout,
    slow_convolution,
    slow_rule,
)
from tests.testing.segments import visible
from tests.testing.tiny_hybrids import exact_for_float64
from trl_modality.modeling.attention import Segment, SegmentLayout
from trl_modality.modeling.pieces import StateTensors, WindowTensors, continue_states, convolve, cut_into_pieces


@st.composite
def layouts(draw) -> SegmentLayout:
    """Rows, and rows that continue how some of them begin."""
    segments, roots, end = [], [], 0
    for _ in range(draw(st.integers(1, 8))):
        start, end = end, end + draw(st.integers(1, 9))
        prefix = (0, 0)
        if roots and draw(st.booleans()):
            root = draw(st.sampled_from(roots))
            prefix = root.start, root.start + draw(st.integers(0, root.end - root.start))
        segments.append(Segment(start, end, *prefix))
        if prefix[0] == prefix[1]:
            roots.append(segments[-1])
    return SegmentLayout(tuple(segments))


@settings(deadline=None)
@given(layouts())
def test_a_piece_comes_after_what_its_row_has_before_it(layout):
    pieces = cut_into_pieces(layout.segments)
    assert [place for piece in pieces for place in range(piece.start, piece.end)] == list(range(pieces[-1].end))
    seen = visible(layout, None)
    for i, piece in enumerate(pieces):
        before, at = [], piece.before
        assert at is None or at < i
        while at is not None:
            before = [*range(pieces[at].start, pieces[at].end), *before]
            at = pieces[at].before
        assert [*before, piece.start] == seen[piece.start].nonzero().flatten().tolist()


def test_pairs_are_three_pieces():
    pieces = cut_into_pieces(pairs_layout((7, 3, 2)).segments)
    assert [tuple(piece) for piece in pieces] == [(0, 7, None), (7, 10, 0), (10, 12, 0), (12, 17, None)]


@pytest.mark.parametrize(
    "segments",
    [
        (Segment(0, 9), Segment(9, 12, 2, 5)),
        (Segment(0, 3), Segment(3, 6), Segment(6, 9, 0, 5)),
        (Segment(0, 5), Segment(5, 8, 0, 2), Segment(8, 9, 5, 7)),
    ],
    ids=["from the middle of a row", "over two rows", "of a row with a prefix"],
)
def test_a_prefix_that_no_piece_ends_with_is_refused(segments):
    with pytest.raises(ValueError, match="not how a segment without a prefix begins"):
        cut_into_pieces(segments)


def test_pieces_in_runs_are_run_in_as_many_calls_as_they_are_deep():
    states = StateTensors.of(cut_into_pieces(HARD["all lengths"].segments), in_runs=True)
    assert [group.before is None for group in states.groups] == [True, False]


@pytest.mark.parametrize("name", HARD)
def test_pieces_in_rows_are_padded_to_whole_chunks_alone(name):
    states = StateTensors.of(cut_into_pieces(HARD[name].segments), in_runs=False)
    for group in states.groups:
        if group.is_padding is not None:
            chunks = -(-(~group.is_padding).sum(1) // 64)
            assert (chunks == chunks[0]).all()


def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape, dtype=torch.float64) * scale).requires_grad_()


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("function", [modeling_qwen3_5.causal_conv1d_fn, causal_conv1d], ids=["host", "causal-conv1d"])
def test_a_convolution_over_pieces_is_that_of_rows(name, kernel_size, function):
    """Also of a kernel that is longer than prefixes and suffixes together."""
    layout = HARD[name]
    torch.manual_seed(0)
    x, weight, bias = random(1, layout.segments[-1].end, 6), random(6, kernel_size), random(6)
    tensors = WindowTensors.of(cut_into_pieces(layout.segments), kernel_size - 1)
    output = convolve(function, x.transpose(1, 2), tensors, weight, bias, activation="silu")
    expected = by_rows(layout, lambda row: slow_convolution(row, weight, bias), x)
    assert_same_gradients(output.transpose(1, 2), expected, (x, weight, bias))


RULES = {
    "host": (modeling_qwen3_5, "torch_chunk_gated_delta_rule"),
    "host, a decay for each channel": (modeling_kimi_linear, "chunk_kimi_delta_attention"),
    "fla": (None, fla_rule),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_over_pieces_is_that_of_rows(name, rule):
    """Where the host works in float32 inside, with that lifted; padding leaves no trace."""
    layout, (module, function) = HARD[name], RULES[rule]
    if module is not None:
        exact_for_float64(module)
        function = getattr(module, function)
    torch.manual_seed(0)
    length, heads, size = layout.segments[-1].end, 2, 4
    query, key, value = random(1, length, heads, size), random(1, length, heads, size), random(1, length, heads, 3)
    decay = random(1, length, heads, *([size] if "channel" in rule else []))
    beta = random(1, length, heads)
    leaves = query, key, value, decay, beta
    inputs = query, key, value, -0.3 * decay.sigmoid(), beta.sigmoid()
    tensors = StateTensors.of(cut_into_pieces(layout.segments), in_runs=rule == "fla")
    output = continue_states(function, inputs, tensors, use_qk_l2norm_in_kernel=True)
    expected = by_rows(layout, lambda *row: slow_rule(*row)[0], *inputs)
    assert_same_gradients(output, expected, leaves)


def test_rows_with_padding_are_places_one_row_after_the_other():
    segments = (Segment(0, 6), Segment(6, 9, 0, 4), Segment(9, 14))
    pieces = cut_into_pieces(segments)
    torch.manual_seed(0)
    x, weight = random(2, 7, 6), random(6, 3)
    output = convolve(causal_conv1d, x.transpose(1, 2), WindowTensors.of(pieces, 2), weight)
    one_row = convolve(causal_conv1d, x.reshape(1, 14, 6).transpose(1, 2), WindowTensors.of(pieces, 2), weight)
    assert torch.equal(output.transpose(1, 2).reshape(14, 6), one_row[0].T)
    inputs = random(2, 7, 2, 4), random(2, 7, 2, 4), random(2, 7, 2, 3), -random(2, 7, 2).sigmoid(), random(2, 7, 2)
    output, one_row = (
        continue_states(fla_rule, each, StateTensors.of(pieces, in_runs=True), use_qk_l2norm_in_kernel=True)
        for each in (inputs, [x.reshape(1, 14, *x.shape[2:]) for x in inputs])
    )
    assert torch.equal(output.reshape(one_row.shape), one_row)
