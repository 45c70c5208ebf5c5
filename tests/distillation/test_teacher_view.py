"""Teachers that see something else than the text_rich view, against whole logits in float64, row by row."""

import pytest
import torch
from datasets import Dataset, Features, Image, List
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from tests.distillation.test_teachers import kl, logits_by_row
from tests.testing.runs import sequential
from tests.testing.tiny import MESSAGES, PAIR_FEATURES, pair_row, picture, shown, tiny_llava
from trl_modality import ModalityBalancedSFTTrainer, PairedCollator, PairError, View
from trl_modality.collation.teacher_view import TEACHER_BATCH
from trl_modality.data.quarantine import Quarantine
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


def trainer_of(config, given, n_rows=None, **options):
    model, processor = tiny_llava()
    args = sequential(config, per_device_train_batch_size=n_rows or len(given), **{**WEIGHTS, **options})
    dataset = Dataset.from_list([{key: row[key] for key in FEATURES} for row in given], features=FEATURES)
    return ModalityBalancedSFTTrainer(model.double(), args, train_dataset=dataset, processing_class=processor)


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


@pytest.mark.parametrize("teacher", ["live", "base", "ema"])
def test_a_teacher_prompt_that_is_the_text_rich_one_changes_nothing(config, teacher):
    given = [{**row, "teacher_prompt": row["text_rich_prompt"]} for row in (taught_row(i) for i in range(12))]
    losses = []
    for view in ("text_rich", "teacher_prompt"):
        options = {"teacher_view": view, "learning_rate": 0.1, "max_steps": 3, "teacher_ema_decay": 0.5}
        trainer = trainer_of(config, given, teacher=teacher, **options, n_rows=4)
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
        found = trainer.evaluate(trainer.train_dataset.select(range(6)))
        losses[-1].append(found["eval_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert len({*losses[0]}) == 4


def parts_of(row):
    """The pair with a teacher's prompt in parts, of which one is an image."""
    text = row["teacher_prompt"][0]["content"]
    return {
        **row,
        "teacher_prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}],
    }


BAD = [
    ({"teacher_prompt": None}, "`teacher_prompt` is missing.*set `teacher_view` to 'text_rich'"),
    ({"teacher_prompt": asked(" ")}, "`teacher_prompt` is empty"),
    ({"teacher_prompt": 3}, "`teacher_prompt` is neither a string nor a list"),
    ({"teacher_prompt": "Why?"}, "`teacher_prompt` given as a string, `completion` as a message list"),
    ({"teacher_prompt": asked("<image> Why?")}, "`teacher_prompt` has the image token '<image>'"),
    ({"teacher_images": picture(1)}, "`teacher_images` is Image, not a list"),
    ({"teacher_images": [3]}, "image 0 of the teacher_prompt view is int"),
    ({"teacher_images": [{"bytes": b"no", "path": None}]}, "`teacher_images`: image 0 "),
    (
        {"teacher_prompt": [*asked("Why?"), {"role": "assistant", "content": "So: "}]},
        "`completion` tokenizes differently after `teacher_prompt`",
    ),
]


@pytest.mark.parametrize(("own", "message"), BAD)
def test_what_is_bad_for_the_teacher_alone(own, message, tmp_path):
    collate = PairedCollator(tiny_llava()[1], teacher_view="teacher_prompt")
    bad = taught_row(7, **own)
    with pytest.raises(PairError, match=f"id='pair-7'.*{message}"):
        collate([taught_row(0), bad])
    if own == {"teacher_prompt": None}:
        PairedCollator(tiny_llava()[1])([bad])  # of which nobody else knows
        collate.quarantine = Quarantine(tmp_path / "bad.jsonl")
        batch = collate([taught_row(0), bad, taught_row(2)])
        (record,) = collate.quarantine.records()
        assert record["field"] == "teacher_prompt"
        assert batch["view_layout"].pairs == batch[TEACHER_BATCH]["view_layout"].rows[View.TEXT_RICH] == 2


def test_slots_of_the_teachers_prompt_are_those_of_its_images():
    collate = PairedCollator(tiny_llava()[1], teacher_view="teacher_prompt")
    row = parts_of(taught_row(0))
    assert collate([row])[TEACHER_BATCH]["pixel_values"].shape[0] == 1
    with pytest.raises(PairError, match=r"`teacher_prompt` has 1 image slot\(s\), but the teacher_prompt view has 2"):
        collate([{**row, "teacher_images": [picture(0), picture(1)]}])


def test_text_only_takes_images_out_of_parts_and_of_strings():
    processor = tiny_llava()[1]
    collate = PairedCollator(processor, teacher_view="text_only")
    row = taught_row(0)
    plain = collate([row])[TEACHER_BATCH]
    text = row["text_rich_prompt"][0]["content"]
    in_parts = [{"type": "image"}, {"type": "text", "text": text}]
    parts = collate([{**row, "text_rich_prompt": [{"role": "user", "content": in_parts}]}])[TEACHER_BATCH]
    strings = {"text_rich_prompt": f"<image>{text}", "vision_centric_prompt": "<image>Why?", "completion": " So."}
    written = collate([{**row, **strings}])[TEACHER_BATCH]
    assert torch.equal(parts["input_ids"], plain["input_ids"])
    assert processor.tokenizer.decode(written["input_ids"][0]) == f"{text} So."
    for batch in (plain, parts, written):
        assert "pixel_values" not in batch
        assert not (batch["input_ids"] == processor.image_token_id).any()


@pytest.mark.parametrize("overlong", ["error", "drop", "cut_completion"])
def test_a_teachers_prompt_above_max_length(overlong):
    """The row is refused, left out, or cut in all of its views, by as many tokens."""
    processor = tiny_llava()[1]
    long = taught_row(1, teacher_prompt=asked("red " * 60), completion=[{"role": "assistant", "content": "4 " * 9}])
    given = [taught_row(0), long, taught_row(2)]
    whole = PairedCollator(processor, teacher_view="teacher_prompt")([long])
    limit = whole[TEACHER_BATCH]["view_layout"].lengths[View.TEXT_RICH][0] - 3
    collate = PairedCollator(processor, max_length=limit, overlong=overlong, teacher_view="teacher_prompt")
    if overlong == "error":
        with pytest.raises(PairError, match=f"id='pair-1': the teacher_prompt view has {limit + 3} tokens, above"):
            collate(given)
        return
    batch = collate(given)
    layout, taught = batch["view_layout"], batch[TEACHER_BATCH]
    assert layout.overlong == {"dropped": int(overlong == "drop"), "cut": int(overlong != "drop")}
    assert taught["view_layout"].examples[View.TEXT_RICH] == layout.examples[View.TEXT_RICH]
    assert len(taught["labels"]) == layout.pairs == (2 if overlong == "drop" else 3)
    for own, other in zip(taught["labels"], batch["labels"][: layout.pairs], strict=True):
        assert torch.equal(own[own != -100], other[other != -100])
    if overlong != "drop":
        n_whole, n_cut = ((labels != -100).sum() for labels in (whole["labels"][0], batch["labels"][1]))
        assert n_cut == n_whole - 3


def test_only_pairs_in_both_views_have_a_teacher(config):
    collate = PairedCollator(tiny_llava()[1], teacher_view="teacher_prompt")
    alone = {key: value for key, value in taught_row(1).items() if key != "teacher_prompt"}
    plain = {"images": [picture(9)], "prompt": asked("Why?"), "completion": pair_row(3)["completion"]}
    both = shown(taught_row(0), View.TEXT_RICH, View.VISION_CENTRIC)
    others = [shown(alone, View.TEXT_RICH), shown(alone, View.VISION_CENTRIC), shown(plain, View.PLAIN)]
    assert TEACHER_BATCH not in collate(others)
    batch = collate([*others, both])
    assert batch[TEACHER_BATCH]["view_layout"].examples == {View.TEXT_RICH: (3,)}
    # Nor is anything but the text_rich view held, where a blind teacher reads more
    options = {"teacher_view": "teacher_prompt", "kl_mask": "visual_advantage", "anchor_weight": 1.0}
    trainer = trainer_of(config, rows(), teacher="base", **options)
    given = trainer._collating(trainer.data_collator, trainer._loss_settings)([*others, both])
    for part in (given, given[TEACHER_BATCH], given[ANCHOR_BATCH]):
        part["pixel_values"] = part["pixel_values"].double()
    with trainer._attention():
        _, found = trainer._taught(trainer.model, given, trainer._loss_settings)
    assert found["teachings"].teachers.keys() == {"pairs"}
    assert found["teachings"].anchors.keys() == {"pairs", "text_rich"}


def test_a_rank_without_pairs_reads_as_often_as_the_others(config, monkeypatch):
    """And learns nothing of what it reads for them."""
    trainer = trainer_of(config, rows(), teacher="base", teacher_view="teacher_prompt", anchor_weight=1.0)
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    read, sizes = trainer._teaching._read, []
    monkeypatch.setattr(
        trainer._teaching, "_read", lambda *given: sizes.append(len(given[2]["labels"])) or read(*given)
    )
    settings = trainer._loss_settings.with_rows_apart()
    for given in (rows(), [shown(row, View.VISION_CENTRIC) for row in rows()[:3]]):
        batch = trainer._collating(trainer.data_collator, settings)(given)
        for part in (batch, batch.get(TEACHER_BATCH, {}), batch.get(ANCHOR_BATCH, {})):
            if part:
                part["pixel_values"] = part["pixel_values"].double()
        _, found = trainer._taught(trainer.model, batch, settings)
    assert sizes == [5, 5, 3, 3]
    assert not found["teachings"].teachers
    assert not found["teachings"].anchors


def test_what_the_teacher_needs_is_not_lost_on_the_way(config, monkeypatch):
    trainer = trainer_of(config, rows(), teacher_view="text_only")
    batch = trainer._collating(trainer.data_collator, trainer._loss_settings)(rows())
    without = {key: value for key, value in batch.items() if key != TEACHER_BATCH}
    with pytest.raises(
        ValueError, match="a batch with pairs has no `teacher_batch`, which `teacher_view='text_only'`"
    ):
        trainer._taught(trainer.model, without, trainer._loss_settings)
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    trainer.is_fsdp_enabled = True
    with pytest.raises(ValueError, match="`teacher_view='text_only'` with FSDP or ZeRO-3"):
        trainer._check_sharding(trainer.args)
    with pytest.raises(ValueError, match="no row of a batch shows its teacher an image.*id='pair-0'"):
        trainer._taught(trainer.model, batch, trainer._loss_settings)
    fewer = {
        **batch,
        TEACHER_BATCH: PairedCollator(tiny_llava()[1], teacher_view="text_only")(rows()[:2])[TEACHER_BATCH],
    }
    fewer["labels"] = fewer["labels"].clone()
    with pytest.raises(ValueError, match="`teacher_batch` has 2 rows, the batch 5 pairs in both views"):
        trainer._taught(trainer.model, fewer, trainer._loss_settings)


def test_a_column_that_no_teacher_reads_is_said(config, caplog):
    with caplog.at_level("WARNING", logger="transformers"):
        trainer_of(config, rows(), teacher_view="teacher_prompt")
        assert "no teacher reads" not in caplog.text
        trainer_of(config, rows(), teacher_view="text_only")
    assert (
        "`train_dataset` has a `teacher_prompt`, which no teacher reads with `teacher_view='text_only'`" in caplog.text
    )


def test_options_of_the_view(config):
    with pytest.raises(
        ValueError, match="`teacher_view` must be one of text_rich, text_only, teacher_prompt, got 'x'"
    ):
        config(teacher_view="x")
    with pytest.raises(ValueError, match="`teacher_view` must be one of"):
        PairedCollator(tiny_llava()[1], teacher_view="x")
    assert config(teacher_view="text_only", kl_weight=0.0).used_teacher_view == "text_rich"
    model, processor = tiny_llava()
    with pytest.raises(ValueError, match="`teacher_view` of the config is 'text_only', that of the given"):
        ModalityBalancedSFTTrainer(
            model,
            config(teacher_view="text_only"),
            train_dataset=Dataset.from_list([pair_row(0)], features=PAIR_FEATURES),
            processing_class=processor,
            data_collator=PairedCollator(processor),
        )
