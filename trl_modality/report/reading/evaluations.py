"""Evaluations as a report shows them: made from the results that `gap.json` and `text.json` hold."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...evaluation.intervals import Accuracy, GapChange, MeanDifference, PairedDifference
from ...evaluation.json_fields import Fields
from ...evaluation.results import GAP_FILE, GapResult, Summary
from ...evaluation.text.results import TEXT_FILE, TextResult
from ...evaluation.worst_pairs import ShownAnswer, WorstPair


EVALS = "evals"
_STEP = re.compile(r"step-(\d+)(?:-(.+))?")


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval: a share (0 to 1), a difference of shares (-1 to 1), or nats per token.

    Infinite ends stand for no interval: the number cannot then be told from any other.
    """

    value: float
    low: float = -math.inf
    high: float = math.inf
    total: int | None = None
    """How many rows it is of, where known."""

    @classmethod
    def of_accuracy(cls, accuracy: Accuracy) -> Estimate:
        """The share of right answers, 0 to 1."""
        return cls(accuracy.accuracy, accuracy.interval.low, accuracy.interval.high, accuracy.total)

    @classmethod
    def of_difference(cls, difference: PairedDifference | GapChange | MeanDifference | None) -> Estimate | None:
        """A difference in its own unit; `None` where it was not measured."""
        if difference is None:
            return None
        ends = (difference.interval.low, difference.interval.high) if difference.interval else (-math.inf, math.inf)
        return cls(difference.estimate, *ends, difference.total)

    @property
    def has_interval(self) -> bool:
        """Whether both ends are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def overlaps(self, other: Estimate) -> bool:
        """Whether the two intervals have a value in common."""
        return self.low <= other.high and other.low <= self.high

    def scaled(self, factor: float) -> Estimate:
        """The same in another unit, such as percentage points with a factor of 100."""
        return replace(self, value=self.value * factor, low=self.low * factor, high=self.high * factor)


@dataclass(frozen=True)
class Group:
    """The pairs of one category or level: accuracy by condition, and the gap (text_rich minus vision_centric)."""

    conditions: Mapping[str, Estimate]
    gap: Estimate | None


@dataclass(frozen=True)
class Example:
    """A pair that was answered right in the text_rich view and wrong in the vision_centric one."""

    name: str
    """Its `id`, or its row."""
    category: str
    """Empty where it has none."""
    expected: str
    """The right answer."""
    prompts: Mapping[str, str]
    """The text of the prompt in each view."""
    answers: Mapping[str, ShownAnswer]
    """By condition."""
    images: Sequence[Path]


@dataclass(frozen=True)
class TextScores:
    """Accuracy by text-only task, and regret by task: baseline minus this model, positive where skill was lost."""

    tasks: Mapping[str, Estimate]
    baseline: str
    """Name of the base model's run; empty without one."""
    regret: Mapping[str, Estimate]


