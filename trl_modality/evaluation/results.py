"""What an evaluation of the gap found: accuracies, differences on the same rows, groups, examples."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .conditions import Condition
from .intervals import Accuracy, GapChange, PairedDifference, accuracy_of, paired_difference
from .nats import NatsGap


Record = Mapping[str, Any]
FORMAT = 1
GROUPINGS = ("category", "level")
NO_GROUP = "(none)"


@dataclass(frozen=True)
class Summary:
    """Accuracies of some rows in each condition.

    `gap` is text_rich minus vision_centric: positive where the model answers the words better. `vision_gain` is
    vision_centric minus blind: what of the vision_centric accuracy needs the image.
    """

    conditions: dict[str, Accuracy]
    unfinished: dict[str, int]
    """Answers that reached the largest number of tokens, by condition."""
    fallbacks: dict[str, int] = field(default_factory=dict)
    """Answers of `zoom` without a crop, since the model gave no valid box: those are the plain view's."""
    gap: PairedDifference | None = None
    vision_gain: PairedDifference | None = None

    def to_dict(self) -> dict[str, Any]:
        differences = {"gap": self.gap, "vision_gain": self.vision_gain}
        return {
            "conditions": {
                name: {
                    **accuracy.to_dict(),
                    "unfinished": self.unfinished[name],
                    **({"fallbacks": self.fallbacks[name]} if name in self.fallbacks else {}),
                }
                for name, accuracy in self.conditions.items()
            },
            **{name: difference.to_dict() for name, difference in differences.items() if difference is not None},
        }


def summarize(records: Iterable[Record], confidence: float = 0.95) -> Summary:
    """The accuracies of graded answers, and differences over the rows that were asked in both conditions."""
    by_condition: dict[str, list[Record]] = {}
    for record in records:
        by_condition.setdefault(record["condition"], []).append(record)
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
    )


def _difference(
    by_condition: Mapping[str, Sequence[Record]], first: str, second: str, confidence: float
) -> PairedDifference | None:
    if not {first, second} <= by_condition.keys():
        return None
    firsts, seconds = (
        [each["is_correct"] for each in sorted(by_condition[name], key=lambda each: each["row"])]
        for name in (first, second)
    )
    return paired_difference(firsts, seconds, confidence=confidence)


def summarize_groups(records: Sequence[Record], confidence: float = 0.95) -> dict[str, dict[str, Summary]]:
    """A summary of each category and of each level; rows without one are a group of their own.

    A grouping is left out where no row has it.
    """
    groups: dict[str, dict[str, Summary]] = {}
    for grouping in GROUPINGS:
        by_group: dict[str, list[Record]] = {}
        for record in records:
            group = record[grouping]
            # 0 is a level; what is not set is none
            by_group.setdefault(NO_GROUP if group in (None, "") else str(group), []).append(record)
        if by_group.keys() - {NO_GROUP}:
            groups[grouping] = {name: summarize(own, confidence) for name, own in sorted(by_group.items(), key=_place)}
    return groups


def _place(group: tuple[str, Any]) -> tuple[int, str]:
    """Numbers by their value ("9" before "10"), then names."""
    return (int(group[0]), "") if group[0].isdecimal() else (sys.maxsize, group[0])


@dataclass(frozen=True)
class Comparison:
    """This evaluation minus a baseline, on the same rows."""

    name: str
    """Of the baseline."""
    conditions: dict[str, PairedDifference]
    """Change of each accuracy."""
    gap: GapChange | None
    """Change of the gap: negative where it closed."""

    def to_dict(self) -> dict[str, Any]:
        changes = {name: change.to_dict() for name, change in self.conditions.items()}
        return {"name": self.name, "conditions": changes, **({"gap": self.gap.to_dict()} if self.gap else {})}


@dataclass(frozen=True)
class GapResult:
    """An evaluation of one model on one set of pairs."""

    name: str
    model: str
    dataset: str
    rows: int
    confidence: float
    settings: dict[str, Any]
    summary: Summary
    groups: dict[str, dict[str, Summary]] = field(default_factory=dict)
    nats: NatsGap | None = None
    examples: list[dict[str, Any]] = field(default_factory=list)
    """Pairs that are right in the text_rich view and wrong in the vision_centric one."""
    baseline: Comparison | None = None
    versions: dict[str, str] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """The records of `answers.jsonl`."""

    @property
    def conditions(self) -> dict[str, Accuracy]:
        """The accuracy of each condition."""
        return self.summary.conditions

    @property
    def gap(self) -> PairedDifference | None:
        """Accuracy of text_rich minus vision_centric."""
        return self.summary.gap

    @property
    def vision_gain(self) -> PairedDifference | None:
        """Accuracy of vision_centric minus blind."""
        return self.summary.vision_gain

    def to_dict(self) -> dict[str, Any]:
        """What `gap.json` holds: shares from 0 to 1, nats per token; what was not measured is absent."""
        groups = {
            grouping: {name: summary.to_dict() for name, summary in own.items()}
            for grouping, own in self.groups.items()
        }
        return {
            "format": FORMAT,
            "kind": "gap",
            "name": self.name,
            "model": self.model,
            "dataset": self.dataset,
            "rows": self.rows,
            "confidence": self.confidence,
            "settings": self.settings,
            **self.summary.to_dict(),
            **({"nats": self.nats.to_dict()} if self.nats else {}),
            "groups": groups,
            "examples": self.examples,
            **({"baseline": self.baseline.to_dict()} if self.baseline else {}),
            "versions": self.versions,
        }

    def table(self) -> str:
        """A table for the terminal, with intervals."""
        from .terminal import gap_table

        return gap_table(self)

    def metrics(self) -> dict[str, float]:
        """For logs: `{condition}_accuracy`, `accuracy_gap` and `vision_gain` as shares, `{condition}_unfinished` as a
        share of the answers, `{condition}_nll` and `gap_nats` in nats per token."""
        metrics: dict[str, float] = {}
        for name, accuracy in self.conditions.items():
            metrics[f"{name}_accuracy"] = accuracy.accuracy
            metrics[f"{name}_unfinished"] = self.summary.unfinished[name] / accuracy.total
        if self.gap is not None:
            metrics["accuracy_gap"] = self.gap.estimate
        if self.vision_gain is not None:
            metrics["vision_gain"] = self.vision_gain.estimate
        if self.nats is not None:
            metrics |= {f"{name}_nll": mean for name, mean in self.nats.means.items()}
            if self.nats.gap is not None:
                metrics["gap_nats"] = self.nats.gap.estimate
        return metrics
