"""What changed since another evaluation of the same rows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .asking.records import read_records
from .conditions import VIEWS
from .intervals import gap_change, paired_difference
from .results import Comparison


Record = Mapping[str, Any]
ROWS = "rows"


def read_baseline(folder: str | os.PathLike, files: Sequence[str], settings: Mapping[str, Any]) -> list[Record]:
    """The graded answers of another evaluation, which were to the same rows and judged alike.

    Args:
        folder: Of that evaluation.
        files: Names of its files of answers; those that are there are read.
        settings: Of this evaluation, which must be the same there: `rows` (the digest of the rows) and the grader's.

    Raises:
        FileNotFoundError: it has none of the files.
        ValueError: the baseline has other rows, or was graded otherwise.
    """
    found = [path for name in files if (path := Path(folder) / name).is_file()]
    if not found:
        raise FileNotFoundError(f"no file {Path(folder) / files[0]}: a baseline is a folder that was evaluated into.")
    answers = []
    for path in found:
        own, records = read_records(path)
        if own.get(ROWS) != settings[ROWS]:
            raise ValueError(
                f"{path} has answers to other rows than these: changes are measured on the same rows. Evaluate the "
                "baseline on this dataset, split and number of rows."
            )
        if differs := [name for name in settings if own.get(name) != settings[name]]:
            name = differs[0]
            raise ValueError(
                f"{path} was graded otherwise: `{name}` was {own.get(name)!r} there and is {settings[name]!r} here. "
                "Grade both alike."
            )
        answers += records
    return answers


def check_asked(others: Sequence[Record], asked: Mapping[str, Iterable[int]], folder: str | os.PathLike) -> None:
    """Before anything is asked: whether the baseline has all that it will be compared in.

    Args:
        others: Its records, of `read_baseline`.
        asked: The rows of each condition that are about to be asked.
        folder: Of the baseline.

    Raises:
        ValueError: no condition in common, or the baseline was interrupted.
    """
    before = _right(others)
    common = [name for name in asked if name in before]
    if not common:
        raise ValueError(f"{folder} has none of the conditions {', '.join(asked)}.")
    if missing := [name for name in common if before[name].keys() != set(asked[name])]:
        raise ValueError(f"{folder} lacks answers in {missing[0]}: it was interrupted. Run it again, to its end.")


def compare(
    answers: Sequence[Record], others: Sequence[Record], folder: str | os.PathLike, confidence: float = 0.95
) -> Comparison:
    """The answers minus those of a baseline, in every condition that both were asked in.

    Args:
        answers: Records of this evaluation.
        others: Those of the baseline, of `read_baseline`, after `check_asked`.
        folder: Of the baseline.
        confidence: Of the intervals.
    """
    after, before = _right(answers), _right(others)
    common = [name for name in after if name in before]
    new, old = ({name: [side[name][row] for row in sorted(side[name])] for name in common} for side in (after, before))
    gap = None
    if set(VIEWS) <= set(common):
        gap = gap_change(*(side[view] for side in (old, new) for view in VIEWS), confidence=confidence)
    changes = {name: paired_difference(new[name], old[name], confidence=confidence) for name in common}
    return Comparison(Path(folder).resolve().name, changes, gap)


def _right(records: Sequence[Record]) -> dict[str, dict[int, bool]]:
    by_condition: dict[str, dict[int, bool]] = {}
    for record in records:
        by_condition.setdefault(record["condition"], {})[record["row"]] = record["is_correct"]
    return by_condition
