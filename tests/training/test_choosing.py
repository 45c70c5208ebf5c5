"""The metric that chooses a checkpoint: known before the first step, and not won by a model that has collapsed."""

import math

import pytest
from transformers import EarlyStoppingCallback, TrainerCallback
from trl import SFTConfig

from tests.testing.tiny import answered_dataset, pair_dataset
from trl_modality import ModalityBalancedSFTTrainer
from trl_modality.evaluation.gap import ModalityGapEvaluator
from trl_modality.evaluation.results import balanced_accuracy
from trl_modality.training import choosing, guarded


EVALUATING = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}


def test_the_formula():
    assert balanced_accuracy(0.0, 0.0) == balanced_accuracy(1.0, 0.0) == balanced_accuracy(0.0, 0.7) == 0.0
    assert balanced_accuracy(1.0, 1.0) == 1.0
    assert balanced_accuracy(0.6, 0.6) == pytest.approx(0.6)
    shares = [i / 10 for i in range(11)]
    for a in shares:
        for b in shares:
            value = balanced_accuracy(a, b)
            assert value == balanced_accuracy(b, a)
            assert min(a, b) <= value + 1e-12
            assert value <= math.sqrt(a * b) + 1e-12
            if a and b:
                assert balanced_accuracy(a - 0.1, b) < value
                assert balanced_accuracy(a, b - 0.1) < value


def test_a_collapsed_model_does_not_win():
    """The figures of a run with a learning rate of 0.3: a gap falls with the skill."""
    before, collapsed = (0.92, 0.42), (0.04, 0.08)
    assert before[0] - before[1] > collapsed[0] - collapsed[1]
    assert balanced_accuracy(*before) > balanced_accuracy(*collapsed)


def test_it_is_the_default_with_rows_to_ask(config):
    args = config(gap_eval_rows=2, load_best_model_at_end=True, **EVALUATING)
    assert (args.metric_for_best_model, args.greater_is_better) == ("balanced_accuracy", True)
    args = config(gap_eval_rows=2, **{**EVALUATING, "save_strategy": "best"})
    assert (args.metric_for_best_model, args.greater_is_better) == ("balanced_accuracy", True)
    args = config(gap_eval_rows=2, load_best_model_at_end=True, metric_for_best_model="loss", **EVALUATING)
    assert (args.metric_for_best_model, args.greater_is_better) == ("loss", False)
    assert config(load_best_model_at_end=True, **EVALUATING).metric_for_best_model == "loss"
    assert config(gap_eval_rows=2, **EVALUATING).metric_for_best_model is None


def test_it_is_the_default_with_an_evaluator(config, make_trainer):
    evaluator = ModalityGapEvaluator(answered_dataset(2), show_progress=False)
    given = {"eval_dataset": pair_dataset(2), "gap_evaluator": evaluator}
    trainer = make_trainer(config(load_best_model_at_end=True, **EVALUATING), **given)
    assert (trainer.args.metric_for_best_model, trainer.args.greater_is_better) == ("balanced_accuracy", True)
    args = config(load_best_model_at_end=True, metric_for_best_model="loss", **EVALUATING)
    assert make_trainer(args, **given).args.metric_for_best_model == "loss"
    blind = ModalityGapEvaluator(answered_dataset(1), conditions=["blind"], show_progress=False)
    given["gap_evaluator"] = blind
    trainer = make_trainer(config(load_best_model_at_end=True, **EVALUATING), **given)
    assert trainer.args.metric_for_best_model == "loss", "it asks in one condition alone"


def test_a_run_chooses_by_it(config, make_trainer):
    args = config(gap_eval_rows=2, gap_eval_max_new_tokens=2, load_best_model_at_end=True, max_steps=4, **EVALUATING)
    trainer = make_trainer(args, eval_dataset=answered_dataset(2))
    trainer.train()
    logs = [log for log in trainer.state.log_history if "eval_balanced_accuracy" in log]
    assert len(logs) == 2
    for log in logs:
        expected = balanced_accuracy(log["eval_text_rich_accuracy"], log["eval_vision_centric_accuracy"])
        assert log["eval_balanced_accuracy"] == expected
    assert trainer.state.best_metric == max(log["eval_balanced_accuracy"] for log in logs)


SETS = {"charts": 2, "plane": 2}


