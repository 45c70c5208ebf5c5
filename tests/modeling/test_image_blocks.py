"""Images that see themselves: segments with blocks against one explicit mask, and where blocks may not be."""

import pytest
import torch
from torch.nn.attention import flex_attention as torch_flex

from tests.testing.segments import BLOCKS, PAIRS, under_one_mask, visible
from tests.testing.tiny_families import build, exact, pairs_of
from trl_modality import PairedCollator
from trl_modality.collation.merge import _outside_images
from trl_modality.modeling import attention, flex
from trl_modality.modeling.attention import Segment, SegmentLayout, segmented_attention, shared_prefix_attention
from trl_modality.modeling.forward import LossSettings, add_paired_loss
from trl_modality.modeling.image_blocks import blocks_of
from trl_modality.modeling.token_layout import TokenLayouts


LONG = (Segment(0, 300), Segment(300, 390, 0, 290), Segment(390, 700), Segment(700, 705, 390, 391))
LONG_BLOCKS = ((5, 270), (310, 330), (391, 392), (500, 699))


def no_kernel(*args, **kwargs):
    raise AssertionError("a variable-length kernel sees nothing after a token")


@pytest.fixture(params=["sdpa", "flex"])
def way(request, monkeypatch):
    """Segment by segment, or FlexAttention's reference in one call."""
    if request.param == "flex":
        monkeypatch.setattr(torch_flex, "_validate_device", lambda *tensors: None)
        monkeypatch.setattr(flex, "_flex", lambda: flex._attend)
        monkeypatch.setattr(attention, "flex_takes", lambda *arguments: True)
        monkeypatch.setattr(attention, "_by_segment", None)
    return request.param


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("window", [None, 1, 2, 4, 100])
@pytest.mark.parametrize("in_windows", [False, True])
@pytest.mark.parametrize(("segments", "blocks"), [(PAIRS, BLOCKS), (LONG, LONG_BLOCKS), (PAIRS, ())])
def test_it_is_attention_under_one_mask(segments, blocks, in_windows, window, monkeypatch):
    layout = SegmentLayout(segments, blocks, blocks_in_windows=in_windows)
    if layout.has_blocks(window):
        monkeypatch.setattr(attention, "varlen_kernel", no_kernel)
    torch.manual_seed(0)
    length = segments[-1].end
    query, key, value = (
        torch.randn(1, length, n_heads, 16, dtype=torch.float64).transpose(1, 2).requires_grad_()
        for n_heads in (4, 2, 2)
    )
    options = {"original": "sdpa", "segment_layout": layout, "scaling": 0.3, "sliding_window": window}
    output, _ = segmented_attention(torch.nn.Identity(), query, key, value, None, **options)
    expected = under_one_mask(query, key, value, visible(layout, window), 0.3)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-12)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(output, (query, key, value), upstream)
    for own, truth in zip(gradients, torch.autograd.grad(expected, (query, key, value), upstream), strict=True):
        torch.testing.assert_close(own, truth, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("window", [None, 1, 100])
def test_the_blocks_of_the_mask_are_those_that_torch_finds_in_the_scores(window):
    layout = SegmentLayout(LONG, LONG_BLOCKS)
    mask = layout.on(torch.device("cpu")).block_mask(window, sees_blocks=True)
    truth = torch_flex.create_block_mask(mask.mask_mod, None, None, 705, 705, device="cpu")
    for kind in ("kv", "full_kv", "q", "full_q"):
        counts = getattr(truth, f"{kind}_num_blocks")
        assert torch.equal(getattr(mask, f"{kind}_num_blocks"), counts)
        for row in range(counts.shape[-1]):
            own, others = (getattr(each, f"{kind}_indices")[0, 0, row, : counts[0, 0, row]] for each in (mask, truth))
            assert torch.equal(own, others)


def marks(text: str) -> torch.Tensor:
    return torch.tensor([letter == "i" for letter in text])


def test_images_of_rows_next_to_each_other_are_two_blocks():
    is_image = marks("ii.iiii.i.")
    assert blocks_of(is_image, [(0, 5, 0, 0), (5, 10, 0, 0)]) == ((0, 2), (3, 5), (5, 7), (8, 9))
    assert blocks_of(is_image, [(0, 10, 0, 0)]) == ((0, 2), (3, 7), (8, 9))
    assert blocks_of(marks("...."), [(0, 4, 0, 0)]) == ()


@pytest.mark.parametrize(
    ("tokens", "prefix_end", "is_inside"),
    [
        (".iii......", 2, True),  # it goes on in the row that has the prefix
        (".iii......", 3, True),
        (".iii......", 4, False),
        (".iii...i..", 4, True),  # or in the other
        (".iii...i..", 5, False),
        (".iii...i..", 1, False),
    ],
)
def test_a_prefix_does_not_end_in_an_image(tokens, prefix_end, is_inside):
    segments = [(0, 7, 0, 0), (7, 10, 0, prefix_end)]
    first, second = marks(tokens[:7]), marks(tokens[:prefix_end] + tokens[7:])
    assert (_outside_images(prefix_end, first, second) != prefix_end) == is_inside
    if is_inside:
        assert _outside_images(prefix_end, first, second) == 1
        with pytest.raises(ValueError, match=f"place 7 ends at place {prefix_end}, in the middle of an image"):
            blocks_of(marks(tokens), segments)
    else:
        blocks_of(marks(tokens), segments)


def test_a_prefix_that_is_an_image_alone_leaves_nothing():
    assert _outside_images(2, marks("iiii"), marks("iii.")) == 0


def test_rows_of_which_only_the_images_are_left_share_what_is_before_them():
    """Both views end within their image, of which each must keep a token."""
    model, processor = build("gemma3")
    add_paired_loss(model)
    rows = [row | {"vision_centric_images": None} for row in pairs_of("gemma3")]
    batch = exact(PairedCollator(processor, max_length=16, overlong="drop")(rows))
    layout = batch["view_layout"]
    assert layout.pairs == 1
    begin = processor.tokenizer.boi_token_id
    assert layout.prefixes == (int((batch["input_ids"][0] == begin).nonzero()[0]),)
    with shared_prefix_attention(model.get_decoder()):
        output = model(**batch, paired_loss=LossSettings(share_prefix=True))
    assert output.loss == 0


def test_the_layout_of_a_batch_has_its_images():
    model, processor = build("gemma3")
    batch = PairedCollator(processor)([row | {"vision_centric_images": None} for row in pairs_of("gemma3")])
    tokens = TokenLayouts(model).of(LossSettings(share_prefix=True))(batch)
    assert tokens.segments is not None
    assert len(tokens.segments.blocks) == 3
    assert all(end - start == 4 for start, end in tokens.segments.blocks)
    assert "own_end" in tokens.segment_tensors
    plain = TokenLayouts(build("llava")[0]).of(LossSettings(share_prefix=True))(
        PairedCollator(build("llava")[1])([row | {"vision_centric_images": None} for row in pairs_of("llava")])
    )
    assert plain.segments is not None
    assert plain.segments.blocks == ()


@pytest.mark.parametrize(
    ("changes", "n_blocks"),
    [
        ({"use_bidirectional_attention": None}, 0),
        ({"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}, 3),
        ({"attention_k_eq_v": True, "num_global_key_value_heads": 2, "num_kv_shared_layers": 0}, 3),
    ],
    ids=["causal", "experts", "keys are values"],
)
def test_every_kind_of_gemma_4_shares(changes, n_blocks):
    model, processor = build("gemma4", **changes)
    model.config.get_text_config()._experts_implementation = "eager"  # the grouped products know no float64
    add_paired_loss(model)
    batch = exact(PairedCollator(processor)([row | {"vision_centric_images": None} for row in pairs_of("gemma4")]))
    tokens = TokenLayouts(model).of(LossSettings(share_prefix=True))(batch)
    assert tokens.segments is not None
    assert len(tokens.segments.blocks) == n_blocks

    def gradients(**settings):
        model.zero_grad()
        output = model(**batch, paired_loss=LossSettings(**settings))
        output.loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), output

    expected, rows = gradients()
    with shared_prefix_attention(model.get_decoder()):
        found, shared = gradients(share_prefix=True)
    torch.testing.assert_close(shared.pairs.vision_nll, rows.pairs.vision_nll, rtol=1e-8, atol=1e-10)
    assert (found - expected).norm() <= 1e-6 * expected.norm()
