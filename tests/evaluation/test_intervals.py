"""Intervals and tests against scipy and statsmodels, and how often the intervals hold a known truth."""

import json
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from tests.testing.interval_coverage import answers, paired_coverage, paired_truths
from trl_modality.evaluation.intervals import (
    accuracy_of,
    gap_change,
    mcnemar_p_value,
    mean_difference,
    paired_difference,
    wilson_interval,
)


DRAWS = 2000
# The truth, and then some: three standard errors of a count of draws
SLACK = 0.015 + 3 * math.sqrt(0.05 * 0.95 / DRAWS)
RANDOM = np.random.default_rng(5)


def ends(interval):
    return interval.low, interval.high


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize(("correct", "total"), [(0, 1), (1, 1), (0, 20), (20, 20), (177, 200), (1, 500), (998, 1000)])
def test_wilson_is_that_of_statsmodels(correct, total, confidence):
    theirs = proportion_confint(correct, total, alpha=1 - confidence, method="wilson")
    assert ends(wilson_interval(correct, total, confidence)) == pytest.approx(theirs, abs=1e-12)


def test_accuracy_of_answers():
    accuracy = accuracy_of([True, False, True, True])
    assert (accuracy.correct, accuracy.total, accuracy.accuracy) == (3, 4, 0.75)
    low, high = proportion_confint(3, 4, method="wilson")
    expected = {"correct": 3, "total": 4, "accuracy": 0.75, "low": low, "high": high}
    assert accuracy.to_dict() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (0, 5), (5, 5), (3, 9), (70, 8), (200, 260), (1500, 1400)])
def test_mcnemar_is_that_of_statsmodels(b, c):
    theirs = mcnemar([[17, b], [c, 4]], exact=True).pvalue
    assert mcnemar_p_value(b, c) == pytest.approx(theirs, rel=1e-9)
    assert mcnemar_p_value(c, b) == mcnemar_p_value(b, c)


def test_mcnemar_of_many_rows_neither_overflows_nor_leaves_0_to_1():
    assert 0 < mcnemar_p_value(900, 0) < 1e-250
    assert mcnemar_p_value(50_000, 50_000) == 1.0
    assert mcnemar_p_value(50_500, 49_500) == pytest.approx(stats.binomtest(49_500, 100_000).pvalue, rel=1e-6)


def test_paired_difference_counts():
    difference = paired_difference([1, 1, 1, 0, 0], [1, 0, 0, 1, 0])
    assert difference.estimate == pytest.approx(0.2)
    assert (difference.only_first, difference.only_second, difference.total) == (2, 1, 5)
    assert difference.p_value == 1.0
    plain = json.loads(json.dumps(difference.to_dict()))
    assert set(plain) == {"estimate", "low", "high", "p_value", "only_first", "only_second", "total"}
    swapped = paired_difference([1, 0, 0, 1, 0], [1, 1, 1, 0, 0])
    assert ends(swapped.interval) == pytest.approx((-difference.interval.high, -difference.interval.low), abs=1e-12)


@pytest.mark.parametrize(("b", "c", "n"), [(70, 8, 200), (12, 30, 400), (40, 41, 300)])
def test_paired_interval_is_scipys_bootstrap_of_the_rows_and_the_pseudo_rows(b, c, n):
    """Weighted pseudo rows cannot be given to scipy: every row four times and resamples of n + 2 rows are the same."""
    first, second = answers(b, c, n)
    rows = np.concatenate([np.repeat(first.astype(int) - second, 4), [1, 1, -1, -1, 0, 0, 0, 0]])
    drawn = np.random.default_rng(0).choice(rows, size=(20_000, n + 2)).mean(1)
    # The step of 1/n is smoothed over, as the mid-distribution does
    spread = np.random.default_rng(1).uniform(-0.5, 0.5, size=len(drawn)) / (n + 2)
    expected = np.quantile(drawn + spread, [0.025, 0.975])
    interval = paired_difference(first, second).interval
    assert ends(interval) == pytest.approx(expected, abs=0.0015)
    # The plain percentile bootstrap differs by the pseudo rows, which matter less than a row here
    plain = stats.bootstrap((first.astype(int) - second,), np.mean, method="percentile", rng=3).confidence_interval
    assert ends(interval) == pytest.approx((plain.low, plain.high), abs=1.5 / n)


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("n", [1, 2, 30, 200])
def test_no_row_that_differs_is_no_certainty(n, right):
    difference = paired_difference([right] * n, [right] * n)
    assert (difference.estimate, difference.p_value) == (0.0, 1.0)
    # What would be seen in 5 % of the samples: the rule of three, 3/n, to a factor
    assert 1.5 / (n + 3) < difference.interval.high <= min(1.0, 4 / n)
    assert difference.interval.low == pytest.approx(-difference.interval.high, abs=1e-9)


