"""Rows as one sequence: token for token what it says, and for the models the same as rows of their own."""

import copy
from contextlib import contextmanager, nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.testing.in_float64 import InFloat64
from tests.testing.tiny import picture
from tests.testing.tiny_families import build, exact, is_built, pairs_of
from trl_modality import PairedCollator
from trl_modality.collation.layout import shared_prefix
from trl_modality.modeling import families
from trl_modality.modeling.attention import shared_prefix_attention, use_shared_prefix
from trl_modality.modeling.forward import LossSettings, add_paired_loss
from trl_modality.modeling.packing import PackedRow, in_sequence, pack


@st.composite
def batches(draw):
    """Ids `[R, L]`, their mask, and the rows: pairs that share some tokens, and rows that do not."""
    rows, ids = [], []
    for _ in range(draw(st.integers(1, 4))):
        first = draw(st.lists(st.integers(0, 3), min_size=2, max_size=8))
        rows.append(PackedRow(0, len(first)))
        ids.append(first)
        if draw(st.booleans()):
            second = draw(st.lists(st.integers(0, 3), min_size=1, max_size=8))
            common = draw(st.integers(0, len(first) - 1))
            second = first[:common] + second
            n = draw(st.integers(0, shared_prefix(torch.tensor(first), torch.tensor(second))))
            rows.append(PackedRow(0, len(second), partner=len(rows) - 1, prefix=n))
            ids.append(second)
    length = max(map(len, ids)) + draw(st.integers(0, 2))
    padded = torch.full((len(ids), length), -1)
    for r, (row, tokens) in enumerate(zip(rows, ids, strict=True)):
        start = length - len(tokens) if draw(st.booleans()) else 0
        rows[r] = PackedRow(start, row.length, row.partner, row.prefix)
        padded[r, start : start + len(tokens)] = torch.tensor(tokens)
    return padded, rows


@settings(deadline=None)
@given(batches())
def test_every_token_is_found_again(batch):
    ids, rows = batch
    packing = pack(rows, ids.shape[1], range(len(rows)))
    sequence = in_sequence(ids, packing.sources)
    is_token = ids != -1
    assert sequence.shape == (1, int(is_token.sum()) - sum(row.prefix for row in rows))
    assert (sequence >= 0).all()
    # Each token of a row is where `places` says, at its position
    assert torch.equal(sequence[0][packing.places[is_token]], ids[is_token])
    for r, row in enumerate(rows):
        assert packing.positions[packing.places[r][is_token[r]]].tolist() == list(range(row.length))
    # And sees its row up to itself
    for r, segment in enumerate(packing.layout.segments):
        seen = [*range(segment.prefix_start, segment.prefix_end), *range(segment.start, segment.end)]
        assert sequence[0][seen].tolist() == ids[r][is_token[r]].tolist()


def test_shared_prefix_leaves_each_row_a_token():
    ids = torch.tensor([1, 2, 3, 4])
    assert shared_prefix(ids, ids) == 3
    assert shared_prefix(ids, ids[:2]) == 1
    assert shared_prefix(ids, torch.tensor([1, 2, 9, 4])) == 2
    assert shared_prefix(ids, torch.tensor([9])) == 0
    assert shared_prefix(ids, ids[:0]) == 0


FAMILIES = [name for name, family in families.FAMILIES.items() if family.why_not_shared is None and is_built(name)]


PLAIN = {
    "images": [picture(50).resize((32, 32))],
    "prompt": [{"role": "user", "content": "What is it?"}],
    "completion": [{"role": "assistant", "content": "noise"}],
}
TEXT_ONLY = PLAIN | {"images": []}
WAYS = ({"share_prefix": True}, {"padding_free": True})


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    model, processor = build(request.param)
    add_paired_loss(model)
    return request.param, model.train(), processor


def loss_and_gradients(model, batch, **settings):
    model.zero_grad()
    output = model(**batch, paired_loss=LossSettings(kl_weight=0.7, **settings))
    output.loss.backward()
    return output, {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


def same_images(pairs):
    return [row | {"vision_centric_images": None} for row in pairs]


def facts_first(pairs):
    """Text before the image, and other text in each view: there is next to nothing to share, but the image."""
    return [
        row
        | {
            f"{view}_prompt": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": f"{view[0]}{row[f'{view}_prompt'][0]['content']}"},
                        {"type": "image"},
                        {"type": "text", "text": "Well?"},
                    ],
                }
            ]
            for view in ("text_rich", "vision_centric")
        }
        for row in same_images(pairs)
    ]


def several_images(pairs):
    """Two images, one of them after the text in which the views differ."""
    rows = facts_first(pairs[:2])
    for row in rows:
        row["images"] = [*row["images"], *row["images"]]
        for view in ("text_rich", "vision_centric"):
            row[f"{view}_prompt"][0]["content"].insert(0, {"type": "image"})
    return rows


