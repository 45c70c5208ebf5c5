"""Comparing an evaluation with a baseline: another evaluation of the same rows, graded alike."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..resumable.records import read_records
from .conditions import VIEWS
from .intervals import gap_change, paired_difference
from .results import AnswerRecord, Comparison


ROWS = "rows"  # the setting with the digest of the pairs


def read_baseline(folder: str | os.PathLike, files: Sequence[str], settings: Mapping[str, Any]) -> list[AnswerRecord]:
    """The graded answers of a baseline, checked to be of the same rows and graded alike.

    Args:
        folder: Folder of the baseline.
        files: Names of files with answers; those that are there are read.
        settings: Settings that must be the same there as in this evaluation: the grader's, and `rows`, the digest of
            the pairs.

    Raises:
        FileNotFoundError: the folder has none of the files.
        ValueError: the baseline has other rows, or was graded otherwise.
    """
    found = [path for name in files if (path := Path(folder) / name).is_file()]
    if not found:
        raise FileNotFoundError(f"no file {Path(folder) / files[0]}: a baseline is a folder that was evaluated into.")
    answers = []
    for path in found:
        own, records = read_records(path, {"condition": str, "row": int, "is_correct": bool})
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


def check_asked(others: Sequence[AnswerRecord], asked: Mapping[str, Iterable[int]], folder: str | os.PathLike) -> None:
    """Check, before a model is asked, that the baseline has an answer to every question it will be compared in.

    Args:
        others: Answers of the baseline, from `read_baseline`.
        asked: By condition, the rows that are about to be asked.
        folder: Folder of the baseline, for errors.

    Raises:
        ValueError: there is no condition in common, or the baseline was interrupted.
    """
    before = _correct_by_row(others)
    common = [name for name in asked if name in before]
    if not common:
        raise ValueError(f"{folder} has none of the conditions {', '.join(asked)}.")
    if missing := [name for name in common if before[name].keys() != set(asked[name])]:
        raise ValueError(f"{folder} lacks answers in {missing[0]}: it was interrupted. Run it again, to its end.")


def compare(
    answers: Sequence[AnswerRecord],
    others: Sequence[AnswerRecord],
    folder: str | os.PathLike,
    confidence: float = 0.95,
) -> Comparison:
    """The accuracies of this evaluation minus those of a baseline, in every condition that both were asked in.

    Args:
        answers: Graded answers of this evaluation.
        others: Graded answers of the baseline, from `read_baseline` and checked by `check_asked`.
        folder: Folder of the baseline, whose name the comparison gets.
        confidence: Of the intervals, between 0 and 1.
    """
    after, before = (_correct_by_row([each for each in side if not each.get("failure")]) for side in (answers, others))
    # The rows that have an answer in both
    rows = {name: sorted(after[name].keys() & before[name].keys()) for name in after if name in before}
    rows = {name: found for name, found in rows.items() if found}
    gap = None
    if set(VIEWS) <= set(rows):
        of_both = sorted(set(rows[VIEWS[0]]) & set(rows[VIEWS[1]]))
        sides = [[side[view][row] for row in of_both] for side in (before, after) for view in VIEWS]
        gap = gap_change(*sides, confidence=confidence) if of_both else None
    changes = {
        name: paired_difference(
            [after[name][row] for row in found], [before[name][row] for row in found], confidence=confidence
        )
        for name, found in rows.items()
    }
    return Comparison(Path(folder).resolve().name, changes, gap)


def _correct_by_row(records: Sequence[AnswerRecord]) -> dict[str, dict[int, bool]]:
    """Condition → row → whether the answer is right."""
    by_condition: dict[str, dict[int, bool]] = {}
    for record in records:
        by_condition.setdefault(record["condition"], {})[record["row"]] = record["is_correct"]
    return by_condition