@dataclass(frozen=True)
class Changes:
    """An evaluation minus a baseline, on the same rows."""

    baseline: str
    """Name of the baseline evaluation."""
    conditions: Mapping[str, Estimate]
    """By condition, the change of the accuracy, from -1 to 1."""
    gap: Estimate | None
    """The change of the gap, from -2 to 2: negative where the gap closed."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one model, as the report shows it; what was not measured is empty or `None`."""

    name: str
    model: str = ""
    dataset: str = ""
    rows: int | None = None
    """How many pairs were asked."""
    confidence: float = 0.95
    """Of every interval, between 0 and 1."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    conditions: Mapping[str, Estimate] = field(default_factory=dict)
    """Accuracy by condition, as shares."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """By condition or text task, the number of requests without a graded answer, where there are any."""
    gap: Estimate | None = None
    """Accuracy of text_rich minus accuracy of vision_centric."""
    vision_gain: Estimate | None = None
    """Accuracy of vision_centric minus accuracy of blind."""
    nats: Mapping[str, float] = field(default_factory=dict)
    """Loss by condition, in nats per completion token."""
    nats_gap: Estimate | None = None
    """Loss of vision_centric minus loss of text_rich, in nats per token."""
    groups: Mapping[str, Mapping[str, Group]] = field(default_factory=dict)
    """Grouping ("category", "level") → name of the group → its accuracies."""
    examples: Sequence[Example] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    text: TextScores | None = None
    comparison: Changes | None = None

    @property
    def step(self) -> int | None:
        """The training step of an evaluation named `step-200` or `step-200-charts`; `None` for other names."""
        found = _STEP.fullmatch(self.name)
        return int(found[1]) if found else None

    @property
    def set_name(self) -> str:
        """The evaluation set of one named `step-200-charts` ("charts"); empty for other names."""
        found = _STEP.fullmatch(self.name)
        return (found[2] or "") if found else ""


def read_evaluation(folder: Path) -> Evaluation:
    """Read an evaluation from its folder: `gap.json`, `text.json` or both.

    Raises:
        ValueError: a file is broken, of another kind or format, or has a field of another type or range.
        OSError: a file cannot be read.
    """
    found = Evaluation(folder.resolve().name)
    if (folder / GAP_FILE).is_file():
        found = _of_pairs(Fields.open(folder / GAP_FILE), found.name, folder)
    if (folder / TEXT_FILE).is_file():
        text = TextResult.read(folder / TEXT_FILE)
        failures = {**found.failures, **text.skill.failures}
        found = replace(found, model=found.model or text.skill.model, text=_text_scores(text), failures=failures)
    # The folder's name tells `before` from `after`: a gap.json may be named by its model
    return replace(found, name=folder.name) if folder.parent.name == EVALS else found


def _of_pairs(file: Fields, own_name: str, folder: Path) -> Evaluation:
    result = GapResult.from_dict(file)
    compared = result.baseline
    return Evaluation(
        name=result.name or own_name,
        model=result.model,
        dataset=result.dataset,
        rows=result.rows or None,
        confidence=result.confidence,
        settings=result.settings,
        conditions=_accuracies(result.conditions),
        failures=result.summary.noted.get("failures", {}),
        gap=Estimate.of_difference(result.gap),
        vision_gain=Estimate.of_difference(result.vision_gain),
        nats=result.nats.means if result.nats else {},
        nats_gap=Estimate.of_difference(result.nats.gap) if result.nats else None,
        groups={by: {name: _group(own) for name, own in groups.items()} for by, groups in result.groups.items()},
        examples=[
            Example(
                name=f"row {index if pair.row is None else pair.row}" if pair.id is None else str(pair.id),
                category=pair.category or "",
                expected=pair.expected,
                prompts=pair.prompts,
                answers=pair.answers,
                images=_image_paths(pair, file, index, folder),
            )
            for index, pair in enumerate(result.examples)
        ],
        versions=result.versions,
        comparison=compared
        and Changes(compared.name, _differences(compared.conditions), Estimate.of_difference(compared.gap)),
    )


def _accuracies(found: Mapping[str, Accuracy]) -> dict[str, Estimate]:
    return {name: Estimate.of_accuracy(accuracy) for name, accuracy in found.items()}


def _differences(found: Mapping[str, PairedDifference]) -> dict[str, Estimate]:
    estimates = ((name, Estimate.of_difference(difference)) for name, difference in found.items())
    return {name: estimate for name, estimate in estimates if estimate is not None}


def _group(summary: Summary) -> Group:
    return Group(_accuracies(summary.conditions), Estimate.of_difference(summary.gap))


def _text_scores(result: TextResult) -> TextScores:
    regret = result.regret
    return TextScores(
        tasks=_accuracies(result.skill.tasks),
        baseline=regret.baseline if regret else "",
        regret=_differences(regret.tasks) if regret else {},
    )


def _image_paths(pair: WorstPair, file: Fields, index: int, folder: Path) -> list[Path]:
    """The pictures of an example. A report is passed on, so it must not take in a file from elsewhere on the disk."""
    for name in pair.images or ():
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise file.error(f"examples.{index}.images", f"must name files inside {folder}, got {name!r}")
    return [folder / name for name in pair.images or ()]
