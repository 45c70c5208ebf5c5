"""`train_parts` in a run: what trains, at which rate, against AdamW made by hand; frozen parts stay bit for bit."""

import re

import pytest
import torch
from transformers import TrainerCallback

from tests.testing.tiny import pair_dataset, tiny_llava
from trl_modality.parts.structure import TOP, model_parts
from trl_modality.report.sections import _with_parts_in_words


class Gradients(TrainerCallback):
    """Keeps the gradients that each optimizer step is given."""

    def __init__(self):
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        self.steps.append(found)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_equal(found, expected, names):
    for name in names:
        assert torch.equal(found[name], expected[name]), name


RATES = {"language_model": 1e-3, "attention": 3e-3, "projector": 5e-3, "vision_tower": 0}


def test_rates_are_those_of_optimizers_made_by_hand(config, make_trainer):
    """20 steps with warmup, cosine and weight decay: every parameter is what one AdamW for each part makes of it."""
    gradients = Gradients()
    args = config(
        train_parts=RATES,
        max_steps=20,
        lr_scheduler_type="cosine",
        warmup_steps=4,
        weight_decay=0.1,
        optim="adamw_torch",
        adam_beta2=0.95,
    )
    trainer = make_trainer(args, pair_dataset(16), callbacks=[gradients])
    before, parts = weights(trainer.model), model_parts(trainer.model)
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    trainer.train()
    after = weights(trainer.model)

    frozen = set(parts.of("vision_tower"))
    assert_equal(after, before, frozen)
    assert len(gradients.steps) == 20
    for step in gradients.steps:
        assert not frozen & set(step)

    of_part = {
        "projector": parts.of("projector"),
        "attention": parts.of("attention"),
        "language_model": [name for name in parts.of("language_model") if name not in set(parts.of("attention"))],
    }
    assert {name for names in of_part.values() for name in names} == set(before) - frozen
    for part, names in of_part.items():
        for decay in (0.1, 0.0):
            chosen = [name for name in names if (name in decayed) == (decay > 0)]
            if not chosen:
                continue
            own = {name: torch.nn.Parameter(before[name].clone()) for name in chosen}
            optimizer = torch.optim.AdamW(own.values(), lr=RATES[part], betas=(0.9, 0.95), weight_decay=decay)
            for i, step in enumerate(gradients.steps):
                done = (i - 4) / 16
                factor = i / 4 if i < 4 else 0.5 * (1 + torch.cos(torch.tensor(torch.pi * done)).item())
                optimizer.param_groups[0]["lr"] = RATES[part] * factor
                for name, parameter in own.items():
                    parameter.grad = step.get(name)
                optimizer.step()
            for name, parameter in own.items():
                torch.testing.assert_close(after[name], parameter.detach(), rtol=1e-5, atol=1e-7, msg=name)
                assert not torch.equal(after[name], before[name])
    last = [logs for logs in trainer.state.log_history if "learning_rate" in logs][2]
    assert {part: last[f"learning_rate_{part}"] / rate for part, rate in RATES.items() if rate} == pytest.approx(
        dict.fromkeys(of_part, 2 / 4)  # the third step's, of 4 of warmup from 0
    )
    assert last["learning_rate"] in [last[f"learning_rate_{part}"] for part in of_part]


def test_gradients_are_those_of_a_model_that_trains_whole(config, make_trainer):
    """In float64, of every parameter that trains; a frozen tower and projector make no graph."""
    whole, chosen = Gradients(), Gradients()
    for gradients, parts in ((whole, None), (chosen, ["language_model"])):
        model, processor = tiny_llava()
        args = config(train_parts=parts, max_steps=1, learning_rate=1e-12)
        trainer = make_trainer(args, model=model.double(), processing_class=processor, callbacks=[gradients])
        has_graph = []
        projector = trainer.model.model.multi_modal_projector
        projector.register_forward_hook(
            lambda module, given, out, has_graph=has_graph: has_graph.append(out.requires_grad)
        )
        trainer.train()
        assert has_graph
        assert set(has_graph) == {parts is None}
    names = set(model_parts(trainer.model).of("language_model"))
    assert set(chosen.steps[0]) == names
    for name in names:
        expected = whole.steps[0][name]
        assert (chosen.steps[0][name] - expected).norm() <= 1e-6 * expected.norm(), name