LAYOUTS = {
    "same images": same_images,
    "beside plain rows": lambda pairs: [PLAIN, *same_images(pairs), TEXT_ONLY],
    "other images in one": list,
    "other images in all": lambda pairs: pairs[2:],
    "text first": facts_first,
    "several images": several_images,
    "seven pairs": lambda pairs: [*same_images(pairs), *pairs, same_images(pairs)[2]],
    "one pair": lambda pairs: same_images(pairs[:1]),
    "only plain rows": lambda pairs: [PLAIN, TEXT_ONLY, PLAIN],
    "only text": lambda pairs: [TEXT_ONLY, TEXT_ONLY],
}


@contextmanager
def lengths_seen(decoder):
    """The shapes of what a decoder is called with."""
    shapes = []
    handle = decoder.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(
            next(kwargs[key] for key in ("inputs_embeds", "input_ids") if kwargs.get(key) is not None).shape[:2]
        ),
        with_kwargs=True,
    )
    yield shapes
    handle.remove()


def assert_same(found, expected) -> None:
    """Every loss of every token, and the gradient of every parameter."""
    (output, gradients), (expected, truth) = found, expected
    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-9, atol=0)
    for own, other in ((output.pairs, expected.pairs), (output.plain, expected.plain)):
        for values, others_values in zip(own or (), other or (), strict=True):
            torch.testing.assert_close(values, others_values, rtol=1e-8, atol=1e-10)
    assert gradients.keys() == truth.keys()
    total = torch.stack([gradient.norm() for gradient in truth.values()]).norm()
    for key, gradient in truth.items():
        # Those that are 0 but for rounding (of biases of keys, which change no softmax) as parts of the whole
        assert (gradients[key] - gradient).norm() <= 1e-6 * gradient.norm() + 1e-12 * total, key


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_one_sequence_changes_neither_losses_nor_gradients(family, layout, checkpointing):
    """In float64, of rows of their own: shared and without padding."""
    name, model, processor = family
    rows = LAYOUTS[layout](pairs_of(name))
    batch = exact(PairedCollator(processor)(copy.deepcopy(rows)))
    decoder, n_tokens = model.get_decoder(), int(batch["attention_mask"].sum())
    if checkpointing:
        # No mode of torch functions is active in a backward, where layers run again
        again = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), InFloat64())}
        model.gradient_checkpointing_enable(again)
    try:
        with InFloat64():
            expected = loss_and_gradients(model, batch)
            with shared_prefix_attention(decoder), lengths_seen(decoder) as shapes:
                found = [loss_and_gradients(model, batch, **settings) for settings in WAYS]
    finally:
        model.gradient_checkpointing_disable()
    shared = sum(batch["view_layout"].prefixes)
    if layout == "same images":
        assert min(batch["view_layout"].prefixes) >= (3 if name == "mllama" else 4)  # its image is one token
    assert (1, n_tokens) in shapes
    if shared:
        assert (1, n_tokens - shared) in shapes
    for each in found:
        assert_same(each, expected)


@pytest.mark.parametrize("image_first", [True, False])
def test_one_token_after_nothing_in_common(family, image_first):
    """Completions of one token, prompts that differ from the first word after the image, or from the first at all."""
    name, model, processor = family
    rows = same_images(pairs_of(name))
    slot = "<|vision_start|><|image_pad|><|vision_end|>" if name.startswith("qwen") else processor.image_token
    for row in rows:
        prompts = [slot + text if image_first else text + slot for text in "ab"]
        row |= {"text_rich_prompt": prompts[0], "vision_centric_prompt": prompts[1], "completion": "y"}
    batch = exact(PairedCollator(processor)(rows))
    if name != "chameleon":  # it ends every text with a separator
        assert (batch["labels"] != -100).sum(1).tolist() == [1] * 6
    prefixes = batch["view_layout"].prefixes
    in_common = int(name == "mllama")  # whose processor writes a start token
    assert prefixes == (in_common,) * 3 if not image_first else min(prefixes) > in_common
    with InFloat64():
        expected = loss_and_gradients(model, batch)
        with shared_prefix_attention(model.get_decoder()):
            assert_same(loss_and_gradients(model, batch, share_prefix=True), expected)


def test_an_attention_that_knows_no_segments_is_refused(family):
    name, model, processor = family
    pairs = [row | {"vision_centric_images": None} for row in pairs_of(name)]
    batch = exact(PairedCollator(processor)(copy.deepcopy(pairs)))
    with pytest.raises(ValueError, match="Call `use_shared_prefix`"):
        model(**batch, paired_loss=LossSettings(share_prefix=True))


def test_attention_in_both_directions_is_refused():
    """PaliGemma's prompts; a sequence without their mask would be wrong and nobody would know."""
    model, processor = build("gemma3")
    add_paired_loss(model)
    use_shared_prefix(model.get_decoder())
    model.config.model_type = "paligemma"  # what its `token_type_ids` mean is known by this alone
    batch = exact(PairedCollator(processor)(same_images(pairs_of("gemma3"))))
    assert batch["view_layout"].prefixes
    with pytest.raises(ValueError, match="Gemma3Model takes `token_type_ids`"):
        model(**batch, paired_loss=LossSettings(share_prefix=True))
