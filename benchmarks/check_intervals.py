"""Coverage of the intervals of `evaluation/intervals.py`, and of alternatives that were not chosen.

    python benchmarks/check_intervals.py [--draws 20000] [--means 2000]

Answers are drawn many times from a known truth, which an interval of 95 % should contain in 95 % of the draws. Exits
with 1 if one of our paired intervals contains it in less than 93.5 %, or in more than 96.5 % where at least five rows
are expected to differ. (With fewer, differences are so coarse multiples of 1/n that no interval is at 95 %; more
coverage is then accepted.)
"""

import argparse
import math
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from rows import Origin, append, origin_of_cpu_run
from scipy import stats

from tests.testing.interval_coverage import SIZES, answers, paired_coverage, paired_truths
from trl_modality.evaluation.intervals import mean_difference, paired_difference, wilson_interval


Z = stats.norm.ppf(0.975)
FEW = 5
SKEWS = {
    "normal": (lambda draw, n: draw.normal(size=n), 0.0),
    "exponential": (lambda draw, n: draw.exponential(size=n), 1.0),
    "lognormal": (lambda draw, n: draw.lognormal(size=n), math.exp(0.5)),
    "student_t_3": (lambda draw, n: draw.standard_t(3, size=n), 0.0),
}


@dataclass(frozen=True, kw_only=True)
class CoverageRow(Origin):
    """One truth and one method; `case` is `accuracy`, `paired` or `mean`."""

    truth: str
    n: int
    draws: int
    expected_discordant: float | None = None
    coverage: float
    mean_width: float


def ours(b: int, c: int, n: int) -> tuple[float, float]:
    interval = paired_difference(*answers(b, c, n)).interval
    return interval.low, interval.high


def wald(b: int, c: int, n: int) -> tuple[float, float]:
    difference = (b - c) / n
    half = Z * math.sqrt(max((b + c) / n - difference**2, 0) / n)
    return difference - half, difference + half


def bonett_price(b: int, c: int, n: int) -> tuple[float, float]:
    """The interval of Bonett and Price (2012) for a paired difference."""
    return wald(b + 1, c + 1, n + 2)


