"""Folders of runs and evaluations, read for a report."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...views import text_of
from .fields import Fields, open_fields
from .logs import Log, read_log


GAP_FILE, TEXT_FILE, RUN_FILE, EVALS = "gap.json", "text.json", "run.json", "evals"
_STEP = re.compile(r"step-(\d+)(?:-(.+))?")


@dataclass(frozen=True)
class Estimate:
    """A number with its interval: a share (0 to 1), a difference of shares (-1 to 1), or nats per token.

    Where there is no interval it is infinite: the number is then not distinguishable from any other.
    """

    value: float
    low: float = -math.inf
    high: float = math.inf
    total: int | None = None

    def overlaps(self, other: Estimate) -> bool:
        return self.low <= other.high and other.low <= self.high

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    def scaled(self, factor: float) -> Estimate:
        return replace(self, value=self.value * factor, low=self.low * factor, high=self.high * factor)


@dataclass(frozen=True)
class Group:
    """The pairs of a category or a level: accuracies by condition, and the gap (text_rich minus vision_centric)."""

    conditions: Mapping[str, Estimate]
    gap: Estimate | None


@dataclass(frozen=True)
class Answer:
    text: str
    answer: str
    is_correct: bool


@dataclass(frozen=True)
class Example:
    """A pair that was answered right in the one view and wrong in the other."""

    name: str
    category: str
    expected: str
    prompts: Mapping[str, str]
    answers: Mapping[str, Answer]
    images: Sequence[Path]


@dataclass(frozen=True)
class TextSkill:
    """Accuracies by task, and the regret by task: baseline minus this model, positive is a loss."""

    tasks: Mapping[str, Estimate]
    baseline: str
    regret: Mapping[str, Estimate]


@dataclass(frozen=True)
class Comparison:
    """An evaluation minus a baseline, on the same rows: by condition, and of the gap (negative where it closed)."""

    baseline: str
    conditions: Mapping[str, Estimate]
    gap: Estimate | None


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one model."""

    name: str
    model: str = ""
    dataset: str = ""
    rows: int | None = None
    confidence: float = 0.95
    settings: Mapping[str, Any] = field(default_factory=dict)
    conditions: Mapping[str, Estimate] = field(default_factory=dict)
    gap: Estimate | None = None
    vision_gain: Estimate | None = None
    nats: Mapping[str, float] = field(default_factory=dict)
    nats_gap: Estimate | None = None
    groups: Mapping[str, Mapping[str, Group]] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    text: TextSkill | None = None
    comparison: Comparison | None = None

    @property
    def step(self) -> int | None:
        """The step of an evaluation in training, by its name (`step-200`, or `step-200-charts`)."""
        found = _STEP.fullmatch(self.name)
        return int(found[1]) if found else None

    @property
    def set_name(self) -> str:
        """Which of several sets it asked in training; empty where there is one."""
        found = _STEP.fullmatch(self.name)
        return (found[2] or "") if found else ""


