"""Intervals and tests for accuracies and their differences on the same rows.

The methods were chosen by measured coverage; `benchmarks/check_intervals.py` measures it again, beside what was
rejected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from .json_fields import Fields, JsonObject


PSEUDO_ROWS = 2
"""Pseudo rows added before a difference of accuracies is resampled, spread evenly over all patterns of answers."""
CHUNK = 1_000_000
"""Row numbers that `mean_difference` draws at once: some 40 MiB."""


@dataclass(frozen=True)
class Interval:
    """Both ends of a confidence interval, in the unit of its quantity.

    For an accuracy a share (0 to 1), for a difference of accuracies a difference of shares (-1 to 1), else nats.
    """

    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """`low` and `high`."""
        return {"low": self.low, "high": self.high}

    @classmethod
    def from_dict(cls, data: JsonObject, lowest: float = -math.inf, highest: float = math.inf) -> Interval:
        """The interval of a dict as `to_dict` gives it; `ValueError` for an end outside of `lowest` to `highest`."""
        fields = Fields.of(data)
        return cls(fields.share("low", lowest, highest), fields.share("high", lowest, highest))


@dataclass(frozen=True)
class Accuracy:
    """How many of how many answers are right, with the Wilson interval of that share."""

    correct: int
    total: int
    interval: Interval

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return self.correct / self.total

    def to_dict(self) -> dict[str, float]:
        """`correct` and `total` as counts; `accuracy`, `low` and `high` as shares."""
        counts = {"correct": self.correct, "total": self.total, "accuracy": self.accuracy}
        return {**counts, **self.interval.to_dict()}

    @classmethod
    def from_dict(cls, data: JsonObject) -> Accuracy:
        """The accuracy of a dict as `to_dict` gives it; `ValueError` names a field that is wrong."""
        fields = Fields.of(data)
        total = fields.count("total")
        if not total:
            raise fields.error("total", "must be at least 1, got 0")
        correct = fields.count("correct", most=total)
        if abs(fields.share("accuracy") - correct / total) > 1e-9:
            raise fields.error("accuracy", f"must be {correct} of {total}, got {fields.number('accuracy'):g}")
        return cls(correct, total, Interval.from_dict(fields, 0, 1))


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of the first minus accuracy of the second, on the same rows: a difference of shares, -1 to 1.

    `only_first` and `only_second` count the rows (of `total`) that only one of the two got right. `p_value` is that of
    McNemar's exact two-sided test on these two counts.
    """

    estimate: float
    interval: Interval
    p_value: float
    only_first: int
    only_second: int
    total: int

    def to_dict(self) -> dict[str, float]:
        """`estimate`, `low`, `high`, `p_value` and the three counts."""
        counts = {"only_first": self.only_first, "only_second": self.only_second, "total": self.total}
        return {"estimate": self.estimate, **self.interval.to_dict(), "p_value": self.p_value, **counts}

    @classmethod
    def from_dict(cls, data: JsonObject) -> PairedDifference:
        """The difference of a dict as `to_dict` gives it; `ValueError` names a field that is wrong."""
        fields = Fields.of(data)
        return cls(
            fields.share("estimate", -1),
            Interval.from_dict(fields, -1, 1),
            fields.share("p_value"),
            fields.count("only_first"),
            fields.count("only_second"),
            fields.count("total"),
        )


@dataclass(frozen=True)
class GapChange:
    """The gap in a second run minus the gap in a first one, on the same `total` rows: from -2 to 2, negative where the
    gap closed."""

    estimate: float
    interval: Interval
    total: int

    def to_dict(self) -> dict[str, float]:
        """`estimate`, `low`, `high` and `total`."""
        return {"estimate": self.estimate, **self.interval.to_dict(), "total": self.total}

    @classmethod
    def from_dict(cls, data: JsonObject) -> GapChange:
        """The change of a dict as `to_dict` gives it; `ValueError` names a field that is wrong."""
        fields = Fields.of(data)
        return cls(fields.share("estimate", -2, 2), Interval.from_dict(fields, -2, 2), fields.count("total"))