def percentile(b: int, c: int, n: int) -> tuple[float, float]:
    low, high = np.quantile(resampled(b, c, n), [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def bca(b: int, c: int, n: int) -> tuple[float, float]:
    """The BCa bootstrap interval of Efron (1987)."""
    means, difference = resampled(b, c, n), (b - c) / n
    below = (means < difference).mean() + (means == difference).mean() / 2
    values, counts = np.array([1, -1, 0]) - difference, np.array([b, c, n - b - c])
    square = (counts * values**2).sum()
    acceleration = (counts * values**3).sum() / (6 * square**1.5) if square else 0.0
    bias = stats.norm.ppf(below)
    ends = [bias + z for z in (-Z, Z)]
    levels = [stats.norm.cdf(bias + end / (1 - acceleration * end)) for end in ends]
    low, high = np.quantile(means, levels, method="inverted_cdf")
    return float(low), float(high)


def resampled(b: int, c: int, n: int, count: int = 2000) -> np.ndarray:
    drawn = np.random.default_rng(0).multinomial(n, [b / n, c / n, 1 - (b + c) / n], size=count)
    return (drawn[:, 0] - drawn[:, 1]) / n


METHODS = {"ours": ours, "percentile": percentile, "bca": bca, "wald": wald, "bonett_price": bonett_price}


def paired_rows(draws: int, origin: dict) -> list[CoverageRow]:
    rows = []
    for n, first, second, correlation, only_first, only_second in paired_truths():
        for name, method in METHODS.items():
            coverage, width = paired_coverage(method, n, only_first, only_second, draws)
            rows.append(
                CoverageRow(
                    **origin,
                    case="paired",
                    implementation=name,
                    truth=f"{first:g} {second:g} {correlation:g}",
                    n=n,
                    draws=draws,
                    expected_discordant=round(n * (only_first + only_second), 2),
                    coverage=round(coverage, 4),
                    mean_width=round(width, 5),
                )
            )
        print(".", end="", flush=True)
    print()
    return rows


def accuracy_rows(origin: dict) -> list[CoverageRow]:
    """Coverage of Wilson's interval, exact, as a sum over all counts."""
    rows = []
    for n in SIZES:
        ends = [wilson_interval(k, n) for k in range(n + 1)]
        for share in np.arange(0.05, 0.996, 0.005):
            chances = stats.binom.pmf(np.arange(n + 1), n, share)
            holds = np.array([end.low <= share <= end.high for end in ends])
            width = float((chances * [end.high - end.low for end in ends]).sum())
            figures = {"coverage": round(float((chances * holds).sum()), 4), "mean_width": round(width, 5)}
            named = {"case": "accuracy", "implementation": "ours", "truth": f"{share:.3f}", "n": n, "draws": 0}
            rows.append(CoverageRow(**origin, **named, **figures))
    return rows


def mean_rows(draws: int, origin: dict) -> list[CoverageRow]:
    rows = []
    for skew, (draw, truth) in SKEWS.items():
        for n in (30, *SIZES):
            samples = [draw(np.random.default_rng((n, i)), n) for i in range(draws)]
            for name, method in {"ours": mean_ends, "percentile": percentile_mean, "student_t": student_mean}.items():
                ends = np.array([method(sample) for sample in samples])
                covered = ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean()
                figures = {"coverage": round(covered, 4), "mean_width": round((ends[:, 1] - ends[:, 0]).mean(), 5)}
                named = {"case": "mean", "implementation": name, "truth": skew, "n": n, "draws": draws}
                rows.append(CoverageRow(**origin, **named, **figures))
            print(".", end="", flush=True)
    print()
    return rows


def mean_ends(sample: np.ndarray) -> tuple[float, float]:
    interval = mean_difference(sample, np.zeros_like(sample), n_resamples=1000).interval
    return interval.low, interval.high


def percentile_mean(sample: np.ndarray) -> tuple[float, float]:
    drawn = np.random.default_rng(0).integers(len(sample), size=(1000, len(sample)))
    return tuple(np.quantile(sample[drawn].mean(1), [0.025, 0.975]))


def student_mean(sample: np.ndarray) -> tuple[float, float]:
    return tuple(stats.t.interval(0.95, len(sample) - 1, sample.mean(), stats.sem(sample)))


def band(row: CoverageRow) -> str:
    """The group of rows under which a row is printed."""
    if row.case == "accuracy":
        return f"accuracy, {row.n} rows"
    if row.case == "mean":
        return f"mean, {row.truth}"
    few = [f"paired, {low} to {high} expected to differ" for low, high in ((0, FEW), (FEW, 20), (20, 500))]
    return few[(row.expected_discordant >= FEW) + (row.expected_discordant >= 20)]


def show(rows: list[CoverageRow]) -> None:
    groups = defaultdict(list)
    for row in rows:
        groups[band(row), row.implementation].append(row.coverage)
    print(f"{'':38}{'':14}{'cases':>6}{'min':>8}{'mean':>8}{'max':>8}  within 95 % ± 1.5")
    for (group, name), found in groups.items():
        within = np.mean([0.935 <= coverage <= 0.965 for coverage in found])
        figures = f"{min(found):8.3f}{np.mean(found):8.3f}{max(found):8.3f}"
        print(f"{group:38}{name:14}{len(found):6}{figures}{within:10.0%}")


def failures(rows: list[CoverageRow]) -> list[CoverageRow]:
    """Rows of our paired intervals that are off by more than 1.5 points and three standard errors of the count."""
    slack = 0.015 + 3 * math.sqrt(0.05 * 0.95 / max(row.draws for row in rows))
    return [
        row
        for row in rows
        if (row.case, row.implementation) == ("paired", "ours")
        and (row.coverage < 0.95 - slack or (row.expected_discordant >= FEW and row.coverage > 0.95 + slack))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20_000, help="draws of each truth of a paired difference")
    parser.add_argument("--means", type=int, default=2_000, help="draws of each distribution of nats")
    options = parser.parse_args()
    origin = origin_of_cpu_run("check_intervals")
    paired = paired_rows(options.draws, origin)
    rows = accuracy_rows(origin) + paired + mean_rows(options.means, origin)
    show(rows)
    print("wrote", append(rows, "interval_coverage"))
    failed = failures(paired)
    for row in failed:
        print(f"off: {row.truth}, {row.n} rows, {row.expected_discordant} expected to differ: {row.coverage}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
