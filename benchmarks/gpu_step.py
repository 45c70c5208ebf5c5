"""A training step on pairs on a GPU: ours with and without sharing, and TRL's parts composed, within nine minutes.

    python benchmarks/gpu_step.py               # on a machine with a GPU; appends to results/gpu_step.csv
    python benchmarks/gpu_step.py --dry-run     # every case at a tiny size on a fake GPU, to try the script

A Qwen2.5-VL of the 3B's shape and random weights, in bfloat16 with activation checkpointing, with LoRA (the head
frozen) and in full, on 4 to 16 pairs of 576 image tokens, 320 and 180 of text, 120 of them learnt. A step is a forward
with its backward, on a batch that is on the GPU. Ways take turns, in another order each round. Beside the time:

- `peak_mib`: peak of the memory in use, weights and gradients included;
- `mfu`: the multiplications of the way's own products (`gpu_models.products`; those that checkpointing does again do
  not count) by what the data sheet says the GPU could do in the time;
- `idle_share`: share of a step's time in which the GPU ran no kernel and copied nothing, by the profiler, whose own
  cost makes it an upper bound.
"""

import gc
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from statistics import median
from time import perf_counter
from typing import Any

import gpu_models
import torch
from gpu_models import OURS, ROWS, TINY, TINY_LAYOUT, TRL, TRL_TUNED, VLSize
from gpu_run import Budget, GpuRow, Journal, Machine, machine_of, parser_of, reason_of, results_folder
from pair_models import Layout
from pair_steps import Run
from roofline import DEVICES
from rows import percentiles_ms
from timing import ratio


# Seconds to leave for a case: the model, and each way's warm-up and rounds
CASE_S = 45.0
# |loss − ours| / ours: bfloat16 in other orders of summation
LOSS_TOLERANCE = 2e-2


@dataclass(frozen=True, kw_only=True)
class GpuStepRow(GpuRow):
    """One way to a step in one case; what was not measured is an empty cell."""

    model: str
    trained: str
    """`full` or `lora`."""
    implementation: str
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
    peak_mib: float | None = None
    mfu: float | None = None
    idle_share: float | None = None
    loss: float | None = None
    note: str = ""
    """Why there is no measurement."""


@dataclass(frozen=True)
class Case:
    trained: str
    layout: Layout


def cases(dry_run: bool) -> list[Case]:
    """The most important first: LoRA and full at 4 pairs, then more pairs."""
    base = TINY_LAYOUT if dry_run else Layout()
    order = (2, 1) if dry_run else (4, 16, 8)
    return [Case(trained, replace(base, n_pairs=n)) for n in order for trained in ("lora", "full")]


def idle_share(spans: Iterable[tuple[float, float]], seconds: float) -> float | None:
    """Share of `seconds` in which none of the spans (start, end), in seconds, runs; `None` without any."""
    busy, last = 0.0, -float("inf")
    for start, end in sorted(spans):
        busy += max(0.0, end - max(start, last))
        last = max(last, end)
    return None if last == -float("inf") else max(0.0, 1 - busy / seconds)


def peak_tflop_s(name: str) -> float | None:
    """The dense half-precision rate of a GPU's data sheet; `None` for one that `roofline.py` does not know."""
    return next((device.half_tflop_s for device in DEVICES.values() if device.is_called(name)), None)


