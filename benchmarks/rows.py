"""Benchmark rows that describe themselves: what ran, on what, with which versions, and the spread of the figure."""

import csv
import functools
import platform
import subprocess
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import quantiles

import torch


RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One measured case; times in milliseconds."""

    benchmark: str
    case: str
    implementation: str
    samples: int
    p20_ms: float
    p50_ms: float
    p80_ms: float
    ratio_to_peer: float
    device: str
    torch: str
    transformers: str
    trl: str
    commit: str


def measured(benchmark: str, case: str, implementation: str, seconds: list[float], ratio_to_peer: float) -> Row:
    """The row of some timings."""
    fifths = quantiles(seconds, n=5)
    p50 = quantiles(seconds, n=2)[0]
    return Row(
        benchmark=benchmark,
        case=case,
        implementation=implementation,
        samples=len(seconds),
        p20_ms=round(1e3 * fifths[0], 3),
        p50_ms=round(1e3 * p50, 3),
        p80_ms=round(1e3 * fifths[-1], 3),
        ratio_to_peer=round(ratio_to_peer, 4),
        device=f"{platform.machine()} CPU",
        torch=version("torch"),
        transformers=version("transformers"),
        trl=version("trl"),
        commit=commit(),
    )


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Environment of a measurement: the first columns of the newer benchmarks."""

    benchmark: str
    case: str
    implementation: str
    device: str
    torch: str
    transformers: str
    trl: str
    commit: str
    timestamp: str
    """When the run ended, UTC: the same in all rows of a run."""


def origin_of_cpu_run(benchmark: str) -> dict[str, str]:
    """The fields of `Origin` that all rows of a CPU run have in common."""
    return {
        "benchmark": benchmark,
        "device": device_name("cpu"),
        **{package: version(package) for package in ("torch", "transformers", "trl")},
        "commit": commit(),
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@dataclass(frozen=True)
class LossRow:
    """One case of `bench_loss.py`; what was not measured in it is `None`, an empty cell."""

    benchmark: str
    case: str
    """`main`, `growth_m`, `growth_v`, `memory` or `filter`."""
    implementation: str
    setting: str
    """The fastest of the implementation's own settings, which is the one measured."""
    n_tokens: int
    hidden_size: int
    vocab_size: int
    dtype: str
    head_trained: bool
    device: str
    torch: str
    transformers: str
    trl: str
    triton: str | None
    liger: str | None
    commit: str
    timestamp: str
    """When the run began, UTC: the same in all rows of a run."""
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
    tile_mib: float | None = None
    """What ours was allowed to take."""
    kept_columns: float | None = None
    """Share of the vocabulary that the gradient filter left in the two gradient products."""
    hidden_error: float | None = None
    """‖filtered − exact‖ / ‖exact‖, the hidden states of both views together."""
    head_error: float | None = None
    hidden_share_of_bound: float | None = None
    """Error of the worst token by what is promised of it: 1 at most."""
    head_share_of_bound: float | None = None
    note: str = ""
    """Why there is no measurement."""


def percentiles_ms(seconds: list[float]) -> dict[str, float]:
    """The 20th, 50th and 80th percentile in ms, within the range of the samples however few they are."""
    if len(seconds) == 1:
        seconds = 2 * seconds
    tenths = quantiles(seconds, n=10, method="inclusive")
    return {f"p{percent}_ms": round(1e3 * tenths[percent // 10 - 1], 3) for percent in (20, 50, 80)}


def version_or_none(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def append(rows: list, name: str, folder: Path = RESULTS) -> Path:
    """Append rows of one class to `<folder>/<name>.csv`.

    Raises:
        ValueError: if the file has other columns.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    columns = [field.name for field in fields(rows[0])]
    is_new = not path.exists()
    if not is_new:
        with path.open(newline="") as file:
            if next(csv.reader(file), None) != columns:
                raise ValueError(f"{path} has other columns: move it away, or give another folder.")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if is_new:
            writer.writeheader()
        writer.writerows(map(asdict, rows))
    return path


@functools.cache
def commit() -> str:
    """The git commit, read once: the code that a process has loaded does not change."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        lines = cpu_info.read_text().splitlines()
        name = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), name)
    n_threads = torch.get_num_threads()
    return f"{name}, {n_threads} thread{'s' * (n_threads > 1)}"
