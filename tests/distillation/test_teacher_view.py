"""Teachers that see something else than the text_rich view, against whole logits in float64, row by row."""

import pytest
import torch
from datasets import Dataset, Features, Image, List
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from tests.distillation.test_teachers import kl, logits_by_row
from tests.testing.runs import sequential
from tests.testing.tiny import MESSAGES, PAIR_FEATURES, pair_row, picture, tiny_llava
from trl_modality import ModalityBalancedSFTTrainer, PairedCollator, View
from trl_modality.collation.teacher_view import TEACHER_BATCH
from trl_modality.distillation.teaching import ANCHOR_BATCH


FEATURES = Features(
    {
        **PAIR_FEATURES,
        "teacher_prompt": MESSAGES,
        **dict.fromkeys(("teacher_images", "text_rich_images", "vision_centric_images"), List(Image())),
    }
)
WEIGHTS = {"text_rich_weight": 0.7, "vision_centric_weight": 0.5, "kl_weight": 1.5, "kl_temperature": 2.0}


def asked(text):
    return [{"role": "user", "content": text}]


def taught_row(seed, **own):
    """A pair with a hint that only its teacher reads."""
    row = {**pair_row(seed), **dict.fromkeys(("teacher_images", "text_rich_images", "vision_centric_images"))}
    hint = row["completion"][0]["content"]
    return {**row, "teacher_prompt": asked(f"{hint} {hint} {row['vision_centric_prompt'][0]['content']}"), **own}


def rows():
    """Of the teacher's images: the pair's, two of its own, none, and one where the text_rich view has none."""
    return [
        taught_row(0),
        taught_row(1, teacher_images=[picture(50), picture(51)]),
        taught_row(2, teacher_images=[]),
        taught_row(3, text_rich_images=[], vision_centric_images=[picture(52)], teacher_images=[picture(53)]),
        taught_row(4, text_rich_images=[]),
    ]


def trainer_of(config, given, processing_class=None, **options):
    model, processor = tiny_llava()
    args = sequential(config, per_device_train_batch_size=len(given), check_rows=0, **{**WEIGHTS, **options})
    dataset = Dataset.from_list([{key: row[key] for key in FEATURES} for row in given], features=FEATURES)
    return ModalityBalancedSFTTrainer(
        model.double(), args, train_dataset=dataset, processing_class=processing_class or processor
    )


def seen(row, view):
    """What the teacher reads and is shown."""
    if view == "text_only":
        return row["text_rich_prompt"], []
    return row["teacher_prompt"], row["images"] if row["teacher_images"] is None else row["teacher_images"]


def teacher_logits(model, row, view):
    """As a user of TRL would make them of a row of its own, without a padding."""
    prompt, images = seen(row, view)
    collate = DataCollatorForVisionLanguageModeling(tiny_llava()[1], max_length=None, completion_only_loss=True)
    batch = collate([{"images": images, "prompt": prompt, "completion": row["completion"]}])
    labels = batch.pop("labels")[0, 1:]
    if "pixel_values" in batch:
        batch["pixel_values"] = batch["pixel_values"].double()
    with torch.no_grad():
        return model(**batch, use_cache=False).logits[0, :-1][labels != -100]


