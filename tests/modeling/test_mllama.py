"""Mllama reads images through cross-attention: in any batch, each row is what transformers makes of it alone.

The truth is plain transformers on one row at a time, as its own processor makes it of prompt and completion.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, Features, Image, List
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)
from trl import prepare_multimodal_messages

from tests.testing.runs import PLAIN_FEATURES, assert_same, run
from tests.testing.tiny import PAIR_FEATURES, pair_row, picture
from tests.testing.tiny_families import build, exact, pairs_of
from trl_modality import ModalityBalancedSFTTrainer, PairedCollator, PairError
from trl_modality.collation.cross_attention import cross_attention_mask
from trl_modality.evaluation import TransformersGenerator
from trl_modality.evaluation.models.requests import Request
from trl_modality.modeling.attention import shared_prefix_attention
from trl_modality.modeling.forward import LossSettings, add_paired_loss, output_with_logits
from trl_modality.views import PAIR_PROMPTS, View, images_of


SETTINGS = {"rows": {}, "shared": {"share_prefix": True}, "padding_free": {"padding_free": True}}
FEATURES = Features({**PAIR_FEATURES, "text_rich_images": List(Image()), "vision_centric_images": List(Image())})


@pytest.fixture(scope="module")
def mllama():
    model, processor = build("mllama")
    add_paired_loss(model)
    return model.train(), processor


def prompt(*parts: str) -> list[dict]:
    """A message whose empty parts are images."""
    content = [{"type": "text", "text": part} if part else {"type": "image"} for part in parts]
    return [{"role": "user", "content": content}]


def pairs_of_all_kinds() -> list[dict]:
    """The same images, two together in the middle, others in one view, none in one view, two apart."""
    rows = [*pairs_of("mllama"), *(pair_row(seed) for seed in range(3, 5))]
    for row in rows:
        row["text_rich_images"] = None
        row.setdefault("vision_centric_images", None)
    rows[1]["images"] = [picture(70).resize((48, 16)), picture(71).resize((16, 16))]
    rows[1] |= {view: prompt("Look: ", "", "", f"and {view[0]}", "?") for view in PAIR_PROMPTS}
    rows[3]["text_rich_images"] = []
    rows[3]["text_rich_prompt"] = prompt("words alone")
    rows[4]["images"] = [picture(72).resize((32, 16)), picture(73).resize((32, 32))]
    rows[4] |= {view: prompt("", view[0], "", "Well?") for view in PAIR_PROMPTS}
    return rows


PLAIN = {"images": [picture(50).resize((32, 32))], "prompt": prompt("What?", ""), "completion": "noise"}
PLAIN["completion"] = [{"role": "assistant", "content": "noise"}]
TEXT = PLAIN | {"images": [], "prompt": prompt("1 + 1?")}
DOCUMENT = {"images": PLAIN["images"], "messages": [*PLAIN["prompt"], *PLAIN["completion"]]}


def row_alone(processor, text: str, completion: str, images: list) -> dict:
    """The processor's own tensors of a row, and which of its tokens are of the completion."""
    shown = {"images": [images]} if images else {}
    options = {"return_tensors": "pt", "add_special_tokens": False}
    row = exact(processor(text=[text + completion], **shown, **options))
    n_prompt = processor(text=[text], **shown, **options)["input_ids"].shape[1]
    row["labels"] = row["input_ids"].clone()
    row["labels"][:, :n_prompt] = -100
    return row


def in_text(processor, prompt, completion, images) -> tuple[str, str]:
    if isinstance(prompt, str):
        return prompt, completion
    prompt = prepare_multimodal_messages(prompt, images=images)
    begin = processor.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    whole = processor.apply_chat_template([*prompt, *completion], tokenize=False)
    return begin, whole.removeprefix(begin)


def rows_apart(processor, rows: list[dict]) -> list[dict]:
    """The rows of a batch, each by itself, in the order of the batch without what it sorts."""
    apart = []
    for row in rows:
        views = (View.TEXT_RICH, View.VISION_CENTRIC) if "completion" in row and "prompt" not in row else (View.PLAIN,)
        for view in views:
            asked = row.get("prompt") or row.get(f"{view}_prompt") or row["messages"][:1]
            images = images_of(row, view)
            texts = in_text(processor, asked, row.get("completion") or row["messages"][1:], images)
            apart.append(row_alone(processor, *texts, images))
            if "messages" in row:
                apart[-1]["labels"] = apart[-1]["input_ids"].clone()
    return apart


