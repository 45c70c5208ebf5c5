"""The health gate: which rows it names, what a skipped step leaves, what it costs, and what it leaves alone."""

import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import TrainerCallback

from tests.test_drop_in import TEXTS, text_model
from tests.testing.tiny import pair_dataset, pair_row, tiny_llava
from trl_modality import ModalityBalancedSFTTrainer
from trl_modality.training import health
from trl_modality.training.guarded import GuardedSFTTrainer
from trl_modality.training.health import HealthGate, NonFiniteError, first_nonfinite, trained_weights_are_finite


class BadSteps(ModalityBalancedSFTTrainer):
    """At some steps, from 0, the loss of every micro-batch is NaN."""

    bad = ()

    def compute_loss(self, model, inputs, *args, **kwargs):
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        return loss * torch.nan if self.model.training and self.state.global_step in self.bad else loss


class States(TrainerCallback):
    """The weights and the optimizer's state after every step."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        weights = [parameter.detach().clone() for parameter in model.parameters()]
        self.seen.append((weights, copy.deepcopy(optimizer.state_dict()["state"])))


def same(first, second) -> bool:
    weights = all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))
    states = all(torch.equal(first[1][i][key], second[1][i][key]) for i in first[1] for key in first[1][i])
    return weights and first[1].keys() == second[1].keys() and states


def skipping(config, bad, **options):
    model, processor = tiny_llava()
    states = States()
    args = config(on_nonfinite="skip", gradient_accumulation_steps=2, per_device_train_batch_size=2, **options)
    trainer = BadSteps(model, args, train_dataset=pair_dataset(24), processing_class=processor, callbacks=[states])
    trainer.bad = bad
    return trainer, states.seen


def test_a_skipped_step_changes_neither_weights_nor_the_optimizer(config):
    trainer, states = skipping(config, {2, 4}, max_steps=6, weight_decay=0.1)
    output = trainer.train()
    assert [same(first, second) for first, second in zip(states, states[1:], strict=False)] == [
        False,
        True,
        False,
        True,
        False,
    ]
    logs = [log for log in trainer.state.log_history if "curriculum_progress" in log or "skipped_steps" in log]
    losses = {log["step"]: log["loss"] for log in logs if "loss" in log}
    assert sorted(losses) == [1, 2, 4, 6]
    assert all(math.isfinite(loss) for loss in losses.values())
    assert [log.get("skipped_steps") for log in logs] == [None, None, 1, 1, 2, 2]
    assert not any(isinstance(value, float) and math.isnan(value) for log in logs for value in log.values())
    assert output.training_loss == pytest.approx(sum(losses.values()) / 4)


def test_the_logged_loss_is_the_mean_of_the_steps_that_were_taken(config):
    """Also over several steps, and in the sums by view, of which a skipped step is taken out."""
    every, _ = skipping(config, {1}, max_steps=3)
    every.train()
    one_by_one = [log for log in every.state.log_history if "loss" in log and "curriculum_progress" in log]
    together, _ = skipping(config, {1}, max_steps=3, logging_steps=3)
    together.train()
    log = next(log for log in together.state.log_history if "loss" in log)
    assert log["loss"] == pytest.approx(sum(each["loss"] for each in one_by_one) / 2)
    tokens = sum(each["text_rich_tokens"] for each in one_by_one)
    nll = sum(each["text_rich_nll"] * each["text_rich_tokens"] for each in one_by_one) / tokens
    assert (log["text_rich_tokens"], log["text_rich_nll"]) == (tokens, pytest.approx(nll))
    assert log["skipped_steps"] == 1


def test_after_its_limit_a_run_stops(config):
    trainer, states = skipping(config, {1, 2, 3}, max_steps=6, nonfinite_limit=2)
    with pytest.raises(NonFiniteError, match=r"Step 4: .*2 steps have been skipped \(`nonfinite_limit`\)"):
        trainer.train()
    assert len(states) == 3


def test_a_resumed_run_knows_how_many_steps_were_skipped(config):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "nonfinite_limit": 1}
    trainer, _ = skipping(config, {1}, **options)
    trainer.train()
    again, _ = skipping(config, {2}, **options)
    checkpoint = f"{trainer.args.output_dir}/checkpoint-2"
    with pytest.raises(NonFiniteError, match="1 steps have been skipped"):
        again.train(resume_from_checkpoint=checkpoint)


def test_weights_that_are_not_finite_cannot_be_skipped(config):
    class Breaks(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 1:
                with torch.no_grad():
                    model.lm_head.weight[3] = math.inf

    trainer, _ = skipping(config, set(), max_steps=4)
    trainer.add_callback(Breaks())
    with pytest.raises(NonFiniteError, match=r"Step 2: .*neither is the weight `lm_head.weight`"):
        trainer.train()


@pytest.mark.parametrize(
    "options", [{}, {"padding_free": True}, {"share_prefix": False}, {"curriculum": "vision_centric", "kl_weight": 0}]
)
def test_the_bad_row_is_named_and_no_other(config, options):
    """One row's picture has a NaN: its losses are, and those of the rows beside it are not."""

    class BadPicture:
        def __init__(self, collate):
            self.collate = collate

        def __call__(self, rows):
            batch = self.collate(rows)
            layout = batch["view_layout"]
            if "id='pair-5'" in " ".join(layout.names):
                place = [i for i, name in enumerate(layout.names) if "pair-5" in name][0]
                example = next(iter(layout.examples.values())).index(place)
                batch["pixel_values"][example] = torch.nan
            return batch

    class Trainer(ModalityBalancedSFTTrainer):
        def get_paired_collator(self):
            return super().get_paired_collator()

        def get_train_dataloader(self):
            own, self.data_collator = self.data_collator, BadPicture(self.data_collator)
            try:
                return super().get_train_dataloader()
            finally:
                self.data_collator = own

    model, processor = tiny_llava()
    args = config(per_device_train_batch_size=3, gradient_accumulation_steps=2, max_steps=2, seed=1, **options)
    trainer = Trainer(model, args, train_dataset=pair_dataset(12), processing_class=processor)
    with pytest.raises(NonFiniteError, match="the loss is not finite") as raised:
        trainer.train()
    rows = [json.loads(line) for line in Path(args.output_dir, health.ROWS_FILE).read_text().splitlines()]
    assert {row["row"].partition(", ")[2] for row in rows} == {"id='pair-5'"}
    assert {row["loss"] for row in rows} == {"nan"}
    views = {"vision_centric"} if "curriculum" in options else {"text_rich", "vision_centric"}
    assert {row["view"] for row in rows} == views
    assert "id='pair-5'" in str(raised.value)
    assert str(raised.value).count("id=") == 1