def by_hand(model, base, given, args, first=0):
    """The loss of pairs of whose completions the first tokens may have no label."""
    batch = PairedCollator(tiny_llava()[1])(given)
    batch["pixel_values"] = batch["pixel_values"].double()
    order, n = batch["view_layout"].examples[View.TEXT_RICH], len(given)
    own = logits_by_row(model, batch)
    with torch.no_grad():
        held = logits_by_row(base, batch)
    total, count = 0.0, 0
    for i, place in enumerate(order):
        (z_r, labels), (z_v, _), (z_a, _) = own[i], own[n + i], held[i]
        z_t = teacher_logits(model if args.teacher == "live" else base, given[place], args.teacher_view)
        z_r, z_v, z_a, z_t, labels = (each[first:] for each in (z_r, z_v, z_a, z_t, labels))
        picked = torch.arange(len(labels))
        share = torch.ones(len(labels))
        if args.kl_mask == "visual_advantage":
            blind = own[n + i] if args.teacher == "live" else held[n + i]
            p, p_blind = (z.softmax(-1)[picked, labels].detach() for z in (z_t, blind[0][first:]))
            share = (1 - p_blind / p).clamp(min=0)
        nll_r, nll_v = (-z.log_softmax(-1)[picked, labels] for z in (z_r, z_v))
        total = total + args.text_rich_weight * nll_r.sum() + args.vision_centric_weight * nll_v.sum()
        each = [kl(z_t[t : t + 1], z_v[t : t + 1], args.kl_temperature) for t in range(len(labels))]
        total = total + args.kl_weight * (share * torch.stack(each)).sum()
        total = total + (args.anchor_weight or 0.0) * kl(z_a, z_r, args.kl_temperature)
        count += 2 * len(labels)
    return total / count


def check(config, given, first=0, **options):
    trainer = trainer_of(config, given, **options)
    model, base = trainer.model, tiny_llava()[0].double()
    torch.manual_seed(1)
    with torch.no_grad():  # as if it had trained
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    (batch,) = trainer.get_train_dataloader()
    assert (TEACHER_BATCH in batch) == (trainer.args.teacher_view != "text_rich")
    if first:
        starts = (batch["labels"] != -100).long().argmax(1, keepdim=True)
        is_first = torch.arange(batch["labels"].shape[1]) < starts + first
        batch["labels"] = batch["labels"].masked_fill(is_first, -100)
    inputs = trainer._prepare_inputs(batch)
    for part in (inputs, inputs.get(TEACHER_BATCH, {}), inputs.get(ANCHOR_BATCH, {})):
        if "pixel_values" in part:
            part["pixel_values"] = part["pixel_values"].double()
    with trainer._attention():
        loss = trainer.compute_loss(model, inputs)
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    truth = by_hand(model, base, given, trainer.args, first)
    truth.backward()
    assert loss.item() == pytest.approx(truth.item(), abs=1e-8)
    wanted = {name: p.grad for name, p in model.named_parameters()}
    typical = max(grad.norm() for grad in wanted.values() if grad is not None)
    for name, grad in wanted.items():
        assert (grad is None) == (found[name] is None), name
        if grad is not None:
            assert (found[name] - grad).norm() <= 1e-6 * max(grad.norm(), 1e-3 * typical), name
    return batch


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("view", ["text_only", "teacher_prompt"])
@pytest.mark.parametrize(
    "options",
    [
        {"teacher": "live"},
        {"teacher": "live", "kl_mask": "visual_advantage"},
        {"teacher": "base", "anchor_weight": 0.8, "kl_mask": "visual_advantage"},
        {"teacher": "base"},
    ],
    ids=["live", "live-advantage", "base-anchored-advantage", "base"],
)
def test_loss_and_gradients_are_those_by_hand(config, options, view, share_prefix):
    batch = check(config, rows(), teacher_view=view, share_prefix=share_prefix, **options)
    assert (ANCHOR_BATCH in batch) == (len(options) > 1)


def test_the_text_rich_view_by_hand_in_the_same_way(config):
    """The reference itself: of a teacher that sees what the text_rich view shows."""
    given = [{**row, "teacher_prompt": row["text_rich_prompt"]} for row in (taught_row(i) for i in range(4))]
    check(config, given, teacher="base", teacher_view="teacher_prompt", anchor_weight=0.8)


@pytest.mark.parametrize("padding_free", [True, False])
def test_labels_that_are_changed_are_the_teachers_too(config, padding_free):
    check(config, rows(), first=2, teacher="base", teacher_view="teacher_prompt", padding_free=padding_free)
