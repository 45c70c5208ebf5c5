"""The choice of the best checkpoint, and evaluations that fail."""

import torch
from transformers import EarlyStoppingCallback

from tests.faults.fault import Fault, Scene
from tests.testing.tiny import answered_dataset, pair_dataset
from trl_modality import ModalityBalancedSFTTrainer


EVALUATING = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
ASKING = {**EVALUATING, "gap_eval_rows": 1, "gap_eval_max_new_tokens": 2}


class BadRow(ModalityBalancedSFTTrainer):
    """Its evaluations fail, but the first one."""

    def prediction_step(self, *args, **kwargs):
        if self.state.global_step > 2:
            raise RuntimeError("an evaluation row that cannot be collated")
        return super().prediction_step(*args, **kwargs)


def _making(eval_dataset=None, **given):
    """Makes a trainer, and no more."""
    rows = answered_dataset(2) if eval_dataset is None else eval_dataset
    return lambda scene: scene.trainer(eval_dataset=rows, **given)


def _sets():
    return {"charts": answered_dataset(2), "plane": answered_dataset(2)}


def _failing(**options):
    return lambda scene: scene.trainer(
        trainer_class=BadRow, eval_dataset=pair_dataset(2, first=20), **{**EVALUATING, **options}
    ).train()


def _goes_on_from(step: int, evaluated_steps: list[int]):
    def check(scene: Scene) -> None:
        assert scene.checkpoints()[-1] == f"checkpoint-{step}"
        trainer = scene.trainer(eval_dataset=pair_dataset(2, first=20), **EVALUATING)
        trainer.train(resume_from_checkpoint=True)
        assert trainer.state.global_step == 4
        evaluated = [log["step"] for log in trainer.state.log_history if "eval_loss" in log]
        assert evaluated == evaluated_steps

    return check


def _measures_nothing(scene: Scene) -> None:
    scene.trainer(eval_dataset=answered_dataset(2), gap_eval_rows=1)


def _fp16(scene: Scene) -> None:
    scene.trainer(fp16=True)


def _is_float32(scene: Scene) -> None:
    trainer = scene.trainer(fp16=True, max_steps=1)
    trainer.train()
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}


FAULTS = [
    Fault(
        "a gap as `metric_for_best_model`, which a collapsed model wins",
        "before the first step",
        r"`metric_for_best_model='eval_accuracy_gap'` is a difference between the views, which a model that has "
        r"forgotten everything wins: .*`eval_balanced_accuracy`",
        _making(metric_for_best_model="eval_accuracy_gap", load_best_model_at_end=True, **ASKING),
        error=ValueError,
    ),
    Fault(
        "a gap in nats as `metric_for_best_model`",
        "before the first step",
        r"`metric_for_best_model='gap_nats'` is a difference between the views",
        _making(metric_for_best_model="gap_nats", load_best_model_at_end=True, **EVALUATING),
        error=ValueError,
    ),
    Fault(
        "a divergence as `metric_for_best_model`",
        "before the first step",
        r"`metric_for_best_model='eval_kl'` is a difference between the views",
        _making(metric_for_best_model="eval_kl", load_best_model_at_end=True, **EVALUATING),
        error=ValueError,
    ),
    Fault(
        "`metric_for_best_model` with a typo",
        "before the first step",
        r"`metric_for_best_model='eval_vision_centric_nlll'`: no evaluation of this run gives "
        r"`eval_vision_centric_nlll`. Near it are `eval_vision_centric_nll`",
        _making(metric_for_best_model="eval_vision_centric_nlll", load_best_model_at_end=True, **EVALUATING),
        error=ValueError,
    ),
    Fault(
        "an accuracy as `metric_for_best_model`, with `gap_eval_rows=0`",
        "before the first step",
        r"no evaluation of this run gives `eval_balanced_accuracy`.* Accuracies need `gap_eval_rows`",
        _making(metric_for_best_model="eval_balanced_accuracy", load_best_model_at_end=True, **EVALUATING),
        error=ValueError,
    ),
    Fault(
        "`metric_for_best_model` without the name of its set, with several evaluation sets",
        "before the first step",
        r"no evaluation of this run gives `eval_loss`. Near it are `eval_\w+_loss`",
        _making(_sets(), metric_for_best_model="loss", load_best_model_at_end=True, **EVALUATING),
        error=ValueError,
    ),
    Fault(
        "no `metric_for_best_model`, with several evaluation sets that are asked",
        "before the first step",
        r"no evaluation of this run gives `eval_balanced_accuracy`. Near it are `eval_\w+_balanced_accuracy`",
        _making(_sets(), load_best_model_at_end=True, **ASKING),
        error=ValueError,
    ),
    Fault(
        "`gap_eval_rows` without `eval_strategy`",
        "before the first step",
        r"`eval_strategy` is 'no': no gap is measured while training. Set `eval_strategy` and `eval_steps`",
        _measures_nothing,
        warns=True,
    ),
    Fault(
        "early stopping without a metric",
        "before the first step",
        r"`EarlyStoppingCallback` needs .*`metric_for_best_model` \(None here\): set both",
        _making(callbacks=[EarlyStoppingCallback(1)], **EVALUATING),
        error=ValueError,
    ),
    Fault(
        "early stopping without evaluations",
        "before the first step",
        r"`EarlyStoppingCallback` needs `eval_strategy`",
        _making(callbacks=[EarlyStoppingCallback(1)], metric_for_best_model="loss"),
        error=ValueError,
    ),
    Fault(
        "an evaluation row to be asked has no answer",
        "before the first step",
        r"`gap_eval_rows=-1` asks rows of `eval_dataset`, one of which cannot be asked .*`answer` is missing",
        _making(pair_dataset(2), **{**ASKING, "gap_eval_rows": -1}),
        error=ValueError,
    ),
    Fault(
        "an evaluation fails at a step that is to be saved",
        "in an evaluation",
        r"The evaluation at step 4 failed; the step is saved. .*go on with `resume_from_checkpoint='.*checkpoint-4'`",
        _failing(),
        "the checkpoint of that step; training that goes on from it evaluates it first",
        _goes_on_from(4, [2, 4]),
        error=RuntimeError,
    ),
    Fault(
        "an evaluation fails at a step that is not to be saved",
        "in an evaluation",
        r"^Step 3 is saved: go on with `resume_from_checkpoint='.*checkpoint-3'`",
        _failing(save_steps=100, eval_steps=3),
        "a checkpoint of that step; training that goes on from it evaluates it first",
        _goes_on_from(3, [3, 4]),
        error=RuntimeError,
    ),
    Fault(
        "`fp16=True` on a CPU",
        "before the first step",
        r"`fp16=True` does nothing on a CPU: the run is in float32. Use `bf16=True` there",
        _fp16,
        "the run is in float32",
        _is_float32,
        warns=True,
    ),
]
