"""How often an interval holds the truth: answers drawn many times from a known truth."""

import math
from collections.abc import Callable, Iterator

import numpy as np


PairedInterval = Callable[[int, int, int], tuple[float, float]]
"""(rows that only the first got right, only the second, all rows) → both ends."""
SIZES = (100, 200, 500)


def paired_truths(sizes=SIZES) -> Iterator[tuple[int, float, float, float, float, float]]:
    """(rows, accuracy of the first, of the second, correlation, chance of only the first, of only the second)."""
    for n in sizes:
        for first in (0.5, 0.885, 0.99):
            for second in (0.1, 0.41, 0.6, 0.8, 0.95, 0.99, 1.0):
                for correlation in (0.0, 0.3, 0.6) if second < 1 else (0.0,):
                    spread = math.sqrt(first * (1 - first) * second * (1 - second))
                    both = first * second + correlation * spread
                    only_first, only_second = first - both, second - both
                    if min(only_first, only_second, 1 - both - only_first - only_second) >= 0:
                        yield n, first, second, correlation, only_first, only_second


def paired_coverage(
    interval: PairedInterval, n: int, only_first: float, only_second: float, draws: int, seed: int = 0
) -> tuple[float, float]:
    """(share of the draws whose interval holds the truth, mean width)."""
    chances = [only_first, only_second, 1 - only_first - only_second]
    drawn = np.random.default_rng(seed).multinomial(n, chances, size=draws)[:, :2]
    truth = only_first - only_second
    covered = width = 0.0
    for (b, c), count in zip(*np.unique(drawn, axis=0, return_counts=True), strict=True):
        low, high = interval(int(b), int(c), n)
        covered += count * (low - 1e-9 <= truth <= high + 1e-9)
        width += count * (high - low)
    return covered / draws, width / draws


def answers(only_first: int, only_second: int, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers of two models to the same rows with these counts."""
    rows = np.arange(total)
    return rows < only_first, (rows >= only_first) & (rows < only_first + only_second)
