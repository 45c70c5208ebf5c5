"""Whether everything works on a GPU, and is right there: a look at the machine, then `pytest -m gpu`, in nine minutes.

    python benchmarks/gpu_check.py               # on a machine with a GPU; appends to results/gpu_check.csv
    python benchmarks/gpu_check.py --dry-run     # the tests at small sizes on a fake GPU, to try the script

First are printed the device, the versions, and which attention and which backend of the loss are chosen for which
dtype. Then the tests of `tests/gpu` run, the most important first, and after them, while there is time, those of
`tests/kernels` on the GPU. Every test is a row as soon as it has run, with the error that it measured. With
pytest-xdist, kernels are compiled on several cores at once.
"""

import importlib.util
import os
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from gpu_run import ROOT, Budget, GpuRow, Journal, Machine, machine_of, parser_of, reason_of, results_folder


FILES = ("test_attention", "test_families", "test_waiting", "test_wrappers", "test_loss")
# What a worker may need to end its test in
ENDING_S = 15.0


@dataclass(frozen=True, kw_only=True)
class GpuCheckRow(GpuRow):
    """One fact of the machine (`outcome` is `fact`), or one test."""

    name: str
    outcome: str
    """`fact`, `passed`, `failed`, `skipped`, or `not run`."""
    seconds: float | None = None
    note: str = ""
    """The fact; of a test what it measured, or why it failed or was skipped."""


class Reporter:
    """A pytest plugin: writes a row for each test, and ends the run when the time is up."""

    def __init__(self, journal: Journal, budget: Budget):
        self.journal, self.budget = journal, budget
        self.counts: dict[str, int] = {}

    def write(self, name: str, outcome: str, seconds: float | None = None, note: str = "") -> None:
        self.counts[outcome] = self.counts.get(outcome, 0) + 1
        row = GpuCheckRow(**self.journal.facts, name=name, outcome=outcome, seconds=seconds, note=note)
        self.journal.write(row)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Of a test's three phases the call counts, or the one that failed or skipped it."""
        if report.when != "call" and report.outcome == "passed":
            return
        note = ", ".join(f"{key}: {value}" for key, value in report.user_properties)
        if report.failed or report.skipped:
            note = f"{_reason(report)} {note}".strip()
        self.write(report.nodeid, report.outcome, round(report.duration, 2), note[:500])

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """End the run, that of all workers, when the time is up."""
        if not self.budget.has(ENDING_S):
            self.write("the rest", "not run", note="no time was left")
            pytest.exit("no time was left", returncode=0)


def _reason(report: Any) -> str:
    """Why a test failed or was skipped, in a line."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2]
    crash = getattr(report.longrepr, "reprcrash", None)
    return (crash.message if crash else str(report.longrepr)).splitlines()[0]


def facts_of(machine: Machine) -> dict[str, str]:
    """What is chosen on this machine, each fact asked for by itself: one that fails does not hide the others."""
    import torch

    from trl_modality._compat_kernels import varlen_kernel
    from trl_modality.kernels.backends import get_backend
    from trl_modality.kernels.head import takes_out_dtype
    from trl_modality.modeling.flex import flex_takes

    device = torch.device("cuda", 0) if machine.device == "cuda" else torch.device("cpu")

    def tensor(dtype: torch.dtype, size: int) -> torch.Tensor:
        return torch.zeros(1, 2, 8, size, dtype=dtype, device=device)

    def attention(dtype: torch.dtype, size: int, window: int | None = None) -> str:
        x = tensor(dtype, size)
        kernel = varlen_kernel(x, x, dropout=0.0, scale=size**-0.5, window=window)
        if kernel is not None:
            return getattr(kernel, "__name__", str(kernel))
        return "FlexAttention" if flex_takes(x, x, x, 0.0, size**-0.5) else "SDPA, a call for each segment"

    asked = {
        "memory": lambda: f"{torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB",
        "multiprocessors": lambda: str(torch.cuda.get_device_properties(0).multi_processor_count),
        "compute capability": lambda: str(torch.cuda.get_device_capability(0)),
        "CUDA": lambda: str(torch.version.cuda),
        "CPU cores": lambda: str(os.cpu_count()),
    }
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        asked |= {
            f"attention, {name}, heads of 128": lambda dtype=dtype: attention(dtype, 128),
            f"attention, {name}, heads of 128, window": lambda dtype=dtype: attention(dtype, 128, window=4),
            f"backend of the loss, {name}": lambda dtype=dtype: (
                get_backend("auto", device, dtype).keywords["rows_class"].__name__
            ),
        }
    for operation in ("mm", "addmm"):
        asked[f"{operation} of bfloat16 to float32"] = lambda operation=operation: str(
            takes_out_dtype(operation, torch.bfloat16, device)
        )
    found = {}
    for name, ask in asked.items():
        try:
            found[name] = ask()
        except Exception as error:  # whatever is wrong with the machine is a fact too
            found[name] = f"failed: {reason_of(error)}"
    return found


def arguments_of(options: Any) -> list[str]:
    """pytest's: the tests in their order, and as many workers as there are cores for, up to eight."""
    folder = ROOT / "tests"
    paths = [str(folder / "gpu" / f"{name}.py") for name in FILES]
    if not options.dry_run:
        paths.append(str(folder / "kernels"))
    workers = min(8, (os.cpu_count() or 1) // 2) if options.workers is None else options.workers
    has_workers = importlib.util.find_spec("xdist") is not None and workers > 1
    # In a dry run everything is small
    parallel = ["-n", str(workers), "--dist", "worksteal"] if has_workers and not options.dry_run else []
    return [*paths, "-q", "--no-header", "-p", "no:cacheprovider", f"--rootdir={ROOT}", *parallel]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--workers", type=int, help="processes of pytest; by default half of the cores, 8 at most")
    parser.add_argument("-k", dest="only", help="only tests whose name matches, as pytest's -k")
    options = parser.parse_args()
    budget, folder = Budget(options.limit_s), results_folder(options)
    # Before the tests' configuration hides the GPU from them
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "" if options.dry_run else "0")
    if options.dry_run:
        os.environ["GPU_DRY_RUN"] = options.dry_run

    with machine_of(options.dry_run) as machine:
        journal = Journal("gpu_check", machine, folder)
        reporter = Reporter(journal, budget)
        print(journal.facts)
        for name, fact in facts_of(machine).items():
            reporter.write(name, "fact", note=fact)
            print(f"  {name:<44}{fact}", flush=True)
    arguments = arguments_of(options) + (["-k", options.only] if options.only else [])
    code = pytest.main(arguments, plugins=[reporter])
    print(f"\n{reporter.counts}; rows in {folder / 'gpu_check.csv'}, {budget.left_s:.0f} s left")
    # A run that the budget has ended is none that failed
    sys.exit(1 if reporter.counts.get("failed") or code == pytest.ExitCode.INTERNAL_ERROR else 0)


if __name__ == "__main__":
    main()
