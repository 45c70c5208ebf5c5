"""Runs of a trainer that tests compare: their losses and the gradients of every step."""

import torch
from datasets import Dataset, Features, Image, List
from transformers import TrainerCallback

from tests.testing.tiny import MESSAGES, PAIR_FEATURES, pair_row, tiny_llava, written_out


PLAIN_FEATURES = Features({"images": List(Image()), "prompt": MESSAGES, "completion": MESSAGES})


class Gradients(TrainerCallback):
    """The gradients of every step as they reach the optimizer."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


def run(trainer_cls, args, dataset, model=None, **kwargs):
    """Train on rows in order; returns the trainer, its losses and the gradients of every step."""
    kwargs.setdefault("processing_class", tiny_llava()[1])
    recorder = Gradients()
    trainer = trainer_cls(
        # float64 weights: what is left of a difference is the method's, not the rounding of cancelling sums
        (model or tiny_llava()[0]).double(),
        args,
        train_dataset=dataset,
        callbacks=[recorder],
        **kwargs,
    )
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    return trainer, losses, recorder.steps


def assert_same(ours, theirs, rtol=1e-6):
    (_, losses, steps), (_, their_losses, their_steps) = ours, theirs
    torch.testing.assert_close(losses, their_losses, rtol=rtol, atol=0)
    # The first step: later ones start from weights that already differ by the rounding of the host's float32 head
    step, their_step = steps[0], their_steps[0]
    assert step.keys() == their_step.keys()
    typical = torch.stack([g.norm() for g in their_step.values()]).square().mean().sqrt()
    for name, grad in step.items():
        # Relative to the tensor's own norm, or to a typical one where its own is but rounding (the bias of the keys
        # has no gradient in exact arithmetic)
        scale = max(their_step[name].norm(), 1e-2 * typical)
        assert (grad - their_step[name]).norm() <= rtol * scale, name


def sequential(config, **kwargs):
    # SGD: Adam would blow up the rounding of a gradient that is 0 in exact arithmetic to a whole step
    return config(train_sampling_strategy="sequential", optim="sgd", **kwargs)


def mixed_dataset():
    """Plain vision rows and text-only rows before and between pairs, in one schema."""
    rows = [pair_row(i) for i in range(4)]
    plain = written_out([pair_row(10), pair_row(11)])
    plain[1]["images"], plain[1]["prompt"] = [], [{"role": "user", "content": "1 + 1?"}]
    features = Features({**PAIR_FEATURES, "prompt": MESSAGES})
    mixed = [plain[0], rows[0], plain[1], rows[1], plain[2], rows[2], plain[3], rows[3]]
    return Dataset.from_list([{key: row.get(key) for key in features} for row in mixed], features=features)
