"""Segments against attention under one explicit mask, in float64, forward and backward; and a model given back as it
came."""

import pytest
import torch
from accelerate import dispatch_model
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from tests.testing.counting import PeakMemory
from tests.testing.segments import LAYOUTS, slow_varlen, under_one_mask, visible
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


@pytest.mark.parametrize("kernel", [None, slow_varlen])
@pytest.mark.parametrize("window", [None, 1, 4, 100])
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("n_key_heads", [1, 2, 4])
def test_segments_are_attention_under_one_mask(kernel, window, name, n_key_heads, monkeypatch):
    monkeypatch.setattr(attention, "varlen_kernel", lambda *args, **kwargs: kernel)
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


def test_dropout_is_that_of_every_segment():
    """Of what a query sees in its prefix and in its own segment; the mean of many is what there is without."""
    torch.manual_seed(0)
    layout = SegmentLayout((Segment(0, 6), Segment(6, 9, 0, 4)))
    query, key, value = (torch.randn(1, 2, 9, 8, dtype=torch.float64) for _ in range(3))

    def attended(**options):
        given = {"original": "sdpa", "segment_layout": layout, "scaling": 0.3, **options}
        return segmented_attention(torch.nn.Identity(), query, key, value, None, **given)[0]

    kept = attended()
    drawn = torch.stack([attended(dropout=0.3) for _ in range(2000)])
    deviations = (drawn.mean(0) - kept).abs() / (drawn.std(0) / 2000**0.5 + 1e-9)
    assert deviations.max() <= 5
    assert drawn.std(0).min() > 0
    # A query with one key: all of it, or nothing
    assert torch.unique((drawn / kept)[:, 0, 0].round(decimals=9)).tolist() == [0.0, pytest.approx(1 / 0.7)]
    assert torch.equal(attended(dropout=0.0), kept)


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
    monkeypatch.setattr(attention, "varlen_kernel", lambda query, value, **kwargs: dtypes.append(query.dtype))
    layout = SegmentLayout((Segment(0, 4),))
    q = torch.randn(1, 2, 4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = segmented_attention(torch.nn.Identity(), q, q, q, None, original="sdpa", segment_layout=layout)
    assert dtypes == [torch.bfloat16]
    assert output.dtype == torch.bfloat16
    segmented_attention(torch.nn.Identity(), q, q, q, None, original="sdpa", segment_layout=layout)
    assert dtypes[1] == torch.float32


def test_a_model_in_the_hooks_of_a_device_map_trains():
    """As one split over GPUs is: accelerate's hooks move every argument of a layer that has a method `to`."""
    model, processor = tiny_llava()
    add_paired_loss(model)
    use_shared_prefix(model.get_decoder())
    batch = PairedCollator(processor)([pair_row(0), pair_row(1)])

    def step() -> list[torch.Tensor]:
        model.zero_grad()
        loss = model(**batch, paired_loss=LossSettings(share_prefix=True)).loss
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    expected = step()
    dispatch_model(model, {"": "cpu"}, force_hooks=True)
    assert any(hasattr(layer, "_hf_hook") for layer in model.get_decoder().modules())
    for own, truth in zip(step(), expected, strict=True):
        assert torch.equal(own, truth)
