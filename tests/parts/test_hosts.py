"""Learning rates of parts with the host's optimizers, on resuming, with tied heads and reentrant checkpointing."""

import re

import pytest
import torch

from tests.parts.test_training import Gradients
from tests.testing.tiny import pair_dataset, tiny_llava
from tests.testing.tiny_families import build, pairs_of
from trl_modality.parts.groups import check_groups
from trl_modality.parts.structure import model_parts


RATES = {"language_model": 1e-3, "projector": 1e-2}


def found_rates(trainer) -> dict[str, set[float]]:
    parts = model_parts(trainer.model)
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    found = {part: set() for part in RATES}
    for group in trainer.optimizer.param_groups:
        for p in group["params"]:
            part = next(part for part in RATES if names[id(p)] in parts.of(part))
            found[part].add(group["lr"])
    return found


@pytest.mark.parametrize(
    ("optim", "optim_args"),
    [("adamw_torch", None), ("adafactor", None), ("sgd", "momentum=0.9"), ("rmsprop", None), ("adagrad", None)],
)
def test_optimizers_of_the_host(config, make_trainer, optim, optim_args):
    trainer = make_trainer(config(train_parts=RATES, optim=optim, optim_args=optim_args, weight_decay=0.1))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert found_rates(trainer) == {part: {rate} for part, rate in RATES.items()}
    if optim == "sgd":
        assert {group["momentum"] for group in trainer.optimizer.param_groups} == {0.9}
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.1, 0.0}
    frozen = model_parts(trainer.model).of("vision_tower")
    after = dict(trainer.model.named_parameters())
    assert all(torch.equal(after[name], before[name]) for name in frozen)


def test_an_optimizer_without_groups_is_refused(config, make_trainer):
    """A layer-wise one steps each parameter in the backward, at one rate; a list is fine with it."""
    from trl_modality.parts.choice import choose
    from trl_modality.parts.groups import split_groups

    trainer = make_trainer(config(train_parts=RATES))
    elsewhere = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=1.0)
    for optimizer in (
        elsewhere,
        torch.optim.SGD(list(trainer.model.model.multi_modal_projector.parameters()), lr=1.0),
    ):
        with pytest.raises(ValueError, match="`optim='galore_adamw_layerwise'` has other groups"):
            split_groups(optimizer, trainer.model, trainer._choice, "galore_adamw_layerwise")
    parts = model_parts(trainer.model)
    assert not choose(["projector"], parts, model_name="x", learning_rate=1e-3).has_rates


SAVING = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6, "lr_scheduler_type": "linear"}


def losses(trainer):
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


@pytest.mark.parametrize("scheduler", ["linear", "reduce_lr_on_plateau"])
def test_resuming_brings_the_rates_back(config, make_trainer, tmp_path, scheduler):
    options = {**SAVING, "train_parts": RATES}
    if scheduler != "linear":
        options |= {"lr_scheduler_type": scheduler, "eval_strategy": "steps", "eval_steps": 3}
        options |= {"metric_for_best_model": "loss"}
    given = {} if scheduler == "linear" else {"eval_dataset": pair_dataset(2, first=20)}
    whole = make_trainer(config(**options), pair_dataset(12), **given)
    whole.train()
    again = make_trainer(config(**options), pair_dataset(12), **given)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert losses(again) == losses(whole)
    assert found_rates(again) == found_rates(whole)
    for mine, theirs in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)

    # Others are an override, which takes effect for the part that it is of
    doubled = {**options, "train_parts": {**RATES, "projector": 2e-2}}
    checkpoint = str(tmp_path / "run" / "checkpoint-3")
    with pytest.raises(ValueError, match=r"`train_parts.projector` was 0.01 and is 0.02"):
        make_trainer(config(**doubled), pair_dataset(12), **given).train(resume_from_checkpoint=checkpoint)
    other = make_trainer(config(**doubled, resume_overrides=["train_parts"]), pair_dataset(12), **given)
    other.train(resume_from_checkpoint=checkpoint)
    logs = [log for log in other.state.log_history if "learning_rate" in log][3]
    same = [log for log in whole.state.log_history if "learning_rate" in log][3]
    assert logs["learning_rate_projector"] == pytest.approx(2 * same["learning_rate_projector"])
    assert logs["learning_rate_language_model"] == same["learning_rate_language_model"]


def weights_after(trainer, checkpoint=None):
    trainer.train(resume_from_checkpoint=checkpoint)
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