@dataclass(frozen=True)
class MeanDifference:
    """Mean of the first minus mean of the second, on the same `total` rows, in the unit of the values (such as nats).

    `interval` is `None` where the rows vary too little to estimate one: fewer than four rows, or (nearly) the same
    difference in all of them.
    """

    estimate: float
    interval: Interval | None
    total: int

    def to_dict(self) -> dict[str, float]:
        """`estimate`, `low`, `high` and `total`; without `low` and `high` where there is no interval."""
        ends = self.interval.to_dict() if self.interval else {}
        return {"estimate": self.estimate, **ends, "total": self.total}

    @classmethod
    def from_dict(cls, data: JsonObject) -> MeanDifference:
        """The difference of a dict as `to_dict` gives it; `ValueError` names a field that is wrong."""
        fields = Fields.of(data)
        interval = Interval.from_dict(fields) if fields.has("low") or fields.has("high") else None
        return cls(fields.number("estimate"), interval, fields.count("total"))


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> Interval:
    """The Wilson score interval of the share `correct / total`.

    Wilson (1927); Brown, Cai and DasGupta (2001) on why this one and not Wald's.

    Raises:
        ValueError: for no rows, more right answers than rows, or a confidence outside of (0, 1).
    """
    z = _normal_quantile(confidence)
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"an accuracy needs 0 ≤ correct ≤ total and at least one row, got {correct} of {total}.")
    share = correct / total
    scale = 1 + z**2 / total
    centre = (share + z**2 / (2 * total)) / scale
    half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2)) / scale
    # At the edges the formula is exactly 0 or 1, but for rounding
    low = 0.0 if correct == 0 else centre - half
    high = 1.0 if correct == total else centre + half
    return Interval(low, high)


def accuracy_of(correct: Sequence[bool], confidence: float = 0.95) -> Accuracy:
    """The accuracy over rows, with its Wilson interval, from whether the answer to each row is right.

    Raises:
        ValueError: for no rows, or an entry that is neither true nor false.
    """
    right = int(_graded("correct", correct).sum())
    return Accuracy(right, len(correct), wilson_interval(right, len(correct), confidence))


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """P-value of McNemar's exact two-sided test that both are equally accurate.

    With n = only_first + only_second rows that only one got right: twice the tail P(X ≤ min(only_first, only_second))
    of a binomial distribution of n trials with probability 1/2, at most 1; 1 for n = 0.
    """
    n = only_first + only_second
    # In logarithms, since the coefficients of some thousand rows exceed a float
    total = math.lgamma(n + 1) - n * math.log(2)
    terms = (total - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * math.fsum(map(math.exp, terms)))


def paired_difference(first: Sequence[bool], second: Sequence[bool], *, confidence: float = 0.95) -> PairedDifference:
    """The difference of two accuracies on the same rows, with a paired bootstrap interval and McNemar's test.

    Rows are resampled, each with both its answers, so the statistic of a resample is a mean of differences of -1, 0 or
    1. Its distribution over all resamples (a multinomial) is computed exactly and not drawn: there is no seed, and the
    interval is that of infinitely many resamples. The plain percentile bootstrap covers 63 % in place of 95 % where
    one row in 100 differs, and has no width where none does; two corrections mend that:

    - The rows are resampled together with two pseudo rows, half a row for each pattern (both right, only the first,
      only the second, none): the counts of Agresti and Min (2005, Statistics in Medicine 24). `estimate` leaves the
      pseudo rows out.
    - The ends are interpolated quantiles of the mid-distribution function P(X < x) + P(X = x) / 2, since the resampled
      differences are multiples of 1/n.

    Args:
        first, second: Whether the answer to each row is right.
        confidence: Of the interval.

    Raises:
        ValueError: for no rows, different numbers of them, or an entry that is neither true nor false.
    """
    answers = [_graded("first", first), _graded("second", second)]
    _check_same_rows(first=answers[0], second=answers[1])
    differences = answers[0] - answers[1]
    only_first, only_second = int((differences == 1).sum()), int((differences == -1).sum())
    return PairedDifference(
        estimate=float(differences.mean()),
        interval=_resampled_interval(differences, (1, -1), confidence),
        p_value=mcnemar_p_value(only_first, only_second),
        only_first=only_first,
        only_second=only_second,
        total=len(differences),
    )


def gap_change(
    before_first: Sequence[bool],
    before_second: Sequence[bool],
    after_first: Sequence[bool],
    after_second: Sequence[bool],
    *,
    confidence: float = 0.95,
) -> GapChange:
    """The change of a gap between two runs on the same rows: (after_first - after_second) - (before_first -
    before_second), each an accuracy.

    The interval is made as in `paired_difference`, with the four answers to a row resampled together.

    Raises:
        ValueError: for no rows, different numbers of them, or an entry that is neither true nor false.
    """
    given = {
        "before_first": before_first,
        "before_second": before_second,
        "after_first": after_first,
        "after_second": after_second,
    }
    rows = {name: _graded(name, values) for name, values in given.items()}
    _check_same_rows(**rows)
    changes = (rows["after_first"] - rows["after_second"]) - (rows["before_first"] - rows["before_second"])
    interval = _resampled_interval(changes, (1, -1, -1, 1), confidence)
    return GapChange(float(changes.mean()), interval, len(changes))


