"""Segments against attention under one explicit mask, in float64, forward and backward; and a model given back as it
came."""

from itertools import pairwise

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from tests.testing.counting import PeakMemory
from tests.testing.tiny import pair_row, tiny_llava
from trl_modality import PairedCollator
from trl_modality.modeling import attention
from trl_modality.modeling.attention import (
    Segment,
    SegmentLayout,
    follows_segments,
    give_back,
    segmented_attention,
    use_shared_prefix,
)
from trl_modality.modeling.forward import LossSettings, add_paired_loss


# Places of a batch: pairs that share 5, 1 and 0 tokens, rows without a partner, a suffix of one token
PAIRS = (
    Segment(0, 9),
    Segment(9, 13, 0, 5),
    Segment(13, 14),
    Segment(14, 20),
    Segment(20, 21, 14, 15),
    Segment(21, 24),
    Segment(24, 31, 21, 23),
)
LAYOUTS = {
    "pairs and rows": (1, PAIRS),
    "one row": (1, (Segment(0, 31),)),
    "two branches of a branch's prefix": (1, (Segment(0, 20), Segment(20, 25, 0, 12), Segment(25, 31, 0, 12))),
    "rows with padding": (2, (Segment(0, 10), Segment(10, 14, 0, 6), Segment(14, 20), Segment(20, 40))),
}


def visible(layout: SegmentLayout, window: int | None) -> torch.Tensor:
    """`[T, T]`: which places each place sees."""
    total = layout.segments[-1].end
    mask = torch.zeros(total, total, dtype=torch.bool)
    for segment in layout.segments:
        prefix = list(range(segment.prefix_start, segment.prefix_end))
        for place in range(segment.start, segment.end):
            seen = prefix + list(range(segment.start, place + 1))
            mask[place, seen if window is None else seen[-window:]] = True
    return mask


def under_one_mask(query, key, value, mask, scale):
    """Attention of `[B, A, L, D]` with every score of the whole batch made, and most of them thrown away."""
    batch, n_heads, length, _ = query.shape
    q, k, v = (x.transpose(0, 1).reshape(x.shape[1], batch * length, -1) for x in (query, key, value))
    k, v = (x.repeat_interleave(n_heads // x.shape[0], 0) for x in (k, v))
    scores = (q @ k.transpose(1, 2) * scale).masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1) @ v).view(n_heads, batch, length, -1).permute(1, 2, 0, 3)


