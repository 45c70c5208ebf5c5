"""The tables that `trl-modality eval` prints: accuracies, gap, groups, nats and changes, with their intervals."""

from __future__ import annotations

from collections.abc import Iterable

from .conditions import VIEWS, Condition
from .formatting import PLAIN, p_text
from .nats import NatsGap
from .results import NOTED, Comparison, GapResult, Summary


NUMBER, INTERVAL = 9, 16  # characters of a column
_MEANING = {
    "failures": "requests without a graded answer (`failure` in answers.jsonl says why); they are neither right nor "
    "wrong, and differences are of the rows with an answer on both sides",
    "shortened": "answers too long to be kept whole; their middle is left out",
    "undecided": "comparing formulas took too long; counted as wrong",
}


def gap_table(result: GapResult) -> str:
    """The result of a gap evaluation as tables in plain text.

    One table each, where measured: accuracies in percent by condition with gap and vision gain in percentage points;
    the same by category and by level; nats per token; changes since the baseline in percentage points.
    """
    of = f" on {result.dataset}" if result.dataset else ""
    level = PLAIN.level(result.confidence)
    lines = [f"{result.name}: {result.model}{of}, {result.rows:,} rows; intervals of {level}"]
    if result.conditions or result.summary.noted:
        lines += ["", *_accuracies(result.summary)]
    for grouping, groups in result.groups.items():
        lines += ["", *_groups(grouping, groups)]
    if result.nats is not None:
        lines += ["", *_nats(result.nats)]
    if result.baseline is not None:
        lines += ["", *_changes(result.baseline)]
    if any(result.summary.noted.values()):
        lines += ["", *_notes(result.summary)]
    return "\n".join(lines)


def _notes(summary: Summary) -> list[str]:
    """What the noted counts mean, for those that there are."""
    return [f"{kind}: {_MEANING[kind]}" for kind in NOTED if summary.noted.get(kind)]


def _accuracies(summary: Summary) -> list[str]:
    width = _width(summary.conditions, "vision gain, points")
    lines = [_row("", "accuracy, %", "interval", "right", width)]
    for name, accuracy in summary.conditions.items():
        unfinished = summary.unfinished.get(name)
        note = f"{accuracy.correct:,}/{accuracy.total:,}" + (f", {unfinished:,} unfinished" if unfinished else "")
        if fallbacks := summary.fallbacks.get(name):
            note += f", {fallbacks:,} without a crop"
        note += "".join(
            f", {summary.noted[kind][name]:,} {kind}" for kind in NOTED if name in summary.noted.get(kind, ())
        )
        lines.append(_row(name, _points(accuracy.accuracy), PLAIN.interval(accuracy.interval, 100), note, width))
    failures = summary.noted.get("failures", {})
    lines += [
        _row(name, "-", "", f"no answer, {count:,} failures", width)
        for name, count in failures.items()
        if name not in summary.conditions
    ]
    for name, difference in (("gap, points", summary.gap), ("vision gain, points", summary.vision_gain)):
        if difference is not None:
            interval = PLAIN.interval(difference.interval, 100)
            lines.append(_row(name, _points(difference.estimate), interval, p_text(difference.p_value), width))
    return lines


def _groups(grouping: str, groups: dict[str, Summary]) -> list[str]:
    found = dict.fromkeys(name for summary in groups.values() for name in summary.conditions)
    # All of them would not fit on a line; they are in the file
    conditions = [name for name in (*VIEWS, Condition.BLIND) if name in found] or list(found)
    width = _width(groups, grouping)
    columns = [max(len(name), NUMBER) for name in conditions]
    heads = [f"{name:>{size}}" for name, size in zip(conditions, columns, strict=True)]
    has_gap = any(summary.gap for summary in groups.values())
    lines = ["  ".join([f"{grouping:{width}}", f"{'rows':>6}", *heads, *(["      gap  interval"] if has_gap else [])])]
    for name, summary in groups.items():
        rows = max(accuracy.total for accuracy in summary.conditions.values())
        cells = [
            f"{_points(summary.conditions[c].accuracy) if c in summary.conditions else '-':>{size}}"
            for c, size in zip(conditions, columns, strict=True)
        ]
        if summary.gap is not None:
            cells.append(f"{_points(summary.gap.estimate):>{NUMBER}}  {PLAIN.interval(summary.gap.interval, 100)}")
        lines.append("  ".join([f"{name:{width}}", f"{rows:6,}", *cells]))
    return lines


def _nats(nats: NatsGap) -> list[str]:
    width = _width(nats.means, "vision gain, nats")
    lines = [_row("", "nats/token", "interval", "completion tokens", width)]
    lines += [
        _row(name, PLAIN.decimal(mean, 3), "", f"{nats.tokens[name]:,}", width) for name, mean in nats.means.items()
    ]
    for name, difference in (("gap, nats", nats.gap), ("vision gain, nats", nats.vision_gain)):
        if difference is not None:
            interval = PLAIN.interval(difference.interval, digits=3)
            lines.append(
                _row(name, PLAIN.decimal(difference.estimate, 3), interval, f"{difference.total:,} rows", width)
            )
    return lines


def _changes(baseline: Comparison) -> list[str]:
    width = _width(baseline.conditions, "gap, points")
    lines = [_row("", "change", "interval", f"since {baseline.name}", width)]
    for name, change in baseline.conditions.items():
        lines.append(
            _row(
                name,
                _points(change.estimate, True),
                PLAIN.interval(change.interval, 100),
                p_text(change.p_value),
                width,
            )
        )
    if baseline.gap is not None:
        gap = baseline.gap
        lines.append(_row("gap, points", _points(gap.estimate, True), PLAIN.interval(gap.interval, 100), "", width))
    return lines


def _row(name: str, number: str, interval: str, note: str, width: int) -> str:
    return f"{name:{width}}  {number:>11}  {interval:>{INTERVAL}}  {note}".rstrip()


def _width(names: Iterable[str], *more: str) -> int:
    return max(map(len, [*names, *more]))


def _points(share: float, signed: bool = False) -> str:
    return PLAIN.decimal(100 * share, signed=signed)
