"""Pairs whose text_rich view is words alone, or shows other images: losses and gradients are those of rows apart."""

import copy

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, Features, Image, List
from peft import LoraConfig

from tests.testing.runs import assert_same, run
from tests.testing.tiny import PAIR_FEATURES, pair_row, picture, shown
from tests.testing.tiny_families import build, exact, is_built, pairs_of
from trl_modality import ModalityBalancedSFTTrainer, PairedCollator
from trl_modality._compat import DataCollatorForVisionLanguageModeling
from trl_modality.modeling import families
from trl_modality.modeling.attention import use_shared_prefix
from trl_modality.modeling.forward import LossSettings, add_paired_loss
from trl_modality.views import View, images_of


FEATURES = Features({**PAIR_FEATURES, "text_rich_images": List(Image()), "vision_centric_images": List(Image())})
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
TRAINED = [name for name in families.FAMILIES if is_built(name) and name not in ("mllama", "paligemma")]


def words_alone(name: str) -> list[dict]:
    """Four pairs: the images of the picture view are those of both, of it alone, two of its own, not the other's."""
    rows = [*pairs_of(name), pair_row(3)]
    for row in rows:
        row["text_rich_images"] = None
        row.setdefault("vision_centric_images", None)
    rows[1]["text_rich_images"] = []
    rows[2]["text_rich_images"] = []
    rows[3]["text_rich_images"] = [picture(95).resize(rows[0]["images"][0].size)]
    rows[3]["images"] = [picture(96).resize(rows[0]["images"][0].size)]
    return rows


def rows_apart(model, processor, rows) -> torch.Tensor:
    """The loss of pairs, each view a batch of its own through the model's own forward, as its formula says."""
    collate = DataCollatorForVisionLanguageModeling(processor, max_length=None, completion_only_loss=True)
    total, n_tokens = 0.0, 0
    for row in rows:
        predicted = []
        for view in (View.TEXT_RICH, View.VISION_CENTRIC):
            given = {"prompt": row[f"{view}_prompt"], "completion": row["completion"], "images": images_of(row, view)}
            batch = exact(collate([given]))
            labels = batch.pop("labels")[0, 1:]
            logp = model(**batch, use_cache=False).logits[0, :-1].log_softmax(-1)[labels != -100]
            total = total + F.nll_loss(logp, labels[labels != -100], reduction="sum")
            n_tokens += len(logp)
            predicted.append(logp)
        total = total + F.kl_div(predicted[1], predicted[0].detach(), reduction="sum", log_target=True)
    return total / n_tokens


def gradients(model, loss) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    named = model.named_parameters()
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for _, p in named])


@pytest.mark.parametrize("name", TRAINED)
def test_losses_and_gradients_are_those_of_views_apart(name):
    model, processor = build(name)
    model.double()
    add_paired_loss(model)
    rows = words_alone(name)
    truth = rows_apart(model, processor, rows)
    true_gradients = gradients(model, truth)
    batch = exact(PairedCollator(processor)(rows))
    ways = [{}]
    if families.FAMILIES[name].why_not_shared is None:
        ways += [{"share_prefix": True}, {"padding_free": True}]
    for settings in ways:
        if settings:
            use_shared_prefix(model.get_decoder())
        output = model(**batch, paired_loss=LossSettings(**settings))
        # The host's own losses are made of float32 logits in some families
        torch.testing.assert_close(output.loss, truth, rtol=1e-6, atol=0)
        found = gradients(model, output.loss)
        assert (found - true_gradients).norm() <= 1e-5 * true_gradients.norm(), settings


def test_an_image_of_one_view_is_in_the_batch_once():
    _, processor = build("llava")
    rows = words_alone("llava")[1:2]
    batch = PairedCollator(processor)(rows)
    layout = batch["view_layout"]
    image_id = processor.image_token_id
    assert len(batch["pixel_values"]) == 1
    assert layout.pairs == 1
    assert layout.sharing_pairs == 0
    assert [bool((ids == image_id).any()) for ids in batch["input_ids"]] == [False, True]
    # What is common ends where the picture begins
    assert layout.prefixes[0] <= int((batch["input_ids"][1] == image_id).nonzero()[0])


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("how", ["plain", "checkpointing", "lora"])
@pytest.mark.parametrize("settings", [{"share_prefix": True}, {"share_prefix": False, "padding_free": True}])
def test_a_run_is_that_of_rows_of_their_own(config, name, how, settings):
    dataset = Dataset.from_list(words_alone(name) * 2, features=FEATURES)
    runs = []
    for own in ({"share_prefix": False}, settings):
        model, processor = build(name)
        torch.manual_seed(0)  # the adapter's weights
        options = {"gradient_checkpointing": how == "checkpointing", "per_device_train_batch_size": 3}
        peft_config = copy.deepcopy(LORA) if how == "lora" else None
        args = config(train_sampling_strategy="sequential", max_steps=4, **options, **own)  # AdamW
        given = {"model": model, "processing_class": processor, "peft_config": peft_config}
        runs.append(run(ModalityBalancedSFTTrainer, args, dataset, **given))
    assert_same(*runs[::-1])


@pytest.mark.parametrize("overlong", ["drop", "cut_completion"])
def test_a_row_without_an_image_in_one_view_counts_as_one_with(overlong):
    """So it is left out, or cut in both views alike, and is never cut as text alone is."""
    _, processor = build("llava")
    rows = words_alone("llava")[:2]
    rows[1]["text_rich_prompt"] = [{"role": "user", "content": "red=1 " * 60}]
    whole = PairedCollator(processor)(rows)["view_layout"]
    limit = max(whole.lengths[View.TEXT_RICH]) - 2
    batch = PairedCollator(processor, max_length=limit, overlong=overlong)(rows)
    layout = batch["view_layout"]
    if overlong == "drop":
        assert layout.overlong == {"dropped": 1, "cut": 0}
        assert layout.rows[View.TEXT_RICH] == 1
    else:
        assert layout.overlong == {"dropped": 0, "cut": 1}
        lost = [sum(whole.lengths[view]) - sum(layout.lengths[view]) for view in (View.TEXT_RICH, View.VISION_CENTRIC)]
        assert lost == [2, 2]


def test_a_filler_lends_the_image_that_one_view_has():
    """A stage of words alone: its batch still has an image, of which nothing is learnt, for the vision tower."""
    _, processor = build("llava")
    row = words_alone("llava")[1]
    batch = PairedCollator(processor)([shown(row, View.TEXT_RICH), shown(row)])
    assert len(batch["pixel_values"]) == 1
    layout = batch["view_layout"]
    assert layout.rows == {View.TEXT_RICH: 1, View.VISION_CENTRIC: 1}
    assert not (batch["labels"][1] != -100).any()
    assert (batch["labels"][0] != -100).any()


def test_a_curriculum_of_words_alone_moves_the_vision_tower_by_a_gradient_of_zero(config):
    model, processor = build("llava")
    dataset = Dataset.from_list(words_alone("llava")[1:2] * 4, features=FEATURES)
    args = config(curriculum="text_rich", kl_weight=0.0, max_steps=2)
    _, _, steps = run(ModalityBalancedSFTTrainer, args, dataset, model=model, processing_class=processor)
    tower = [grad for name, grad in steps[0].items() if "vision_tower" in name]
    assert tower
    assert not any(grad.any() for grad in tower)
