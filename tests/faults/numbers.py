"""Numbers that are not finite."""

import json
import math

import torch
from datasets import Dataset
from transformers import TrainerCallback

from tests.faults.fault import Fault, Scene
from tests.test_drop_in import TEXTS, text_model
from tests.testing.tiny import pair_dataset, tiny_llava
from trl_modality import ModalityBalancedSFTTrainer
from trl_modality.curriculum.adaptive import Adaptive
from trl_modality.training.health import ROWS_FILE, NonFiniteError


SAVING = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
EVALUATING = {"eval_strategy": "steps", "eval_steps": 1}


class Poison(TrainerCallback):
    """Sets one weight after a step, as a bad step of an optimizer or a broken memory would."""

    def __init__(self, step: int, value: float = math.nan):
        self.step, self.value = step, value

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            with torch.no_grad():
                model.lm_head.weight[0, 0] = self.value


class BadGradient(ModalityBalancedSFTTrainer):
    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        if self.state.global_step == 2:
            self.model.lm_head.weight.grad[0, 0] = math.inf
        return loss


class BadLoss(ModalityBalancedSFTTrainer):
    steps = (2,)

    def compute_loss(self, model, inputs, *args, **kwargs):
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        return loss * math.nan if model.training and self.state.global_step in self.steps else loss


class ManyBadLosses(BadLoss):
    steps = (1, 2, 3)


class BadEvaluation(ModalityBalancedSFTTrainer):
    def prediction_step(self, *args, **kwargs):
        loss, *others = super().prediction_step(*args, **kwargs)
        return (loss * math.nan, *others) if self.state.global_step == 2 else (loss, *others)


class BadPicture:
    """Makes a pixel of the picture of `pair-3` NaN, as a broken decoder would."""

    def __init__(self, collate):
        self.collate = collate

    def __call__(self, rows):
        batch = self.collate(rows)
        layout = batch["view_layout"]
        for i, example in enumerate(next(iter(layout.examples.values()))):
            if "pair-3" in layout.names[example]:
                batch["pixel_values"][i] = math.nan
        return batch


class WithBadPicture(ModalityBalancedSFTTrainer):
    def get_train_dataloader(self):
        own, self.data_collator = self.data_collator, BadPicture(self.data_collator)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = own


def _weights_are_finite(scene: Scene, *steps: int) -> None:
    from safetensors.torch import load_file

    assert scene.checkpoints() == [f"checkpoint-{step}" for step in steps]
    for name in scene.checkpoints():
        weights = load_file(scene.output / name / "model.safetensors")
        assert all(torch.isfinite(weight).all() for weight in weights.values())


def _only_checkpoint(step: int):
    return lambda scene: _weights_are_finite(scene, step)


def _rows_of(scene: Scene) -> list[str]:
    return [json.loads(line)["row"] for line in (scene.output / ROWS_FILE).read_text().splitlines()]


def _one_row_is_written(scene: Scene) -> None:
    assert {row.partition("id=")[2] for row in _rows_of(scene)} == {"'pair-3'"}


def _rows_of_the_step_are_written(scene: Scene) -> None:
    _weights_are_finite(scene, 2)
    assert len(_rows_of(scene)) == 4  # two pairs in two views


def _skipped(scene: Scene) -> None:
    trainer = scene.trainer(max_steps=3, on_nonfinite="skip", trainer_class=BadLoss, logging_steps=3)
    output = trainer.train()
    assert math.isfinite(output.training_loss)
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())
    (log,) = [log for log in trainer.state.log_history if "loss" in log]
    assert log["skipped_steps"] == 1
    assert math.isfinite(log["loss"])
    assert math.isfinite(log["text_rich_nll"])


def _save_bad_weights(scene: Scene) -> None:
    trainer = scene.trainer(max_steps=1)
    trainer.train()
    trainer.save_model()
    with torch.no_grad():
        trainer.model.lm_head.weight[0, 0] = math.inf
    trainer.save_model()


