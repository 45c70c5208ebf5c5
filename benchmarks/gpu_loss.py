"""The loss on a GPU against its peers and its matrix products: time and peak memory, within nine minutes.

    python benchmarks/gpu_loss.py               # on a machine with a GPU; appends to results/gpu_loss.csv
    python benchmarks/gpu_loss.py --dry-run     # every case at a tiny size on a fake GPU, to try the script

At H=4,096 and V=151,936 in bfloat16, the head trained, frozen, or in float32 under autocast; ours also with tiles of
½ to 4 GiB; Liger, cut-cross-entropy (its cross-entropies alone: it has no divergence), TRL's ops and full logits. The
most important cases come first, and every case is written as soon as it is measured. As in `bench_loss.py`,
implementations take turns, each at its fastest settings, and are timed only if loss and gradients equal ours.
"""

import gc
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from gpu_run import Budget, GpuRow, Journal, Machine, machine_of, parser_of, reason_of, results_folder
from peak_memory import peak_bytes, restart_peak
from peers import (
    COMPILED,
    CUT_CE,
    FLOOR,
    FLOOR_IN_PLACE,
    LIGER,
    MIB,
    OURS,
    OURS_CE,
    PLAIN,
    TILES,
    TRL,
    TRL_TUNED,
    Inputs,
    LeftOut,
    Run,
    Shape,
    make_inputs,
)
from rows import percentiles_ms
from timing import Expected, fastest, ratio, take_turns


FIRST = (OURS, FLOOR)
RIVALS = (OURS, FLOOR, LIGER, TRL, PLAIN, TRL_TUNED, FLOOR_IN_PLACE, COMPILED)
# What to leave for turns and memory once the settings of a case are found, and for finding those of one peer
TURNS_S, PEER_S = 15.0, 30.0


@dataclass(frozen=True, kw_only=True)
class GpuLossRow(GpuRow):
    """One implementation in one case; what was not measured is an empty cell."""

    case: str
    """`products`, `peers`, `tiles` or `cross_entropy`."""
    implementation: str
    setting: str = ""
    n_tokens: int
    hidden_size: int
    vocab_size: int
    dtype: str
    """Of the products."""
    head_dtype: str
    head_trained: bool
    samples: int = 0
    p20_ms: float | None = None
    p50_ms: float | None = None
    p80_ms: float | None = None
    ratio_to_ours: float | None = None
    """Its time by ours of the same round, median over the rounds: above 1 is slower than ours."""
    ratio_to_floor: float | None = None
    """Its time by that of the matrix products alone, likewise."""
    peak_extra_mib: float | None = None
    """Beside inputs, outputs and their gradients."""
    note: str = ""
    """Why there is no measurement."""


@dataclass(frozen=True)
class Case:
    name: str
    shape: Shape
    implementations: tuple[str, ...]
    seconds: float
    """What it takes at least on an H100, roughly: it is not begun without."""


def cases(dry_run: bool) -> list[Case]:
    """All cases, the most important first: ours by its products, then the peers, then the tiles, then the rest."""
    tokens = (3, 2, 1) if dry_run else (8192, 2048, 480)
    largest = Shape(tokens[0], 16 if dry_run else 4096, 64 if dry_run else 151_936)
    rivals = RIVALS[:-1] if dry_run else RIVALS  # no compiler for a fake GPU
    half, wide = replace(largest, dtype=torch.bfloat16), replace(largest, autocast=torch.bfloat16)
    trained = [half.with_tokens(n) for n in tokens]
    others = [replace(shape, trains_head=False) for shape in trained] + [wide.with_tokens(n) for n in tokens]
    others.append(replace(wide, trains_head=False))
    return [
        *(Case("products", shape, FIRST, 10) for shape in trained),
        Case("peers", trained[0], rivals, 60),
        Case("tiles", trained[0], (OURS, FLOOR, *TILES), 20),
        *(Case("products", shape, FIRST, 10) for shape in others),
        Case("cross_entropy", trained[0], (OURS_CE, CUT_CE), 20),
        *(Case("peers", shape, rivals, 60) for shape in (trained[2], others[0], trained[1])),
        Case("peers", wide, RIVALS[:-1], 60),
        *(Case("cross_entropy", shape, (OURS_CE, CUT_CE), 20) for shape in trained[1:]),
        Case("tiles", others[0], (OURS, FLOOR, *TILES), 20),
    ]