@pytest.mark.parametrize(
    "words", [["attention"], ["gate_up"], ["norms", "projector"], ["last_n_layers=1"], ["0.25", "embeddings"]]
)
def test_a_list_trains_what_it_names_at_the_learning_rate(config, make_trainer, words):
    trainer = make_trainer(config(train_parts=words, max_steps=2))
    before, parts = weights(trainer.model), model_parts(trainer.model)
    trainer.train()
    after, named = weights(trainer.model), {name for word in words for name in parts.of(word)}
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == named
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {1e-3}
    assert not [name for name in trainer.state.log_history[0] if name.startswith("learning_rate_")]


def test_the_whole_model_as_a_list_is_a_run_without(config, make_trainer):
    """Bit for bit: the groups of the optimizer are the host's."""
    found = []
    for words in (None, list(TOP[:1] + TOP[2:])):
        trainer = make_trainer(config(train_parts=words))
        trainer.train()
        found.append(weights(trainer.model))
    assert_equal(*found, found[0])


def test_table_and_record(config, make_trainer, tmp_path):
    import json

    trainer = make_trainer(config(train_parts={"language_model": 1e-5, "norms": 0, "projector": 1e-4}))
    trainer.train()
    rows = json.loads((tmp_path / "run" / "run.json").read_text())["parts"]
    assert rows == trainer.parts_table
    assert [(row["part"], row["learning_rate"]) for row in rows] == [
        ("language_model", 1e-5),
        ("norms", 0),
        ("projector", 1e-4),
        ("vision_tower", 0),
    ]
    assert sum(row["parameters"] for row in rows) == sum(p.numel() for p in trainer.model.parameters())
    counts = [row["parameters"] for row in rows]
    assert _with_parts_in_words({"seed": 1, "parts": rows}) == {
        "seed": 1,
        "parts": f"language_model {counts[0]:,} at 1e-05, norms {counts[1]:,} frozen, projector {counts[2]:,} at "
        f"0.0001, vision_tower {counts[3]:,} frozen",
    }


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            ["audio_tower"],
            "`train_parts` names 'audio_tower', which LlavaForConditionalGeneration does not have. It has ",
        ),
        (["last_n_layers=99"], "`train_parts` names 'last_n_layers=99', which LlavaForConditionalGeneration does not"),
        ({"attention": 1e-5, "last_n_layers=1": 1e-4}, "two learning rates: those that both 'attention' (1e-05) and"),
    ],
)
def test_errors_list_the_parts(config, make_trainer, option, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        make_trainer(config(train_parts=option))
    assert re.search(r"vision_tower \([\d,]+ parameters\), .*; its language model has 4 layers", str(error.value))


def test_two_parts_with_one_rate_may_overlap(config, make_trainer):
    trainer = make_trainer(config(train_parts={"attention": 1e-4, "last_n_layers=1": 1e-4}))
    parts = model_parts(trainer.model)
    trains = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert trains == set(parts.of("attention")) | set(parts.of("last_n_layers=1"))


def test_an_optimizer_of_the_users_keeps_its_own_rates(config, make_trainer):
    model, processor = tiny_llava()
    optimizer = torch.optim.AdamW(model.parameters())
    given = {"model": model, "processing_class": processor, "optimizers": (optimizer, None)}
    with pytest.raises(ValueError, match="`train_parts` has learning rates, and the optimizer is given"):
        make_trainer(config(train_parts={"projector": 1e-4}), **given)
    make_trainer(config(train_parts=["projector"]), **given)


def test_a_run_on_text_alone(config, make_trainer):
    """Without pairs it is the host's path, and the parts are the same."""
    from datasets import Dataset

    rows = Dataset.from_list([{"text": f"{i} + {i} = {2 * i}"} for i in range(8)])
    processor = tiny_llava()[1].tokenizer
    trainer = make_trainer(config(train_parts={"attention": 1e-3}), rows, processing_class=processor)
    before, parts = weights(trainer.model), model_parts(trainer.model)
    trainer.train()
    changed = {name for name, weight in weights(trainer.model).items() if not torch.equal(weight, before[name])}
    assert changed == set(parts.of("attention"))
