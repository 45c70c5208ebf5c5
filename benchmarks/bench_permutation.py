"""Rows a second of an order that is computed, by how many are asked for at once; one core, 10⁹ rows.

python benchmarks/bench_permutation.py [--rounds 5]
"""

import argparse
import time
from statistics import median

import numpy as np

from trl_modality.curriculum.permutation import Permutation


N_ROWS = 10**9
BLOCKS = (32, 1024, 65_536)


def rows_per_second(permutation: Permutation, block: int, seconds: float = 0.5) -> float:
    """Consecutive blocks, as a sampler asks for them."""
    begin, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        permutation(np.arange(begin, begin + block))
        begin += block
    return begin / passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    started = time.perf_counter()
    permutation = Permutation(N_ROWS, seed=0)
    print(f"{N_ROWS:,} rows, ready after {1e3 * (time.perf_counter() - started):.1f} ms")
    rates: dict[int, list[float]] = {block: [] for block in BLOCKS}
    for _ in range(options.rounds):
        for block in BLOCKS:
            rates[block].append(rows_per_second(permutation, block))
    for block, seen in rates.items():
        print(f"{block:>7,} at once: {median(seen) / 1e6:.2f} million rows a second")


if __name__ == "__main__":
    main()