class Steps:
    """The cases of one run, each measured and written in turn."""

    def __init__(self, machine: Machine, budget: Budget, journal: Journal, size: VLSize, rounds: int):
        self.machine, self.budget, self.journal = machine, budget, journal
        self.size, self.rounds = size, rounds
        self._models: dict[str, Any] = {}
        self.has_failed = False

    def run(self, case: Case) -> None:
        print(f"\n{case.trained}: {case.layout} ({self.budget.left_s:.0f} s left)", flush=True)
        names = (OURS, TRL, ROWS, TRL_TUNED)
        if not self.machine.is_dry and not self.budget.has(CASE_S):
            self._leave_out(case, dict.fromkeys(names, "no time was left"))
            return
        try:
            self._measure(case)
        except Exception as error:  # the cases after it go on
            self.has_failed = True
            traceback.print_exc()
            self._leave_out(case, dict.fromkeys(names, reason_of(error)))
        gc.collect()
        self.machine.free_memory()

    def _model(self, trained: str) -> Any:
        if trained not in self._models:
            self._models.clear()  # one at a time
            gc.collect()
            self.machine.free_memory()
            self._models[trained] = gpu_models.build(self.size, self.machine, trained)
        return self._models[trained]

    def _measure(self, case: Case) -> None:
        model = self._model(case.trained)
        runs, losses, peaks, left_out = {}, {}, {}, {}
        for name, make in gpu_models.ways(model, self.size, case.layout, self.machine).items():
            if runs and not self.machine.is_dry and not self.budget.has(CASE_S / 2):
                left_out[name] = "no time was left"
                continue
            try:
                run = make()
                self._timed(model, run)  # gradients are there, and whatever is set up once
                losses[name], peaks[name] = self._loss_and_peak(model, run)
            except Exception as error:  # a way may fail in any way, for want of memory most likely
                self.has_failed = self.has_failed or not isinstance(error, torch.OutOfMemoryError)
                left_out[name] = reason_of(error)
                continue
            off = abs(losses[name] / losses.get(OURS, losses[name]) - 1)
            if off <= LOSS_TOLERANCE:
                runs[name] = run
            else:
                left_out[name] = f"its loss {losses[name]:.4f} differs from ours by {off:.1%}"
        times = self._take_turns(model, runs)
        counts = gpu_models.products(self.size, case.layout, case.trained == "full")
        for name, own in times.items():
            self._write(
                case,
                name,
                samples=len(own),
                **percentiles_ms(own),
                ratio_to_ours=ratio(own, times.get(OURS)),
                predicted_ratio=round(counts[name] / counts[OURS], 4),
                peak_mib=peaks[name],
                mfu=self._mfu(counts[name], median(own)),
                idle_share=self._idle_share(model, runs[name]),
                loss=round(losses[name], 5),
            )
        self._leave_out(case, left_out)

    def _timed(self, model: Any, run: Run) -> float:
        """Seconds of a forward with its backward; gradients go into existing memory."""
        model.zero_grad(set_to_none=False)
        self.machine.synchronize()
        started = perf_counter()
        run().backward()
        self.machine.synchronize()
        return perf_counter() - started

    def _take_turns(self, model: Any, runs: dict[str, Run]) -> dict[str, list[float]]:
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        shuffled = Random(0)
        for i in range(self.rounds):
            if i >= 2 and not self.machine.is_dry and not self.budget.has(CASE_S / 3):
                break
            for name in shuffled.sample(list(runs), len(runs)):
                seconds[name].append(self._timed(model, runs[name]))
        return seconds

    def _loss_and_peak(self, model: Any, run: Run) -> tuple[float, float | None]:
        """The loss, and the peak MiB of a step; nobody counts a fake GPU's."""
        model.zero_grad(set_to_none=False)
        if not self.machine.is_dry:
            torch.cuda.reset_peak_memory_stats()
        loss = run()
        loss.backward()
        peak = None if self.machine.is_dry else round(torch.cuda.max_memory_allocated() / 2**20, 1)
        return loss.detach().float().item(), peak

    def _mfu(self, multiplications: float, seconds: float) -> float | None:
        tflop_s = peak_tflop_s(self.machine.name)
        return None if tflop_s is None else round(2 * multiplications / seconds / (tflop_s * 1e12), 4)

    def _idle_share(self, model: Any, run: Run) -> float | None:
        from torch.profiler import ProfilerActivity, profile

        if self.machine.is_dry:
            return None
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            seconds = self._timed(model, run)
        # Microseconds; what is not the CPU's is a kernel or a copy
        spans = [
            (event.time_range.start / 1e6, event.time_range.end / 1e6)
            for event in profiled.events() or ()
            if event.device_type != torch.autograd.DeviceType.CPU
        ]
        share = idle_share(spans, seconds)
        return None if share is None else round(share, 4)

    def _leave_out(self, case: Case, reasons: dict[str, str]) -> None:
        for name, why in reasons.items():
            self._write(case, name, note=why)

    def _write(self, case: Case, name: str, **measured: Any) -> None:
        row = GpuStepRow(
            **self.journal.facts,
            model=str(self.size),
            trained=case.trained,
            implementation=name,
            **vars(case.layout),
            **measured,
        )
        self.journal.write(row)
        print(line_of(row), flush=True)


def line_of(row: GpuStepRow) -> str:
    """A row for the screen."""
    if row.note:
        return f"  {row.implementation:<32}left out: {row.note}"
    cells = [f"{row.p50_ms:>10,.1f} ms", f"{row.ratio_to_ours} × ours ({row.predicted_ratio} by products)"]
    if row.peak_mib is not None:
        cells.append(f"{row.peak_mib:,.0f} MiB")
    cells += [
        f"{name} {value:.1%}" for name, value in (("MFU", row.mfu), ("idle", row.idle_share)) if value is not None
    ]
    return f"  {row.implementation:<32}{'  '.join(cells)}"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="rounds of a case")
    options = parser.parse_args()
    budget, folder = Budget(options.limit_s), results_folder(options)
    with machine_of(options.dry_run) as machine:
        journal = Journal("gpu_step", machine, folder)
        print(journal.facts)
        size = TINY if machine.is_dry else VLSize()
        steps = Steps(machine, budget, journal, size, rounds=1 if machine.is_dry else options.rounds)
        for case in cases(machine.is_dry):
            steps.run(case)
    print(f"\nrows in {folder / 'gpu_step.csv'}, {budget.left_s:.0f} s left")
    sys.exit(1 if steps.has_failed else 0)


if __name__ == "__main__":
    main()
