"""What a run does with its teachers: no copy with an adapter, resume, accumulation, dropout, masks, warnings."""

import copy
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from tests.distillation.test_teachers import BATCH, kl, logits_by_row
from tests.testing.runs import sequential
from tests.testing.tiny import pair_dataset, pair_row, tiny_llava
from trl_modality import ModalityBalancedSFTTrainer, PairedCollator, View
from trl_modality.collation.select import selected_views
from trl_modality.distillation.teaching import AVERAGES, TEACHER_BATCH
from trl_modality.distillation.weights import AdapterOff, KeptWeights


LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"])
OWN = {"text_rich_weight": 0.0, "vision_centric_weight": 0.0, "teacher": "base", "logging_steps": 1}


def losses_of(trainer):
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def batch_of(trainer, rows):
    return trainer._collating(trainer.data_collator, trainer._loss_settings.with_rows_apart())(rows)


def test_the_base_of_an_adapter_is_no_copy(config, make_trainer):
    args = sequential(config, **OWN, learning_rate=0.1, max_steps=3)
    trainer = make_trainer(args, pair_dataset(12), peft_config=copy.deepcopy(LORA))
    frozen = next(p for name, p in trainer.model.named_parameters() if "lora_A" in name and "layers.0" in name)
    frozen.requires_grad_(False)  # as `train_parts` does
    base = copy.deepcopy(trainer.model.get_base_model())
    (weights,) = trainer._teaching._weights.values()
    assert isinstance(weights, AdapterOff)
    assert not weights.beside.values
    trainer.train()
    assert not frozen.requires_grad
    batch = batch_of(trainer, [pair_row(i) for i in range(BATCH)])
    inputs, found = trainer._teaching.of(trainer.model, batch, trainer._loss_settings.with_rows_apart())
    assert TEACHER_BATCH not in inputs
    teacher = found.teachers["pairs"]
    trained = trainer.model.get_base_model().lm_head.weight
    assert teacher.head.weight.data_ptr() != trained.data_ptr()  # of `modules_to_save`
    logits = teacher.hidden @ teacher.head.weight.T
    with torch.no_grad():
        for p in base.parameters():
            p.requires_grad_(False)
        plain = tiny_llava()[0]
        plain.load_state_dict({clean(n): p for n, p in trainer.model.state_dict().items() if is_base(n)}, strict=False)
        own = {k: v for k, v in inputs.items() if k != "token_layout"}
        truth = torch.cat([z for z, _ in logits_by_row(plain.eval(), own)[:BATCH]])
    torch.testing.assert_close(logits, truth, rtol=1e-4, atol=1e-5)


def is_base(name):
    return "lora_" not in name and "modules_to_save" not in name


def clean(name):
    return name.removeprefix("base_model.model.").replace(".base_layer", "").replace(".original_module", "")


def test_a_frozen_head_is_the_students_too(config, make_trainer):
    """By which the loss knows that it needs no converted copy of its own; a trained one is that of the start."""
    for adapter, is_shared in ((LoraConfig(r=2, target_modules=["q_proj"]), True), (None, False)):
        trainer = make_trainer(sequential(config, **OWN), pair_dataset(4), peft_config=adapter)
        batch = batch_of(trainer, [pair_row(i) for i in range(BATCH)])
        found = trainer._teaching.of(trainer.model, batch, trainer._loss_settings.with_rows_apart())[1]
        own = trainer.model.get_output_embeddings().weight
        assert (found.teachers["pairs"].head.weight is own) == is_shared


def test_what_trains_beside_an_adapter_is_that_of_the_start_too(config, make_trainer):
    trainer = make_trainer(
        sequential(config, **OWN), pair_dataset(4), peft_config=LoraConfig(r=2, target_modules=["q_proj"])
    )
    norm = trainer.model.get_base_model().model.language_model.norm.weight
    norm.requires_grad_(True)
    weights = AdapterOff(trainer.model)
    (name,) = weights.beside.values
    assert name.endswith("norm.weight")
    start = norm.detach().clone()
    norm.data.add_(1.0)
    with weights.in_place():
        assert torch.equal(norm, start)
    assert torch.equal(norm, start + 1.0)