def slow_varlen(q, k, v, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout, scale, window):
    """What flash-attn documents of its `flash_attn_varlen_func(causal=True)`: run by run, aligned at the bottom right.

    A query at place i of a run of n_q sees the keys up to i + n_k − n_q, of these the last `window`.
    """
    assert dropout == 0.0
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    assert all(x.is_contiguous() for x in (cu_seqlens_q, cu_seqlens_k))
    outputs = []
    bounds = zip(pairwise(cu_seqlens_q.tolist()), pairwise(cu_seqlens_k.tolist()), strict=True)
    for (q0, q1), (k0, k1) in bounds:
        n_q, n_k = q1 - q0, k1 - k0
        assert n_q <= max_seqlen_q
        assert n_k <= max_seqlen_k
        last = torch.arange(n_q)[:, None] + n_k - n_q
        places = torch.arange(n_k)[None]
        mask = (places <= last) & (places > last - (window or n_k + n_q))
        group = q.shape[1] // k.shape[1]
        keys, values = (x[k0:k1].repeat_interleave(group, 1).transpose(0, 1) for x in (k, v))
        scores = (q[q0:q1].transpose(0, 1) @ keys.transpose(1, 2) * scale).masked_fill(~mask, -torch.inf)
        outputs.append((scores.softmax(-1) @ values).transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("kernel", [None, slow_varlen])
@pytest.mark.parametrize("window", [None, 1, 4, 100])
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("n_key_heads", [1, 2, 4])
def test_segments_are_attention_under_one_mask(kernel, window, name, n_key_heads, monkeypatch):
    monkeypatch.setattr(attention, "varlen_kernel", lambda query, dropout: kernel)
    batch, segments = LAYOUTS[name]
    layout = SegmentLayout(segments)
    length = segments[-1].end // batch
    torch.manual_seed(0)
    query = torch.randn(batch, length, 4, 8, dtype=torch.float64).transpose(1, 2).requires_grad_()
    key, value = (
        torch.randn(batch, length, n_key_heads, 8, dtype=torch.float64).transpose(1, 2).requires_grad_()
        for _ in range(2)
    )
    output, weights = segmented_attention(
        torch.nn.Identity(),
        query,
        key,
        value,
        None,
        original="sdpa",
        segment_layout=layout,
        scaling=0.3,
        sliding_window=window,
    )
    expected = under_one_mask(query, key, value, visible(layout, window), 0.3)
    assert weights is None
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-12)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(output, (query, key, value), upstream)
    for own, truth in zip(gradients, torch.autograd.grad(expected, (query, key, value), upstream), strict=True):
        torch.testing.assert_close(own, truth, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backward", [False, True])
def test_memory_is_linear_in_the_number_of_pairs(backward):
    peaks = []
    for n_pairs in (8, 32):
        segments = []
        for pair in range(n_pairs):
            start = 96 * pair
            segments += [Segment(start, start + 64), Segment(start + 64, start + 96, start, start + 32)]
        q, k, v = (torch.randn(1, 2, 96 * n_pairs, 8, requires_grad=True) for _ in range(3))
        with PeakMemory() as memory:
            output, _ = segmented_attention(
                torch.nn.Identity(), q, k, v, None, original="sdpa", segment_layout=SegmentLayout(tuple(segments))
            )
            if backward:
                output.sum().backward()
        peaks.append(memory.peak_mib)
    assert peaks[1] < 4.4 * peaks[0]


@pytest.mark.parametrize(
    "segments",
    [
        (Segment(1, 3),),
        (Segment(0, 3), Segment(4, 6)),
        (Segment(0, 3), Segment(3, 3)),
        (Segment(0, 3), Segment(3, 5, 2, 4)),
        (Segment(0, 3), Segment(3, 5, 2, 1)),
    ],
)
def test_layouts_with_gaps_or_prefixes_ahead_are_refused(segments):
    with pytest.raises(ValueError, match="Segment"):
        SegmentLayout(segments)


def test_what_segments_cannot_do_is_refused():
    q, layout = torch.randn(1, 2, 3, 8), SegmentLayout((Segment(0, 3),))
    with pytest.raises(ValueError, match="Identity uses `softcap`"):
        segmented_attention(torch.nn.Identity(), q, q, q, None, original="sdpa", segment_layout=layout, softcap=3.0)


@pytest.mark.parametrize("original", ["sdpa", "eager"])
def test_without_a_layout_the_model_is_what_it_was(original):
    """Its logits and what it generates, with padding and a cache, are those of the attention that it had."""
    model, _ = tiny_llava()
    decoder = model.get_decoder()
    decoder.set_attn_implementation(original)
    ids = torch.randint(5, 50, (2, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0

    def outputs() -> list[torch.Tensor]:
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask).logits
            tokens = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4, do_sample=False)
        return [logits[mask.bool()], tokens]

    expected = outputs()
    use_shared_prefix(decoder)
    for own, truth in zip(outputs(), expected, strict=True):
        assert torch.equal(own, truth)


@pytest.mark.parametrize(
    "original", ["sdpa", "eager", "flex_attention", "flash_attention_2", "kernels-community/flash"]
)
def test_the_attention_is_given_back(original):
    """Also one that transformers would look for, were it set again: it was there when the model was handed in."""
    model, _ = tiny_llava()
    decoder = model.get_decoder()
    decoder.config._attn_implementation_internal = original
    configs = [model.config, model.config.vision_config, decoder.config]
    before = [config._attn_implementation for config in configs]
    for _ in range(2):  # again changes nothing
        use_shared_prefix(decoder)
        assert [config._attn_implementation for config in configs[:2]] == before[:2]
        assert follows_segments(decoder)
    for _ in range(2):
        give_back(decoder)
        assert [config._attn_implementation for config in configs] == before
    assert "shared_prefix" not in decoder.config.to_json_string()


def test_a_model_with_flash_attention_trains(monkeypatch):
    """As on a GPU: the name is looked up where transformers does, and calls without a layout go to what it names."""
    name, seen = "kernels-community/flash-attn2", []

    def flash(module, query, key, value, attention_mask, **kwargs):
        seen.append(module.config._attn_implementation)  # which transformers' own asks for
        return sdpa_attention_forward(module, query, key, value, None, is_causal=True, **kwargs)

    AttentionInterface.register(name, flash)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])
    model, processor = tiny_llava()
    add_paired_loss(model)
    decoder = model.get_decoder()
    decoder.config._attn_implementation_internal = name
    batch = PairedCollator(processor)([pair_row(0), pair_row(0)])  # of one length each: there is no mask to see to
    expected = model(**batch, paired_loss=LossSettings(text_rich_weight=0.0, kl_weight=0.0)).loss
    use_shared_prefix(decoder)
    seen.clear()
    rows = model(**batch, paired_loss=LossSettings(text_rich_weight=0.0, kl_weight=0.0)).loss
    assert set(seen) == {name}
    seen.clear()
    shared = model(**batch, paired_loss=LossSettings(text_rich_weight=0.0, kl_weight=0.0, share_prefix=True)).loss
    assert seen == []
    give_back(decoder)
    assert decoder.config._attn_implementation == name
    torch.testing.assert_close(rows, expected)
    torch.testing.assert_close(shared, expected)


def test_under_autocast_the_kernel_gets_half_precision(monkeypatch):
    """Positions leave queries in float32 where the weights are: the kernel takes none, and would not be asked."""
    dtypes = []
    monkeypatch.setattr(attention, "varlen_kernel", lambda query, dropout: dtypes.append(query.dtype))
    layout = SegmentLayout((Segment(0, 4),))
    q = torch.randn(1, 2, 4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = segmented_attention(torch.nn.Identity(), q, q, q, None, original="sdpa", segment_layout=layout)
    assert dtypes == [torch.bfloat16]
    assert output.dtype == torch.bfloat16
    segmented_attention(torch.nn.Identity(), q, q, q, None, original="sdpa", segment_layout=layout)
    assert dtypes[1] == torch.float32
