"""What happened, in sentences that claim no more than the intervals do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..views import LEVELS
from .figures.bars import decimal, interval_text
from .reading.runs import Estimate, Evaluation, Run


CONDITIONS = {
    "text_rich": "image, facts in words, question",
    "vision_centric": "image, question",
    "zoom": "vision_centric, looked at twice",
    "blind": "question alone, no image",
    "shuffled": "question, another row's image",
    "text_only": "facts in words, no image",
    **{
        name: f"{100 * (1 - ratio):.0f} % of the facts in words" if ratio else "all of the facts in words"
        for name, ratio in LEVELS.items()
        if ratio < 1
    },
}
"""Each condition, in the order of tables and figures, with what the model is shown."""


def percent(share: float) -> str:
    """`97.0 %`, which is not broken at its end of a line."""
    return f"{decimal(100 * share)}\u00a0%"


def between(estimate: Estimate, factor: float = 100.0, digits: int = 1) -> str:
    """The interval: `35.2 to 46.8`."""
    return interval_text(estimate.scaled(factor), digits)


def confidence_text(evaluations: Sequence[Evaluation]) -> str:
    """`95 %`; of several levels, all of them."""
    levels = sorted({evaluation.confidence for evaluation in evaluations})
    return " and ".join(f"{100 * level:g}\u00a0%" for level in levels)


def change(before: Estimate, after: Estimate, paired: Estimate | None = None) -> str:
    """`lower` or `higher`, else `same`: not distinguishable.

    By the interval of the change on the same rows (`paired`) where it was measured, which is the sharper way; else by
    whether the two intervals are apart.
    """
    if paired is not None:
        return {"above": "higher", "below": "lower", "same": "same"}[against_zero(paired)]
    if before.overlaps(after):
        return "same"
    return "lower" if after.value < before.value else "higher"


def paired_change(before: Evaluation, last: Evaluation, name: str) -> Estimate | None:
    """The change of a condition's accuracy, or of the `gap`, on the same rows; `None` where it was not measured."""
    found = last.comparison
    if found is None or found.baseline != before.name:
        return None
    estimate = found.gap if name == "gap" else found.conditions.get(name)
    return estimate if estimate is not None and estimate.has_interval else None


def against_zero(estimate: Estimate) -> str:
    """`above` or `below` where the interval leaves 0 out, else `same`."""
    if estimate.low > 0:
        return "above"
    return "below" if estimate.high < 0 else "same"


def headline(run: Run) -> list[str]:
    """What happened in a run, in sentences; the first is about the gap."""
    before, last = run.before, run.last
    if last is None:
        return _of_the_log(run)
    if before is not None and last is not before:
        return [*_gap_change(before, last), *_accuracy_changes(before, last), *_regret(last)]
    return [*_gap_alone(last), *_regret(last)]


def trained(run: Run) -> str:
    """What was trained on what and measured on what, in one line; empty where nothing of it is known."""
    parts = []
    if run.train_rows is not None:
        parts.append(f"trained on a set of {run.train_rows:,} rows")
    if run.log is not None and run.log.steps:
        parts.append(f"{'for' if parts else 'trained for'} {run.log.steps:,} step{'' if run.log.steps == 1 else 's'}")
    if run.config:
        settings = [f"{name} {_plain(run.config[name])}" for name in ("kl_weight", "curriculum") if name in run.config]
        parts += [f"with {' and '.join(settings)}"] if settings else []
    last = run.last
    words = " ".join(parts)
    if last is not None and last.rows is not None:
        measured = f"measured on {last.rows:,} pairs" + (f" of {last.dataset}" if last.dataset else "")
        words = f"{words}; {measured}" if words else measured
    model = run.model or (last.model if last else "")
    line = f"{model}: {words}" if model and words else model or words
    return line[:1].upper() + line[1:] if not model else line