@pytest.mark.parametrize(
    ("first", "same"),
    [
        # Of one size, so that nothing but their names tells their moments apart
        ({"first_n_layers=1": 1e-3, "last_n_layers=1": 1e-2}, {"last_n_layers=1": 1e-2, "first_n_layers=1": 1e-3}),
        (["language_model", "attention"], {"language_model": 1e-3, "vision_tower": 0}),
    ],
)
def test_the_same_parts_in_other_words(config, make_trainer, tmp_path, first, same):
    """It is the rates of parameters that a run is resumed by, not their spelling; `learning_rate` is 1e-3."""
    rows, checkpoint = pair_dataset(12), str(tmp_path / "run" / "checkpoint-3")
    whole = weights_after(make_trainer(config(**SAVING, train_parts=first), rows))
    again = weights_after(make_trainer(config(**SAVING, train_parts=same), rows), checkpoint)
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_groups_of_other_parts_are_refused():
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    groups = [{"params": [weight], "part": part} for weight, part in zip(weights, "ab", strict=True)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    check_groups(optimizer, ["a", "b"])
    with pytest.raises(ValueError, match=re.escape("groups of ['a', 'b'], and this run those of ['b', 'a']")):
        check_groups(optimizer, ["b", "a"])


@pytest.mark.parametrize("other", [{"language_model": 1e-3, "projector": 0}, ["language_model"], None])
def test_other_parts_cannot_be_resumed(config, make_trainer, tmp_path, other):
    make_trainer(config(**SAVING, train_parts=RATES), pair_dataset(12)).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-3")
    for overrides in ([], ["train_parts", "model"]):  # none are advised that would not do
        args = config(**SAVING, train_parts=other, resume_overrides=overrides)
        with pytest.raises(ValueError, match="has the optimizer's state of other parts"):
            make_trainer(args, pair_dataset(12)).train(resume_from_checkpoint=checkpoint)


def tied_trainer(config, make_trainer, train_parts, **options):
    from datasets import Dataset

    from tests.testing.tiny import PAIR_FEATURES

    model, processor = build("gemma3")
    rows = [{key: row[key] for key in PAIR_FEATURES} for row in pairs_of("gemma3")[:2]]
    rows = Dataset.from_list(rows, features=PAIR_FEATURES)
    callbacks = options.pop("callbacks", [])
    args = config(train_parts=train_parts, share_prefix=False, per_device_train_batch_size=2, **options)
    return make_trainer(args, rows, model=model.float(), processing_class=processor, callbacks=callbacks)


def test_a_head_that_is_tied(config, make_trainer, monkeypatch):
    said = []
    monkeypatch.setattr("trl_modality.training.parts.logger.warning", said.append)
    trainer = tied_trainer(config, make_trainer, ["lm_head"])
    assert [name for name, p in trainer.model.named_parameters() if p.requires_grad] == [
        "model.language_model.embed_tokens.weight"
    ]
    assert "names 'lm_head', which is tied to 'embeddings' in this model" in said[0]
    assert "'embeddings' trains with it" in said[0]
    before = trainer.model.lm_head.weight.detach().clone()
    trainer.train()
    assert not torch.equal(trainer.model.lm_head.weight, before)
    assert trainer.model.lm_head.weight is trainer.model.model.language_model.embed_tokens.weight

    said.clear()
    trainer = tied_trainer(config, make_trainer, {"language_model": 1e-3, "lm_head": 0})
    assert not trainer.model.model.language_model.embed_tokens.weight.requires_grad
    assert "'embeddings' is frozen with it" in said[0]
    with pytest.raises(ValueError, match=re.escape("'lm_head' (0.001) and 'embeddings' (0.01) name; they are tied")):
        tied_trainer(config, make_trainer, {"lm_head": 1e-3, "embeddings": 1e-2})


def test_a_tied_head_is_what_an_optimizer_made_by_hand_makes_of_it(config, make_trainer):
    """Both gradients in one matrix, at the rate of its part, once."""
    gradients = Gradients()
    rates = {"attention": 1e-3, "embeddings": 1e-2}
    options = {"max_steps": 4, "optim": "adamw_torch", "lr_scheduler_type": "constant", "weight_decay": 0.1}
    trainer = tied_trainer(config, make_trainer, rates, callbacks=[gradients], **options)
    name = "model.language_model.embed_tokens.weight"
    own = torch.nn.Parameter(trainer.model.get_parameter(name).detach().clone())
    trainer.train()
    optimizer = torch.optim.AdamW([own], lr=1e-2, weight_decay=0.1)
    for step in gradients.steps:
        own.grad = step[name]
        optimizer.step()
    assert len(gradients.steps) == 4
    torch.testing.assert_close(trainer.model.lm_head.weight, own, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_gives_the_same_gradients(config, make_trainer, reentrant):
    """Reentrant checkpointing gives none below a frozen embedding, unless it is told to."""
    found = []
    for checkpointing in (False, True):
        model, processor = tiny_llava()
        args = config(
            train_parts=["attention"],
            max_steps=1,
            optim="sgd",
            gradient_checkpointing=checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": reentrant} if checkpointing else None,
        )
        trainer = make_trainer(args, model=model.double(), processing_class=processor)
        before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        trainer.train()
        found.append({name: p.detach() - before[name] for name, p in trainer.model.named_parameters()})
    for name in model_parts(trainer.model).of("attention"):
        assert found[0][name].norm() > 0
        torch.testing.assert_close(found[1][name], found[0][name], rtol=1e-6, atol=1e-12)