class Comparison:
    """The cases of one run, each measured and written in turn."""

    def __init__(self, machine: Machine, budget: Budget, journal: Journal, rounds: int):
        self.machine, self.budget, self.journal, self.rounds = machine, budget, journal, rounds
        self.has_failed = False

    def run(self, case: Case) -> None:
        print(f"\n{case.name}: {case.shape} ({self.budget.left_s:.0f} s left)", flush=True)
        if not self.budget.has(0 if self.machine.is_dry else case.seconds):
            self._leave_out(case, dict.fromkeys(case.implementations, "no time was left"))
            return
        try:
            self._measure(case)
        except Exception as error:  # of ours or of what all need: the cases after it go on
            self.has_failed = True
            traceback.print_exc()
            self._leave_out(case, dict.fromkeys(case.implementations, reason_of(error)))
        gc.collect()
        self.machine.free_memory()

    def _measure(self, case: Case) -> None:
        inputs = self._inputs(case.shape)
        expected = Expected.of(inputs, case.implementations[0])
        found, left_out = {}, {}
        for name in case.implementations:
            if name not in FIRST and not self.machine.is_dry and not self.budget.has(TURNS_S + PEER_S):
                left_out[name] = "no time was left"
                continue
            try:
                found[name] = fastest(name, inputs, expected)
            except (LeftOut, torch.OutOfMemoryError) as why:
                left_out[name] = reason_of(why)
            self.machine.free_memory()
        del expected
        runs = {name: one.run for name, one in found.items()}
        slowest = sum(one.seconds for one in found.values())
        rounds = max(min(2, self.rounds), min(self.rounds, int(TURNS_S / max(slowest, 1e-3))))
        times = take_turns(runs, inputs, rounds)
        for name, own in times.items():
            self._write(
                case,
                name,
                setting=found[name].setting,
                samples=len(own),
                **percentiles_ms(own),
                ratio_to_ours=ratio(own, times.get(case.implementations[0])),
                ratio_to_floor=ratio(own, times.get(FLOOR)),
                peak_extra_mib=self._peak_extra_mib(runs[name], inputs),
            )
        self._leave_out(case, left_out)

    def _inputs(self, shape: Shape) -> Inputs:
        """Made on the GPU; a fake one has no random numbers of its own."""
        if not self.machine.is_dry:
            return make_inputs(shape, self.machine.device)
        inputs = make_inputs(shape, "cpu")
        moved = {
            name: tensor.detach().to(self.machine.device).requires_grad_(tensor.requires_grad)
            for name, tensor in {"text": inputs.text, "vision": inputs.vision, "head": inputs.head}.items()
        }
        return Inputs(**moved, labels=inputs.labels.to(self.machine.device), autocast=inputs.autocast)

    def _peak_extra_mib(self, run: Run, inputs: Inputs) -> float | None:
        """Peak MiB of one run more, beside its inputs and their gradients; `None` where nobody counts."""
        if self.machine.is_dry:
            return None
        inputs.clear_gradients()
        gc.collect()
        before = restart_peak(self.machine.device)
        output = run()
        gradients = 0
        if isinstance(output, torch.Tensor):
            output.backward()
            gradients = sum(leaf.grad.nbytes for leaf in inputs.leaves.values() if leaf.grad is not None)
        else:
            gradients = sum(gradient.nbytes for gradient in output if gradient is not None)
        peak = peak_bytes(self.machine.device)
        inputs.clear_gradients()
        return round((peak - before - gradients) / MIB, 1)

    def _leave_out(self, case: Case, reasons: dict[str, str]) -> None:
        for name, why in reasons.items():
            self._write(case, name, note=why)

    def _write(self, case: Case, name: str, **measured) -> None:
        shape = case.shape
        row = GpuLossRow(
            **self.journal.facts,
            case=case.name,
            implementation=name,
            n_tokens=shape.n_tokens,
            hidden_size=shape.hidden_size,
            vocab_size=shape.vocab_size,
            dtype=str(shape.autocast or shape.dtype).removeprefix("torch."),
            head_dtype=str(shape.dtype).removeprefix("torch."),
            head_trained=shape.trains_head,
            **measured,
        )
        self.journal.write(row)
        print(line_of(row), flush=True)


def line_of(row: GpuLossRow) -> str:
    """A row for the screen."""
    if row.note:
        return f"  {row.implementation:<42}left out: {row.note}"
    cells = [f"{row.p50_ms:>10,.2f} ms"]
    cells += [
        f"{value:.3f} × {name}"
        for name, value in (("ours", row.ratio_to_ours), ("the products", row.ratio_to_floor))
        if value is not None
    ]
    if row.peak_extra_mib is not None:
        cells.append(f"{row.peak_extra_mib:,.0f} MiB")
    return f"  {row.implementation:<42}{'  '.join(cells)}   [{row.setting}]"


def _chosen(all_cases: list[Case], names: list[str] | None) -> Iterator[Case]:
    return (case for case in all_cases if names is None or case.name in names)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of a case at most; fewer where one takes long")
    parser.add_argument("--case", nargs="+", help="only these: products, peers, tiles, cross_entropy")
    options = parser.parse_args()
    budget, folder = Budget(options.limit_s), results_folder(options)
    with machine_of(options.dry_run) as machine:
        journal = Journal("gpu_loss", machine, folder)
        print(journal.facts)
        comparison = Comparison(machine, budget, journal, rounds=1 if machine.is_dry else options.rounds)
        for case in _chosen(cases(machine.is_dry), options.case):
            comparison.run(case)
    print(f"\nrows in {folder / 'gpu_loss.csv'}, {budget.left_s:.0f} s left")
    sys.exit(1 if comparison.has_failed else 0)


if __name__ == "__main__":
    main()