def differences(first: Evaluation, second: Evaluation) -> list[str]:
    """Why two evaluations cannot be compared as they are: settings that change what is measured."""
    found = [
        f"{name} {getattr(first, name)!r} and {getattr(second, name)!r}"
        for name in ("dataset", "rows", "confidence")
        if getattr(first, name) and getattr(second, name) and getattr(first, name) != getattr(second, name)
    ]
    shared = sorted((first.settings.keys() & second.settings.keys()) - _NOT_ASKED)
    changed = [name for name in shared if first.settings[name] != second.settings[name]]
    # A digest tells that the rows are others, and nothing else
    return found + [
        "other rows" if name == "rows" else f"{name} {first.settings[name]!r} and {second.settings[name]!r}"
        for name in changed
    ]


def comparison_notes(runs: Sequence[Run]) -> list[str]:
    """Evaluations that stand side by side although they measured something else."""
    notes = []
    for run in runs:
        if run.before is not None and run.last is not None and (found := differences(run.before, run.last)):
            notes.append(
                f"{run.name}: {run.before.name} and {run.last.name} were not measured alike: {'; '.join(found)}. "
                "Their difference is not the effect of training alone."
            )
        notes += _notes_on_steps(run)
    lasts = [(run, run.last) for run in runs if run.last is not None]
    for (first, one), (second, other) in zip(lasts, lasts[1:], strict=False):
        if found := differences(one, other):
            notes.append(f"{first.name} and {second.name} were not measured alike: {'; '.join(found)}.")
    return notes


def _notes_on_steps(run: Run) -> list[str]:
    """Evaluations between the first and the last, in the figures with both of them."""
    unlike: dict[str, list[str]] = {}
    for evaluation in run.evaluations:
        if run.last is not None and evaluation not in (run.before, run.last):
            unlike.setdefault("; ".join(differences(evaluation, run.last)), []).append(evaluation.name)
    unlike.pop("", None)
    return [
        f"{run.name}: {names[0] if len(names) == 1 else f'{names[0]} to {names[-1]} ({len(names)} evaluations)'} and "
        f"{run.last.name if run.last else ''} were not measured alike: {found}."
        for found, names in unlike.items()
    ]


# Settings that do not change what is asked or how it is graded; the conditions may be fewer in the course of training
_NOT_ASKED = {"conditions", "batch_size", "weights", "server"}


def vision_gain(evaluation: Evaluation) -> str:
    """How much seeing gives: vision_centric minus blind; empty where one was not measured."""
    if evaluation.vision_gain is not None:
        gain = evaluation.vision_gain
        words = f"{decimal(100 * gain.value)} points ({between(gain)})"
        return words + (", not distinguishable from none" if against_zero(gain) == "same" else "")
    seen, blind = (evaluation.conditions.get(name) for name in ("vision_centric", "blind"))
    if seen is None or blind is None:
        return ""
    words = f"{decimal(100 * (seen.value - blind.value))} points"
    return words + (", with intervals that overlap" if seen.overlaps(blind) else "")


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


CONTROLS = ("blind", "shuffled", "text_only")

_POINTS, _NATS = (100.0, "points", 1), (1.0, "nats per token", 3)


def _gap_change(before: Evaluation, last: Evaluation) -> list[str]:
    gaps = [
        (before.gap, last.gap, paired_change(before, last, "gap"), _POINTS),
        (before.nats_gap, last.nats_gap, None, _NATS),
    ]
    both = [(first, second, *others) for first, second, *others in gaps if first is not None and second is not None]
    if not both:
        return _gap_alone(last)
    first, second, paired, (factor, unit, digits) = both[0]
    start, end = (decimal(factor * gap.value, digits) for gap in (first, second))
    level = confidence_text([before, last])
    told = f"{level} intervals {between(first, factor, digits)} and {between(second, factor, digits)}"
    moved = f"{decimal(factor * paired.value, digits)}, {between(paired, factor, digits)}," if paired else ""
    if change(first, second, paired) == "same":
        why = "the intervals overlap, so the two are not distinguishable."
        if paired:
            why = f"the change of {moved} is not distinguishable from none."
        elif not (first.has_interval and second.has_interval):
            why = "without two intervals, they are not distinguishable."
        return [f"The gap was {start} {unit} before and {end} after ({told}): {why}"]
    sentences = [f"The gap went from {start} to {end} {unit} ({told}{f'; change {moved[:-1]}' if moved else ''})."]
    if against_zero(second) == "same":
        sentences.append("What is left of it is not distinguishable from no gap.")
    elif against_zero(second) == "below":
        sentences.append("The vision_centric view is now ahead.")
    return sentences


