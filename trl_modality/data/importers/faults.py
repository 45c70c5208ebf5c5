"""Many faults of a file in few lines: those that are the same are said once, with the records that have them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...views import PairError


MOST_KINDS, MOST_RECORDS = 10, 5


def described(faults: Sequence[PairError]) -> list[str]:
    """A line for each kind of fault, with the first of its records; what is quoted or a number may differ."""
    kinds: dict[str, list[PairError]] = {}
    for fault in faults:
        kinds.setdefault(re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "…", f"{fault.problem} {fault.remedy}"), []).append(fault)
    lines = []
    for same in list(kinds.values())[:MOST_KINDS]:
        rows = "; ".join(fault.row for fault in same[:MOST_RECORDS])
        more = f"; and {len(same) - MOST_RECORDS:,} more" if len(same) > MOST_RECORDS else ""
        alike = len({(fault.problem, fault.remedy) for fault in same}) == 1
        lines.append(f"{rows}{more}: {'' if alike else 'in the first, '}{same[0].problem} {same[0].remedy}")
    if len(kinds) > MOST_KINDS:
        lines.append(f"and {len(kinds) - MOST_KINDS:,} more kinds of fault")
    return lines


def plural(count: int, noun: str) -> str:
    """A count with its noun: "1 record", "1,200 records"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
