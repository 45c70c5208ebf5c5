"""Benchmark rows that describe themselves: what ran, on what, with which versions, and the spread of the figure."""

import csv
import platform
import subprocess
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from statistics import quantiles


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
        commit=_commit(),
    )


def append(rows: list[Row], name: str) -> Path:
    """Append rows to `results/<name>.csv`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        if is_new:
            writer.writeheader()
        writer.writerows(map(asdict, rows))
    return path


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"
