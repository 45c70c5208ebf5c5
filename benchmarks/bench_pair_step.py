"""A training step on pairs: ours, which computes prefixes and images once, and steps composed without this package.

    python benchmarks/bench_pair_step.py [--preset main|hybrid|sweep|memory|packed|all] [--rounds 5]

Loss and gradients of all ways are first checked to be equal; then the ways take turns, in another order each round.
The ratio is the median over the rounds of a way's time by our time in the same round. Beside it stands the ratio of
their counts of multiplications (`pair_steps.products`), which the ratio of times would be if nothing else took time.

`hybrid` is a model in the shape of Qwen3.5; `main` and all others are LLaVAs.

`memory` is the peak of a step beside weights, inputs and gradients, each way in a process of its own. `packed`
compares a batch of 64 short rows without padding with one row of as many tokens.
"""

import argparse
import gc
import multiprocessing
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch
from pair_models import HybridSize, Layout, Size
from pair_steps import OURS, WAYS, Run, prepare, products
from peak_memory import peak_bytes, restart_peak
from rows import RESULTS, Origin, append, device_name, origin_of_cpu_run, percentiles_ms


TOLERANCE = 1e-5
MAIN = Layout()
SWEEP = [
    Layout(n_image=144),
    Layout(n_image=1296, n_pairs=2),
    Layout(n_text=128, n_vision=64, n_completion=32),
    Layout(n_text=640, n_vision=360, n_completion=240),
    Layout(n_text=900, n_vision=180, n_completion=120),
    Layout(n_pairs=1),
]


@dataclass(frozen=True, kw_only=True)
class StepRow(Origin):
    """One way to a step in one layout."""

    model: str
    n_image: int
    n_text: int
    n_vision: int
    n_completion: int
    n_pairs: int
    samples: int = 0
    p20_ms: float | None = None
    p50_ms: float | None = None
    p80_ms: float | None = None
    ratio_to_ours: float | None = None
    """Its time by ours of the same round, median over the rounds: above 1 is slower than ours."""
    predicted_ratio: float | None = None
    """Its multiplications by ours."""
    peak_extra_mib: float | None = None
    """Peak MiB of a step beside weights, inputs and gradients."""
    memory_ratio_to_ours: float | None = None


def check(ways: dict[str, tuple[Any, Run]]) -> None:
    """Check that losses and gradients of all ways equal ours; this also warms up.

    Raises:
        SystemExit: they differ.
    """
    expected: dict[str, torch.Tensor] = {}
    for name, (model, run) in ways.items():
        model.zero_grad()
        loss = run()
        loss.backward()
        found = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
        found["loss"] = loss.detach()
        expected = expected or found
        total = torch.stack([gradient.norm() for key, gradient in expected.items() if key != "loss"]).norm()
        for key, value in found.items():
            scale = expected["loss"] if key == "loss" else total
            error = ((value - expected[key]).norm() / scale).item()
            if not error <= TOLERANCE or found.keys() != expected.keys():
                sys.exit(f"{name}: {key} differs from ours by {error:.1e}, more than {TOLERANCE:.0e}")


def timed(model: Any, run: Run) -> float:
    """Seconds of a forward with its backward; gradients go into existing memory."""
    model.zero_grad(set_to_none=False)
    started = time.perf_counter()
    run().backward()
    return time.perf_counter() - started


