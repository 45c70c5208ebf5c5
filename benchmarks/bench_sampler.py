"""Our sampler and torch's by number of rows: time to the first batch, memory, and rows a second.

    python benchmarks/bench_sampler.py [--rounds 5]

Every case runs in a process of its own, on one core, the implementations in turn. Ours is the whole plan of a run:
the `linear` curriculum, a quarter of replay, global batches of 256 rows on two ranks, of which this is one. Torch's is
`RandomSampler` in a `BatchSampler`, which knows no views, replay or ranks, and shuffles all rows before the first.
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median

import torch
from rows import Origin, append, origin_of_cpu_run

from trl_modality.curriculum import BatchCut, Mix, Order, Plan, PlanSampler, StoredRows, size_of_epoch
from trl_modality.views import View


BATCH, MICRO_BATCH, SECONDS = 256, 32, 2.0
SIZES = {"ours": (10**6, 10**7, 10**9), "torch": (10**6, 10**7)}
RESUMED = 10**6  # steps
PROMISED = {"first_batch_ms": 1000.0, "peak_extra_mib": 50.0, "rows_per_second": 500_000.0}


@dataclass(frozen=True, kw_only=True)
class SamplerRow(Origin):
    """One sampler on one number of rows; medians over the samples."""

    n_rows: int
    samples: int
    first_batch_ms: float
    peak_extra_mib: float
    """Peak resident memory of the process minus that before."""
    rows_per_second: float
    """Rows a second of all ranks: those of the global batches that this rank went through."""


def ours(n_rows: int, steps_done: int = 0) -> PlanSampler:
    plan = Plan(
        lambda step: Mix(text_rich=1 - (share := min(step / 4e6, 1.0)), vision_centric=share, kl=0.0),
        batch=BATCH,
        replay_ratio=0.25,
        size=size_of_epoch(n_rows, 0.25),
    )
    sampler = PlanSampler(
        plan,
        StoredRows(Order(n_rows, 0)),
        StoredRows(Order(n_rows // 4, 1)),
        BatchCut(MICRO_BATCH, BATCH // MICRO_BATCH // 2, ranks=2),
        used=frozenset({View.TEXT_RICH, View.VISION_CENTRIC}),
        distils=False,
    )
    sampler.start(steps_done)
    return sampler


def measure(implementation: str, n_rows: int) -> dict[str, float]:
    """Measure one sampler in a process of its own."""
    base, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    if implementation == "ours":
        sampler, per_batch = ours(n_rows), 2 * MICRO_BATCH
    else:
        rows = torch.utils.data.RandomSampler(range(n_rows))
        sampler, per_batch = torch.utils.data.BatchSampler(rows, MICRO_BATCH, drop_last=False), MICRO_BATCH
    batches = (batch for epoch in itertools.repeat(sampler) for batch in epoch)
    next(batches)
    first, count = time.perf_counter() - started, 0
    started = time.perf_counter()
    while (passed := time.perf_counter() - started) < SECONDS:
        for _ in range(100):
            next(batches)
        count += 100
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "first_batch_ms": 1e3 * first,
        "peak_extra_mib": (peak - base) / 1024,
        "rows_per_second": count * per_batch / passed,
    }


def seconds_to_resume() -> float:
    """Seconds to the first batch after resuming at step `RESUMED`; a trainer draws the batches that it skips."""
    started = time.perf_counter()
    sampler = ours(10**9, steps_done=RESUMED)
    next(itertools.islice(sampler, RESUMED * sampler.cut.accumulation, None))
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.measure:
        print(json.dumps(measure(options.measure[0], int(options.measure[1]))))
        return
    cases = [(implementation, size) for implementation, sizes in SIZES.items() for size in sizes]
    seen: dict[tuple[str, int], list[dict[str, float]]] = {case: [] for case in cases}
    for _ in range(options.rounds):
        for implementation, size in cases:
            command = [sys.executable, __file__, "--measure", implementation, str(size)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seen[implementation, size].append(json.loads(done.stdout))
    origin, rows = origin_of_cpu_run("sampler"), []
    for (implementation, size), samples in seen.items():
        figures = {name: round(median(sample[name] for sample in samples), 1) for name in PROMISED}
        row = SamplerRow(
            **origin,
            case=f"{size:.0e} rows",
            implementation=implementation,
            n_rows=size,
            samples=len(samples),
            **figures,
        )
        rows.append(row)
        print(
            f"{implementation:<6} {size:>13,} rows: first batch after {row.first_batch_ms:,.0f} ms, "
            f"{row.peak_extra_mib:,.0f} MiB, {row.rows_per_second / 1e6:.2f} M rows/s"
        )
    print(f"resumed after {RESUMED:,} steps ({RESUMED * BATCH:,} slots) in {seconds_to_resume():.1f} s")
    print(f"wrote {append(rows, 'sampler')}")


if __name__ == "__main__":
    main()
