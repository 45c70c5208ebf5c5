"""Every family of vision-language models, against TRL's collator and the model's own logits.

Families differ in what they make of an image: one tensor each (Gemma3, LLaVA), tiles padded to the batch (LLaVA-NeXT)
or stacked (InternVL), images padded per row with a mask (Idefics3, SmolVLM), images padded to the largest one
(Mistral3), or one list of patches with grids and three-dimensional positions (Qwen-VL). The package knows of none.
"""

import copy
import math

import pytest
import torch
from datasets import Dataset, Features, Image, List
from transformers import GraniteConfig
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling
from trl.trainer.utils import add_fused_lm_head

from tests.testing.tiny import PAIR_FEATURES, pair_row, picture, shown
from tests.testing.tiny_families import build, exact, is_built, pairs_of
from trl_modality import ModalityBalancedSFTTrainer, PairedCollator, PairError, View
from trl_modality.collation.layout import with_images_repeated
from trl_modality.modeling import families
from trl_modality.modeling.forward import LossSettings, add_paired_loss
from trl_modality.views import PAIR_PROMPTS


# Of those that share and those that may not, all that TRL's collator can do (`HOST_LIMITS`), but for the experts
FAMILIES = sorted({*filter(is_built, families.FAMILIES)} - {"paligemma", "mllama", "qwen3_vl_moe", "qwen3_5_moe"})


def row_of(prompt: str, images: list) -> dict:
    return {
        "images": images,
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": "noise"}],
    }


def by_view(pairs: list[dict]) -> list[dict]:
    """The pairs as rows of TRL: all in the text_rich view, then all in the vision_centric one."""
    views = {"text_rich": "images", "vision_centric": "vision_centric_images"}
    return [
        {"images": row[own] or row["images"], "prompt": row[f"{view}_prompt"], "completion": row["completion"]}
        for view, own in views.items()
        for row in pairs
    ]


def host_batch(processor, rows: list[dict]) -> dict:
    completions = "prompt" in rows[0]
    host = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=completions)
    return exact(host(copy.deepcopy(rows)))


def own_nll(model, batch: dict) -> torch.Tensor:
    """Per supervised token, from the model's own logits."""
    logits = model(**{key: value for key, value in batch.items() if key != "labels"}, use_cache=False).logits
    labels = batch["labels"][:, 1:]
    return torch.nn.functional.cross_entropy(logits[:, :-1][labels != -100], labels[labels != -100], reduction="none")


def paired_nll(model, batch: dict) -> dict[View, torch.Tensor]:
    output = model(**batch, paired_loss=LossSettings())
    nll = {view: getattr(output, view).vision_nll for view in View if getattr(output, view) is not None}
    if output.pairs:
        nll |= {View.TEXT_RICH: output.pairs.text_nll, View.VISION_CENTRIC: output.pairs.vision_nll}
    return nll


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    model, processor = build(request.param)
    add_paired_loss(model)
    return request.param, model.train(), processor


def test_pairs_are_the_rows_written_out(family):
    """Tensor by tensor what TRL collates, and at λ=0 the loss and gradients of the model's own logits on that."""
    name, model, processor = family
    pairs = pairs_of(name)
    batch = exact(PairedCollator(processor)(copy.deepcopy(pairs)))
    host = host_batch(processor, by_view(pairs))
    assert batch.keys() - {"view_layout"} == host.keys()
    repeated = with_images_repeated(batch, batch["view_layout"])
    for key, value in host.items():
        assert torch.equal(repeated[key], value), key
    assert len(batch["pixel_values"]) < len(host["pixel_values"])
    model.zero_grad()
    expected = own_nll(model, host).mean()
    expected.backward()
    truth = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss = model(**batch, paired_loss=LossSettings(kl_weight=0.0)).loss
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    total = torch.stack([grad.norm() for grad in truth.values()]).norm()
    for key, parameter in model.named_parameters():
        if key in truth:
            # Some softmaxes of the towers are in float32 whatever the model is in, and an image is there once
            assert (parameter.grad - truth[key]).norm() <= 1e-7 * total, key
    seen = sum(grad.norm() > 0 for key, grad in truth.items() if "vis" in key)
    assert seen > 5 or name == "chameleon", "the images do not matter"  # it looks their tokens up in the vocabulary


def test_rows_of_a_mixed_batch_are_those_rows_alone(family):
    """No row sees another's image, padding or positions, whatever else is in the batch."""
    name, model, processor = family
    pairs = pairs_of(name)
    plain = [row_of("What is it?", [picture(50)]), row_of("1 + 1?", [])]
    document = {"images": [], "messages": [*plain[1]["prompt"], *plain[1]["completion"]]}
    order = [plain[1], pairs[0], document, plain[0], *pairs[1:]]
    batch = exact(PairedCollator(processor)(copy.deepcopy(order)))
    assert batch["view_layout"].rows == {View.TEXT_RICH: 3, View.VISION_CENTRIC: 3, View.PLAIN: 3}
    nll = torch.cat([paired_nll(model, batch)[view] for view in batch["view_layout"].rows])
    alone = [own_nll(model, host_batch(processor, [row])) for row in [*by_view(pairs), plain[1], plain[0], document]]
    torch.testing.assert_close(nll, torch.cat(alone).detach(), rtol=1e-6, atol=0)