def mean_difference(
    first: Sequence[float],
    second: Sequence[float],
    *,
    weights: Sequence[float] | None = None,
    confidence: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> MeanDifference:
    """The difference of two means on the same rows, with a bootstrap-t interval (Efron and Tibshirani 1993, §12.5).

    The deviation of each resample is divided by that resample's own standard error, so that the interval follows the
    skew of losses; percentile and BCa intervals cover less. Time grows with `n_resamples` times the number of rows.

    Args:
        first, second: One value of each row, such as its mean nats per token.
        weights: Of the rows, such as their counts of tokens: the mean is then that of all tokens.
        confidence: Of the interval.
        n_resamples, seed: How many resamples are drawn, and from which seed.

    Raises:
        ValueError: for no rows, different numbers of them, values that are not finite, or weights that are not
            positive.
    """
    values = {"first": np.asarray(first, float), "second": np.asarray(second, float)}
    values["weights"] = np.ones(len(first)) if weights is None else np.asarray(weights, float)
    _check_same_rows(**values)
    for name, column in values.items():
        is_good = np.isfinite(column) & ((column > 0) | (name != "weights"))
        if not is_good.all():
            row = int(np.argmin(is_good))
            wanted = "positive and finite" if name == "weights" else "finite"
            raise ValueError(f"`{name}` must be {wanted}, got {column[row]} in row {row}.")
    if n_resamples < 1:
        raise ValueError(f"`n_resamples` must be at least 1, got {n_resamples}.")
    _normal_quantile(confidence)
    differences, weight = values["first"] - values["second"], values["weights"]
    everything = np.arange(len(differences))[None]
    (estimate,), (error,) = _means_and_errors(differences, weight, everything)
    if differences.min() == differences.max():
        return MeanDifference(float(estimate), None, len(differences))
    generator = np.random.default_rng(seed)
    chunk = max(1, CHUNK // len(differences))
    deviations = []
    for start in range(0, n_resamples, chunk):
        drawn = generator.integers(len(differences), size=(min(chunk, n_resamples - start), len(differences)))
        means, errors = _means_and_errors(differences, weight, drawn)
        # One without spread says nothing of how far it is off: it counts as infinitely far
        has_spread = errors > 1e-12 * np.abs(differences).max()
        infinite = np.copysign(np.inf, means - estimate)
        deviations.append(np.divide(means - estimate, errors, out=infinite, where=has_spread))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(deviations), [tail, 1 - tail], method="inverted_cdf")
    is_known = np.isfinite(low) and np.isfinite(high)
    interval = Interval(float(estimate - high * error), float(estimate - low * error)) if is_known else None
    return MeanDifference(float(estimate), interval, len(differences))


def _means_and_errors(values: np.ndarray, weights: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weighted mean [R] of the rows [R, N] of each resample, and its standard error as that of a ratio [R]."""
    drawn, weight = values[rows], weights[rows]
    total = weight.sum(1)
    means = (weight * drawn).sum(1) / total
    return means, np.sqrt(((weight * (drawn - means[:, None])) ** 2).sum(1)) / total


def _resampled_interval(values: np.ndarray, signs: Sequence[int], confidence: float) -> Interval:
    """The interval of a mean of whole numbers [N], each the sum of a row's right answers with these signs."""
    _normal_quantile(confidence)
    patterns = np.array(np.meshgrid(*[(0, sign) for sign in signs])).sum(0).ravel()
    largest = int(patterns.max())
    support = np.arange(-largest, largest + 1)
    counts = (values[:, None] == support).sum(0) + PSEUDO_ROWS * (patterns[:, None] == support).mean(0)
    n = len(values) + PSEUDO_ROWS
    # The sum of n draws has the n-th power of their characteristic function, which the transform turns back
    size = 2 * largest * n + 1
    angles = 2 * np.pi * np.arange(size // 2 + 1) / size
    characteristic = sum(
        count / n * np.exp(-1j * value * angles) for count, value in zip(counts, support, strict=True)
    )
    probabilities = np.roll(np.fft.irfft(characteristic**n, size), largest * n).clip(0)
    middle = np.cumsum(probabilities) - probabilities / 2
    tail = (1 - confidence) / 2
    low, high = np.interp([tail, 1 - tail], middle, np.arange(-largest * n, largest * n + 1) / n)
    # The pseudo rows pull towards 0: at a low confidence the interval could end short of what was seen
    return Interval(min(float(low), float(values.mean())), max(float(high), float(values.mean())))


def _graded(name: str, correct: Sequence[bool]) -> np.ndarray:
    values = np.asarray(correct)
    wrong = [row for row, value in enumerate(values.tolist()) if value not in (0, 1)]
    if wrong:
        raise ValueError(f"`{name}` must be true or false for each row, got {correct[wrong[0]]!r} in row {wrong[0]}.")
    return values.astype(int)


def _check_same_rows(**columns: np.ndarray) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"`{name}` has {length}" for name, length in lengths.items())
        raise ValueError(f"a paired difference needs the same rows in the same order; {found}.")
    if not min(lengths.values()):
        raise ValueError("a difference needs at least one row.")


def _normal_quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be between 0 and 1, got {confidence}; 0.95 is usual.")
    return NormalDist().inv_cdf(0.5 + confidence / 2)
