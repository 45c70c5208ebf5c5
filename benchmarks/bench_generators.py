"""Pairs a second of each generator on one core: problem, picture and PNG file, as `generate_pairs` writes them.

    python benchmarks/bench_generators.py [--rounds 7] [--pairs 100]

Seconds are CPU time of the process on one core, which does not depend on what else the machine does. The first pairs,
which load fonts and tables, are not counted. Every round makes other pairs than the round before.
"""

import argparse
import time
from dataclasses import dataclass
from statistics import median

import torch
from rows import Origin, append, device_name, origin_of_cpu_run, percentiles_ms

from trl_modality.problems.generate import GENERATORS, generate_problem
from trl_modality.problems.png import to_png
from trl_modality.problems.render_style import RenderStyle


IMAGE_SIZES = (224, 336)


@dataclass(frozen=True, kw_only=True)
class GeneratorRow(Origin):
    """One generator at one size; times are of one pair."""

    image_size: int
    samples: int
    p20_ms: float
    p50_ms: float
    p80_ms: float
    pairs_per_second: float
    """By the median."""
    png_bytes: int
    """Bytes of a picture, on average."""


def make(name: str, indices: range, look: RenderStyle) -> int:
    """Make pairs; returns the bytes of their pictures."""
    size = 0
    for index in indices:
        pair = generate_problem(name, index, look=look).to_pair()
        size += len(to_png(pair["images"][0]))
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pairs", type=int, default=100, help="of a round")
    options = parser.parse_args()
    torch.set_num_threads(1)  # what the rows then say of the device
    same = origin_of_cpu_run("generators")
    rows = []
    print(f"{device_name('cpu')}\n{'pairs a second':<16}" + "".join(f"{size:>10}" for size in IMAGE_SIZES))
    for name in GENERATORS:
        for image_size in IMAGE_SIZES:
            look = RenderStyle(image_size=image_size)
            make(name, range(20), look)
            seconds, size = [], 0
            for turn in range(1, options.rounds + 1):
                started = time.process_time()
                size += make(name, range(turn * options.pairs, (turn + 1) * options.pairs), look)
                seconds.append((time.process_time() - started) / options.pairs)
            rows.append(
                GeneratorRow(
                    case=name,
                    implementation="ours",
                    image_size=image_size,
                    samples=options.rounds,
                    **percentiles_ms(seconds),
                    pairs_per_second=round(1 / median(seconds), 1),
                    png_bytes=size // (options.rounds * options.pairs),
                    **same,
                )
            )
        print(f"{name:<16}" + "".join(f"{row.pairs_per_second:>10.0f}" for row in rows[-2:]), flush=True)
    print(f"appended to {append(rows, 'generators')}")


if __name__ == "__main__":
    main()
