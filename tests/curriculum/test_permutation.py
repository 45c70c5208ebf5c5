"""Every row once, in an order that looks random, and the same one for ever."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_modality.curriculum.permutation import Permutation


PINNED = (
    [11, 8, 4, 10, 2, 5, 6, 1, 0, 9, 3, 7],
    [245473901, 522137601, 922482185, 765083898],
)


def order(size: int, seed: int = 0, epoch: int = 0) -> np.ndarray:
    return Permutation(size, seed, epoch)(np.arange(size))


@pytest.mark.parametrize("size", [*range(1, 130), 997, 1024, 4095, 4097, 10_007, 99_999, 100_001])
def test_every_row_once(size):
    for seed in range(3):
        assert np.array_equal(np.sort(order(size, seed)), np.arange(size))


@given(st.integers(1, 3000), st.integers(0, 2**63), st.integers(0, 1000))
def test_every_row_once_whatever_the_seed(size, seed, epoch):
    assert np.array_equal(np.sort(order(size, seed, epoch)), np.arange(size))


def test_the_order_is_the_same_for_ever():
    """Or a run could not be resumed after an upgrade."""
    assert order(12, seed=7).tolist() == PINNED[0]
    assert Permutation(10**9, 7, 3)(np.array([0, 1, 2, 999_999_999])).tolist() == PINNED[1]


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = {tuple(order(50, seed, epoch)) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


def test_places_may_come_in_any_shape_and_order():
    permutation = Permutation(1000, 0)
    whole = permutation(np.arange(1000))
    places = np.random.default_rng(0).integers(0, 1000, (7, 11))
    assert np.array_equal(permutation(places), whole[places])
    assert permutation(3) == whole[3]
    assert permutation(np.array([], dtype=int)).size == 0


def test_nothing_is_kept_for_each_row():
    permutation = Permutation(10**12, 0)
    assert sum(getattr(value, "nbytes", 8) for value in vars(permutation).values()) < 200
    rows = permutation(np.arange(100_000) * 9_999_991)
    assert len(np.unique(rows)) == 100_000
    assert 0 <= rows.min() < 10**8
    assert 10**12 - 10**8 < rows.max() < 10**12


@pytest.mark.parametrize("size", [0, -1])
def test_no_rows_is_an_error(size):
    with pytest.raises(ValueError, match=f"`size` must be 1 or more, got {size}"):
        Permutation(size, 0)


@pytest.mark.parametrize("place", [-1, 10])
def test_places_outside_are_errors(place):
    with pytest.raises(ValueError, match=r"places must be in \[0, 10\)"):
        Permutation(10, 0)(np.array([0, place]))


# Randomness: χ² of counts that are all alike, as far from its mean as five of its standard deviations


def is_even(counts: np.ndarray) -> bool:
    expected = counts.mean()
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    freedom = counts.size - 1
    return chi_squared < freedom + 5 * math.sqrt(2 * freedom)


def test_the_measure_sees_what_is_not_even():
    assert is_even(np.random.default_rng(0).multinomial(10_000, [0.01] * 100))
    assert not is_even(np.random.default_rng(0).multinomial(10_000, [0.02] * 10 + [0.8 / 90] * 90))


def test_every_order_of_a_few_rows_is_as_frequent():
    orders = {each: i for i, each in enumerate(permutations(range(4)))}
    counts = np.bincount([orders[tuple(order(4, seed))] for seed in range(12_000)], minlength=24)
    assert is_even(counts)


@pytest.mark.parametrize("place", [0, 1, 17, 99])
def test_every_row_is_as_frequent_at_a_place(place):
    rows = [int(Permutation(100, seed)(np.array([place]))[0]) for seed in range(20_000)]
    assert is_even(np.bincount(rows, minlength=100))


@pytest.mark.parametrize("distance", [1, 2, 316, 317])
def test_rows_at_a_distance_do_not_depend_on_each_other(distance):
    """317 is the width of the two numbers that a place is made of."""
    rows = order(100_000, seed=3)
    bins = 20
    pairs = (rows[:-distance] * bins // 100_000) * bins + rows[distance:] * bins // 100_000
    assert is_even(np.bincount(pairs, minlength=bins * bins))
    steps = np.diff(rows) % 100_000
    assert is_even(np.bincount(steps * bins // 100_000, minlength=bins))
