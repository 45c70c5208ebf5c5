"""How the decision of a step reaches its loss: made once, carried by the batch; and which parts may be replaced."""

from dataclasses import replace

import pytest
from torch.utils.data import DataLoader

from tests.testing.tiny import pair_dataset, tiny_llava
from trl_modality import ModalityBalancedSFTTrainer, PairedCollator
from trl_modality.curriculum import Mix
from trl_modality.modeling.forward import LossSettings
from trl_modality.training import RunMetrics, RunPlan


def trainer_of(args, dataset=None, **kwargs):
    model, processor = tiny_llava()
    kwargs = {"processing_class": processor, "train_dataset": dataset or pair_dataset(8)} | kwargs
    return ModalityBalancedSFTTrainer(model, args, **kwargs)


def logs_of(trainer):
    return [log for log in trainer.state.log_history if "loss" in log]


def test_a_schedule_is_tried_once(config, make_trainer):
    """A user's schedule is called at 101 points when the trainer is made, and then once for each step."""
    asked = []

    def schedule(progress):
        asked.append(progress)
        return Mix()

    args = config(max_steps=4)
    trainer = make_trainer(args, train_dataset=pair_dataset(16), schedule=schedule)
    assert asked == [i / 100 for i in range(101)]
    trainer.train()
    assert asked[101:] == [0.0, 0.25, 0.5, 0.75]


def test_settings_are_made_once_a_training(config, monkeypatch, make_trainer):
    made = []
    original = LossSettings.__init__
    monkeypatch.setattr(LossSettings, "__init__", lambda self, *a, **kw: made.append(1) or original(self, *a, **kw))
    args = config(max_steps=3, gradient_accumulation_steps=2, eval_strategy="steps", eval_steps=1, curriculum="linear")
    data = {"train_dataset": pair_dataset(24), "eval_dataset": pair_dataset(4)}
    trainer = make_trainer(args, **data)
    made.clear()
    trainer.train()
    assert len(made) == 1


def test_what_the_batch_says_is_what_is_trained(config):
    """The factor of the KL travels with the batch: data loaders read ahead of the step that is trained."""
    seen = []

    class Recording(ModalityBalancedSFTTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            layout = inputs["view_layout"]
            seen.append((self.state.global_step, layout.step, layout.kl_factor))
            return super().compute_loss(model, inputs, *args, **kwargs)

    model, processor = tiny_llava()
    args = config(max_steps=4, kl_schedule="warmup", kl_schedule_at=1.0, gradient_accumulation_steps=2, kl_weight=3.0)
    trainer = Recording(model, args, train_dataset=pair_dataset(32), processing_class=processor)
    trainer.train()
    assert seen == [(step, step, step / 4) for step in range(4) for _ in range(2)]
    for step, log in enumerate(logs_of(trainer)):
        # N counts the tokens of both views
        parts = log["text_rich_nll"] + log["vision_centric_nll"] + 3.0 * step / 4 * log["kl"]
        assert log["loss"] == pytest.approx(parts / 2, rel=1e-5)
        assert log["kl_weight"] == 3.0 * step / 4


class OwnCollator(PairedCollator):
    pass


class OwnPlan(RunPlan):
    pass


class OwnMetrics(RunMetrics):
    def evaluation_metrics(self, prefix):
        return {**super().evaluation_metrics(prefix), f"{prefix}_own": 1.0}


class OwnTrainer(ModalityBalancedSFTTrainer):
    data_collator_class, run_plan_class, run_metrics_class = OwnCollator, OwnPlan, OwnMetrics

    def get_loss_settings(self):
        return replace(super().get_loss_settings(), kl_weight=0.125)


def test_parts_of_a_run_are_replaced_by_name(config):
    model, processor = tiny_llava()
    trainer = OwnTrainer(model, config(), train_dataset=pair_dataset(8), processing_class=processor)
    assert type(trainer.data_collator) is OwnCollator
    assert any(type(callback) is OwnPlan for callback in trainer.callback_handler.callbacks)
    assert trainer._loss_settings.kl_weight == 0.125
    assert trainer.evaluate(pair_dataset(4))["eval_own"] == 1.0


def test_a_config_that_is_changed_later_counts(config):
    """A search over settings, or its user, changes `trainer.args` after the trainer was made."""
    trainer = trainer_of(config(max_steps=2), pair_dataset(16))
    whole = trainer.evaluate(pair_dataset(4))
    trainer.args.kl_weight = 0.0
    alone = trainer.evaluate(pair_dataset(4))
    assert alone["eval_loss"] == pytest.approx(whole["eval_loss"] - whole["eval_kl"] / 2, rel=1e-5)
    trainer.args.kl_weight, trainer.args.kl_schedule, trainer.args.kl_schedule_at = 3.0, "from", 0.5
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [log["kl_weight"] for log in logs] == [0.0, 3.0]


class Counting(ModalityBalancedSFTTrainer):
    """Asks for a loader of its own before training begins, as to count steps for a scheduler."""

    def create_scheduler(self, *args, **kwargs):
        len(self.get_train_dataloader())
        return super().create_scheduler(*args, **kwargs)


def test_a_loader_asked_for_before_training_begins_is_not_that_of_the_training(config):
    runs = []
    for cls in (ModalityBalancedSFTTrainer, Counting):
        model, processor = tiny_llava()
        args = config(max_steps=-1, num_train_epochs=2, kl_schedule="warmup", kl_schedule_at=1.0)
        trainer = cls(model, args, train_dataset=pair_dataset(12), processing_class=processor)
        trainer.train()
        runs.append([(log["loss"], log["kl_weight"]) for log in logs_of(trainer)])
    assert runs[0] == runs[1]
    assert [weight for _, weight in runs[0]] == pytest.approx([i / 6 for i in range(6)])


def test_a_loader_of_the_users_resumes(config, tmp_path):
    class Own(ModalityBalancedSFTTrainer):
        def get_train_dataloader(self):
            rows = self._remove_unused_columns(self.train_dataset)
            return self.accelerator.prepare(DataLoader(rows, batch_size=4, collate_fn=self.data_collator))

    def make():
        model, processor = tiny_llava()
        args = config(output_dir=str(tmp_path / "run"), save_strategy="steps", save_steps=1)
        return Own(model, args, train_dataset=pair_dataset(16), processing_class=processor)

    make().train()
    resumed = make()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert resumed.state.global_step == 2


def test_the_loss_of_a_counted_batch_before_any_training(config):
    trainer = trainer_of(config())
    batch = trainer.data_collator([pair_dataset(1)[0]])
    assert trainer.compute_loss(trainer.model, batch, num_items_in_batch=7) > 0