def take_turns(ways: dict[str, tuple[Any, Run]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    shuffled = Random(0)
    for _ in range(rounds):
        for name in shuffled.sample(list(ways), len(ways)):
            seconds[name].append(timed(*ways[name]))
    return seconds


def peak_extra_mib(name: str, size: Size | HybridSize, layout: Layout, n_threads: int) -> float:
    """Peak memory of a way in MiB, measured in a process of its own."""
    torch.set_num_threads(n_threads)
    model, run = prepare(size, layout)[name]
    timed(model, run)  # gradients are there, and whatever is set up once
    gc.collect()
    before = restart_peak("cpu")
    timed(model, run)
    return (peak_bytes("cpu") - before) / 2**20


def apart(function: Any, *args: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def run_steps(case: str, size: Size | HybridSize, layout: Layout, rounds: int) -> list[dict]:
    ways = prepare(size, layout)
    check(ways)
    seconds, counts = take_turns(ways, rounds), products(size, layout)
    print(f"\n{layout}\n  {'':<36}{'s':>8}{'by ours':>10}{'predicted':>11}")
    found = []
    for name, own in seconds.items():
        ratio = median(a / b for a, b in zip(own, seconds[OURS], strict=True))
        predicted = counts[name] / counts[OURS]
        print(f"  {name:<36}{median(own):>8.2f}{ratio:>10.2f}{predicted:>11.2f}", flush=True)
        figures = {"ratio_to_ours": round(ratio, 4), "predicted_ratio": round(predicted, 4), **percentiles_ms(own)}
        found.append(
            {"case": case, "implementation": name, "model": str(size), "layout": layout, "samples": rounds, **figures}
        )
    return found


def run_memory(size: Size | HybridSize, layout: Layout) -> list[dict]:
    n_threads = torch.get_num_threads()
    peaks = {name: apart(peak_extra_mib, name, size, layout, n_threads) for name in WAYS}
    print(f"\n{layout}\n  {'':<36}{'MiB':>8}{'by ours':>10}{'ours by it':>12}")
    found = []
    for name, mib in peaks.items():
        ratio = mib / peaks[OURS]
        print(f"  {name:<36}{mib:>8.0f}{ratio:>10.2f}{1 / ratio:>12.2f}", flush=True)
        figures = {"peak_extra_mib": round(mib, 1), "memory_ratio_to_ours": round(ratio, 4)}
        found.append(
            {"case": "memory", "implementation": name, "model": str(size), "layout": layout, "samples": 1, **figures}
        )
    return found


def run_packed(size: Size, rounds: int) -> list[dict]:
    """Time 64 short rows of all kinds without padding, and their tokens as one long row."""
    from packed_rows import LONG, SHORT, packed_ways

    ways = packed_ways(size)
    for name in ways:
        timed(*ways[name])
    seconds = take_turns(ways, rounds)
    ratio = median(a / b for a, b in zip(seconds[SHORT], seconds[LONG], strict=True))
    print(f"\n{SHORT} {median(seconds[SHORT]):.2f} s, {LONG} {median(seconds[LONG]):.2f} s: ratio {ratio:.3f}")
    layout = Layout(n_image=16, n_text=0, n_vision=0, n_completion=0, n_pairs=0)
    return [
        {
            "case": "packed",
            "implementation": name,
            "model": str(size),
            "layout": layout,
            "samples": rounds,
            **percentiles_ms(own),
        }
        | {"ratio_to_ours": round(median(a / b for a, b in zip(own, seconds[SHORT], strict=True)), 4)}
        for name, own in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=["main", "hybrid", "sweep", "memory", "packed", "all"], default="main")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the CSV")
    options = parser.parse_args()
    size, found = Size(), []
    print(device_name("cpu"))
    if options.preset != "hybrid":
        print(size)
    if options.preset in ("main", "all"):
        found += run_steps("main", size, MAIN, options.rounds)
    if options.preset in ("hybrid", "all"):
        hybrid = HybridSize()
        print(f"\n{hybrid}")
        found += run_steps("hybrid", hybrid, MAIN, options.rounds)
    if options.preset in ("sweep", "all"):
        half = replace(size, n_layers=size.n_layers // 2, n_tower_layers=size.n_tower_layers // 2)
        print(f"\n{half}")
        for layout in SWEEP:
            found += run_steps("sweep", half, layout, max(3, options.rounds // 2))
    if options.preset in ("memory", "all"):
        found += run_memory(size, MAIN)
    if options.preset in ("packed", "all"):
        found += run_packed(size, options.rounds)
    same = origin_of_cpu_run("pair_step")
    rows = [StepRow(**same, **vars(each.pop("layout")), **each) for each in found]
    print(f"appended to {append(rows, 'pair_step', options.output)}")


if __name__ == "__main__":
    main()