def gate_of(**accelerator):
    given = {"scaler": None, "num_processes": 1, "process_index": 0} | accelerator
    args = SimpleNamespace(device=torch.device("cpu"), output_dir="nowhere", optim="adamw_torch")
    trainer = SimpleNamespace(
        args=args,
        accelerator=SimpleNamespace(**given),
        state=SimpleNamespace(global_step=0, stateful_callbacks={}),
        model=torch.nn.Linear(2, 2),
        is_world_process_zero=lambda: True,
        is_deepspeed_enabled=False,
    )
    return HealthGate(trainer)


@pytest.mark.parametrize("norm", [math.inf, torch.tensor(math.nan), torch.tensor(math.inf, dtype=torch.float16)])
def test_gradients(norm):
    gate = gate_of()
    gate.add(torch.tensor(1.0))
    with pytest.raises(NonFiniteError, match="the loss is finite, but the norm of the gradients is not"):
        gate.passes(norm)
    scaled = gate_of(scaler=object())  # a scaler finds gradients that overflow, and skips the step itself
    scaled.add(torch.tensor(1.0))
    assert scaled.passes(norm)
    scaled.add(torch.tensor(math.nan))
    with pytest.raises(NonFiniteError, match="the loss is not finite"):
        scaled.passes(norm)


