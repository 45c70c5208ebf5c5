"""What changed since another evaluation of the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .conditions import VIEWS
from .records import read_records
from .results import Comparison
from .statistics import gap_change, paired_difference


def compare(answers: Sequence[Mapping[str, Any]], file: Path, rows: str, confidence: float = 0.95) -> Comparison:
    """The answers minus those of a baseline, in every condition that both were asked in.

    Args:
        answers: Records of this evaluation.
        file: `answers.jsonl` of the baseline.
        rows: Digest of the rows of this evaluation.
        confidence: Of the intervals.

    Raises:
        ValueError: the baseline has other rows, no condition in common, or was interrupted.
    """
    settings, others = read_records(file)
    if settings.get("rows") != rows:
        raise ValueError(
            f"{file} has answers to other rows than these: changes are measured on the same rows. Evaluate the "
            "baseline on this dataset, split and number of rows."
        )
    after, before = _right(answers), _right(others)
    common = [name for name in after if name in before]
    if not common:
        raise ValueError(f"{file} has none of the conditions {', '.join(after)}.")
    if missing := [name for name in common if before[name].keys() != after[name].keys()]:
        raise ValueError(f"{file} lacks answers in {missing[0]}: it was interrupted. Run it again, to its end.")
    new, old = ({name: [side[name][row] for row in sorted(side[name])] for name in common} for side in (after, before))
    gap = None
    if set(VIEWS) <= set(common):
        gap = gap_change(*(side[view] for side in (old, new) for view in VIEWS), confidence=confidence)
    changes = {name: paired_difference(new[name], old[name], confidence=confidence) for name in common}
    return Comparison(file.resolve().parent.name, changes, gap)


def _right(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, bool]]:
    by_condition: dict[str, dict[int, bool]] = {}
    for record in records:
        by_condition.setdefault(record["condition"], {})[record["row"]] = record["is_correct"]
    return by_condition