@pytest.mark.parametrize("teacher", ["base", "ema"])
def test_a_resumed_run_is_the_one_that_was_not_interrupted(config, make_trainer, teacher):
    options = {**OWN, "teacher": teacher, "teacher_ema_decay": 0.5, "optim": "adamw_torch", "learning_rate": 1e-2}
    args = {**options, "train_sampling_strategy": "sequential", "save_steps": 2, "save_strategy": "steps"}
    whole = make_trainer(config(**args, max_steps=4), pair_dataset(16))
    whole.train()
    resumed = make_trainer(config(**args, max_steps=4), pair_dataset(16))
    checkpoint = f"{resumed.args.output_dir}/checkpoint-2"
    resumed.train(resume_from_checkpoint=checkpoint)
    assert losses_of(resumed)[-2:] == losses_of(whole)[-2:]
    for name, parameter in whole.model.state_dict().items():
        assert torch.equal(parameter, resumed.model.state_dict()[name]), name
    if teacher == "ema":
        kept = torch.load(f"{checkpoint}/{AVERAGES}", weights_only=True)
        assert kept.keys() == {name for name, p in whole.model.named_parameters() if p.requires_grad}
        Path(checkpoint, AVERAGES).unlink()
        with pytest.raises(ValueError, match=f"has no {AVERAGES}"):
            resumed._load_optimizer_and_scheduler(checkpoint)


def test_accumulation_does_not_change_the_step(config, make_trainer):
    steps = {}
    for size in (8, 2):
        args = sequential(
            config,
            **{**OWN, "teacher": "ema", "teacher_ema_decay": 0.3},
            per_device_train_batch_size=size,
            gradient_accumulation_steps=8 // size,
            learning_rate=0.1,
            max_steps=3,
        )
        trainer = make_trainer(args, pair_dataset(24))
        trainer.train()
        steps[size] = losses_of(trainer), trainer.model.state_dict()
    assert steps[2][0] == pytest.approx(steps[8][0], rel=1e-4)
    for name, parameter in steps[8][1].items():
        torch.testing.assert_close(parameter, steps[2][1][name], rtol=1e-4, atol=1e-5)


def test_a_teacher_has_no_dropout_and_leaves_the_student_its_own(config, make_trainer):
    trainer = make_trainer(sequential(config, **OWN), pair_dataset(8))
    trainer.model.config.text_config.attention_dropout = 0.5
    for layer in trainer.model.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.5
    tower = trainer.model.model.vision_tower
    trainer.model.train()
    tower.eval()  # as users freeze it
    batch = batch_of(trainer, [pair_row(i) for i in range(BATCH)])
    states = [
        trainer._teaching.of(trainer.model, dict(batch), trainer._loss_settings.with_rows_apart())[1]
        .teachers["pairs"]
        .hidden
        for _ in range(2)
    ]
    assert torch.equal(*states)
    assert trainer.model.training
    assert not any(module.training for module in tower.modules())


@pytest.mark.parametrize("share_prefix", [True, False])
def test_visual_advantage_is_what_the_teacher_owes_to_the_text(config, make_trainer, share_prefix):
    """1 − p_blind/p of the base, which reads the label in both views; against whole logits."""
    args = sequential(config, **OWN, kl_mask="visual_advantage", anchor_weight=0.0, share_prefix=share_prefix)
    args.max_steps = 1
    model = tiny_llava()[0].double()
    base = copy.deepcopy(model)
    trainer = make_trainer(args, pair_dataset(BATCH), model=model)
    batch = trainer.data_collator([pair_row(i) for i in range(BATCH)])
    batch["pixel_values"] = batch["pixel_values"].double()
    rows, total, shares, count = logits_by_row(base, batch), 0.0, 0.0, 0
    for (z_r, labels), (z_v, _) in zip(rows[:BATCH], rows[BATCH:], strict=True):
        picked = torch.arange(len(labels))
        p, blind = (z.softmax(-1)[picked, labels] for z in (z_r, z_v))
        share = (1 - blind / p).clamp(min=0)
        count += len(labels)
        total += sum(share[t] * kl(z_r[t : t + 1], z_v[t : t + 1]) for t in range(len(labels)))
        shares += share.sum()
    trainer.train()
    (log,) = [log for log in trainer.state.log_history if "loss" in log]
    assert log["loss"] == pytest.approx((total / count).item(), rel=1e-6)
    assert log["kl_share"] == pytest.approx((shares / count).item(), rel=1e-6)
    assert 0 < log["kl_share"] < 1


