"""Running a backbone: every image through the tower once, where that is known to be right."""

import copy

import pytest
import torch

from tests.testing.tiny import picture, shown, tiny_llava
from tests.testing.tiny_families import build, exact, is_built, pairs_of
from trl_modality import PairedCollator
from trl_modality.collation.layout import with_images_repeated
from trl_modality.modeling import families
from trl_modality.modeling.attention import give_back, use_shared_prefix
from trl_modality.modeling.forward import LossSettings, add_paired_loss
from trl_modality.views import View


ENCODED_ONCE = sorted(name for name, family in families.FAMILIES.items() if family.encodes_once and is_built(name))


@pytest.fixture(scope="module", params=ENCODED_ONCE)
def family(request):
    model, processor = build(request.param)
    add_paired_loss(model)
    return request.param, model.train(), processor


@pytest.fixture
def encoded(family, monkeypatch):
    """How many numbers of pixels went through the tower, call by call."""
    backbone = family[1].base_model
    owner, name = type(backbone), "get_image_features"
    if not hasattr(owner, name):  # Mllama's features are no tokens
        owner, name = type(backbone.vision_model), "forward"
    original, counts = getattr(owner, name), []

    def counting(self, pixel_values, *args, **kwargs):
        counts.append(pixel_values.numel())
        return original(self, pixel_values, *args, **kwargs)

    monkeypatch.setattr(owner, name, counting)
    return counts


@pytest.mark.parametrize("first", ["image", "text"])
def test_each_image_is_encoded_once(family, encoded, first):
    """With rows of their own as in one sequence, and whether or not the text before the image differs."""
    name, model, processor = family
    pairs = [row | {"vision_centric_images": None} for row in pairs_of(name)]
    if first == "text":
        for row in pairs:
            for view in ("text_rich", "vision_centric"):
                text = {"type": "text", "text": view}
                row[f"{view}_prompt"] = [{"role": "user", "content": [text, {"type": "image"}]}]
    batch = exact(PairedCollator(processor)(copy.deepcopy(pairs)))
    assert batch["view_layout"].sharing_pairs == 3
    for shares in (False, True) if families.why_not_shared(model) is None else (False,):
        encoded.clear()
        if shares:
            use_shared_prefix(model.get_decoder())
        model(**batch, paired_loss=LossSettings(share_prefix=shares)).loss.backward()
        give_back(model.get_decoder())
        assert encoded == [batch["pixel_values"].numel()]
    repeated = with_images_repeated(batch, batch["view_layout"])
    assert repeated["pixel_values"].numel() == 2 * encoded[0]


def test_unknown_families_get_their_images_repeated(monkeypatch):
    """The rows of TRL, so the losses are what they were."""
    model, processor = build("llava")
    add_paired_loss(model)
    batch = exact(PairedCollator(processor)(pairs_of("llava")))
    expected = model(**batch, paired_loss=LossSettings())
    seen = []
    model.base_model.register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs), with_kwargs=True)
    monkeypatch.setattr(families, "FAMILIES", {})
    output = model(**batch, paired_loss=LossSettings())
    assert len(seen[0]["pixel_values"]) == 7
    torch.testing.assert_close(output.pairs.vision_nll, expected.pairs.vision_nll)


def test_a_stage_of_one_view_takes_the_shared_images_along(family):
    name, model, processor = family
    plain = {"images": [picture(50).resize((32, 32))], "messages": pairs_of(name)[0]["completion"]}
    plain["messages"] = [{"role": "user", "content": "Hm?"}, *plain["messages"]]
    if name == "paligemma":  # which takes no conversations
        plain |= {"prompt": plain["messages"][:1], "completion": plain.pop("messages")[1:]}
    batch = exact(PairedCollator(processor)([*pairs_of(name), plain]))
    whole = model(**batch, paired_loss=LossSettings(kl_weight=0.0))
    for kept, nll in ((View.VISION_CENTRIC, "vision_nll"), (View.TEXT_RICH, "text_nll")):
        rows = [*(shown(pair, kept) for pair in pairs_of(name)), plain]
        part = model(**exact(PairedCollator(processor)(rows)), paired_loss=LossSettings(kl_weight=0.0))
        assert part.pairs is None
        torch.testing.assert_close(getattr(part, kept).vision_nll, getattr(whole.pairs, nll), rtol=1e-6, atol=0)
        torch.testing.assert_close(part.plain.vision_nll, whole.plain.vision_nll, rtol=1e-6, atol=0)


def test_a_frozen_tower_is_no_obstacle():
    model, processor = tiny_llava()
    add_paired_loss(model)
    model.model.vision_tower.requires_grad_(False)
    batch = PairedCollator(processor)(pairs_of("llava"))
    model(**batch, paired_loss=LossSettings()).loss.backward()
    assert model.model.multi_modal_projector.linear_1.weight.grad.norm() > 0
    assert all(parameter.grad is None for parameter in model.model.vision_tower.parameters())
