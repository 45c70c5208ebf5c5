"""PaliGemma's pairs are the rows that its own processor makes of `text` and `suffix`: tokens, losses, gradients."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, Features, Image, List

from tests.families.models import IS_OLDER
from tests.testing.tiny import PAIR_FEATURES, picture
from tests.testing.tiny_families import build, exact, pairs_of
from trl_modality import ModalityBalancedSFTTrainer, PairedCollator, PairError
from trl_modality.modeling.forward import LossSettings, add_paired_loss
from trl_modality.views import PAIR_PROMPTS


def built():
    model, processor = build("paligemma")
    if IS_OLDER:
        model.config.get_text_config().final_logit_softcapping = None  # which PaliGemma's head forgets there
    return model, processor


@pytest.fixture(scope="module")
def paligemma():
    model, processor = built()
    add_paired_loss(model)
    return model.train(), processor


def in_strings(processor, pairs: list[dict]) -> list[dict]:
    for row in pairs:
        row |= {view: processor.image_token + row[view][0]["content"] for view in PAIR_PROMPTS}
        row["completion"] = row["completion"][0]["content"]
    return pairs


def written_out(processor, pairs: list[dict]) -> list[dict]:
    """Each view of each pair, by the processor itself: all in the text_rich view, then all in the other."""
    rows = []
    for view, own in (("text_rich", "images"), ("vision_centric", "vision_centric_images")):
        for row in pairs:
            images = row[own] or row["images"]
            row = processor(
                images=[images], text=[row[f"{view}_prompt"]], suffix=[row["completion"]], return_tensors="pt"
            )
            rows.append(exact(row))
    return rows


def nll(model, row: dict) -> torch.Tensor:
    labels = row["labels"][0, 1:]
    inputs = {key: value for key, value in row.items() if key != "labels"}
    logits = model(**inputs, use_cache=False).logits[0, :-1].double()
    return F.cross_entropy(logits[labels != -100], labels[labels != -100], reduction="none")


def test_pairs_are_the_rows_of_the_processor(paligemma):
    model, processor = paligemma
    pairs = in_strings(processor, pairs_of("paligemma")[:2])
    batch = PairedCollator(processor)(copy.deepcopy(pairs))
    rows = written_out(processor, pairs)
    assert len(batch["pixel_values"]) == 2
    for r, row in enumerate(rows):
        length = row["input_ids"].shape[1]
        assert int(batch["attention_mask"][r].sum()) == length
        for key in ("input_ids", "token_type_ids", "labels"):
            assert torch.equal(batch[key][r, :length], row[key][0]), key
    model.zero_grad()
    expected = torch.cat([nll(model, row) for row in rows]).mean()
    expected.backward()
    truth = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    output = model(**exact(batch), paired_loss=LossSettings(kl_weight=0.0))
    output.loss.backward()
    torch.testing.assert_close(output.loss, expected, rtol=1e-8, atol=0)
    total = torch.stack([gradient.norm() for gradient in truth.values()]).norm()
    for key, parameter in model.named_parameters():
        if key in truth:
            assert (parameter.grad - truth[key]).norm() <= 1e-6 * total, key


def test_rows_of_a_mixed_batch_are_those_rows_alone(paligemma):
    model, processor = paligemma
    pairs = pairs_of("paligemma")
    plain = {"prompt": [{"role": "user", "content": "Hm?"}], "completion": [{"role": "assistant", "content": "noise"}]}
    others = [plain | {"images": []}, plain | {"images": [picture(50)]}]
    collate = PairedCollator(processor)
    output = model(**exact(collate([*pairs, *others])), paired_loss=LossSettings())
    alone = [model(**exact(collate([row])), paired_loss=LossSettings()) for row in (*pairs, *others)]
    torch.testing.assert_close(output.plain.vision_nll, torch.cat([each.plain.vision_nll for each in alone[3:]]))
    for name in ("text_nll", "vision_nll", "kl"):
        expected = torch.cat([getattr(each.pairs, name) for each in alone[:3]])
        torch.testing.assert_close(getattr(output.pairs, name), expected, rtol=1e-8, atol=1e-10)


def test_a_prefix_of_the_prompt_cannot_be_shared(paligemma):
    """What the tokens before a question become depends on the question, the tokens of the image among them."""
    model, processor = paligemma
    pairs = in_strings(processor, pairs_of("paligemma")[:1])
    rows = written_out(processor, pairs)
    n_images = int((rows[0]["input_ids"] == processor.image_token_id).sum())
    assert n_images == processor.image_seq_length
    states = [
        model.model(**{key: value for key, value in row.items() if key != "labels"}).last_hidden_state[0, :n_images]
        for row in rows
    ]
    assert (states[0] - states[1]).norm() > 1e-3 * states[0].norm()


def test_a_conversation_has_no_prompt_that_could_see_itself(paligemma):
    _, processor = paligemma
    row = {"images": [picture(0)], "messages": [{"role": "user", "content": "Hm?"}]}
    row["messages"].append({"role": "assistant", "content": "noise"})
    with pytest.raises(PairError, match="Give the rows a `prompt` and a `completion`"):
        PairedCollator(processor)([row])


@pytest.mark.parametrize("name", ["paligemma", "mllama"])
def test_rows_without_pairs_train(config, name):
    """TRL's collator fails on them."""
    columns = {"images": "images", "prompt": "text_rich_prompt", "completion": "completion"}
    rows = [{name: pair[column] for name, column in columns.items()} for pair in pairs_of(name)]
    model, processor = build(name)
    trainer = ModalityBalancedSFTTrainer(
        model.float(),
        config(max_steps=1),
        train_dataset=Dataset.from_list(rows).cast_column("images", List(Image())),
        processing_class=processor,
    )
    assert math.isfinite(trainer.train().training_loss)


def test_one_step_of_training(paligemma, config):
    model, processor = paligemma
    pairs = pairs_of("paligemma")
    expected = model(**exact(PairedCollator(processor)(copy.deepcopy(pairs))), paired_loss=LossSettings()).loss
    features = Features({**PAIR_FEATURES, "vision_centric_images": List(Image())})
    trainer = ModalityBalancedSFTTrainer(
        built()[0].float(),
        config(max_steps=1),
        train_dataset=Dataset.from_list(pairs, features=features),
        processing_class=processor,
    )
    loss = trainer.train().training_loss
    assert math.isfinite(loss)
    assert loss == pytest.approx(expected.item(), rel=1e-4)
