"""What a resumed run's optimizer has: the rates of its checkpoint, or those that are overridden."""

import copy
import math

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import get_scheduler

from trl_modality.training.hyperparameters import Hyperparameters


def made(rate=0.1, decay=0.01, steps=10, kind="cosine"):
    parameters = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))]
    groups = [{"params": parameters[:1], "weight_decay": decay}, {"params": parameters[1:], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate)
    schedule = get_scheduler(kind, optimizer, num_warmup_steps=2, num_training_steps=steps)
    return optimizer, schedule


def step(optimizer, schedule, times):
    for _ in range(times):
        for group in optimizer.param_groups:
            for each in group["params"]:
                each.grad = torch.ones_like(each)
        optimizer.step()
        schedule.step()


def rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


def resumed(overrides, at=6, **options):
    """An optimizer of other options, that the states of a run after `at` steps were loaded into."""
    old, old_schedule = made()
    step(old, old_schedule, at)
    states = copy.deepcopy((old.state_dict(), old_schedule.state_dict()))
    new, new_schedule = made(**options)
    keeper = Hyperparameters()
    keeper.begin(at)
    keeper.remember(new, new_schedule)
    new.load_state_dict(states[0])
    new_schedule.load_state_dict(states[1])
    keeper.apply(new, new_schedule, overrides)
    return old, new, new_schedule


@pytest.mark.parametrize(
    ("overrides", "options"),
    [
        ({"learning_rate": (0.1, 0.5)}, {"rate": 0.5}),
        ({"max_steps": (10, 40)}, {"steps": 40}),
        ({"lr_scheduler_type": ("cosine", "linear")}, {"kind": "linear"}),
    ],
    ids=lambda each: str(next(iter(each))),
)
def test_the_rate_is_what_the_schedule_gives_at_that_step(overrides, options):
    _, optimizer, schedule = resumed(overrides, **options)
    other, other_schedule = made(**options)
    step(other, other_schedule, 6)
    for _ in range(3):
        assert rates(optimizer) == pytest.approx(rates(other), rel=1e-12)
        assert schedule.get_last_lr() == pytest.approx(rates(other), rel=1e-12)
        step(optimizer, schedule, 1)
        step(other, other_schedule, 1)


def test_the_moments_stay_and_the_decay_changes():
    old, optimizer, _ = resumed({"weight_decay": (0.01, 0.3)}, decay=0.3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert rates(optimizer) == rates(old)
    for mine, theirs in zip(optimizer.state.values(), old.state.values(), strict=True):
        assert torch.equal(mine["exp_avg"], theirs["exp_avg"])


def test_what_is_not_overridden_is_that_of_the_checkpoint():
    for overrides in ({}, {"kl_weight": (1.0, 0.0)}):
        old, optimizer, _ = resumed(overrides, rate=0.5, decay=0.3)
        assert rates(optimizer) == rates(old)
        assert optimizer.param_groups[0]["weight_decay"] == 0.01


def test_another_optimizer_begins_with_no_moments():
    _, optimizer, _ = resumed({"optim": ("adamw_torch", "sgd")})
    assert not optimizer.state


def test_a_checkpoint_without_an_optimizer_goes_on_in_its_schedule():
    optimizer, schedule = made()
    keeper = Hyperparameters()
    keeper.begin(6)
    keeper.remember(optimizer, schedule)
    keeper.apply(optimizer, schedule, {"optimizer": ("not saved", "begun anew")})
    assert rates(optimizer) == pytest.approx([0.1 * 0.5 * (1 + math.cos(math.pi * 4 / 8))] * 2)
    assert schedule.last_epoch == 6


def test_a_schedule_that_goes_by_metrics_keeps_what_it_has_lowered():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.5)
    schedule = ReduceLROnPlateau(optimizer)
    keeper = Hyperparameters()
    keeper.begin(6)
    keeper.remember(optimizer, schedule)
    optimizer.param_groups[0]["lr"] = 0.01  # of the checkpoint: 0.1, lowered to a tenth
    keeper.apply(optimizer, schedule, {"learning_rate": (0.1, 0.5)})
    assert rates(optimizer) == pytest.approx([0.05])
