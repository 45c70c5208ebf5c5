"""Runs with teachers: against AdamW and full logits by hand in float64, step by step."""

import copy

import pytest
import torch

from tests.testing.runs import sequential
from tests.testing.tiny import pair_dataset, pair_row, tiny_llava
from trl_modality import ModalityBalancedSFTTrainer, PairedCollator
from trl_modality.collation.layout import with_images_repeated


RATE, DECAY, BATCH = 1e-2, 0.6, 4


def logits_by_row(model, batch):
    """The logits that predict the completion of each row, rows one by one in both views: text_rich rows first."""
    inputs = with_images_repeated(batch, batch["view_layout"])
    given = {k: v for k, v in inputs.items() if k not in ("labels", "view_layout")}
    logits = model(**given, use_cache=False).logits
    labels = batch["labels"]
    rows = []
    for i in range(len(labels)):
        keep = labels[i, 1:] != -100
        rows.append((logits[i, :-1][keep], labels[i, 1:][keep]))
    return rows


def kl(p, q, tau=1.0):
    log_p, log_q = (p / tau).log_softmax(-1), (q / tau).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum()


def loss_by_hand(model, teacher, anchor, batch, args):
    """The loss of a batch of pairs from whole logits; a teacher of `None` is the model's own text_rich view."""
    own, n = logits_by_row(model, batch), len(batch["labels"]) // 2
    with torch.no_grad():
        of_teacher = own if teacher is None else logits_by_row(teacher, batch)
        of_anchor = None if anchor is None else logits_by_row(anchor, batch)
    total, count = 0.0, 0
    for i in range(n):
        (z_r, labels), (z_v, _) = own[i], own[n + i]
        picked = torch.arange(len(labels))
        nll_r, nll_v = (-z.log_softmax(-1)[picked, labels] for z in (z_r, z_v))
        total = total + args.text_rich_weight * nll_r.sum() + args.vision_centric_weight * nll_v.sum()
        count += len(labels) * max(1, bool(args.text_rich_weight) + bool(args.vision_centric_weight))
        total = total + args.kl_weight * kl(of_teacher[i][0].detach(), z_v, args.kl_temperature)
        if of_anchor is not None:
            total = total + args.anchor_of_pairs * kl(of_anchor[i][0], z_r, args.kl_temperature)
    return total / count


def average(kept, model):
    with torch.no_grad():
        for old, new in zip(kept.parameters(), model.parameters(), strict=True):
            old.lerp_(new, 1 - DECAY)


def by_hand(args, model, steps, other=None):
    """Losses and weights of a run on pairs in their order."""
    teachers = {"live": None, "base": copy.deepcopy(model), "ema": copy.deepcopy(model), "other": other}
    collate = PairedCollator(tiny_llava()[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    model.train()
    losses = []
    for step in range(steps):
        batch = collate([pair_row(step * BATCH + i) for i in range(BATCH)])
        batch["pixel_values"] = batch["pixel_values"].double()
        teacher = teachers["other" if other is not None else args.teacher]
        anchor = teachers[args.anchor] if args.anchor_of_pairs else None
        loss = loss_by_hand(model, teacher, anchor, batch, args)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average(teachers["ema"], model)
        losses.append(loss.item())
    return losses, dict(model.named_parameters())


def run(args, model, steps, **kwargs):
    trainer = ModalityBalancedSFTTrainer(
        model, args, train_dataset=pair_dataset(steps * BATCH), processing_class=tiny_llava()[1], **kwargs
    )
    trainer.train()
    return trainer, [log["loss"] for log in trainer.state.log_history if "loss" in log]


def same(config, options, other=None, **kwargs):
    given = {"learning_rate": RATE, "lr_scheduler_type": "constant", "logging_steps": 1, "max_steps": 3}
    args = sequential(config, **given, **options, teacher_ema_decay=DECAY)
    args.optim, args.weight_decay = "adamw_torch", 0.0
    model = tiny_llava()[0].double()
    known = copy.deepcopy(args)
    known.teacher = known.teacher if other is None else "other"
    losses, weights = by_hand(known, copy.deepcopy(model), 3, other)
    trainer, own = run(args, model, 3, **kwargs)
    assert own == pytest.approx(losses, rel=1e-6)
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(
            parameter, weights[name], rtol=1e-3, atol=5e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    return trainer


NO_ANSWERS = {"text_rich_weight": 0.0, "vision_centric_weight": 0.0}


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("teacher", ["live", "base", "ema"])
def test_a_run_without_answers_is_the_one_by_hand(config, teacher, share_prefix):
    """A teacher, and a KL that holds the text_rich view to the base, which is on by itself where nothing else does."""
    anchor = {"anchor_weight": 1.0} if teacher == "live" else {}
    trainer = same(config, {"teacher": teacher, **NO_ANSWERS, **anchor, "share_prefix": share_prefix})
    assert trainer.args.anchor_of_pairs == 1.0
    assert all("anchor_kl" in log for log in trainer.state.log_history if "loss" in log)


def test_answers_beside_a_teacher(config):
    options = {"teacher": "base", "kl_weight": 0.5, "kl_temperature": 2.0, "padding_free": True}
    trainer = same(config, options)
    assert trainer.args.anchor_of_pairs == 0.0
    same(config, {"teacher": "ema", "anchor": "ema", "anchor_weight": 0.3})


def test_another_model_teaches(config):
    torch.manual_seed(5)
    other = tiny_llava()[0].double()
    for parameter in other.parameters():
        parameter.data.normal_(0, 0.05)
    trainer = same(config, {**NO_ANSWERS}, other=copy.deepcopy(other), teacher_model=other)
    # It is no live view: the text_rich view is held by itself
    assert trainer.args.teacher == "LlavaForConditionalGeneration"
    assert trainer.args.anchor_of_pairs == 1.0