@dataclass(frozen=True)
class Run:
    """A training run with its evaluations, from the first to the last; or an evaluation by itself."""

    name: str
    evaluations: Sequence[Evaluation] = ()
    log: Log | None = None
    model: str = ""
    train_rows: int | None = None
    command: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)
    """All else that `run.json` says: seed, sizes, adapter."""
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def before(self) -> Evaluation | None:
        """The evaluation before training, of a run that was evaluated after it, or in its course, as well."""
        first = self.evaluations[0] if len(self.evaluations) > 1 else None
        return first if first is not None and first.name == "before" else None

    @property
    def last(self) -> Evaluation | None:
        """The newest evaluation; `before` where there is no other."""
        return self.evaluations[-1] if self.evaluations else None


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Read folders of runs, or of evaluations by themselves; each run has a name of its own.

    Raises:
        ValueError: no folder, one that is given twice, or what `read_run` raises.
        OSError: a file cannot be read.
    """
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise ValueError("no RUN: name the folder of a run or of an evaluation.")
    seen: dict[Path, Path] = {}
    for path in paths:
        if path.resolve() in seen:
            raise ValueError(f"{path} is given twice; name each RUN once.")
        seen[path.resolve()] = path
    runs = [read_run(path) for path in paths]
    names = [run.name for run in runs]
    return [
        run if names.count(run.name) == 1 else replace(run, name=f"{run.name} ({number})")
        for number, run in enumerate(runs, 1)
    ]


def read_run(folder: str | Path) -> Run:
    """Read the folder of a run (`run.json`, `trainer_state.json` or checkpoints, `evals/`), or that of an evaluation.

    Raises:
        ValueError: nothing of that is there, or a file is broken, of another kind or format.
        OSError: a file cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; name that of a run or of an evaluation.")
    own_name = folder.resolve().name
    evaluations = [
        read_evaluation(path)
        for path in sorted(folder.glob(f"{EVALS}/*"))
        if any((path / name).is_file() for name in (GAP_FILE, TEXT_FILE))
    ]
    if any((folder / name).is_file() for name in (GAP_FILE, TEXT_FILE)):
        evaluations.append(read_evaluation(folder))
    log, notes = read_log(folder)
    if log is not None and (late := [e.name for e in evaluations if e.step is not None and e.step > log.steps]):
        notes.append(
            f"{', '.join(late)}: after the last step of {log.source} ({log.steps:,}), so of another run in this "
            "folder, or of one that did not end."
        )
    has_record = (folder / RUN_FILE).is_file()
    if not (has_record or evaluations or log):
        raise ValueError(
            f"{folder} is not the folder of a run or of an evaluation: there is no {RUN_FILE}, no trainer_state.json "
            f"(there or in a checkpoint-N), no {EVALS}/NAME/{GAP_FILE}, no {GAP_FILE} and no {TEXT_FILE} in it."
        )
    run = _read_record(folder / RUN_FILE, own_name) if has_record else Run(own_name)
    if not has_record and log is None and len(evaluations) == 1:
        run = Run(evaluations[0].name or own_name)
    return replace(run, evaluations=tuple(sorted(evaluations, key=_order)), log=log, notes=tuple(notes))


def _order(evaluation: Evaluation) -> tuple[int, int, str]:
    """`before`, those of steps, all others by name, `after`."""
    if evaluation.step is not None:
        return 1, evaluation.step, evaluation.set_name
    return {"before": 0, "after": 3}.get(evaluation.name, 2), 0, evaluation.name


_OWN_PLACE = ("format", "kind", "name", "model", "command", "config", "versions")


def _read_record(path: Path, own_name: str) -> Run:
    record = open_fields(path, "run")
    return Run(
        name=record.text("name", "") or own_name,
        model=record.text("model", ""),
        train_rows=record.integer("train_rows") if record.has("train_rows") else None,
        command=record.text("command", ""),
        record={name: value for name, value in record.data.items() if name not in _OWN_PLACE and record.has(name)},
        config=record.inner("config").data,
        versions=record.inner("versions").data,
    )


def read_evaluation(folder: Path) -> Evaluation:
    """An evaluation's `gap.json`, `text.json` or both.

    Raises:
        ValueError: a file is broken, of another kind or format, or has a field of another type.
        OSError: a file cannot be read.
    """
    found = Evaluation(folder.resolve().name)
    if (folder / GAP_FILE).is_file():
        found = _gap_of(open_fields(folder / GAP_FILE, "gap"), found.name, folder)
    if (folder / TEXT_FILE).is_file():
        file = open_fields(folder / TEXT_FILE, "text")
        found = replace(found, model=found.model or file.text("model", ""), text=_text_skill(file))
    # The folder's name tells `before` from `after`: a gap.json may be named by its model
    return replace(found, name=folder.name) if folder.parent.name == EVALS else found