def test_replay_is_held_to_the_base(config, make_trainer):
    answer = [{"role": "assistant", "content": "2"}]
    asked = [[{"role": "user", "content": f"{i} + 1?"}] for i in range(8)]
    replay = Dataset.from_list([{"prompt": prompt, "completion": answer} for prompt in asked])
    args = {**OWN, "anchor_weight": 2.0, "replay_ratio": 0.5, "learning_rate": 0.1, "max_steps": 2}
    trainer = make_trainer(sequential(config, **args), pair_dataset(8), replay_dataset=replay)
    trainer.train()
    first, second = [log for log in trainer.state.log_history if "loss" in log]
    assert first["anchor_kl"] == pytest.approx(0.0, abs=1e-6)
    assert second["anchor_kl"] > 0.01
    # Tokens with a cross-entropy count, and those that learn from a teacher: not the text_rich view's
    n = second["replay_tokens"] + second["vision_centric_tokens"]
    whole = second["replay_nll"] * second["replay_tokens"] + second["kl"] * second["vision_centric_tokens"]
    whole += 2.0 * second["anchor_kl"] * (second["replay_tokens"] + second["text_rich_tokens"])
    assert second["loss"] == pytest.approx(whole / n, rel=1e-4)


def test_an_evaluation_has_its_teachers(config, make_trainer):
    args = sequential(config, **OWN, eval_strategy="no")
    trainer = make_trainer(args, pair_dataset(8), eval_dataset=pair_dataset(6))
    found = trainer.evaluate()
    assert found["eval_anchor_kl"] == pytest.approx(0.0, abs=1e-6)
    assert found["eval_teacher_nll"] == pytest.approx(found["eval_text_rich_nll"], rel=1e-5)


def test_labels_that_are_changed_are_read_by_the_teacher_too(config, make_trainer):
    trainer = make_trainer(sequential(config, **OWN), pair_dataset(8))
    batch = batch_of(trainer, [pair_row(i) for i in range(BATCH)])
    cut = batch["labels"].clone()
    for row in cut:
        row[row != -100] = torch.where(torch.arange(int((row != -100).sum())) == 0, -100, row[row != -100])
    changed = {**batch, "labels": cut}
    settings = trainer._loss_settings.with_rows_apart()
    inputs, teachings = trainer._taught(trainer.model, changed, settings)
    output = trainer.model(**inputs, **teachings, paired_loss=settings)
    # The base is the model that it is: token by token it says what the text_rich view says
    torch.testing.assert_close(output.pairs.teacher_nll, output.pairs.text_nll, rtol=1e-5, atol=1e-5)
    assert len(output.pairs.teacher_nll) == (cut[:BATCH] != -100).sum() < (batch["labels"][:BATCH] != -100).sum()


def test_what_is_not_used_costs_nothing(config, make_trainer):
    """Without teachers a batch is what it was; without a divergence in a step no teacher is run."""
    plain = make_trainer(sequential(config), pair_dataset(8))
    assert TEACHER_BATCH not in batch_of(plain, [pair_row(0)])
    args = sequential(config, teacher="base", kl_schedule="until", kl_schedule_at=0.5, max_steps=2, logging_steps=1)
    trainer = make_trainer(args, pair_dataset(8))
    (kept,) = trainer._teaching._weights.values()
    assert isinstance(kept, KeptWeights)
    trainer.train()
    assert ["teacher_nll" in log for log in trainer.state.log_history if "loss" in log] == [True, False]