@pytest.mark.parametrize(
    ("metric", "options", "sets"),
    [
        ("loss", {}, None),
        ("eval_vision_centric_nll", {}, None),
        ("replay_token_accuracy", {}, None),
        ("eval_vision_centric_accuracy", {"gap_eval_rows": 1}, None),
        ("balanced_accuracy", {"gap_eval_rows": 1}, None),
        ("eval_charts_loss", {}, SETS),
        ("eval_plane_balanced_accuracy", {"gap_eval_rows": 1}, SETS),
    ],
)
def test_metrics_that_evaluations_give(config, make_trainer, metric, options, sets):
    dataset = answered_dataset(2) if sets is None else {name: answered_dataset(count) for name, count in sets.items()}
    make_trainer(config(metric_for_best_model=metric, **options, **EVALUATING), eval_dataset=dataset)


@pytest.mark.parametrize(
    ("metric", "options", "sets", "said"),
    [
        ("eval_vision_centric_nlll", {}, None, "Near it are `eval_vision_centric_nll`"),
        ("eval_vision_centric_accuracy", {}, None, "Accuracies need `gap_eval_rows`"),
        ("loss", {}, SETS, r"gives `eval_loss`\. Near it are `eval_\w+_loss`"),
        ("eval_balanced_accuracy", {"gap_eval_rows": 1}, SETS, "Near it are .*`eval_charts_balanced_accuracy`"),
        ("eval_accuracy_gap", {"gap_eval_rows": 1}, None, "forgotten everything wins"),
        ("gap_nats", {}, None, "forgotten everything wins"),
        ("eval_charts_kl", {}, SETS, "forgotten everything wins"),
    ],
)
def test_metrics_that_are_refused(config, make_trainer, metric, options, sets, said):
    dataset = answered_dataset(2) if sets is None else {name: answered_dataset(count) for name, count in sets.items()}
    with pytest.raises(ValueError, match=f"`metric_for_best_model='{metric}'`.*{said}"):
        make_trainer(config(metric_for_best_model=metric, **options, **EVALUATING), eval_dataset=dataset)


def test_parts_of_the_users_own_may_give_other_metrics(config, make_trainer, monkeypatch):
    said = []
    monkeypatch.setattr(choosing.logger, "warning", said.append)

    class Adds(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics=None, **kwargs):
            metrics["eval_style"] = 1.0

    args = config(metric_for_best_model="eval_style", load_best_model_at_end=True, **EVALUATING)
    trainer = make_trainer(args, eval_dataset=pair_dataset(2), callbacks=[Adds()])
    assert "left to your own methods" in said.pop()
    trainer.train()
    assert trainer.state.best_metric == 1.0

    class Own(ModalityBalancedSFTTrainer):
        def evaluate(self, *args, **kwargs):
            return {**super().evaluate(*args, **kwargs), "eval_style": 2.0}

    trainer = Own(
        trainer.model,
        config(metric_for_best_model="eval_style", **EVALUATING),
        train_dataset=pair_dataset(4),
        eval_dataset=pair_dataset(2),
        processing_class=trainer.processing_class,
    )
    assert "left to your own methods" in said.pop()


def test_stopping_early_needs_a_metric(config, make_trainer):
    given = {"eval_dataset": pair_dataset(2), "callbacks": [EarlyStoppingCallback(1)]}
    with pytest.raises(ValueError, match=r"`EarlyStoppingCallback` needs .*`metric_for_best_model` \(None here\)"):
        make_trainer(config(**EVALUATING), **given)
    with pytest.raises(ValueError, match="`EarlyStoppingCallback` needs `eval_strategy`"):
        make_trainer(config(metric_for_best_model="loss"), **given)
    make_trainer(config(metric_for_best_model="loss", **EVALUATING), **given)


def test_a_gap_that_no_evaluation_of_the_training_measures(config, make_trainer, monkeypatch):
    said = []
    monkeypatch.setattr(choosing.logger, "warning", said.append)
    make_trainer(config(gap_eval_rows=1), eval_dataset=answered_dataset(2))
    assert "no gap is measured while training. Set `eval_strategy`" in said.pop()
    make_trainer(config(gap_eval_rows=1, **EVALUATING), eval_dataset=answered_dataset(2))
    assert said == []


def test_a_config_of_the_hosts_has_its_own_default(config, make_trainer):
    args = config(SFTConfig, load_best_model_at_end=True, **EVALUATING)
    assert make_trainer(args, eval_dataset=pair_dataset(2)).args.metric_for_best_model == "loss"


def test_float16_on_a_cpu_is_said(config, make_trainer, monkeypatch):
    said = []
    monkeypatch.setattr(guarded.logger, "warning", said.append)
    make_trainer(config(fp16=True))
    assert "`fp16=True` does nothing on a CPU" in said.pop()
    make_trainer(config())
    assert said == []
