"""Text regret: the text-only score of the base model minus that of the trained one, on the same questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..asking.records import read_records
from ..intervals import Accuracy, Interval, PairedDifference, accuracy_of, paired_difference


MAY_DIFFER = ("model", "weights", "batch_size", "dtype", "server", "server_seed")
"""Settings that the two runs of a comparison need not share."""


@dataclass(frozen=True)
class TextSkill:
    """How often a model is right, by task; `cut_short` counts its answers that did not end by themselves."""

    name: str
    model: str
    tasks: dict[str, Accuracy]
    cut_short: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        tasks = {name: {**found.to_dict(), "cut_short": self.cut_short[name]} for name, found in self.tasks.items()}
        return {"name": self.name, "model": self.model, "tasks": tasks}

    def table(self) -> str:
        """Accuracies in percent, with their intervals."""
        lines = [f"{'':12}{'questions':>10}  {'accuracy, %':21}{'cut short':>10}"]
        for name, found in self.tasks.items():
            lines.append(f"{name:12}{found.total:10,}  {_share(found):21}{self.cut_short[name]:10,}".rstrip())
        return "\n".join(lines)


@dataclass(frozen=True)
class TextRegret:
    """By task, base minus trained: positive where the trained model is worse."""

    baseline: TextSkill
    trained: TextSkill
    tasks: dict[str, PairedDifference]

    def to_dict(self) -> dict[str, Any]:
        return {
            "baseline": self.baseline.name,
            "tasks": {
                name: {**found.to_dict(), "baseline_accuracy": self.baseline.tasks[name].accuracy}
                for name, found in self.tasks.items()
            },
        }

    def table(self) -> str:
        """Accuracies and regret in percent and points, with intervals and McNemar's test."""
        lines = [f"{'':12}{'questions':>10}  {'base, %':21}{'trained, %':21}{'regret, points':24}{'p':>7}"]
        for name, found in self.tasks.items():
            base, trained = _share(self.baseline.tasks[name]), _share(self.trained.tasks[name])
            points = f"{100 * found.estimate:+.1f} [{_points(found.interval, '+.1f')}]"
            p = "<0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}"
            lines.append(f"{name:12}{found.total:10,}  {base:21}{trained:21}{points:24}{p:>7}")
        return "\n".join(lines)


def answers_file(folder: str | Path, task: str) -> Path:
    """The answers to a task that a run has left.

    Raises:
        FileNotFoundError: it has none.
    """
    path = Path(folder) / "text" / f"{task}.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: run the task {task!r} into {folder} first.")
    return path


def text_skill(
    folder: str | Path, tasks: Sequence[str] | None = None, *, name: str | None = None, confidence: float = 0.95
) -> TextSkill:
    """The accuracies of a run, from its files of answers.

    Args:
        folder: Where `TextTasks.ask` wrote.
        tasks: Their names; by default all that are there.
        name: Of the run; by default the one that its `text.json` has, else the folder's.
        confidence: Of the Wilson intervals.

    Raises:
        FileNotFoundError: no answers to a task, or to any.
        ValueError: a file that is not one of answers, or has none.
    """
    found = {task: _answers(folder, task) for task in tasks or _tasks_in(folder)}
    models = dict.fromkeys(str(settings["model"]) for settings, _ in found.values())
    return TextSkill(
        name=name or _name(Path(folder)),
        model=", ".join(models),
        tasks={
            task: accuracy_of([a["is_correct"] for a in answers.values()], confidence)
            for task, (_, answers) in found.items()
        },
        cut_short={task: sum(not a["is_complete"] for a in answers.values()) for task, (_, answers) in found.items()},
    )


def text_regret(
    base_folder: str | Path, trained_folder: str | Path, tasks: Sequence[str] | None = None, confidence: float = 0.95
) -> TextRegret:
    """Base against trained, question by question.

    Args:
        base_folder, trained_folder: Where `TextTasks.ask` wrote.
        tasks: Their names; by default all that the trained model was asked.
        confidence: Of the intervals.

    Raises:
        FileNotFoundError: a task that one of them was not asked.
        ValueError: other questions or settings in one of them; the first that differs is named.
    """
    tasks = list(tasks or _tasks_in(trained_folder))
    differences = {}
    for task in tasks:
        (base_settings, base), (settings, trained) = _answers(base_folder, task), _answers(trained_folder, task)
        where = f"{answers_file(base_folder, task)} and {answers_file(trained_folder, task)}"
        _check_alike(where, base_settings, settings)
        _check_questions(where, base, trained)
        keys = list(base)
        differences[task] = paired_difference(
            [base[key]["is_correct"] for key in keys],
            [trained[key]["is_correct"] for key in keys],
            confidence=confidence,
        )
    return TextRegret(
        baseline=text_skill(base_folder, tasks, confidence=confidence),
        trained=text_skill(trained_folder, tasks, confidence=confidence),
        tasks=differences,
    )


def check_baseline(folder: str | Path, task: str, settings: dict[str, Any]) -> None:
    """Before a task is asked: whether a run of it can be compared with that in the folder.

    Raises:
        FileNotFoundError: the folder has no answers to it.
        ValueError: they are to other questions, or graded otherwise.
    """
    path = answers_file(folder, task)
    own, _ = _answers(folder, task)
    _check_alike(f"{path} and this run", {name: own.get(name) for name in settings}, settings)


def _answers(folder: str | Path, task: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The settings of a run of a task, and its answers by the keys of their questions."""
    path = answers_file(folder, task)
    settings, records = read_records(path)
    if not records:
        raise ValueError(f"{path} holds no answer: run the task into {folder} to its end.")
    return settings, {record["key"]: record for record in records}


def _tasks_in(folder: str | Path) -> list[str]:
    tasks = sorted(path.stem for path in (Path(folder) / "text").glob("*.jsonl"))
    if not tasks:
        raise FileNotFoundError(f"no answers to text tasks in {Path(folder) / 'text'}: run some into {folder} first.")
    return tasks


def _name(folder: Path) -> str:
    summary = folder / "text.json"
    if summary.is_file():
        return str(json.loads(summary.read_text(encoding="utf-8"))["name"])
    return folder.resolve().name


def _check_alike(where: str, base: dict[str, Any], trained: dict[str, Any]) -> None:
    for name in dict.fromkeys([*base, *trained]):
        if name not in MAY_DIFFER and base.get(name) != trained.get(name):
            raise ValueError(
                f"{where} cannot be compared: `{name}` is {base.get(name)!r} in one and {trained.get(name)!r} in the "
                "other. Run both with the same questions and settings."
            )


def _check_questions(where: str, base: dict[str, Any], trained: dict[str, Any]) -> None:
    for key in [*base, *trained]:
        if key not in base or key not in trained:
            lacks = "the first" if key not in base else "the second"
            raise ValueError(
                f"{where} cannot be compared: {lacks} has no answer to {key!r} ({len(base):,} and {len(trained):,} "
                "answers). Run both to their end on the same questions."
            )
        if base[key]["expected"] != trained[key]["expected"]:
            raise ValueError(f"{where} cannot be compared: they expect different answers to {key!r}.")


def _share(accuracy: Accuracy) -> str:
    return f"{100 * accuracy.accuracy:5.1f} [{_points(accuracy.interval, '.1f')}]"


def _points(interval: Interval, form: str) -> str:
    return f"{100 * interval.low:{form}}, {100 * interval.high:{form}}"