@pytest.mark.parametrize(
    "optim", ["lomo", "adalomo", "galore_adamw_layerwise", "apollo_adamw_layerwise", "adamw_torch"]
)
def test_steps_that_are_made_in_the_backward_cannot_be_skipped(config, optim):
    args = config(optim=optim, on_nonfinite="skip")
    trainer = SimpleNamespace(args=args, is_deepspeed_enabled=False)
    if optim == "adamw_torch":
        assert HealthGate(trainer).policy == "skip"
        return
    with pytest.raises(ValueError, match="cannot skip a step of .* made inside of the backward; use 'stop'"):
        HealthGate(trainer)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, -1.0, 6e4, math.inf, -math.inf, math.nan])
def test_weights(dtype, value):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2)).to(dtype)
    model.register_parameter("empty", torch.nn.Parameter(torch.empty(0, dtype=dtype)))
    with torch.no_grad():
        model[1].weight[1, 2] = value
    assert trained_weights_are_finite(model).item() is math.isfinite(value)
    assert first_nonfinite(model) == (None if math.isfinite(value) else "1.weight")
    model[1].weight.requires_grad_(False)
    assert trained_weights_are_finite(model), "what is not trained is not looked at"


def test_a_run_without_pairs_is_watched_too(config):
    class Breaks(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 2:
                with torch.no_grad():
                    model.lm_head.weight[:] = math.nan

    trainer = ModalityBalancedSFTTrainer(
        text_model(),
        config(max_steps=4),
        train_dataset=Dataset.from_dict({"text": TEXTS}),
        processing_class=tiny_llava()[1].tokenizer,
        callbacks=[Breaks()],
    )
    with pytest.raises(NonFiniteError, match=r"Step 3: the loss is not finite \(on rank 0\), and neither is the"):
        trainer.train()
    assert trainer.args.logging_nan_inf_filter is True, "set back"
    with pytest.raises(NonFiniteError, match="trained weights are not finite"):
        trainer.save_model()


def test_metrics_of_an_evaluation(config, make_trainer, caplog):
    model, processor = tiny_llava()
    trainer = make_trainer(config(), model=model, processing_class=processor, eval_dataset=pair_dataset(2))
    gate = trainer._health
    trainer.is_in_train = True
    gate.check_metrics({"eval_loss": 1.0, "eval_n": 3}, None)
    for name in ("eval_loss", "eval_charts_gap_nats", "test_kl", "eval_text_rich_accuracy"):
        with pytest.raises(NonFiniteError, match=f"`{name}` = inf"):
            gate.check_metrics({name: math.inf}, None)
    with pytest.raises(NonFiniteError, match="`eval_f1` = nan"):
        gate.check_metrics({"eval_f1": math.nan}, "f1")
    gate.check_metrics({"eval_f1": math.nan}, "eval_loss")  # of the user's own: perhaps it is not defined here
    gate.policy = "skip"
    gate.check_metrics({"eval_f1": math.nan}, "f1")
    with pytest.raises(NonFiniteError, match="`eval_loss` = nan"):
        gate.check_metrics({"eval_loss": math.nan}, "f1")
    with torch.no_grad():
        model.lm_head.weight[:] = math.nan
    trainer.is_in_train = False
    assert math.isnan(trainer.evaluate()["eval_loss"]), "outside of training the user sees it"


@pytest.mark.parametrize("head_is_trained", [True, False])
def test_a_sharded_head_without_pairs_is_warned_of(monkeypatch, head_is_trained):
    said = []
    monkeypatch.setattr("trl_modality.training.guarded.logger.warning", said.append)
    monkeypatch.setattr("accelerate.Accelerator.is_fsdp2", True)
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 2)
    trainer = SimpleNamespace(
        model=text_model(), accelerator=Accelerator(cpu=True), is_world_process_zero=lambda: True
    )
    trainer.model.lm_head.weight.requires_grad_(head_is_trained)
    GuardedSFTTrainer._warn_of_sharded_head(trainer)
    assert ["FSDP2, and no pairs" in line for line in said] == [True] * head_is_trained


def test_names_are_in_the_layout(make_trainer):
    rows = [pair_row(0), {**pair_row(1), "id": None}]
    layout = make_trainer().data_collator(rows)["view_layout"]
    assert layout.names[0] == "id='pair-0'"
    assert layout.names[1].startswith("row starting")
