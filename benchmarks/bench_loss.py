"""`paired_linear_loss` against other implementations of its losses and gradients, and against their matrix products.

    python benchmarks/bench_loss.py --preset main     # time at one shape, head trained and frozen, two dtypes
    python benchmarks/bench_loss.py --preset growth   # time by the tokens and by the vocabulary
    python benchmarks/bench_loss.py --preset memory   # peak memory beside inputs, outputs and gradients
    python benchmarks/bench_loss.py --preset filter   # what leaving out small gradients gains on a real model's states
    python benchmarks/bench_loss.py --preset all      # these four, one after the other
    python benchmarks/bench_loss.py --preset gpu      # these four at the sizes of a GPU, in bfloat16
    python benchmarks/bench_loss.py --plot-only       # draw the newest results again

A forward with its backward is timed. Every implementation uses its fastest settings for the shape, and is timed only
if its loss and gradients equal ours. Implementations take turns round by round in one process, so that a change of the
machine's speed affects all of them alike; ratios are medians over the rounds of the ratio within a round. Memory is
measured in a process of its own for each case. Rows are appended to `results/loss.csv` and drawn into
`results/loss.png`.
"""

import argparse
import math
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import filter_cases
import psutil
import torch
from loss_plot import draw
from peak_memory import peak_extra_mib
from peers import COMPILED, FLOOR, FLOOR_IN_PLACE, LIGER, MIB, OURS, PEERS, PLAIN, LeftOut, Shape, make_inputs
from rows import RESULTS, LossRow, append, commit, device_name, percentiles_ms, version_or_none
from timing import Expected, fastest, ratio, take_turns

from trl_modality.kernels import tiles


# Settings are compared at this many tokens at most, and the fastest is then taken for more
TUNING_TOKENS = {"cpu": 512, "cuda": 4096}
# Peak memory in float32 logits of both views, measured at small shapes and rounded up: not to start what cannot end
LOGITS_COPIES = {PLAIN: 3.5, COMPILED: 2.5}
BUDGET_SLACK = 1.05
PRESETS = ("main", "growth", "memory", "filter")


