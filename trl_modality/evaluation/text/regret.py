"""Text regret: text-only accuracy of the base model minus that of the trained model, on the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...resumable.records import read_records
from ..intervals import accuracy_of, paired_difference
from .results import TEXT_FILE, TextRegret, TextSkill, read_name


MAY_DIFFER = ("model", "weights", "batch_size", "dtype", "server", "server_seed")
"""Settings in which base and trained model may differ and still be compared."""


def answers_file(folder: str | Path, task: str) -> Path:
    """Path of a run's answers to a task: `{folder}/text/{task}.jsonl`.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = Path(folder) / "text" / f"{task}.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: run the task {task!r} into {folder} first.")
    return path


def text_skill(
    folder: str | Path, tasks: Sequence[str] | None = None, *, name: str | None = None, confidence: float = 0.95
) -> TextSkill:
    """The accuracies of a run, computed from its files of answers.

    Args:
        folder: Folder that `TextTasks.ask` wrote into.
        tasks: Names of tasks; by default all that the folder has answers to.
        name: Name of the run; by default the one in its `text.json`, else that of the folder.
        confidence: Of the Wilson intervals, between 0 and 1.

    Raises:
        FileNotFoundError: the folder has no answers to a task, or to any.
        ValueError: a file is not one of answers, or holds no answer.
    """
    found = {task: _answers(folder, task) for task in tasks or _tasks_in(folder)}
    answered = {task: _answered(folder, task, answers) for task, (_, answers) in found.items()}
    models = dict.fromkeys(str(settings["model"]) for settings, _ in found.values())
    return TextSkill(
        name=name or _name(Path(folder)),
        model=", ".join(models),
        tasks={
            task: accuracy_of([a["is_correct"] for a in answers.values()], confidence)
            for task, answers in answered.items()
        },
        cut_short={task: sum(not a["is_complete"] for a in answers.values()) for task, answers in answered.items()},
        failures={
            task: failed for task, (_, answers) in found.items() if (failed := len(answers) - len(answered[task]))
        },
    )


def text_regret(
    base_folder: str | Path, trained_folder: str | Path, tasks: Sequence[str] | None = None, confidence: float = 0.95
) -> TextRegret:
    """The text regret of two runs: their answers are compared question by question, by key.

    Args:
        base_folder: Folder with the answers of the base model, as `TextTasks.ask` wrote them.
        trained_folder: The same for the trained model.
        tasks: Names of tasks; by default all that the trained model was asked.
        confidence: Of the intervals, between 0 and 1.

    Raises:
        FileNotFoundError: one of the two has no answers to a task.
        ValueError: the two runs differ in questions or settings; the first difference is named.
    """
    tasks = list(tasks or _tasks_in(trained_folder))
    differences = {}
    for task in tasks:
        (base_settings, base), (settings, trained) = _answers(base_folder, task), _answers(trained_folder, task)
        where = f"{answers_file(base_folder, task)} and {answers_file(trained_folder, task)}"
        _check_alike(where, base_settings, settings)
        _check_questions(where, base, trained)
        answered = (_answered(base_folder, task, base), _answered(trained_folder, task, trained))
        keys = [key for key in base if all(key in side for side in answered)]
        if not keys:
            raise ValueError(f"{where} cannot be compared: no question has an answer in both.")
        differences[task] = paired_difference(
            [base[key]["is_correct"] for key in keys],
            [trained[key]["is_correct"] for key in keys],
            confidence=confidence,
        )
    base_skill = text_skill(base_folder, tasks, confidence=confidence)
    return TextRegret(
        baseline=base_skill.name,
        baseline_accuracy={task: base_skill.tasks[task].accuracy for task in tasks},
        tasks=differences,
    )


def check_baseline(folder: str | Path, task: str, settings: dict[str, Any]) -> None:
    """Check, before a task is asked, that its answers will be comparable with those of a baseline.

    Args:
        folder: Folder of the baseline.
        task: Name of the task.
        settings: What the answers to come depend on.

    Raises:
        FileNotFoundError: the baseline has no answers to the task.
        ValueError: a setting differs, other than those of `MAY_DIFFER`; it is named.
    """
    path = answers_file(folder, task)
    own, _ = _answers(folder, task)
    _check_alike(f"{path} and this run", {name: own.get(name) for name in settings}, settings)


def _answers(folder: str | Path, task: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The settings that a task was asked with, and the records of its answers by key of the question."""
    path = answers_file(folder, task)
    settings, records = read_records(path, {"is_correct": bool, "is_complete": bool, "expected": str})
    if not records:
        raise ValueError(f"{path} holds no answer: run the task into {folder} to its end.")
    return settings, {record["key"]: record for record in records}


def _answered(folder: str | Path, task: str, answers: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The records of requests that did not fail, by key; `ValueError` where there is none."""
    found = {key: record for key, record in answers.items() if not record.get("failure")}
    if not found:
        first = next(iter(answers.values()))
        raise ValueError(
            f"{answers_file(folder, task)} has no answer, only failed requests; {first['key']}: {first['failure']}."
        )
    return found


def _tasks_in(folder: str | Path) -> list[str]:
    tasks = sorted(path.stem for path in (Path(folder) / "text").glob("*.jsonl"))
    if not tasks:
        raise FileNotFoundError(f"no answers to text tasks in {Path(folder) / 'text'}: run some into {folder} first.")
    return tasks


def _name(folder: Path) -> str:
    summary = folder / TEXT_FILE
    return (read_name(summary) if summary.is_file() else "") or folder.resolve().name


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