def _model_is_finite(scene: Scene) -> None:
    from safetensors.torch import load_file

    assert all(torch.isfinite(weight).all() for weight in load_file(scene.output / "model.safetensors").values())


def _best_is(step: int):
    def check(scene: Scene) -> None:
        state = json.loads((scene.output / f"checkpoint-{step}" / "trainer_state.json").read_text())
        assert math.isfinite(state["best_metric"])
        _weights_are_finite(scene, step)

    return check


def _text_run(scene: Scene) -> None:
    trainer = ModalityBalancedSFTTrainer(
        text_model(),
        scene.config(),
        train_dataset=Dataset.from_dict({"text": TEXTS[:16]}),
        processing_class=tiny_llava()[1].tokenizer,
        callbacks=[Poison(2)],
    )
    trainer.train()


def _train(**given):
    return lambda scene: scene.trainer(**given).train()


def _adaptive(scene: Scene) -> None:
    adaptive = Adaptive(window=2)
    adaptive.observe(0.5)
    adaptive.observe(math.nan)


FAULTS = [
    Fault(
        "a weight becomes NaN in a step that is saved",
        "while saving",
        r"Step 3: trained weights are not finite \(the first is `lm_head.weight`\), so they were not saved. The last "
        r"step trained `train_dataset` row \d+, id='pair-\d'.* `resume_from_checkpoint='.*checkpoint-2'`",
        lambda scene: scene.trainer(callbacks=[Poison(3)], **SAVING).train(),
        "the checkpoint before it, the only one (`save_total_limit=1`), with finite weights",
        _only_checkpoint(2),
        error=NonFiniteError,
    ),
    Fault(
        "a weight becomes infinite in a step that is not saved",
        "in training",
        r"Step 4: the loss is not finite .*, and neither is the weight `lm_head.weight`, from an earlier step on.* "
        r"`resume_from_checkpoint='.*checkpoint-2'`",
        lambda scene: scene.trainer(callbacks=[Poison(3, math.inf)], **{**SAVING, "save_steps": 2}).train(),
        "the last checkpoint, with finite weights",
        _only_checkpoint(2),
        error=NonFiniteError,
    ),
    Fault(
        "a weight becomes NaN before an evaluation that would choose the best checkpoint",
        "while saving",
        r"Step 3: trained weights are not finite",
        lambda scene: scene.trainer(
            callbacks=[Poison(3)],
            eval_dataset=pair_dataset(2, first=20),
            load_best_model_at_end=True,
            **SAVING,
            **EVALUATING,
        ).train(),
        "the best checkpoint is one of finite weights, and so is its metric",
        _best_is(2),
        error=NonFiniteError,
    ),
    Fault(
        "the gradient of a step is infinite",
        "in training",
        r"Step 3: the loss is finite, but the norm of the gradients is not. "
        r"Rows: `train_dataset` row \d+, id='pair-\d' "
        r"\(text_rich and vision_centric\); .*nonfinite_rows.jsonl.*on_nonfinite='skip'.*checkpoint-2'`",
        lambda scene: scene.trainer(trainer_class=BadGradient, **SAVING).train(),
        "the last checkpoint; the rows of the step in `nonfinite_rows.jsonl`",
        _rows_of_the_step_are_written,
        error=NonFiniteError,
    ),
    Fault(
        "the loss of a step is NaN",
        "in training",
        r"Step 3: the loss is not finite \(on rank 0\). Rows: `train_dataset` row \d+, id='pair-\d' .*checkpoint-2'`",
        lambda scene: scene.trainer(trainer_class=BadLoss, **SAVING).train(),
        "the last checkpoint; the rows of the micro-batch in `nonfinite_rows.jsonl`",
        _only_checkpoint(2),
        error=NonFiniteError,
    ),
    Fault(
        "the loss of a step is NaN, and no checkpoint has been saved",
        "in training",
        r"Step 3: the loss is not finite .*No checkpoint has been saved, so the run has to begin anew",
        _train(trainer_class=BadLoss),
        "no checkpoint of what is not finite",
        lambda scene: not scene.checkpoints(),
        error=NonFiniteError,
    ),
    Fault(
        "one row's picture gives NaN",
        "in training",
        r"the loss is not finite \(on rank 0\). Rows: `train_dataset` row 3, id='pair-3' "
        r"\(text_rich and vision_centric\); they are",
        _train(trainer_class=WithBadPicture, per_device_train_batch_size=4),
        "that row alone in `nonfinite_rows.jsonl`, in each view",
        _one_row_is_written,
        error=NonFiniteError,
    ),
    Fault(
        "the loss of a step is NaN, with `on_nonfinite='skip'`",
        "in training",
        r"Step 3: the loss is not finite .*The step is skipped: 1 so far, and the run stops after 10",
        _skipped,
        "weights and optimizer as before the step; logged losses are means of the others (`skipped_steps` counts)",
        warns=True,
    ),
    Fault(
        "more steps are NaN than `nonfinite_limit`",
        "in training",
        r"Step 4: the loss is not finite .* 2 steps have been skipped \(`nonfinite_limit`\): lower `learning_rate`",
        _train(trainer_class=ManyBadLosses, on_nonfinite="skip", nonfinite_limit=2),
        "no checkpoint of what is not finite",
        lambda scene: not scene.checkpoints(),
        error=NonFiniteError,
    ),
    Fault(
        "the weights are NaN, with `on_nonfinite='skip'`",
        "in training",
        r"Step 3: .*neither is the weight `lm_head.weight`, from an earlier step on.* Lower `learning_rate`, or look",
        _train(callbacks=[Poison(2)], on_nonfinite="skip"),
        "no checkpoint of what is not finite",
        lambda scene: not scene.checkpoints(),
        error=NonFiniteError,
    ),
    Fault(
        "the model of a finished run has a weight that is not finite",
        "while saving",
        r"trained weights are not finite \(the first is `lm_head.weight`\), so they were not saved",
        _save_bad_weights,
        "the model that was saved before",
        _model_is_finite,
        error=NonFiniteError,
    ),
    Fault(
        "the last step of a run that saves no checkpoint makes the weights NaN",
        "at the end of training",
        r"Step 4: trained weights are not finite \(the first is `lm_head.weight`\).* The last step trained .*id=",
        _train(callbacks=[Poison(4)], save_strategy="no"),
        error=NonFiniteError,
    ),
    Fault(
        "a run without pairs becomes NaN",
        "in training",
        r"Step 3: the loss is not finite \(on rank 0\), and neither is the weight `lm_head.weight`.*The rows are not "
        r"known, as there are no pairs",
        _text_run,
        "no checkpoint of what is not finite",
        lambda scene: not scene.checkpoints(),
        error=NonFiniteError,
    ),
    Fault(
        "the loss of an evaluation is NaN",
        "in an evaluation",
        r"Evaluation at step 2: `eval_loss` = nan: .*Nothing was chosen by them. .*checkpoint-2'`",
        lambda scene: scene.trainer(
            trainer_class=BadEvaluation,
            eval_dataset=pair_dataset(2, first=20),
            load_best_model_at_end=True,
            **SAVING,
            **EVALUATING,
        ).train(),
        "the step's own checkpoint, and the best one so far",
        lambda scene: _weights_are_finite(scene, 1, 2),
        error=NonFiniteError,
    ),
    Fault(
        "an adaptive curriculum measures a gap that is NaN",
        "in training",
        r"The gap of steps 2 to 4 is nan nats, which `curriculum='adaptive'` cannot follow",
        _adaptive,
        error=ValueError,
    ),
    Fault(
        "a wrong word for `on_nonfinite`",
        "before the first step",
        r"`on_nonfinite` must be one of stop, skip, got 'ignore'",
        lambda scene: scene.config(on_nonfinite="ignore"),
        error=ValueError,
    ),
    Fault(
        "a negative `nonfinite_limit`",
        "before the first step",
        r"`nonfinite_limit` must be ≥ 0, got -1; use `on_nonfinite='stop'` to skip no step",
        lambda scene: scene.config(nonfinite_limit=-1),
        error=ValueError,
    ),
]