@pytest.mark.parametrize(("options", "is_warned"), [({}, True), ({"anchor_weight": 1.0}, False), (OWN, False)])
def test_a_live_teacher_that_nothing_holds_is_warned_of(config, make_trainer, caplog, options, is_warned):
    given = {"text_rich_weight": 0.0, "teacher": "live", **options}
    with caplog.at_level("WARNING", logger="transformers"):
        make_trainer(sequential(config, **given), pair_dataset(4))
    assert ("nothing holds the text_rich view" in caplog.text) == is_warned


def test_a_teacher_by_its_folder_is_the_one_that_is_loaded(config, make_trainer, tmp_path):
    torch.manual_seed(9)
    other = tiny_llava()[0]
    for parameter in other.parameters():
        parameter.data.normal_(0, 0.05)
    other.save_pretrained(tmp_path / "teacher")
    options = {"text_rich_weight": 0.0, "vision_centric_weight": 0.0, "logging_steps": 1}
    found = []
    for given in ({"teacher": str(tmp_path / "teacher")}, {"teacher_model": other}):
        args = sequential(config, **options, **{k: v for k, v in given.items() if k == "teacher"})
        trainer = make_trainer(args, pair_dataset(8), **{k: v for k, v in given.items() if k == "teacher_model"})
        trainer.train()
        found.append(losses_of(trainer))
    assert found[0] == found[1]


def test_a_teacher_of_another_family_is_refused(config):
    other = tiny_llava()[0]
    other.config.image_token_index = other.config.image_token_id = 3
    with pytest.raises(ValueError, match="reads the student's tokens"):
        ModalityBalancedSFTTrainer(
            tiny_llava()[0],
            sequential(config),
            train_dataset=pair_dataset(4),
            processing_class=tiny_llava()[1],
            teacher_model=other,
        )


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({"teacher": "base"}, {"teacher_model": "a model"}, "`teacher_model` is given beside `teacher='base'`"),
        ({}, {"teacher_model": "a model", "train_dataset": "text"}, "`teacher_model` is for datasets with pairs"),
        ({"teacher": "ema"}, {"train_dataset": "text"}, "`teacher='ema'` is for datasets with pairs"),
    ],
)
def test_a_teacher_that_is_asked_for_twice_or_of_nobody(config, options, given, message):
    text = Dataset.from_list([{"text": "one and one is two"}])
    given = {"train_dataset": pair_dataset(4), **given}
    given["train_dataset"] = text if given["train_dataset"] == "text" else given["train_dataset"]
    with pytest.raises(ValueError, match=message):
        ModalityBalancedSFTTrainer(tiny_llava()[0], config(**options), processing_class=tiny_llava()[1], **given)


def test_views_of_a_batch():
    _, processor = tiny_llava()
    rows = [pair_row(i) for i in range(3)]
    batch = PairedCollator(processor)(rows)
    text = selected_views(batch, [View.TEXT_RICH])
    names = {"images": "images", "prompt": "text_rich_prompt", "completion": "completion"}
    alone = PairedCollator(processor)([{key: row[name] for key, name in names.items()} for row in rows])
    for key in ("input_ids", "labels", "attention_mask", "pixel_values"):
        assert torch.equal(text[key], alone[key]), key
    assert text["view_layout"].pairs == 0
    assert text["view_layout"].rows == {View.TEXT_RICH: 3}
    assert selected_views(batch, [View.REPLAY]) is None
    with pytest.raises(ValueError, match="select both"):
        selected_views(batch, [View.VISION_CENTRIC])
    both = selected_views(batch, [View.TEXT_RICH, View.VISION_CENTRIC])
    assert both["view_layout"] == batch["view_layout"]
