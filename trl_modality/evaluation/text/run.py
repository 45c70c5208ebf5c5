"""Asking a model text-only tasks, and comparing its answers with those of a base model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..asking import ask as asking
from ..asking.batches import Processes
from ..asking.records import write_json
from ..models.requests import Generator
from .gsm8k import read_gsm8k
from .humaneval import humaneval_grader, read_humaneval
from .mmlu import read_mmlu
from .regret import check_baseline, text_regret, text_skill
from .results import TEXT_FILE, TextResult
from .sandbox import require_sandbox
from .task import Example, Grade, TextTask, digest, questions


def _with_grader(examples: Sequence[Example], grader: Grade | None) -> Grade:
    """The shared grader, which is tried on every question before any is asked."""
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
"""By name."""


def parse_tasks(specs: Sequence[str]) -> dict[TextTask, str | None]:
    """`name` or `name:source` → the task and where it is read from; `None` is its own id on the hub.

    Raises:
        ValueError: an unknown task, or one that is given twice.
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
    """Text tasks, read and checked: everything that can be wrong with them is found here, before any question.

    Args:
        tasks: `gsm8k`, `mmlu` or `humaneval`, each maybe with `:` and a file, a folder or an id on the hub.
        baseline: The folder of a run of the same tasks by the base model: gives the text regret.
        shots: By task, how many examples to show before each question; none by default.
        shots_from: By task, where these are from; by default the split for it beside the questions.
        grader: Of GSM8K and MMLU; `Grader()` by default.
        allow_code_execution: HumanEval runs code that the model wrote, in a sandbox; not without this.

    Raises:
        ValueError: an unknown task, bad rows, a missing permission, or a baseline of other questions or settings.
        FileNotFoundError: a file of questions, or of the baseline's answers.
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
    ) -> TextResult:
        """Ask a model; write `text/{task}.jsonl` and `text.json`. An interrupted run continues where it ended.

        In a distributed run every process calls it, and gets the same result.

        Args:
            generator: The model.
            folder: Where the answers and the results go.
            name: In reports; by default that of the folder.
            batch_size: Questions in a batch.
            confidence: Of the intervals.
            show_progress: Draw progress bars.

        Raises:
            ValueError: answers in `folder`, or in the baseline, to other questions or with other settings.
        """
        if self.baseline is not None:
            own = {"model": generator.name, "batch_size": batch_size, **getattr(generator, "settings", {})}
            for task, (_, _, settings) in self._prepared.items():
                check_baseline(self.baseline, task, {**own, **settings})
        for task, (asked, grade, settings) in self._prepared.items():
            file = Path(folder) / "text" / f"{task}.jsonl"
            asking.ask(generator, asked, grade, file, batch_size, show_progress, settings)
        return write_text_result(folder, list(self._prepared), name, self.baseline, confidence)


def write_text_result(
    folder: str | Path,
    tasks: Sequence[str] | None = None,
    name: str | None = None,
    baseline: str | Path | None = None,
    confidence: float = 0.95,
) -> TextResult:
    """Write `text.json` from the answers in `text/`: of a distributed run, the first process does, for all.

    Args:
        folder: Where the answers are.
        tasks: Their names; by default all that are there.
        name: Of the result; by default that of the folder.
        baseline: The folder of a run of the same tasks by the base model.
        confidence: Of the intervals.
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
    """The questions of a task, their grader, and what the answers depend on."""
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