@dataclass(frozen=True)
class Sizes:
    """Shapes that the presets measure on one kind of device."""

    hidden_size: int
    tokens: int
    """M of `main` and of the curve in V."""
    vocab_size: int
    """V of `main` and of the curve in M."""
    dtypes: tuple[torch.dtype, ...]
    """Dtypes of `main`; the other presets use the first."""
    growth_tokens: tuple[int, ...]
    growth_vocabs: tuple[int, ...]
    memory_tokens: tuple[int, ...]
    memory_vocab: int
    filter_tokens: tuple[int, ...]
    rounds: dict[str, int]

    def shrunk(self, factor: int) -> "Sizes":
        """The sizes with tokens and vocabularies divided, to try the script itself."""

        def divided(size):
            return tuple(map(divided, size)) if isinstance(size, tuple) else max(1, size // factor)

        names = ("tokens", "vocab_size", "growth_tokens", "growth_vocabs", "memory_tokens", "memory_vocab")
        return replace(self, **{name: divided(getattr(self, name)) for name in (*names, "filter_tokens")})


SIZES = {
    "cpu": Sizes(
        hidden_size=896,
        tokens=512,
        vocab_size=75_968,
        dtypes=(torch.float32, torch.bfloat16),
        growth_tokens=(128, 512, 2048, 8192),
        growth_vocabs=(32_000, 75_968, 151_936, 262_144),
        memory_tokens=(1024, 4096),
        memory_vocab=151_936,
        filter_tokens=(512, 2048),
        rounds={"main": 5, "growth": 3, "filter": 5},
    ),
    "cuda": Sizes(
        hidden_size=3584,
        tokens=4096,
        vocab_size=151_936,
        dtypes=(torch.bfloat16,),
        growth_tokens=(128, 512, 1024, 2048, 4096, 8192),
        growth_vocabs=(32_000, 75_968, 151_936, 262_144),
        memory_tokens=(2048, 8192),
        memory_vocab=151_936,
        filter_tokens=(512, 2048),
        rounds={"main": 20, "growth": 10, "filter": 10},
    ),
}


class Benchmark:
    """One run of the script: measures case by case, and appends every case to the file as soon as it is measured.

    Args:
        device: `cpu` or `cuda`.
        sizes: sizes of the cases.
        limit_s: seconds; what would take longer is not timed.
        folder: folder of the results.
        rounds: number of rounds, instead of that of each preset.
    """

    def __init__(self, device: str, sizes: Sizes, limit_s: float, folder: Path, rounds: int | None):
        self.device, self.sizes, self.limit_s, self.folder, self.rounds = device, sizes, limit_s, folder, rounds
        self.facts = {
            "device": device_name(device),
            **{name: version_or_none(name) for name in ("torch", "transformers", "trl", "triton")},
            "liger": version_or_none("liger-kernel"),
            "commit": commit(),
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        # Its kernels are for GPUs: no case on a CPU to be left out of
        self.names = [name for name in PEERS if device == "cuda" or name != LIGER]
        self.left_out: list[str] = []
        self._known: dict[Shape, dict[str, tuple[str, float] | LeftOut]] = {}

    def main(self) -> None:
        sizes = self.sizes
        for dtype in sizes.dtypes:
            for trains_head in (True, False):
                shape = Shape(sizes.tokens, sizes.hidden_size, sizes.vocab_size, dtype, trains_head)
                self.compare(shape, ["main"], self._rounds("main"))

    def growth(self) -> None:
        sizes = self.sizes
        cases: dict[Shape, list[str]] = {}
        for n_tokens in sizes.growth_tokens:
            shape = Shape(n_tokens, sizes.hidden_size, sizes.vocab_size, sizes.dtypes[0])
            cases.setdefault(shape, []).append("growth_m")
        for vocab_size in sizes.growth_vocabs:
            shape = Shape(sizes.tokens, sizes.hidden_size, vocab_size, sizes.dtypes[0])
            cases.setdefault(shape, []).append("growth_v")
        for shape, names in cases.items():
            self.compare(shape, names, self._rounds("growth"))

    def compare(self, shape: Shape, cases: list[str], rounds: int) -> None:
        """Time all implementations at one shape; its rows are written for every case that contains the shape."""
        settings, left_out = self._settings(shape, self.names, self.limit_s)
        runs, times = {}, {}
        if settings:
            inputs = make_inputs(shape, self.device)
            expected = Expected.of(inputs)
            for name, setting in settings.items():
                try:
                    runs[name] = fastest(name, inputs, expected, only=setting).run
                except LeftOut as why:
                    left_out[name] = str(why)
            del expected
            times = take_turns(runs, inputs, rounds)
        rows = []
        for case in cases:
            for name, own in times.items():
                rows.append(self._row(case, name, shape, setting=settings[name], **_spread(own, times)))
            rows += [self._row(case, name, shape, note=why) for name, why in left_out.items()]
        self._report(f"{shape}, {rounds} rounds", rows)

    def memory(self) -> None:
        """Peak memory by number of tokens; where plain logits do not fit, an estimate from a smaller case."""
        sizes, rows = self.sizes, []
        names = [name for name in self.names if name not in (FLOOR, FLOOR_IN_PLACE)]
        measured: dict[str, tuple[int, float]] = {}
        for n_tokens in sorted(sizes.memory_tokens):
            shape = Shape(n_tokens, sizes.hidden_size, sizes.memory_vocab, sizes.dtypes[0])
            settings, left_out = self._settings(shape, names)
            if self.device == "cuda":
                torch.cuda.empty_cache()  # for the other process
            for name, setting in settings.items():
                try:
                    peak = _in_own_process(peak_extra_mib, shape, self.device, name, setting, torch.get_num_threads())
                except (BrokenProcessPool, RuntimeError) as error:
                    left_out[name] = f"failed ({type(error).__name__}), for want of memory most likely"
                    continue
                measured[name] = n_tokens, peak
                rows.append(self._row("memory", name, shape, setting=setting, peak_extra_mib=round(peak, 1)))
                print(f"{shape}: {name} ({setting}) {peak:,.0f} MiB", flush=True)
            for name, why in left_out.items():
                if name in (PLAIN, COMPILED) and name in measured:
                    tokens, peak = measured[name]
                    why += f"; {peak:,.0f} MiB at M={tokens:,} come to {peak * n_tokens / tokens:,.0f} MiB here"
                rows.append(self._row("memory", name, shape, note=why))
        self._report("peak memory beside inputs, outputs and their gradients", rows)
        for row in rows:
            if row.implementation == OURS and row.peak_extra_mib is not None:
                budget = row.tile_mib + _sum_of_head_gradient_mib(row)
                is_within = row.peak_extra_mib <= BUDGET_SLACK * budget
                print(f"M={row.n_tokens:,}: {row.peak_extra_mib:,.0f} MiB, {'' if is_within else 'NOT '}"
                      f"within {budget:,.0f} MiB + {BUDGET_SLACK - 1:.0%}")  # fmt: skip

    def filter(self) -> None:
        rounds = self._rounds("filter")
        most = max(self.sizes.filter_tokens)
        for n_tokens, trains_head in [*((n, True) for n in self.sizes.filter_tokens), (most, False)]:
            shape, measured = filter_cases.measure(n_tokens, trains_head, self.device, self.sizes.dtypes[0], rounds)
            times = {name: one.pop("seconds") for name, one in measured.items()}
            rows = [
                self._row("filter", name, shape, **_spread(times[name], times), **one)
                for name, one in measured.items()
            ]
            self._report(f"gradient filter: {shape}, {rounds} rounds", rows)

    def _settings(
        self, shape: Shape, names: list[str], limit_s: float = math.inf
    ) -> tuple[dict[str, str], dict[str, str]]:
        """The fastest setting of each peer, or why there is none: it failed, would not fit or would take too long.

        Settings are compared at the shape, or at fewer tokens of it where all would take too long.
        """
        tuned = shape.with_tokens(min(shape.n_tokens, TUNING_TOKENS[self.device]))
        known = self._known.setdefault(tuned, {})
        if missing := [name for name in names if name not in known]:
            inputs = make_inputs(tuned, self.device)
            expected = Expected.of(inputs)
            for name in missing:
                try:
                    one = fastest(name, inputs, expected)
                    known[name] = one.setting, one.seconds
                except LeftOut as why:
                    known[name] = why
        settings, left_out = {}, {}
        for name in names:
            try:
                if isinstance(known[name], LeftOut):
                    raise known[name]
                settings[name], seconds = known[name]
                self._check(name, shape, seconds * shape.n_tokens / tuned.n_tokens, limit_s)
            except LeftOut as why:
                settings.pop(name, None)
                left_out[name] = str(why)
        return settings, left_out

    def _check(self, name: str, shape: Shape, seconds: float, limit_s: float) -> None:
        logits_mib = 2 * shape.n_tokens * shape.vocab_size * 4 / MIB
        head_mib = shape.vocab_size * shape.hidden_size * 4 / MIB
        # Beside the peer's own: the head, its gradient, that of ours to compare with, and a buffer of the products
        needed = LOGITS_COPIES.get(name, 0) * logits_mib + 5 * head_mib
        if self.device == "cpu" and name in LOGITS_COPIES and needed > psutil.virtual_memory().available / MIB:
            raise LeftOut(f"would need about {needed:,.0f} MiB, more than there is")
        if seconds > limit_s:
            raise LeftOut(f"would take about {seconds:,.0f} s a run, more than {limit_s:,.0f} s")

    def _row(self, case: str, name: str, shape: Shape, setting: str = "", **measured) -> LossRow:
        device = "cpu" if self.device == "cpu" else "meta"  # of a GPU no memory is taken
        head = torch.empty(shape.vocab_size, shape.hidden_size, dtype=shape.dtype, device=device)
        tile_mib = tiles.default_tile_mib(head, shape.dtype, shape.trains_head)
        return LossRow(
            benchmark="loss",
            case=case,
            implementation=name,
            setting=setting,
            n_tokens=shape.n_tokens,
            hidden_size=shape.hidden_size,
            vocab_size=shape.vocab_size,
            dtype=str(shape.dtype).removeprefix("torch."),
            head_trained=shape.trains_head,
            tile_mib=tile_mib if name.startswith(OURS) else None,
            **self.facts,
            **measured,
        )

    def _report(self, title: str, rows: list[LossRow]) -> None:
        print(f"\n{title}")
        for row in {(row.implementation, row.n_tokens): row for row in rows}.values():
            print(_line(row))
        for row in rows:
            if row.note:
                self.left_out.append(
                    f"{row.case} M={row.n_tokens:,} V={row.vocab_size:,} {row.implementation}: {row.note}"
                )
        print(f"appended to {append(rows, 'loss', self.folder)}", flush=True)

    def _rounds(self, preset: str) -> int:
        return self.rounds or self.sizes.rounds[preset]


def _spread(own: list[float], times: dict[str, list[float]]) -> dict:
    return {
        "samples": len(own),
        **percentiles_ms(own),
        "ratio_to_ours": ratio(own, times.get(OURS)),
        "ratio_to_floor": ratio(own, times.get(FLOOR)),
    }


def _in_own_process(function, *arguments):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _sum_of_head_gradient_mib(row: LossRow) -> float:
    """MiB of the float32 sum of a half-precision head's gradient, which is not part of the budget."""
    return row.vocab_size * row.hidden_size * 4 / MIB if row.head_trained and row.dtype != "float32" else 0.0


def _line(row: LossRow) -> str:
    line = f"  {row.implementation:<24}M={row.n_tokens:<7,}"
    if row.note:
        return line + f"left out: {row.note}"
    if row.p50_ms is not None:
        line += f"{row.p20_ms:>11,.1f}{row.p50_ms:>11,.1f}{row.p80_ms:>11,.1f} ms (p20 p50 p80)"
        line += "".join(
            f"{value:>8.3f} × {name}"
            for name, value in ((OURS, row.ratio_to_ours), (FLOOR, row.ratio_to_floor))
            if value is not None and row.implementation != name
        )
    if row.peak_extra_mib is not None:
        line += f"{row.peak_extra_mib:>11,.0f} MiB"
    if row.kept_columns is not None:
        line += f"   kept {row.kept_columns:.1%}"
    for what, error, share in (
        ("hidden", row.hidden_error, row.hidden_share_of_bound),
        ("head", row.head_error, row.head_share_of_bound),
    ):
        if error is not None:
            line += f", {what} off by {error:.1e} ({share:.1%} of the bound)"
    return line + f"   [{row.setting}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=(*PRESETS, "all", "gpu"), default="main")
    parser.add_argument("--rounds", type=int, help="instead of the preset's own number")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds that a single run may take (default: 120)")
    parser.add_argument("--shrink", type=int, default=1, help="divide tokens and vocabularies, to try the script")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of loss.csv and loss.png")
    parser.add_argument("--plot-only", action="store_true", help="measure nothing, draw the newest results")
    options = parser.parse_args()
    if not options.plot_only:
        device = "cuda" if options.preset == "gpu" else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            parser.error("the preset gpu needs a CUDA device, and torch finds none")
        sizes = SIZES[device].shrunk(options.shrink)
        benchmark = Benchmark(device, sizes, options.limit, options.results, options.rounds)
        for preset in PRESETS if options.preset in ("all", "gpu") else (options.preset,):
            getattr(benchmark, preset)()
        if benchmark.left_out:
            print("\nLeft out:", *benchmark.left_out, sep="\n  ")
    draw(options.results / "loss.csv", options.results / "loss.png")


if __name__ == "__main__":
    main()
