"""What a run did to gap, accuracies and text skill, in sentences that claim no more than the intervals do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..evaluation.formatting import PROSE
from ..views import LEVELS
from .reading.evaluations import Estimate, Evaluation
from .reading.runs import Run


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
"""What the model is shown in each condition, in the order of tables and figures."""


def confidence_text(evaluations: Sequence[Evaluation]) -> str:
    """The confidence of the evaluations' intervals, such as `95 %`; where they differ, all levels."""
    levels = sorted({evaluation.confidence for evaluation in evaluations})
    return " and ".join(map(PROSE.level, levels))


def change(before: Estimate, after: Estimate, paired: Estimate | None = None) -> str:
    """Whether a quantity is `lower` or `higher` after, or `same`: not distinguishable from before.

    Args:
        before, after: The quantity in two evaluations.
        paired: Its change on the same rows, where measured: decides by whether its interval leaves out 0. Without it,
            two intervals that do not overlap decide, which is the weaker test.
    """
    if paired is not None:
        return {"above": "higher", "below": "lower", "same": "same"}[against_zero(paired)]
    if before.overlaps(after):
        return "same"
    return "lower" if after.value < before.value else "higher"


def paired_change(before: Evaluation, last: Evaluation, name: str) -> Estimate | None:
    """The change of a quantity on the same rows, as `last` measured it against `before`; `None` where it did not.

    `name` is a condition, for its accuracy, or "gap".
    """
    found = last.comparison
    if found is None or found.baseline != before.name:
        return None
    estimate = found.gap if name == "gap" else found.conditions.get(name)
    return estimate if estimate is not None and estimate.has_interval else None


def against_zero(estimate: Estimate) -> str:
    """`above` or `below` where the interval lies above or below 0, `same` where 0 is in it."""
    if estimate.low > 0:
        return "above"
    return "below" if estimate.high < 0 else "same"


def headline(run: Run) -> list[str]:
    """The outcome of a run in sentences: the gap first, then accuracies, then text skill."""
    before, last = run.before, run.last
    if last is None:
        return _of_the_log(run)
    if before is not None and last is not before:
        return [*_gap_change(before, last), *_accuracy_changes(before, last), *_regret(last)]
    return [*_gap_alone(last), *_regret(last)]


def trained(run: Run) -> str:
    """One line on model, training rows, steps, main settings and measured pairs; empty where none is known."""
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
    """Settings in which two evaluations differ and that change what is measured, in words; empty: comparable."""
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
    """Sentences on evaluations that are not comparable though they stand side by side, and on failed requests."""
    notes = []
    for run in runs:
        notes += [_note_on_failures(run, evaluation) for evaluation in run.evaluations if evaluation.failures]
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


def _note_on_failures(run: Run, evaluation: Evaluation) -> str:
    counts = ", ".join(f"{count:,} of {name}" for name, count in evaluation.failures.items())
    where = run.name if evaluation.name == run.name else f"{run.name}, {evaluation.name}"
    return f"{where}: requests without an answer ({counts}) are neither right nor wrong; all figures leave them out."


def _notes_on_steps(run: Run) -> list[str]:
    """Notes on evaluations in the course of training that are not comparable with the last one."""
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


# Settings that do not change what is asked or how it is graded; during training fewer conditions may be asked
_NOT_ASKED = {"conditions", "batch_size", "weights", "server"}


def vision_gain(evaluation: Evaluation) -> str:
    """The vision gain (vision_centric minus blind accuracy) in words; empty where one of them was not measured."""
    if evaluation.vision_gain is not None:
        gain = evaluation.vision_gain
        words = f"{PROSE.decimal(100 * gain.value)} points ({PROSE.interval(gain, 100)})"
        return words + (", not distinguishable from none" if against_zero(gain) == "same" else "")
    seen, blind = (evaluation.conditions.get(name) for name in ("vision_centric", "blind"))
    if seen is None or blind is None:
        return ""
    words = f"{PROSE.decimal(100 * (seen.value - blind.value))} points"
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
    start, end = (PROSE.decimal(factor * gap.value, digits) for gap in (first, second))
    level = confidence_text([before, last])
    told = f"{level} intervals {PROSE.interval(first, factor, digits)} and {PROSE.interval(second, factor, digits)}"
    moved = (
        f"{PROSE.decimal(factor * paired.value, digits)}, {PROSE.interval(paired, factor, digits)}," if paired else ""
    )
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
                f"The gap is {PROSE.decimal(factor * gap.value, digits)} {unit} "
                f"({level} interval {PROSE.interval(gap, factor, digits)})"
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
        values = f"{PROSE.decimal(100 * first.value)} to {PROSE.percent(second.value)}"
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
        points = f" by {PROSE.decimal(100 * abs(regret.value))} points" if kind != "same" else ""
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
            later = f" and {PROSE.decimal(end, 3)} at step {last:,}" if last > first else ""
            return [
                f"On {rows} the gap was {PROSE.decimal(start, 3)} nats per token at step {first:,}{later}.",
                unknown,
            ]
    return ["The gap was not measured: there is no evaluation in this run."]


def ordered(names: Mapping[str, object]) -> list[str]:
    """Names of conditions in the order of `CONDITIONS`, then unknown names in alphabetical order."""
    return [name for name in CONDITIONS if name in names] + sorted(name for name in names if name not in CONDITIONS)