@pytest.mark.parametrize("confidence", [0.3, 0.95, 0.999])
def test_interval_holds_the_estimate_and_stays_in_range(confidence):
    for n in (1, 2, 3, 7, 20):
        for b in range(n + 1):
            for c in range(n + 1 - b):
                difference = paired_difference(*answers(b, c, n), confidence=confidence)
                low, high = ends(difference.interval)
                assert -1 <= low <= difference.estimate <= high <= 1


def our_interval(b, c, n):
    return ends(paired_difference(*answers(b, c, n)).interval)


QUICK = [(100, 0.885, 0.41, 0.3), (200, 0.885, 0.8, 0.6), (200, 0.99, 0.95, 0.0), (500, 0.5, 0.6, 0.6)]


@pytest.mark.parametrize("truth", [t for t in paired_truths() if t[:4] in QUICK], ids=str)
def test_paired_interval_covers_95_percent(truth):
    """The whole grid is `benchmarks/check_intervals.py`."""
    n, _, _, _, only_first, only_second = truth
    coverage, _ = paired_coverage(our_interval, n, only_first, only_second, DRAWS)
    assert abs(coverage - 0.95) <= SLACK


def test_paired_interval_is_on_the_safe_side_where_few_rows_differ():
    """Accuracies of 0.99 and 1 on 100 rows, where the percentile bootstrap covers 63 %."""

    def percentile(b, c, n):
        return tuple(stats.binom.ppf([0.025, 0.975], n, b / n) / n)

    assert paired_coverage(percentile, 100, 0.01, 0.0, DRAWS)[0] < 0.7
    coverage, width = paired_coverage(our_interval, 100, 0.01, 0.0, DRAWS)
    assert coverage > 0.95
    assert width < 0.06


@pytest.mark.parametrize("n", [100, 200, 500])
def test_wilson_covers_95_percent(n):
    """Exact, by summing over all counts; on average over the shares, between which it swings (Brown et al. 2001)."""
    intervals = [ends(wilson_interval(k, n)) for k in range(n + 1)]
    shares = np.arange(0.05, 0.996, 0.005)
    chances = stats.binom.pmf(np.arange(n + 1)[:, None], n, shares)
    holds = np.array([[low <= share <= high for share in shares] for low, high in intervals])
    coverage = (chances * holds).sum(0)
    assert abs(coverage.mean() - 0.95) < 0.005
    assert ((coverage >= 0.935) & (coverage <= 0.965)).mean() > 0.9


def test_gap_change_of_hand_made_answers():
    change = gap_change([1, 1, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1], [1, 1, 0, 1])
    assert change.estimate == pytest.approx(0.25 - 0.75)
    assert set(change.to_dict()) == {"estimate", "low", "high", "total"}
    assert change.interval.low < change.estimate < change.interval.high


def test_gap_change_from_a_run_without_a_gap_is_as_wide_as_its_patterns_ask():
    """With the first run all right, the change is the gap after: the intervals differ by the pseudo rows alone."""
    first, second = answers(70, 8, 200)
    ones = [True] * 200
    change, gap = gap_change(ones, ones, first, second), paired_difference(first, second)
    assert change.estimate == gap.estimate
    assert ends(change.interval) == pytest.approx(ends(gap.interval), abs=0.5 / 200)