def predicted(model, row: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-probabilities of plain transformers at the labels, and the labels."""
    labels = row["labels"][0, 1:]
    inputs = {key: value for key, value in row.items() if key != "labels"}
    logp = model(**inputs, use_cache=False).logits[0, :-1].double().log_softmax(-1)
    return logp[labels != -100], labels[labels != -100]


def truth_of(model, rows: list[dict], n_pairs: int, kl_weight: float) -> torch.Tensor:
    total, n_tokens, logps = 0.0, 0, []
    for row in rows:
        logp, labels = predicted(model, row)
        total, n_tokens = total + F.nll_loss(logp, labels, reduction="sum"), n_tokens + len(labels)
        logps.append(logp)
    for text, vision in zip(logps[: 2 * n_pairs : 2], logps[1 : 2 * n_pairs : 2], strict=True):
        total = total + kl_weight * F.kl_div(vision, text.detach(), reduction="sum", log_target=True)
    return total / n_tokens


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {key: torch.zeros_like(p) if p.grad is None else p.grad.clone() for key, p in model.named_parameters()}


def assert_close(found: dict, expected: dict, within: float = 1e-6) -> None:
    total = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for key, gradient in expected.items():
        assert (found[key] - gradient).norm() <= within * total, key


@pytest.mark.parametrize("how", SETTINGS)
@pytest.mark.parametrize("kl_weight", [0.0, 0.7])
def test_losses_and_gradients_are_those_of_rows_alone(mllama, how, kl_weight):
    """Of every kind of pair, rows with an image and without, in one batch."""
    model, processor = mllama
    rows = [*pairs_of_all_kinds(), PLAIN, TEXT, DOCUMENT]
    expected = truth_of(model, rows_apart(processor, rows), 5, kl_weight)
    true_gradients = gradients(model, expected)
    assert all(gradient.any() for key, gradient in true_gradients.items() if "cross_attn" in key)
    batch = exact(PairedCollator(processor)(copy.deepcopy(rows)))
    with shared_prefix_attention(model.get_decoder()):
        loss = model(**batch, paired_loss=LossSettings(kl_weight=kl_weight, **SETTINGS[how])).loss
        torch.testing.assert_close(loss, expected, rtol=1e-8, atol=0)
        assert_close(gradients(model, loss), true_gradients)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=4),
    st.lists(st.integers(1, 4), min_size=36, max_size=36),
)
def test_the_mask_is_the_one_of_the_processor(is_image, tiles):
    """Of each row alone: images first, last, next to one another, none."""
    length, most = max(map(len, is_image)), max(1, *map(sum, is_image))
    padded = torch.tensor([[*row, *[False] * (length - len(row))] for row in is_image])
    counts = padded.sum(1).tolist()
    begins = torch.tensor([0, *counts]).cumsum(0).tolist()
    images = torch.tensor([[begins[r] + i if i < n else -1 for i in range(most)] for r, n in enumerate(counts)])
    n_tiles = torch.tensor(tiles[: max(1, sum(counts))])
    has_tile = (torch.arange(4) < n_tiles.unsqueeze(1)).long()
    mask = cross_attention_mask(padded, images.view(len(counts), most), has_tile)
    assert mask.shape == (len(is_image), length, most, 4)
    for r, row in enumerate(is_image):
        if counts[r] == 0:
            assert not mask[r].any()
            continue
        seen = get_cross_attention_token_mask([int(each) for each in row], 1)
        own = n_tiles[begins[r] : begins[r + 1]].tolist()
        dense = convert_sparse_cross_attention_mask_to_dense([seen], [own], 4, len(row))[0]
        assert mask[r, : len(row), : counts[r]].tolist() == dense.tolist()
        assert not mask[r, :, counts[r] :].any()


@pytest.mark.parametrize("how", SETTINGS)
def test_each_image_is_encoded_once(mllama, how):
    """And its keys and values are made once, for all rows and prompts of one sequence."""
    model, processor = mllama
    batch = exact(PairedCollator(processor)([row | {"vision_centric_images": None} for row in pairs_of("mllama")]))
    seen: dict[str, int] = {}

    def count(module, inputs):
        name = "images" if module is model.model.vision_model.patch_embedding else "keys"
        seen[name] = inputs[0].flatten(0, -2).shape[0] if name == "keys" else len(inputs[0])

    modules = (model.model.vision_model.patch_embedding, model.model.language_model.layers[1].cross_attn.k_proj)
    handles = [module.register_forward_pre_hook(count) for module in modules]
    try:
        with shared_prefix_attention(model.get_decoder()):
            model(**batch, paired_loss=LossSettings(**SETTINGS[how]))
    finally:
        for handle in handles:
            handle.remove()
    features = model.model.vision_model.num_patches
    assert seen["images"] == 3 * 4
    assert seen["keys"] == (6 * 4 if how == "rows" else 3 * 4 + 1) * features


def test_logits_of_a_batch_are_those_of_rows_alone(mllama):
    model, processor = mllama
    rows = [pairs_of("mllama")[2], PLAIN, TEXT]
    batch = exact(PairedCollator(processor)(copy.deepcopy(rows)))
    logits = output_with_logits(model, batch).logits
    for row, found in zip(rows_apart(processor, rows), logits, strict=True):
        with torch.no_grad():
            expected = model(**{key: value for key, value in row.items() if key != "labels"}).logits[0]
        torch.testing.assert_close(found[: len(expected)], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 8])
def test_an_answer_does_not_depend_on_the_images_of_others(mllama, seed):
    """In transformers' own batch these two requests get other answers than alone."""
    model, processor = mllama
    images = picture(seed).resize((32, 32)), picture(seed + 1).resize((32, 16))
    requests = [
        Request(f"<s><user>{'word ' * 6}{seed}<|image|>bb<end><assistant>", images[:1]),
        Request("<s><user>a<|image|>cc<|image|>bb<end><assistant>", images),
    ]
    generate = TransformersGenerator(model, processor, max_new_tokens=8)
    assert generate(requests) == [generate([request])[0] for request in requests]


@pytest.mark.parametrize("how", ["checkpointing", "lora", "bf16"])
def test_a_run_that_shares_is_that_of_rows_of_their_own(config, how):
    rows = pairs_of_all_kinds()
    dataset = Dataset.from_list(rows[:3] + rows[4:], features=FEATURES)
    replay = Dataset.from_list([TEXT], features=PLAIN_FEATURES)
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False) if how == "lora" else None
    runs = []
    for own in ({"share_prefix": False}, {"share_prefix": True}):
        model, processor = build("mllama")
        torch.manual_seed(0)  # the adapter's weights
        args = config(
            train_sampling_strategy="sequential",
            max_steps=2,
            replay_ratio=0.34,
            per_device_train_batch_size=3,
            gradient_checkpointing=how == "checkpointing",
            bf16=how == "bf16",
            **own,
        )
        options = {"replay_dataset": replay, "peft_config": copy.deepcopy(lora), "processing_class": processor}
        runs.append(run(ModalityBalancedSFTTrainer, args, dataset, model=model, **options))
    assert_same(*runs[::-1], rtol=5e-2 if how == "bf16" else 1e-6)
    assert all(gradient.isfinite().all() for gradient in runs[0][2][0].values())


