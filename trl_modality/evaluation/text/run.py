"""Asking a model text-only tasks, and comparing its answers with those of a base model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...resumable.batches import Processes
from ...resumable.folder_lock import locked_evaluation
from ...resumable.records import write_json
from ..asking import ask as asking
from ..models.requests import Generator
from .gsm8k import read_gsm8k
from .humaneval import humaneval_grader, read_humaneval
from .mmlu import read_mmlu
from .regret import check_baseline, text_regret, text_skill
from .results import TEXT_FILE, TextResult
from .sandbox import require_sandbox
from .task import Example, Grade, TextTask, digest, questions


def _with_grader(examples: Sequence[Example], grader: Grade | None) -> Grade:
    """The given grader or a default `Grader()`, tried on every question so that it fails before any is asked."""
    grade = grader or _default_grader()
    for example in examples:
        try:
            grade("", example.expected, example.choices)
        except ValueError as error:
            raise ValueError(f"{example.key} cannot be graded: {error}") from error
    return grade


def _default_grader() -> Grade:
    from ..grading.grader import Grader

    return Grader()


TASKS = {
    task.name: task
    for task in (
        TextTask("gsm8k", "openai/gsm8k", "test", "train", read_gsm8k, _with_grader),
        TextTask("mmlu", "cais/mmlu", "test", "dev", read_mmlu, _with_grader),
        TextTask(
            "humaneval",
            "openai/openai_humaneval",
            "test",
            None,
            read_humaneval,
            lambda examples, _: humaneval_grader(examples),
            runs_code=True,
        ),
    )
}
"""The text tasks by name."""


def parse_tasks(specs: Sequence[str]) -> dict[TextTask, str | None]:
    """The tasks of specs `name` or `name:source`, each with its source; `None` stands for the task's id on the hub.

    Raises:
        ValueError: a task is unknown or given twice.
    """
    parsed: dict[TextTask, str | None] = {}
    for spec in specs:
        name, _, source = spec.partition(":")
        if name not in TASKS:
            raise ValueError(f"unknown text task {name!r} in {spec!r}; there are {', '.join(TASKS)}, as `NAME:FILE`.")
        if TASKS[name] in parsed:
            raise ValueError(f"the text task {name!r} is given twice; its answers go into one file.")
        parsed[TASKS[name]] = source or None
    return parsed


class TextTasks:
    """Text tasks that a model can be asked. Their data and options are read and checked when the object is made.

    Args:
        tasks: `gsm8k`, `mmlu` or `humaneval`, each alone or followed by `:` and a file, a folder or a hub id.
        baseline: Folder with the base model's answers to the same tasks; with it the text regret is measured.
        shots: By task, how many examples to show before each question; by default none.
        shots_from: By task, file, folder or id on the hub of these examples; by default another split of the task.
        grader: Grader for GSM8K and MMLU; by default `Grader()`.
        allow_code_execution: Permission to run the code that the model writes for HumanEval, in a sandbox.

    Raises:
        ValueError: an unknown task, bad rows, a missing permission, or a baseline of other questions or settings.
        FileNotFoundError: a file of questions, or of the baseline's answers, is missing.
        SandboxError: code cannot be run safely on this machine.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        baseline: str | Path | None = None,
        shots: Mapping[str, int] | None = None,
        shots_from: Mapping[str, str | Path] | None = None,
        grader: Grade | None = None,
        allow_code_execution: bool = False,
    ):
        parsed = parse_tasks(tasks)
        if not parsed:
            raise ValueError(f"no text task is given; there are {', '.join(TASKS)}.")
        _check_names(parsed, shots=shots, shots_from=shots_from)
        _check_code(parsed, allow_code_execution)
        self.baseline = baseline
        self._prepared = {
            task.name: _prepare(task, source, shots or {}, shots_from or {}, grader) for task, source in parsed.items()
        }
        if baseline is not None:
            for name, (_, _, settings) in self._prepared.items():
                check_baseline(baseline, name, settings)

    def ask(
        self,
        generator: Generator,
        folder: str | Path,
        *,
        name: str | None = None,
        batch_size: int = 16,
        confidence: float = 0.95,
        show_progress: bool = True,
        restart: bool = False,
    ) -> TextResult:
        """Ask a model all tasks and write `text/{task}.jsonl` and `text.json`; an interrupted run is continued.

        In a distributed run every process makes this call, and gets the same result.

        Args:
            generator: The model.
            folder: Folder for answers and results.
            name: Name of the result in reports; by default that of the folder.
            batch_size: Questions in a batch.
            confidence: Of the intervals, between 0 and 1.
            show_progress: Draw progress bars.
            restart: Where the folder has answers of other settings, move them aside and begin anew.

        Raises:
            FolderInUseError: another evaluation writes into the folder.
            ValueError: `folder` or the baseline has answers to other questions or with other settings.
        """
        if self.baseline is not None:
            own = {"model": generator.name, "batch_size": batch_size, **getattr(generator, "settings", {})}
            for task, (_, _, settings) in self._prepared.items():
                check_baseline(self.baseline, task, {**own, **settings})
        with locked_evaluation(folder):
            for task, (asked, grade, settings) in self._prepared.items():
                file = Path(folder) / "text" / f"{task}.jsonl"
                asking.ask(generator, asked, grade, file, batch_size, show_progress, settings, restart)
            return write_text_result(folder, list(self._prepared), name, self.baseline, confidence)


