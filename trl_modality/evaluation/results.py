"""Results of a gap evaluation, and `gap.json`, which they are written to and read from."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .conditions import Condition
from .intervals import Accuracy, GapChange, PairedDifference, accuracy_of, paired_difference
from .json_fields import Fields, JsonObject
from .nats import NatsGap
from .worst_pairs import WorstPair


AnswerRecord = Mapping[str, Any]
"""One graded answer, as in a line of `answers.jsonl`."""
KIND, FORMAT = "gap", 1
ANSWERS, GAP_FILE = "answers.jsonl", "gap.json"
GROUPINGS = ("category", "level")
NOTED = ("failures", "shortened", "undecided")
NO_GROUP = "(none)"


@dataclass(frozen=True)
class Summary:
    """Accuracy of a set of rows in each condition, and two differences between conditions on the same rows.

    `gap` is text_rich minus vision_centric: positive where the model answers the words better. `vision_gain` is
    vision_centric minus blind: the part of the vision_centric accuracy that needs the image. Each is `None` where one
    of its conditions was not asked.
    """

    conditions: dict[str, Accuracy]
    unfinished: dict[str, int]
    """By condition, how many answers were cut off at the largest number of new tokens."""
    fallbacks: dict[str, int] = field(default_factory=dict)
    """For `zoom`, how many rows were asked without a crop, as in vision_centric: the model gave no valid box."""
    gap: PairedDifference | None = None
    vision_gain: PairedDifference | None = None
    noted: dict[str, dict[str, int]] = field(default_factory=dict)
    """Kind → condition → number of answers, where there are any. "failures": requests without a graded answer, which
    are neither right nor wrong, and not among the rows of an accuracy or a difference; "shortened": answers too long
    to be kept whole; "undecided": comparing formulas took too long, and the answer counts as wrong."""

    def to_dict(self) -> dict[str, Any]:
        """`conditions` by name, each an `Accuracy` with its counts; `gap` and `vision_gain` where measured.

        `unanswered` has the number of failed requests of conditions without a single answer, where there are any.
        """
        counts = {"unfinished": self.unfinished, "fallbacks": self.fallbacks, **self.noted}
        failures = self.noted.get("failures", {})
        unanswered = {name: count for name, count in failures.items() if name not in self.conditions}
        return {
            "conditions": {
                name: {
                    **accuracy.to_dict(),
                    **{key: by_condition[name] for key, by_condition in counts.items() if name in by_condition},
                }
                for name, accuracy in self.conditions.items()
            },
            **({"unanswered": unanswered} if unanswered else {}),
            **_present(gap=self.gap, vision_gain=self.vision_gain),
        }

    @classmethod
    def from_dict(cls, data: JsonObject) -> Summary:
        """The summary of a dict as `to_dict` gives it; `ValueError` names a field that is wrong."""
        fields = Fields.of(data)
        found = dict(fields.objects("conditions"))
        unfinished, fallbacks = (
            {name: entry.count(key) for name, entry in found.items() if entry.has(key)}
            for key in ("unfinished", "fallbacks")
        )
        noted = {key: {name: entry.count(key) for name, entry in found.items() if entry.has(key)} for key in NOTED}
        unanswered = fields.inner("unanswered")
        noted["failures"] |= {name: unanswered.count(name) for name in unanswered.data}
        return cls(
            {name: Accuracy.from_dict(entry) for name, entry in found.items()},
            unfinished,
            fallbacks,
            gap=_read_difference(fields, "gap"),
            vision_gain=_read_difference(fields, "vision_gain"),
            noted={key: counts for key, counts in noted.items() if counts},
        )


def _present(**measured: Any) -> dict[str, Any]:
    """The dicts of what was measured, by name; what is `None` is left out."""
    return {name: value.to_dict() for name, value in measured.items() if value is not None}


def _read_difference(fields: Fields, key: str) -> PairedDifference | None:
    entry = fields.inner(key)
    return PairedDifference.from_dict(entry) if entry.data else None


def summarize(records: Iterable[AnswerRecord], confidence: float = 0.95) -> Summary:
    """The accuracies of graded answers by condition, with gap and vision gain.

    Args:
        records: Lines of `answers.jsonl`; every condition has the same rows.
        confidence: Of the intervals, between 0 and 1.
    """
    by_condition: dict[str, list[AnswerRecord]] = {}
    noted: dict[str, dict[str, int]] = {}
    for record in records:
        name = record["condition"]
        for kind in _kinds(record):
            noted.setdefault(kind, {}).setdefault(name, 0)
            noted[kind][name] += 1
        if not record.get("failure"):
            by_condition.setdefault(name, []).append(record)
    return Summary(
        conditions={
            name: accuracy_of([each["is_correct"] for each in own], confidence) for name, own in by_condition.items()
        },
        unfinished={name: sum(not each["is_complete"] for each in own) for name, own in by_condition.items()},
        fallbacks={
            name: sum(each["is_fallback"] for each in own)
            for name, own in by_condition.items()
            if all("is_fallback" in each for each in own)
        },
        gap=_difference(by_condition, Condition.TEXT_RICH, Condition.VISION_CENTRIC, confidence),
        vision_gain=_difference(by_condition, Condition.VISION_CENTRIC, Condition.BLIND, confidence),
        noted=noted,
    )


def _kinds(record: AnswerRecord) -> list[str]:
    """What is to be noted of an answer; of `NOTED`."""
    found = (record.get("failure"), record.get("characters"), record.get("how") == "limit")
    return [kind for kind, is_so in zip(NOTED, found, strict=True) if is_so]


def _difference(
    by_condition: Mapping[str, Sequence[AnswerRecord]], first: str, second: str, confidence: float
) -> PairedDifference | None:
    if not {first, second} <= by_condition.keys():
        return None
    firsts, seconds = ({each["row"]: each["is_correct"] for each in by_condition[name]} for name in (first, second))
    rows = sorted(firsts.keys() & seconds.keys())  # a failed request is in neither
    if not rows:
        return None
    return paired_difference([firsts[row] for row in rows], [seconds[row] for row in rows], confidence=confidence)


def balanced_accuracy(text_rich: float, vision_centric: float) -> float:
    """The harmonic mean of the accuracies in both views, 2·a·b / (a + b), from 0 to 1; 0 where both are 0.

    A number to choose a model by: it is 1 only where both views are answered right, 0 where one of them never is, and
    falls with either. A gap has its best value where both views are answered equally badly. The smaller of the two
    accuracies would not see text_rich fall as long as vision_centric is worse; their mean lets one view pay for the
    other. (It is not the mean of recalls by class that goes by this name for classifiers.)
    """
    total = text_rich + vision_centric
    return 2 * text_rich * vision_centric / total if total else 0.0


def summarize_groups(records: Sequence[AnswerRecord], confidence: float = 0.95) -> dict[str, dict[str, Summary]]:
    """A `Summary` of the rows of each category and of each level: grouping ("category", "level") → group → summary.

    Rows without a category (or level) form the group "(none)"; a grouping that no row has is left out.
    """
    groups: dict[str, dict[str, Summary]] = {}
    for grouping in GROUPINGS:
        by_group: dict[str, list[AnswerRecord]] = {}
        for record in records:
            group = record[grouping]
            # 0 is a level; what is not set is none
            if not record.get("failure"):
                by_group.setdefault(NO_GROUP if group in (None, "") else str(group), []).append(record)
        if by_group.keys() - {NO_GROUP}:
            groups[grouping] = {name: summarize(own, confidence) for name, own in sorted(by_group.items(), key=_place)}
    return groups


def _place(group: tuple[str, Any]) -> tuple[int, str]:
    """Sort key of groups: numbers by value ("9" before "10"), then names in alphabetical order."""
    return (int(group[0]), "") if group[0].isdecimal() else (sys.maxsize, group[0])


@dataclass(frozen=True)
class Comparison:
    """This evaluation minus a baseline evaluation, on the same rows."""

    name: str
    """Name of the baseline evaluation."""
    conditions: dict[str, PairedDifference]
    """By condition, the accuracy here minus the accuracy in the baseline."""
    gap: GapChange | None
    """The gap here minus the gap in the baseline: negative where the gap closed."""

    def to_dict(self) -> dict[str, Any]:
        """`name`, `conditions` and, where measured, `gap`."""
        changes = {name: change.to_dict() for name, change in self.conditions.items()}
        return {"name": self.name, "conditions": changes, **_present(gap=self.gap)}

    @classmethod
    def from_dict(cls, data: JsonObject) -> Comparison:
        """The comparison of a dict as `to_dict` gives it; `ValueError` names a field that is wrong."""
        fields = Fields.of(data)
        changes = {name: PairedDifference.from_dict(entry) for name, entry in fields.objects("conditions")}
        gap = fields.inner("gap")
        return cls(fields.text("name", ""), changes, GapChange.from_dict(gap) if gap.data else None)


@dataclass(frozen=True)
class GapResult:
    """The evaluation of one model on one set of pairs: everything that `gap.json` holds.

    A result is written by `to_dict` and read by `read` or `from_dict`; two results are equal if their `gap.json` would
    be.
    """

    name: str
    model: str
    dataset: str
    rows: int
    """How many pairs were asked; 0 in a file that does not say so."""
    confidence: float
    """Of every interval, between 0 and 1."""
    settings: dict[str, Any]
    """What the answers and their grades depend on; `rows` in it is a digest of the pairs."""
    summary: Summary
    groups: dict[str, dict[str, Summary]] = field(default_factory=dict)
    """Grouping ("category", "level") → group → summary of its rows."""
    nats: NatsGap | None = None
    examples: list[WorstPair] = field(default_factory=list)
    """Up to 12 pairs that are right in the text_rich view and wrong in the vision_centric one."""
    baseline: Comparison | None = None
    versions: dict[str, str] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list, repr=False, compare=False)
    """The graded answers, as in `answers.jsonl`; empty in a result that was read from `gap.json`."""

    @property
    def conditions(self) -> dict[str, Accuracy]:
        """The accuracy in each condition."""
        return self.summary.conditions

    @property
    def gap(self) -> PairedDifference | None:
        """Accuracy of text_rich minus accuracy of vision_centric."""
        return self.summary.gap

    @property
    def vision_gain(self) -> PairedDifference | None:
        """Accuracy of vision_centric minus accuracy of blind."""
        return self.summary.vision_gain

    def to_dict(self) -> dict[str, Any]:
        """The content of `gap.json`: shares from 0 to 1, nats per token; what was not measured is absent."""
        groups = {
            grouping: {name: summary.to_dict() for name, summary in own.items()}
            for grouping, own in self.groups.items()
        }
        return {
            "format": FORMAT,
            "kind": KIND,
            "name": self.name,
            "model": self.model,
            "dataset": self.dataset,
            "rows": self.rows,
            "confidence": self.confidence,
            "settings": self.settings,
            **self.summary.to_dict(),
            **_present(nats=self.nats),
            "groups": groups,
            "examples": [example.to_dict() for example in self.examples],
            **_present(baseline=self.baseline),
            "versions": self.versions,
        }

    @classmethod
    def from_dict(cls, data: JsonObject) -> GapResult:
        """The result of a dict as `to_dict` gives it, without `answers`. Absent parts count as not measured.

        Raises:
            ValueError: another kind or format of file, or a field of another type or range; the field is named.
        """
        fields = Fields.of(data)
        fields.check_kind(KIND, FORMAT)
        groups, baseline = fields.inner("groups"), fields.inner("baseline")
        return cls(
            name=fields.text("name", ""),
            model=fields.text("model", ""),
            dataset=fields.text("dataset", ""),
            rows=fields.count("rows") if fields.has("rows") else 0,
            confidence=fields.number("confidence", 0.95),
            settings=dict(fields.inner("settings").data),
            summary=Summary.from_dict(fields),
            groups={by: {name: Summary.from_dict(entry) for name, entry in groups.objects(by)} for by in groups.data},
            nats=NatsGap.from_dict(fields.inner("nats")) if fields.has("nats") else None,
            examples=[WorstPair.from_dict(entry) for entry in fields.list_of_objects("examples")],
            baseline=Comparison.from_dict(baseline) if baseline.data else None,
            versions=dict(fields.inner("versions").data),
        )

    @classmethod
    def read(cls, path: str | Path) -> GapResult:
        """Read `gap.json`.

        Raises:
            ValueError: the file is not whole JSON, or what `from_dict` raises; the file is named.
            OSError: the file cannot be read.
        """
        return cls.from_dict(Fields.open(Path(path)))

    def metrics(self) -> dict[str, float]:
        """The main numbers by the names that trainers log.

        `{condition}_accuracy`, `accuracy_gap`, `balanced_accuracy` and `vision_gain` are shares,
        `{condition}_unfinished` is the share of answers that were cut off, `{condition}_failures` that of requests
        without an answer (only where there are any), `{condition}_nll` and `gap_nats` are nats per token.
        """
        metrics: dict[str, float] = {}
        for name, accuracy in self.conditions.items():
            metrics[f"{name}_accuracy"] = accuracy.accuracy
            metrics[f"{name}_unfinished"] = self.summary.unfinished.get(name, 0) / accuracy.total
        for name, count in self.summary.noted.get("failures", {}).items():
            answered = self.conditions[name].total if name in self.conditions else 0
            metrics[f"{name}_failures"] = count / (count + answered)
        if self.gap is not None:
            metrics["accuracy_gap"] = self.gap.estimate
            found = [self.conditions.get(name) for name in (Condition.TEXT_RICH, Condition.VISION_CENTRIC)]
            text, vision = (0.0 if each is None else each.accuracy for each in found)
            metrics["balanced_accuracy"] = balanced_accuracy(text, vision)
        if self.vision_gain is not None:
            metrics["vision_gain"] = self.vision_gain.estimate
        if self.nats is not None:
            metrics |= {f"{name}_nll": mean for name, mean in self.nats.means.items()}
            if self.nats.gap is not None:
                metrics["gap_nats"] = self.nats.gap.estimate
        return metrics
