"""What the scripts of `make gpu` share: the machine they run on, a budget of time, and rows written as they come."""

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from rows import RESULTS, append, commit, version_or_none


ROOT = Path(__file__).resolve().parents[1]
# The package, its tests and the tiny models of the examples, where nothing is installed: import this module first
sys.path[:0] = [str(path) for path in (ROOT, ROOT / "examples") if str(path) not in sys.path]
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the machine has no network, and nothing here needs one
if any(word.startswith("--dry-run") for word in sys.argv[1:]):
    os.environ["TRITON_INTERPRET"] = "1"  # before triton: a fake GPU runs no compiled kernel

LIMIT_S = 540.0
VERSIONS = {
    "torch": "torch",
    "triton": "triton",
    "transformers": "transformers",
    "trl": "trl",
    "liger": "liger-kernel",
    "cut_cross_entropy": "cut-cross-entropy",
    "flash_attn": "flash-attn",
}


@dataclass(frozen=True, kw_only=True)
class GpuRow:
    """Environment of a measurement on a GPU: columns of every file that `make gpu` writes."""

    device: str
    """Name of the GPU; `fake GPU` or `CPU` in a dry run."""
    python: str
    torch: str | None
    triton: str | None
    transformers: str | None
    trl: str | None
    liger: str | None
    cut_cross_entropy: str | None
    flash_attn: str | None
    commit: str
    timestamp: str
    """When the run began, UTC: the same in all rows of a run."""


@dataclass(frozen=True)
class Machine:
    """Where a run is: a GPU, or what stands for one in a dry run."""

    device: str
    """`cuda`, or `cpu`."""
    name: str
    is_dry: bool = False
    fake: Any = None
    """The fake GPU of a dry run."""

    def moved(self, value: Any) -> Any:
        """A model, in place, or a tensor on the device: a fake GPU does not take models by `to`."""
        return value.to(self.device) if self.fake is None else self.fake.move(value)

    def synchronize(self) -> None:
        if not self.is_dry:
            torch.cuda.synchronize()

    def free_memory(self) -> None:
        """Give unused memory back, so that a case does not find what the one before it has left."""
        if not self.is_dry:
            torch.cuda.empty_cache()


class Budget:
    """Seconds that a script may take from now on."""

    def __init__(self, limit_s: float):
        self._limit_s, self._started = limit_s, time.monotonic()

    @property
    def left_s(self) -> float:
        return self._limit_s - (time.monotonic() - self._started)

    def has(self, seconds: float) -> bool:
        return self.left_s >= seconds


class Journal:
    """The rows of one run: each is in the file, and on the screen, before the next case begins."""

    def __init__(self, name: str, machine: Machine, folder: Path):
        self.name, self.folder = name, folder
        self.facts: dict[str, Any] = {
            "device": machine.name,
            "python": platform.python_version(),
            **{column: version_or_none(package) for column, package in VERSIONS.items()},
            "commit": os.environ.get("GPU_COMMIT") or commit(),
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def write(self, row: GpuRow) -> None:
        append([row], self.name, self.folder)


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The options that the scripts have in common."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help=f"seconds to stop within ({LIMIT_S:.0f})")
    parser.add_argument(
        "--dry-run",
        choices=("fake", "cpu"),
        nargs="?",
        const="fake",
        help="every case at a tiny size, on a fake GPU or the CPU",
    )
    parser.add_argument("--results", type=Path, help="folder of the CSV; of a dry run, a temporary one by default")
    return parser


def results_folder(options: argparse.Namespace) -> Path:
    """Where rows go; those of a dry run are never added to the results of the repository.

    Raises:
        SystemExit: a dry run was told to write there.
    """
    if not options.dry_run:
        return options.results or RESULTS
    folder = options.results or Path(mkdtemp(prefix="gpu-dry-run-"))
    if folder.resolve() == RESULTS.resolve():
        sys.exit(f"--dry-run: its rows are no results; give another folder than {RESULTS}.")
    return folder


@contextmanager
def machine_of(dry_run: str | None) -> Iterator[Machine]:
    """The GPU, or in a dry run the `fake` one of the tests, or the `cpu`.

    Raises:
        SystemExit: there is no GPU, and the run is not dry.
    """
    if dry_run is None:
        if not torch.cuda.is_available():
            sys.exit("torch finds no CUDA device. Try --dry-run, or see docs/gpu.md for what a machine needs.")
        yield Machine("cuda", torch.cuda.get_device_name())
        return
    torch.set_num_threads(1)  # of tensors as small as these
    if dry_run == "cpu":
        yield Machine("cpu", "CPU", is_dry=True)
        return
    from tests.testing.fake_cuda import fake_cuda

    with fake_cuda() as fake:
        yield Machine("cuda", "fake GPU", is_dry=True, fake=fake)


def reason_of(error: BaseException) -> str:
    """An error in one line, for a row that has no measurement."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:300]
