"""The plan: shares to the row over any window, epochs with every row once, and nothing but the step to know."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_modality.curriculum import SCHEDULES, Mix, Plan, get_schedule, size_of_epoch


def slots_of(plan, steps):
    """Over all slots: whether they are replay, and the views of their pairs."""
    parts = [plan.step(step) for step in range(steps)]
    return tuple(
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("is_replay", "text_rich", "vision_centric")
    )


def worst_window(marks, shares, window=1000):
    """How far the marks in any window are from the sum of their shares there."""
    off = np.concatenate([[0.0], np.cumsum(marks - shares)])
    return np.abs(off[window:] - off[:-window]).max()


ONE = 1.0 + 1e-9  # the sums of shares are rounded


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("replay", ["none", "constant", "rising"])
@pytest.mark.parametrize(("n_steps", "batch"), [(400, 24), (430, 7), (300, 16)])
def test_any_window_of_1000_has_its_shares_to_within_a_row(name, replay, n_steps, batch):
    schedule = get_schedule(name)
    ratio = {"none": 0.0, "constant": 0.37, "rising": 0.5}[replay]

    def mix_at(step):
        mix = schedule(step / n_steps)
        return Mix(mix.text_rich, mix.vision_centric, replay=step / n_steps if replay == "rising" else 1.0)

    is_replay, text_rich, vision_centric = slots_of(Plan(mix_at, batch=batch, replay_ratio=ratio), n_steps)
    mixes = [mix_at(step) for step in range(n_steps) for _ in range(batch)]
    assert worst_window(is_replay, np.array([ratio * mix.replay for mix in mixes])) < ONE
    rows = ~is_replay
    for marks, view in ((text_rich, "text_rich"), (vision_centric, "vision_centric")):
        shares = np.array([getattr(mix, view) for mix in mixes])
        assert worst_window(marks[rows], shares[rows]) < ONE, view
        assert not marks[is_replay].any()
    assert (text_rich | vision_centric)[rows].all()


def test_shares_that_overlap():
    """60 % and 80 %: 20 % alone in one view, 40 % alone in the other; two lines, so within two rows."""
    _, text_rich, vision_centric = slots_of(Plan(lambda step: Mix(0.6, 0.8), batch=7), 1000)
    assert worst_window(text_rich, np.full(7000, 0.6)) < 2.0
    assert worst_window(vision_centric, np.full(7000, 0.8)) < 2.0
    assert (text_rich | vision_centric).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.floats(0, 0.9), st.integers(1, 40), st.integers(1, 4))
def test_an_epoch_has_every_row_once_and_its_share_of_replay(n_rows, ratio, batch, epochs):
    size = size_of_epoch(n_rows, ratio)
    plan = Plan(lambda step: Mix(0.5, 0.5), batch=batch, replay_ratio=ratio, size=size)
    steps = plan.steps_per_epoch
    parts = [plan.step(step) for step in range(epochs * steps)]
    rows, replay = 0, 0
    for step, part in enumerate(parts):
        assert (part.first_row, part.first_replay) == (rows, replay)
        assert len(part) == batch or step % steps == steps - 1
        replay += part.n_replay
        rows += len(part) - part.n_replay
        if step % steps == steps - 1:
            assert rows == (step + 1) // steps * n_rows
    assert abs(size.replay - ratio * size.slots) <= 0.5


def test_a_step_is_known_without_those_before_it():
    def plan():
        return Plan(lambda step: get_schedule("linear")(step / 50), batch=9, replay_ratio=0.3)

    in_order = plan()
    parts = [in_order.step(step) for step in range(50)]
    late = plan().step(41)
    for name in ("is_replay", "text_rich", "vision_centric"):
        assert (getattr(late, name) == getattr(parts[41], name)).all()
    assert (late.first_row, late.first_replay) == (parts[41].first_row, parts[41].first_replay)


def test_whole_numbers_however_long_the_run():
    size = size_of_epoch(10**9 + 7, 1 / 3)
    plan = Plan(lambda step: Mix(), batch=2**20, replay_ratio=1 / 3, size=size)
    first = plan.step(3 * plan.steps_per_epoch)
    assert (first.first_row, first.first_replay) == (3 * (10**9 + 7), 3 * size.replay)


def test_replay_leaves_room_for_rows():
    with pytest.raises(ValueError, match="no slot is left"):
        Plan(lambda step: Mix(replay=2.0), batch=4, replay_ratio=0.5).step(0)