def write_text_result(
    folder: str | Path,
    tasks: Sequence[str] | None = None,
    name: str | None = None,
    baseline: str | Path | None = None,
    confidence: float = 0.95,
) -> TextResult:
    """Compute the result from the answers in `text/` and write `text.json`; of several processes the first one writes.

    Args:
        folder: Folder with the answers, as `TextTasks.ask` wrote them.
        tasks: Names of tasks; by default all that the folder has answers to.
        name: Name of the result; by default that of the folder.
        baseline: Folder with the base model's answers to the same tasks; `None`: no regret.
        confidence: Of the intervals, between 0 and 1.

    Returns:
        The result, on every process.
    """

    def write() -> TextResult:
        skill = text_skill(folder, tasks, name=name, confidence=confidence)
        regret = base = None
        if baseline is not None:
            regret = text_regret(baseline, folder, tasks, confidence=confidence)
            base = text_skill(baseline, list(regret.tasks), confidence=confidence)
        result = TextResult(skill, regret, base)
        write_json(Path(folder) / TEXT_FILE, result.to_dict())
        return result

    return Processes().from_first(write)


def _prepare(
    task: TextTask,
    source: str | None,
    shots: Mapping[str, int],
    shots_from: Mapping[str, str | Path],
    grader: Grade | None,
) -> tuple[list[asking.Question], Grade, dict[str, Any]]:
    """The questions of a task, its grader, and the settings that the answers depend on."""
    examples = task.examples(source)
    if not examples:
        raise ValueError(f"{source or task.hub} holds no question of {task.name}.")
    count = shots.get(task.name, 0)
    shown = task.shots_from(source, shots_from.get(task.name)) if count else []
    grade = task.grade(examples, grader)
    grading = {} if task.runs_code else getattr(grade, "settings", {})
    settings = {"task": task.name, "shots": count, "data": digest(examples), **grading}
    return questions(examples, count, shown), grade, settings


def _check_code(tasks: Mapping[TextTask, str | None], allow_code_execution: bool) -> None:
    names = [task.name for task in tasks if task.runs_code]
    if not names:
        return
    if not allow_code_execution:
        raise ValueError(
            f"{names[0]} runs code that the model wrote. Allow it with `allow_code_execution=True` "
            "(`--allow-code-execution`): it runs in a sandbox, without network, files or further processes."
        )
    require_sandbox()


def _check_names(tasks: Mapping[TextTask, str | None], **options: Mapping[str, Any] | None) -> None:
    names = [task.name for task in tasks]
    for option, given in options.items():
        if unknown := sorted(set(given or {}).difference(names)):
            raise ValueError(f"`{option}` names {unknown[0]!r}, which is not asked; it is for {', '.join(names)}.")
