"""The log of a training run: series of numbers by step, read from `trainer_state.json`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...evaluation.json_fields import as_float, read_json


STATE_FILE = "trainer_state.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Log:
    """The numbers that a training run logged."""

    series: Mapping[str, Mapping[int, float]]
    """Name → step → value as logged, which may be infinite or NaN."""
    steps: int
    """Number of steps that were trained."""
    source: str
    """The file that the log was read from, relative to the folder of the run."""

    def points(self, name: str) -> list[tuple[int, float]]:
        """The series of a name as (step, value), in the order of steps; empty where it was not logged."""
        return sorted(self.series.get(name, {}).items())


def read_log(folder: Path) -> tuple[Log | None, list[str]]:
    """Read the log of a run: its `trainer_state.json`, or that of the newest checkpoint where that one is not whole.

    Returns:
        The log (`None` where there is no such file), and notes on it: files that were skipped, values that are not
        finite, checkpoints that do not belong to it.

    Raises:
        ValueError: there are such files, and none of them is whole.
    """
    notes, broken = [], []
    for path in _state_files(folder):
        try:
            log = _parse(read_json(path), str(path.relative_to(folder)), path)
        except ValueError as error:
            broken.append(error)
            notes.append(f"{path.relative_to(folder)} could not be read and was passed over.")
            continue
        if broken:
            notes.append(f"The curves are those of {log.source}.")
        return log, notes + _later_checkpoints(folder, log) + _not_finite(log)
    if broken:
        raise ValueError(f"{broken[0]} No whole {STATE_FILE} is left in {folder}; remove it to report without curves.")
    return None, []


def _later_checkpoints(folder: Path, log: Log) -> list[str]:
    """A note on a checkpoint of a later step than the log's end, if there is one.

    The trainer writes `trainer_state.json` when training ends, so such a checkpoint is of another training.
    """
    later = [number for number, path in _checkpoints(folder) if number > log.steps and (path / STATE_FILE).is_file()]
    return [
        f"The curves end at step {log.steps:,}, with {log.source}; checkpoint-{number} is of another run in this "
        "folder, or of one that did not end."
        for number in later[:1]
        if log.source == STATE_FILE
    ]


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Step and folder of each checkpoint, the newest first."""
    found = [(int(name[1]), path) for path in folder.iterdir() if (name := _CHECKPOINT.fullmatch(path.name))]
    return sorted(found, reverse=True)


def _state_files(folder: Path) -> list[Path]:
    ordered = [folder / STATE_FILE, *(path / STATE_FILE for _, path in _checkpoints(folder))]
    return [path for path in ordered if path.is_file()]


def _parse(state: Any, source: str, path: Path) -> Log:
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise ValueError(f"{path}: `log_history` must be a list of objects.")
    series: dict[str, dict[int, float]] = {}
    for step, name, value in _numbers(history):
        series.setdefault(name, {})[step] = as_float(value)  # of two values at a step the later one counts
    steps = state.get("global_step")
    last = max((step for points in series.values() for step in points), default=0)
    return Log(series, steps if isinstance(steps, int) else last, source)


def _not_finite(log: Log) -> list[str]:
    bad = {name: [s for s, value in log.points(name) if not math.isfinite(value)] for name in sorted(log.series)}
    return [
        f"`{name}` was logged as no finite number at {len(steps):,} step{'' if len(steps) == 1 else 's'}, first at "
        f"step {steps[0]:,}; its curve is interrupted there."
        for name, steps in bad.items()
        if steps
    ]


def _numbers(history: Iterable[Mapping[str, Any]]) -> Iterable[tuple[int, str, float]]:
    for entry in history:
        step = entry.get("step")
        if isinstance(step, int):
            for name, value in entry.items():
                if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                    yield step, name, value