def test_as_many_slots_as_images(mllama):
    row = pair_row(0) | {"text_rich_prompt": "a<|image|><|image|>", "vision_centric_prompt": "<|image|>"}
    with pytest.raises(PairError, match="id='pair-0'.*Found total 2 <|image|> tokens and 1 images"):
        PairedCollator(mllama[1])([row | {"completion": "y"}])


def test_embeddings_are_refused(mllama):
    """Adapters put virtual tokens before them, and nobody has said which images those see."""
    model, processor = mllama
    batch = exact(PairedCollator(processor)(pairs_of("mllama")[:1]))
    batch["inputs_embeds"] = model.get_input_embeddings()(batch.pop("input_ids"))
    with pytest.raises(ValueError, match="MllamaForConditionalGeneration .* is given embeddings or a cache"):
        model(**batch, paired_loss=LossSettings())


def test_a_batch_without_a_row_is_that_of_the_others(mllama):
    """A row that is too long takes its images with it, and what the others see of theirs stays."""
    rows = [*pairs_of_all_kinds(), PLAIN, TEXT, DOCUMENT]
    collate = PairedCollator(mllama[1], max_length=52, overlong="drop")
    batch, others = collate(copy.deepcopy(rows)), collate(copy.deepcopy([*rows[:2], *rows[3:]]))
    assert batch["view_layout"].overlong["dropped"] == 1
    assert others["view_layout"].overlong["dropped"] == 0
    assert batch.keys() == others.keys()
    assert all(torch.equal(batch[key], others[key]) for key in batch.keys() - {"view_layout"})