def _gap_alone(evaluation: Evaluation) -> list[str]:
    level = confidence_text([evaluation])
    for gap, (factor, unit, digits) in ((evaluation.gap, _POINTS), (evaluation.nats_gap, _NATS)):
        if gap is not None:
            words = (
                f"The gap is {decimal(factor * gap.value, digits)} {unit} "
                f"({level} interval {between(gap, factor, digits)})"
            )
            rest = {
                "above": ".",
                "below": ": the vision_centric view is ahead.",
                "same": ", not distinguishable from none.",
            }
            return [words + rest[against_zero(gap)]]
    return [] if evaluation.text is not None else ["The gap was not measured."]


def _accuracy_changes(before: Evaluation, last: Evaluation) -> list[str]:
    sentences, changes = [], {}
    for name in ("text_rich", "vision_centric"):
        first, second = before.conditions.get(name), last.conditions.get(name)
        if first is None or second is None:
            continue
        changes[name] = change(first, second, paired_change(before, last, name))
        values = f"{decimal(100 * first.value)} to {percent(second.value)}"
        sentences.append(
            {
                "lower": f"{name} accuracy fell from {values}",
                "higher": f"{name} accuracy rose from {values}",
                "same": f"{name} accuracy, {values}, is not distinguishable from what it was",
            }[changes[name]]
        )
    text = f"{'; '.join(sentences)}." if sentences else ""
    gaps = before.gap, last.gap
    by_pair = paired_change(before, last, "gap")
    shrank = gaps[0] is not None and gaps[1] is not None and change(gaps[0], gaps[1], by_pair) == "lower"
    if shrank and changes.get("text_rich") == "lower":
        text += " Part of the smaller gap is accuracy that the text_rich view lost."
    return [text] if text else []


def _regret(evaluation: Evaluation) -> list[str]:
    if evaluation.text is None or not evaluation.text.regret:
        return []
    by_kind: dict[str, list[str]] = {"above": [], "below": [], "same": []}
    for task, regret in evaluation.text.regret.items():
        kind = against_zero(regret)
        points = f" by {decimal(100 * abs(regret.value))} points" if kind != "same" else ""
        by_kind[kind].append(f"{task}{points}")
    words = {"above": "worse in", "below": "better in", "same": "not distinguishable from its baseline in"}
    parts = [f"{words[kind]} {', '.join(tasks)}" for kind, tasks in by_kind.items() if tasks]
    return [f"Text skill: {'; '.join(parts)}."]


def _of_the_log(run: Run) -> list[str]:
    unknown = "Answers were not evaluated in this run, and losses are logged without intervals."
    for name, rows in (("eval_gap_nats", "the held-out rows"), ("gap_nats", "the rows it trained on")):
        gaps = [(s, g) for s, g in run.log.points(name) if math.isfinite(g)] if run.log else []
        if gaps:
            (first, start), (last, end) = gaps[0], gaps[-1]
            later = f" and {decimal(end, 3)} at step {last:,}" if last > first else ""
            return [f"On {rows} the gap was {decimal(start, 3)} nats per token at step {first:,}{later}.", unknown]
    return ["The gap was not measured: there is no evaluation in this run."]


def ordered(names: Mapping[str, object]) -> list[str]:
    """Conditions in their order; unknown ones behind them by name."""
    return [name for name in CONDITIONS if name in names] + sorted(name for name in names if name not in CONDITIONS)