def test_views_may_be_left_out(family):
    name, model, processor = family
    rows = [*pairs_of(name), row_of("What is it?", [picture(50)]), row_of("1 + 1?", [])]
    batch = exact(PairedCollator(processor, pad_to_multiple_of=16)(copy.deepcopy(rows)))
    kept = {View.VISION_CENTRIC, View.PLAIN}
    marked = [shown(row, View.VISION_CENTRIC) if "text_rich_prompt" in row else row for row in rows]
    selected = exact(PairedCollator(processor, pad_to_multiple_of=16)(copy.deepcopy(marked)))
    whole, part = paired_nll(model, batch), paired_nll(model, selected)
    for view in kept:
        torch.testing.assert_close(part[view], whole[view], rtol=1e-6, atol=0)
    assert selected["input_ids"].shape[1] % 16 == 0


def test_strings_are_what_trl_makes_of_them(family):
    name, _, processor = family
    pairs = pairs_of(name)[:2]
    for row in pairs:
        row |= {view: processor.image_token + row[view][0]["content"] for view in PAIR_PROMPTS}
        row["completion"] = row["completion"][0]["content"]
    batch, host = exact(PairedCollator(processor)(copy.deepcopy(pairs))), host_batch(processor, by_view(pairs))
    assert batch.keys() - {"view_layout"} == host.keys()
    repeated = with_images_repeated(batch, batch["view_layout"])
    assert all(torch.equal(repeated[key], value) for key, value in host.items())


def test_no_image_is_cut(family, request):
    """Whatever stands for the image in the row: the cut falls between two of its tokens."""
    name, model, processor = family
    document = {"id": "doc", "images": [picture(0)], "messages": pair_row(0)["completion"]}
    document["messages"] = [{"role": "user", "content": "Hm?"}, *document["messages"]]
    ids = PairedCollator(processor)([copy.deepcopy(document)])["input_ids"][0]
    cut = (ids == model.config.image_token_id).nonzero()[1].item()
    with pytest.raises(PairError, match=f"id='doc'.*`max_length`={cut} would cut its image"):
        PairedCollator(processor, max_length=cut, overlong="cut_completion")([document])


def test_one_step_of_training(family, config):
    name, model, processor = family
    pairs = pairs_of(name)
    expected = model(**exact(PairedCollator(processor)(copy.deepcopy(pairs))), paired_loss=LossSettings()).loss
    features = Features({**PAIR_FEATURES, "vision_centric_images": List(Image())})
    trainer = ModalityBalancedSFTTrainer(
        build(name)[0].float(),
        config(max_steps=1),
        train_dataset=Dataset.from_list(pairs, features=features),
        processing_class=processor,
    )
    before = copy.deepcopy(trainer.model.state_dict())
    loss = trainer.train().training_loss
    assert math.isfinite(loss)
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    assert any(not torch.equal(value, before[key]) for key, value in trainer.model.state_dict().items())


# Families that TRL's own collator and loss do not train on prompt and completion

HOST_LIMITS = {
    # The cross-attention mask is made for the prompt alone, padded at the other end than the row
    "mllama": (RuntimeError, "must match the size of tensor"),
    # The processor refuses text without an image, which is what a completion is
    "paligemma": (ValueError, "`images` are expected"),
}


@pytest.mark.parametrize("name", HOST_LIMITS)
def test_what_trl_does_not_train_on(name):
    """When one of these fails, TRL has learned the family: move it to `FAMILIES`.

    Of these our collator makes batches (tests/collation/test_prompt_processors.py, tests/modeling/test_mllama.py).
    """
    model, processor = build(name)
    error, message = HOST_LIMITS[name]
    with pytest.raises(error, match=message):
        own_nll(model, host_batch(processor, by_view(pairs_of(name)[:1])))


def test_model_without_a_backbone_of_its_own_is_refused(monkeypatch):
    """Before the first step, unless it is known that its own forward gives the hidden states to its head."""
    model = build("llama4")[0]
    monkeypatch.delitem(families.FAMILIES, "llama4")
    with pytest.raises(ValueError, match="Llama4ForConditionalGeneration.*backbone"):
        add_paired_loss(model)


def test_factor_of_the_head_is_the_one_trl_trains_with():
    """Granite divides its logits; inside LLaVA-NeXT the model's own logits leave that out, TRL's loss does not."""
    model, processor = build("llava_next", text_config=GraniteConfig, logits_scaling=8.0)
    pairs = pairs_of("llava_next")
    host = host_batch(processor, by_view(pairs))
    logits = model(**{key: value for key, value in host.items() if key != "labels"}).logits[:, :-1] / 8
    labels = host["labels"][:, 1:]
    expected = torch.nn.functional.cross_entropy(logits[labels != -100], labels[labels != -100])
    trl = copy.deepcopy(model)
    add_fused_lm_head(trl)
    torch.testing.assert_close(trl(**host, fused_lm_head=True).loss, expected, rtol=1e-6, atol=0, check_dtype=False)
    add_paired_loss(model)
    loss = model(**exact(PairedCollator(processor)(pairs)), paired_loss=LossSettings(kl_weight=0.0)).loss
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
