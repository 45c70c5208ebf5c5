"""Results as text for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .conditions import VIEWS, Condition
from .intervals import Interval


if TYPE_CHECKING:
    from .results import Comparison, GapResult, Summary

NUMBER, INTERVAL = 9, 16


def gap_table(result: GapResult) -> str:
    """All that an evaluation found: conditions, gap, groups, nats, changes."""
    level = f"{100 * result.confidence:g} %"
    of = f" on {result.dataset}" if result.dataset else ""
    lines = [f"{result.name}: {result.model}{of}, {result.rows:,} rows; intervals of {level}"]
    if result.conditions:
        lines += ["", *_accuracies(result.summary)]
    for grouping, groups in result.groups.items():
        lines += ["", *_groups(grouping, groups)]
    if result.nats is not None:
        lines += ["", *_nats(result.nats)]
    if result.baseline is not None:
        lines += ["", *_changes(result.baseline)]
    return "\n".join(lines)


def p_text(p_value: float) -> str:
    """A p-value to three decimals."""
    return "p < 0.001" if p_value < 0.0005 else f"p = {p_value:.3f}"


def _accuracies(summary: Summary) -> list[str]:
    width = _width(summary.conditions, "vision gain, points")
    lines = [_row("", "accuracy, %", "interval", "right", width)]
    for name, accuracy in summary.conditions.items():
        unfinished = summary.unfinished[name]
        note = f"{accuracy.correct:,}/{accuracy.total:,}" + (f", {unfinished:,} unfinished" if unfinished else "")
        if fallbacks := summary.fallbacks.get(name):
            note += f", {fallbacks:,} without a crop"
        lines.append(_row(name, _points(accuracy.accuracy), _interval(accuracy.interval), note, width))
    for name, difference in (("gap, points", summary.gap), ("vision gain, points", summary.vision_gain)):
        if difference is not None:
            interval = _interval(difference.interval)
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
            cells.append(f"{_points(summary.gap.estimate):>{NUMBER}}  {_interval(summary.gap.interval)}")
        lines.append("  ".join([f"{name:{width}}", f"{rows:6,}", *cells]))
    return lines


def _nats(nats: Any) -> list[str]:
    width = _width(nats.means, "vision gain, nats")
    lines = [_row("", "nats/token", "interval", "completion tokens", width)]
    lines += [_row(name, f"{mean:.3f}", "", f"{nats.tokens[name]:,}", width) for name, mean in nats.means.items()]
    for name, difference in (("gap, nats", nats.gap), ("vision gain, nats", nats.vision_gain)):
        if difference is not None:
            interval = _interval(difference.interval, 1, 3) if difference.interval else "-"
            lines.append(_row(name, f"{difference.estimate:.3f}", interval, f"{difference.total:,} rows", width))
    return lines


def _changes(baseline: Comparison) -> list[str]:
    width = _width(baseline.conditions, "gap, points")
    lines = [_row("", "change", "interval", f"since {baseline.name}", width)]
    for name, change in baseline.conditions.items():
        lines.append(
            _row(name, _points(change.estimate, True), _interval(change.interval), p_text(change.p_value), width)
        )
    if baseline.gap is not None:
        gap = baseline.gap
        lines.append(_row("gap, points", _points(gap.estimate, True), _interval(gap.interval), "", width))
    return lines


def _row(name: str, number: str, interval: str, note: str, width: int) -> str:
    return f"{name:{width}}  {number:>11}  {interval:>{INTERVAL}}  {note}".rstrip()


def _width(names: Any, *more: str) -> int:
    return max(map(len, [*names, *more]))


def _points(share: float, signed: bool = False) -> str:
    return f"{100 * share:+.1f}" if signed else f"{100 * share:.1f}"


def _interval(interval: Interval, scale: float = 100, digits: int = 1) -> str:
    low, high = (f"{scale * end:.{digits}f}" for end in (interval.low, interval.high))
    return f"[{low}, {high}]"