def test_gap_change_covers_95_percent():
    """Four answers to a row that depend on how hard it is, as those of one model before and after training do."""
    n, covered = 200, 0
    chances = np.array([[0.95, 0.55, 0.97, 0.9], [0.6, 0.1, 0.7, 0.5]])
    truth = ((chances[:, 2] - chances[:, 3]) - (chances[:, 0] - chances[:, 1])).mean()
    draw = np.random.default_rng(11)
    for _ in range(DRAWS):
        rows = chances[draw.integers(2, size=n)]
        low, high = ends(gap_change(*(draw.random((n, 4)) < rows).T).interval)
        covered += low <= truth <= high
    assert abs(covered / DRAWS - 0.95) <= SLACK


def test_mean_difference_is_near_students_where_that_is_right():
    values = RANDOM.normal(0.8, 0.3, size=400)
    other = RANDOM.normal(0.1, 0.1, size=400)
    difference = mean_difference(values, other)
    assert difference.estimate == pytest.approx(values.mean() - other.mean(), rel=1e-12)
    theirs = stats.ttest_rel(values, other).confidence_interval(0.95)
    assert ends(difference.interval) == pytest.approx((theirs.low, theirs.high), abs=0.003)
    assert mean_difference(values, other) == difference
    assert mean_difference(values, other, seed=1) != difference


def test_mean_difference_of_weighted_rows_is_that_of_all_tokens():
    tokens = RANDOM.integers(1, 30, size=200)
    nats = RANDOM.exponential(size=(2, 200))
    difference = mean_difference(nats[0], nats[1], weights=tokens)
    expected = ((nats[0] - nats[1]) * tokens).sum() / tokens.sum()
    assert difference.estimate == pytest.approx(expected, rel=1e-12)
    data = (nats[0] - nats[1], tokens)
    theirs = stats.bootstrap(
        data,
        lambda d, w, axis: (d * w).sum(axis) / w.sum(axis),
        paired=True,
        method="percentile",
        vectorized=True,
        rng=0,
    ).confidence_interval
    assert ends(difference.interval) == pytest.approx((theirs.low, theirs.high), abs=0.03)
    alike = mean_difference(nats[0], nats[1], weights=[2.0] * 200)
    assert ends(alike.interval) == pytest.approx(ends(mean_difference(nats[0], nats[1]).interval), rel=1e-9)


def test_mean_difference_of_skewed_values_covers_more_than_the_percentile_bootstrap():
    truth, ours, percentile = math.exp(0.5), 0, 0
    for seed in range(400):
        draw = np.random.default_rng(seed)
        values = draw.lognormal(size=40)
        low, high = ends(mean_difference(values, np.zeros(40), n_resamples=400).interval)
        ours += low <= truth <= high
        low, high = np.quantile(values[draw.integers(40, size=(400, 40))].mean(1), [0.025, 0.975])
        percentile += low <= truth <= high
    assert ours / 400 > 0.9
    assert ours > percentile + 8


@pytest.mark.parametrize("differences", [[0.3], [0.0] * 50, [0.25] * 50, [0.0] * 49 + [1.0], [1.0, 2.0]])
def test_mean_difference_without_spread_has_no_interval(differences):
    found = mean_difference(differences, [0.0] * len(differences))
    assert found.interval is None
    assert found.to_dict() == {"estimate": pytest.approx(np.mean(differences)), "total": len(differences)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy_of([]), "at least one row"),
        (lambda: wilson_interval(3, 2), "3 of 2"),
        (lambda: wilson_interval(1, 2, confidence=95), "got 95; 0.95 is usual"),
        (lambda: paired_difference([], []), "at least one row"),
        (lambda: paired_difference([True], [True, False]), "`first` has 1, `second` has 2"),
        (lambda: paired_difference([True, False], [True, 0.5]), r"`second` .* in row 1"),
        (lambda: paired_difference([True], [None]), "got None in row 0"),
        (lambda: gap_change([1], [1], [1], [1, 1]), "`after_second` has 2"),
        (lambda: mean_difference([], []), "at least one row"),
        (lambda: mean_difference([1.0], [math.nan]), "`second` must be finite, got nan in row 0"),
        (lambda: mean_difference([1.0, 1.0], [1.0, 1.0], weights=[1, 0]), "`weights` must be positive .* row 1"),
        (lambda: mean_difference([1.0], [1.0], n_resamples=0), "`n_resamples`"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
