"""The gap while a model trains: what is measured reaches logs, checkpoints and stopping, and training goes on as if
nothing had been measured."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import EarlyStoppingCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from tests.testing.tiny import pair_dataset, pair_row, tiny_llava, written_out
from trl_modality import GapCallback, ModalityBalancedSFTTrainer
from trl_modality.evaluation.models.generation import TransformersGenerator, base_of
from trl_modality.evaluation.models.requests import Request
from trl_modality.evaluation.results import balanced_accuracy
from trl_modality.modeling.attention import follows_segments
from trl_modality.views import View, load_images


class Result:
    def __init__(self, gap):
        self._gap = gap

    def metrics(self):
        vision = 0.5 - self._gap
        return {
            "text_rich_accuracy": 0.5,
            "vision_centric_accuracy": vision,
            "accuracy_gap": self._gap,
            "balanced_accuracy": balanced_accuracy(0.5, vision),
        }


class ScriptedEvaluator:
    """Asks the model, draws random numbers as an evaluator may, and says that the gap is what it was told to say."""

    def __init__(self, gaps=(0.4, 0.2, 0.3), count=3):
        self.gaps, self.rows, self.answers, self.asked_with, self.folders = list(gaps), count, [], [], []

    def __call__(self, generator, folder=None, name=None, baseline=None):
        rows = [pair_row(100 + i) for i in range(self.rows)]
        requests = [
            Request(row[f"{view}_prompt"], tuple(load_images(row, view)))
            for view in (View.TEXT_RICH, View.VISION_CENTRIC)
            for row in rows
        ]
        self.answers.append([each.text for each in generator(requests)])
        model = generator.model
        decoder = base_of(model).get_decoder()
        self.asked_with.append((model.training, follows_segments(decoder), torch.is_autocast_enabled("cpu")))
        self.folders.append((folder, name))
        random.random(), np.random.rand(), torch.rand(3)
        return Result(self.gaps.pop(0) if self.gaps else 0.3)


def dropout_llava():
    """With dropout, so that a random number drawn too many shows in the next loss."""
    model, processor = tiny_llava()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.2
    return model, processor


def trainer_of(args, cls=ModalityBalancedSFTTrainer, **kwargs):
    model, processor = dropout_llava()
    given = {"train_dataset": pair_dataset(16), "eval_dataset": pair_dataset(4, first=50), **kwargs}
    return cls(model, args, processing_class=processor, **given)


def logs_of(trainer, key="loss"):
    """The logs that have a key, without what the clock says."""
    clock = ("runtime", "per_second")
    return [
        {name: value for name, value in log.items() if not name.endswith(clock)}
        for log in trainer.state.log_history
        if key in log
    ]


def every_two_steps(config, **kwargs):
    return config(max_steps=6, eval_strategy="steps", eval_steps=2, **kwargs)


def test_the_best_checkpoint_is_that_of_the_best_views(config):
    args = every_two_steps(
        config,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_balanced_accuracy",
    )
    trainer = trainer_of(args, gap_evaluator=ScriptedEvaluator())
    weights = {}

    class Keep(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            weights[state.global_step] = model.lm_head.weight.detach().clone()

    trainer.add_callback(Keep())
    trainer.train()
    assert args.greater_is_better
    assert trainer.state.best_global_step == 4
    assert trainer.state.best_metric == balanced_accuracy(0.5, 0.3)
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-4")
    assert torch.equal(trainer.model.lm_head.weight, weights[4])
    assert not torch.equal(weights[4], weights[6])
    logged = logs_of(trainer, "eval_accuracy_gap")
    assert [(log["step"], log["eval_accuracy_gap"]) for log in logged] == [(2, 0.4), (4, 0.2), (6, 0.3)]
    assert [log["eval_vision_centric_accuracy"] for log in logged] == pytest.approx([0.1, 0.3, 0.2])
    assert all(log["eval_text_rich_nll"] > 0 for log in logged), "beside the losses, in the same log"


def test_training_stops_where_the_views_no_longer_improve(config):
    args = every_two_steps(
        config,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_balanced_accuracy",
    )
    args.max_steps = 20
    trainer = trainer_of(args, gap_evaluator=ScriptedEvaluator(), callbacks=[EarlyStoppingCallback(1)])
    trainer.train()
    assert trainer.state.global_step == 6
    assert trainer.state.best_global_step == 4


@pytest.mark.parametrize(
    ("metric", "greater"),
    [
        ("eval_accuracy_gap", False),
        ("charts_accuracy_gap", False),
        ("eval_gap_nats", False),
        ("eval_vision_centric_nll", False),
        ("eval_kl", False),
        ("kl", False),
        ("accuracy_gap", False),
        ("eval_vision_centric_accuracy", True),
        ("loss", False),
        (None, None),
    ],
)
def test_what_is_better(config, metric, greater):
    assert config(metric_for_best_model=metric).greater_is_better is greater
    if metric:
        assert config(metric_for_best_model=metric, greater_is_better=True).greater_is_better is True


OPTIONS = {
    "shared": {},
    "padding_free": {"padding_free": True},
    "rows apart": {"share_prefix": False},
    "checkpointing": {"gradient_checkpointing": True},
    "bfloat16": {"bf16": True},
    "lora": {"peft_config": LoraConfig(target_modules=["q_proj"], lora_dropout=0.1)},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_measuring_changes_nothing_of_the_training(config, options, tmp_path):
    """Losses, gradient norms and logs to the last bit, with dropout; measured within evaluations and by the callback
    in steps of its own, some of which are steps that are logged."""
    options = dict(options)
    model_options = {"peft_config": options.pop("peft_config")} if "peft_config" in options else {}

    def run(name, evaluator=None, every=None):
        args = every_two_steps(
            config, output_dir=str(tmp_path / name), logging_steps=2, gap_eval_max_new_tokens=4, **options
        )
        trainer = trainer_of(args, gap_evaluator=evaluator, **model_options)
        if every:
            trainer.add_callback(GapCallback(trainer, every, 2, max_new_tokens=4, name="beside"))
        trainer.train()
        return trainer

    plain, within, beside = run("plain"), ScriptedEvaluator(), ScriptedEvaluator()
    measured = run("measured", within, beside)
    assert len(logs_of(plain)) == 3
    assert logs_of(measured) == logs_of(plain)
    losses = [log["eval_loss"] for log in logs_of(plain, "eval_loss")]
    assert [log["eval_loss"] for log in logs_of(measured, "eval_loss")] == losses
    for a, b in zip(plain.model.parameters(), measured.model.parameters(), strict=True):
        assert torch.equal(a, b)
    for evaluator in (within, beside):
        # In evaluation mode, with the attention of its own and in the precision of the run
        assert evaluator.asked_with == [(False, False, "bf16" in options)] * 3
    assert within.answers == beside.answers, "after the same steps, the same model"
    assert [name for _, name in beside.folders] == [f"step-{n}-beside" for n in (2, 4, 6)]
    assert len(logs_of(measured, "eval_beside_accuracy_gap")) == len(logs_of(measured, "eval_accuracy_gap")) == 3
    assert measured.model.training is plain.model.training


def test_answers_are_those_of_the_model_outside_of_training(config):
    evaluator = ScriptedEvaluator()
    args = every_two_steps(config, gradient_checkpointing=True, gap_eval_max_new_tokens=6)
    trainer = trainer_of(args, gap_evaluator=evaluator)
    trainer.train()
    outside = ScriptedEvaluator()
    outside(TransformersGenerator(trainer.model, trainer.processing_class, max_new_tokens=6))
    assert outside.answers[0] == evaluator.answers[-1]
    assert any(outside.answers[0])


def test_the_callback_is_for_any_trainer(config):
    rows = Dataset.from_list(written_out([pair_row(i) for i in range(8)]))

    def run(evaluator):
        args = config(cls=SFTConfig, max_steps=5, logging_steps=2)
        model, processor = dropout_llava()
        trainer = SFTTrainer(model, args, train_dataset=rows, processing_class=processor)
        if evaluator:
            trainer.add_callback(GapCallback(trainer, evaluator, every_n_steps=2, max_new_tokens=4))
        trainer.train()
        return trainer

    plain, evaluator = run(None), ScriptedEvaluator()
    measured = run(evaluator)
    assert logs_of(measured) == logs_of(plain)
    logged = logs_of(measured, "eval_accuracy_gap")
    assert [(log["step"], log["eval_accuracy_gap"]) for log in logged] == [(2, 0.4), (4, 0.2), (5, 0.3)]
    # Nothing but what was measured: no loss of the training has slipped in
    assert logged[0].keys() - {"epoch", "step"} == {
        "eval_text_rich_accuracy",
        "eval_vision_centric_accuracy",
        "eval_accuracy_gap",
        "eval_balanced_accuracy",
    }
    evals = Path(measured.args.output_dir, "evals")
    assert evaluator.folders == [(evals / f"step-{n}", f"step-{n}") for n in (2, 4, 5)]


def test_the_callback_measures_where_training_was_stopped(config):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    evaluator = ScriptedEvaluator()
    trainer = trainer_of(config(max_steps=8), callbacks=[Stop()])
    trainer.add_callback(GapCallback(trainer, evaluator, every_n_steps=2, max_new_tokens=2))
    trainer.train()
    assert [name for _, name in evaluator.folders] == ["step-2", "step-3"]
    state = json.loads(Path(trainer.args.output_dir, "trainer_state.json").read_text())
    assert [log["step"] for log in state["log_history"] if "eval_accuracy_gap" in log] == [2, 3]


def test_a_resumed_run_is_the_one_that_was_not_interrupted(config):
    args = every_two_steps(config, save_strategy="steps", save_steps=2)
    whole = trainer_of(args, gap_evaluator=ScriptedEvaluator())
    whole.train()
    evaluator = ScriptedEvaluator(gaps=(0.2, 0.3))
    resumed = trainer_of(args, gap_evaluator=evaluator)
    resumed.train(resume_from_checkpoint=f"{args.output_dir}/checkpoint-2")
    assert [name for _, name in evaluator.folders] == ["step-4", "step-6"]
    for name in ("loss", "grad_norm", "eval_loss", "eval_accuracy_gap"):
        values, of_whole = ([log[name] for log in logs_of(each, name)] for each in (resumed, whole))
        assert values == of_whole, name


def test_an_optimizer_with_weights_for_evaluation_shows_them(config):
    """As schedule-free ones have; afterwards it trains on with the others."""

    class TwoSets(torch.optim.SGD):
        shown = "train"

        def train(self):
            self.shown = "train"

        def eval(self):
            self.shown = "eval"

    model, processor = tiny_llava()
    optimizer, seen = TwoSets(model.parameters(), lr=0.01), []

    class Looks(ScriptedEvaluator):
        def __call__(self, *args, **kwargs):
            seen.append(optimizer.shown)
            return super().__call__(*args, **kwargs)

    class After(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(optimizer.shown)

    trainer = ModalityBalancedSFTTrainer(
        model, config(), train_dataset=pair_dataset(8), processing_class=processor, optimizers=(optimizer, None)
    )
    trainer.add_callback(GapCallback(trainer, Looks(), every_n_steps=1, max_new_tokens=2))
    trainer.add_callback(After())
    trainer.train()
    assert seen == ["eval", "train"] * 2


def test_answers_of_an_earlier_run_are_not_continued(config):
    folder = Path(config().output_dir, "evals", "step-2")
    folder.mkdir(parents=True)
    (folder / "answers.jsonl").write_text("those of another model\n")
    (folder / "text.json").write_text("{}")
    trainer = trainer_of(config())
    trainer.add_callback(GapCallback(trainer, ScriptedEvaluator(), every_n_steps=2, max_new_tokens=2))
    trainer.train()
    assert [file.name for file in folder.iterdir()] == ["text.json"]


@pytest.mark.parametrize("names", [("", ""), ("a", "b", "a")])
def test_callbacks_that_would_write_over_each_other_are_refused(config, names):
    trainer = trainer_of(config(max_steps=2))
    for name in names:
        trainer.add_callback(GapCallback(trainer, ScriptedEvaluator(), 1, max_new_tokens=2, name=name))
    with pytest.raises(ValueError, match=f"two things that measure the gap are both called '{names[0]}'"):
        trainer.train()


def test_a_callback_beside_the_trainers_own_needs_a_name(config):
    trainer = trainer_of(config(max_steps=2), gap_evaluator=ScriptedEvaluator())
    trainer.add_callback(GapCallback(trainer, ScriptedEvaluator(), 1, max_new_tokens=2))
    with pytest.raises(ValueError, match="both called ''"):
        trainer.train()


@pytest.mark.parametrize("name", ["every_n_steps", "max_new_tokens"])
def test_the_callback_wants_a_number_above_zero(config, name):
    options = {"every_n_steps": 2, "max_new_tokens": 2, name: 0}
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        GapCallback(trainer_of(config()), ScriptedEvaluator(), **options)