def _gap_of(file: Fields, own_name: str, folder: Path) -> Evaluation:
    nats = dict(file.objects("nats"))
    return Evaluation(
        name=file.text("name", "") or own_name,
        model=file.text("model", ""),
        dataset=file.text("dataset", ""),
        rows=file.integer("rows") if file.has("rows") else None,
        confidence=file.number("confidence", 0.95),
        settings=file.inner("settings").data,
        conditions=_accuracies(file, "conditions"),
        gap=_difference(file, "gap"),
        vision_gain=_difference(file, "vision_gain"),
        nats={name: entry.number("mean") for name, entry in nats.items() if entry.has("mean")},
        nats_gap=_difference(file.inner("nats"), "gap", of_shares=False),
        groups={by: _groups(file.inner("groups"), by) for by, _ in file.objects("groups")},
        examples=[_example(file, index, folder) for index in range(len(file.items("examples")))],
        versions=file.inner("versions").data,
        comparison=_comparison(file.inner("baseline")),
    )


def _comparison(fields: Fields) -> Comparison | None:
    if not fields.data:
        return None
    changes = fields.inner("conditions")
    found = ((name, _difference(changes, name)) for name in changes.data)
    # A change of the gap, which is from -1 to 1, is from -2 to 2
    return Comparison(
        fields.text("name", ""),
        {name: change for name, change in found if change is not None},
        _difference(fields, "gap", of_shares=False),
    )


def _groups(groups: Fields, by: str) -> dict[str, Group]:
    found = groups.objects(by)
    return {name: Group(_accuracies(entry, "conditions"), _difference(entry, "gap")) for name, entry in found}


def _accuracies(fields: Fields, key: str) -> dict[str, Estimate]:
    return {
        name: Estimate(*(entry.share(part) for part in ("accuracy", "low", "high")), total=entry.integer("total"))
        for name, entry in fields.objects(key)
    }


def _difference(fields: Fields, key: str, of_shares: bool = True) -> Estimate | None:
    entry = fields.inner(key)
    if not entry.data:
        return None
    # Of too few rows, or rows too much alike, there may be no interval
    parts = ("estimate", "low", "high") if entry.has("low") or entry.has("high") else ("estimate",)
    return Estimate(
        *(entry.share(part, -1.0) if of_shares else entry.number(part) for part in parts),
        total=entry.integer("total") if entry.has("total") else None,
    )


def _text_skill(file: Fields) -> TextSkill:
    regret = file.inner("regret")
    differences = ((name, _difference(regret.inner("tasks"), name)) for name in regret.inner("tasks").data)
    return TextSkill(
        tasks=_accuracies(file, "tasks"),
        baseline=regret.text("baseline", ""),
        regret={name: found for name, found in differences if found is not None},
    )


def _example(file: Fields, index: int, folder: Path) -> Example:
    where = f"examples.{index}"
    data = file.items("examples")[index]
    if not isinstance(data, dict):
        raise file.error(where, f"must be an object, got {type(data).__name__}")
    entry = Fields(file.path, data, f"{where}.")
    images = []
    for name in entry.items("images"):
        # A report is passed on: it must not carry a file from elsewhere on the disk
        if not isinstance(name, str) or not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise entry.error("images", f"must name files inside {folder}, got {name!r}")
        images.append(folder / name)
    name, category = entry.data.get("id"), entry.data.get("category")
    return Example(
        name=f"row {entry.integer('row', index)}" if name is None else str(name),
        category=str(category) if isinstance(category, int) else entry.text("category", ""),
        expected=entry.text("expected", ""),
        prompts={name: _prompt(entry, name) for name in entry.inner("prompts").data},
        answers={
            name: Answer(answer.text("text", ""), answer.text("answer", ""), answer.truth("is_correct"))
            for name, answer in entry.objects("answers")
        },
        images=images,
    )


def _prompt(entry: Fields, name: str) -> str:
    value = entry.inner("prompts").data[name]
    try:
        return text_of(value or "")
    except TypeError:
        raise entry.error(f"prompts.{name}", "must be a text or a list of messages") from None
