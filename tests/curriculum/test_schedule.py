"""Schedules: their shares over the course of a run, and what a mix may not be."""

import math

import pytest

from trl_modality.curriculum import FACTORS, SCHEDULES, Adaptive, Mix, get_schedule


POINTS = [i / 200 for i in range(201)]


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "none": [(1, 1), (1, 1), (1, 1)],
        "text_rich": [(1, 0), (1, 0), (1, 0)],
        "vision_centric": [(0, 1), (0, 1), (0, 1)],
        "mix": [(0.5, 0.5)] * 3,
        "two_stage": [(1, 0), (0, 1), (0, 1)],
        "linear": [(1, 0), (0.5, 0.5), (0, 1)],
        "cosine": [(1, 0), (0.5, 0.5), (0, 1)],
        "alternating": [(1, 0), (1, 0), (1, 0)],
        "levels": [(1, 1), (1, 1), (1, 1)],
    }.items(),
    ids=str,
)
def test_begin_middle_and_end(name, expected):
    mixes = [get_schedule(name)(progress) for progress in (0.0, 0.5, 1.0)]
    assert [share for mix in mixes for share in (mix.text_rich, mix.vision_centric)] == pytest.approx(
        sum(expected, ())
    )


def test_every_schedule_trains_every_pair_at_any_progress():
    assert len(SCHEDULES) == 9
    for name in SCHEDULES:
        for progress in POINTS:
            mix = get_schedule(name)(progress)  # a `Mix` refuses shares that leave pairs out
            assert mix.text_rich + mix.vision_centric >= 1.0 - 1e-9


def test_cosine_is_slow_at_its_ends():
    shares = [get_schedule("cosine")(progress).vision_centric for progress in POINTS]
    assert shares == sorted(shares)
    assert shares[20] < 0.03 < 0.97 < shares[180]


def test_alternating_has_the_period_asked_for():
    shares = [get_schedule("alternating", period=0.5)(progress).vision_centric for progress in (0, 0.2, 0.3, 0.6, 0.8)]
    assert shares == [0, 0, 1, 0, 1]


def test_two_stage_switches_where_asked_and_ends_its_kl():
    schedule = get_schedule("two_stage", switch=0.3)
    assert schedule(0.299) == Mix(vision_centric=0.0)
    assert schedule(0.3) == Mix(text_rich=0.0, kl=0.0)


def test_levels_rise():
    ratios = [get_schedule("levels")(progress).vision_ratio for progress in POINTS]
    assert ratios == sorted(ratios)
    assert (ratios[0], ratios[-1]) == (0.0, 1.0)


def test_factors():
    assert [FACTORS["warmup"](p, 0.2) for p in (0.0, 0.1, 0.2, 1.0)] == [0.0, 0.5, 1.0, 1.0]
    assert [FACTORS["until"](p, 0.2) for p in (0.0, 0.2, 1.0)] == [1.0, 0.0, 0.0]
    assert [FACTORS["from"](p, 0.2) for p in (0.0, 0.2, 1.0)] == [0.0, 1.0, 1.0]
    assert {FACTORS["constant"](p, 0.2) for p in POINTS} == {1.0}
    assert FACTORS["warmup"](0.0, 0.0) == 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text_rich": 0.4, "vision_centric": 0.5}, "some pairs would be trained in no view"),
        ({"text_rich": 1.2}, r"must be in \[0, 1\]"),
        ({"kl": -1.0}, "`kl` of a mix must be a finite number"),
        ({"replay": math.nan}, "`replay` of a mix"),
        ({"vision_ratio": 1.5}, "`vision_ratio` of a mix"),
    ],
    ids=str,
)
def test_what_a_mix_may_not_be(values, message):
    with pytest.raises(ValueError, match=message):
        Mix(**values)


def test_adaptive_goes_where_the_gap_is():
    schedule = Adaptive(target_gap=0.1, window=4)
    assert [schedule.mix_at(step).vision_centric for step in range(8)] == [0.5] * 8
    schedule.observe(0.2)
    assert schedule.mix_at(8).vision_centric == pytest.approx(0.55)
    schedule.observe(5.0)  # no further than 0.1 in one window
    assert schedule.mix_at(12).vision_centric == pytest.approx(0.65)
    schedule.observe(None)
    with pytest.raises(ValueError, match=r"The gap of steps 12 to 16 is inf nats, .* cannot follow"):
        schedule.observe(math.inf)
    schedule.observe(None)
    assert schedule.mix_at(23).vision_centric == pytest.approx(0.65)
    for _ in range(20):
        schedule.observe(-1.0)
    assert schedule.shares[-1] == pytest.approx(0.1)
    for _ in range(20):
        schedule.observe(1.0)
    assert schedule.shares[-1] == pytest.approx(0.9)
    assert schedule.mix_at(0) == Mix(text_rich=0.5, vision_centric=0.5), "what is decided stays"


def test_adaptive_knows_only_what_is_decided():
    schedule = Adaptive(window=4)
    with pytest.raises(RuntimeError, match="Raise `curriculum_window`"):
        schedule.mix_at(8)
    with pytest.raises(ValueError, match="must be finite"):
        Adaptive(target_gap=math.nan)
