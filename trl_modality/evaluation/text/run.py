"""Text tasks asked of one model, and compared with what another answered before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import asking
from ..records import write_json
from ..requests import Generator
from ..sandbox import require_sandbox
from .gsm8k import read_gsm8k
from .humaneval import humaneval_grader, read_humaneval
from .mmlu import read_mmlu
from .regret import TextRegret, TextSkill, check_baseline, text_regret, text_skill
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
    from ..grading import Grader

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


@dataclass(frozen=True)
class TextResult:
    """A model's text skill, and where there is a baseline, what it lost against it."""

    skill: TextSkill
    regret: TextRegret | None

    def to_dict(self) -> dict[str, Any]:
        """What `text.json` holds."""
        regret = {"regret": self.regret.to_dict()} if self.regret else {}
        return {"format": 1, "kind": "text", **self.skill.to_dict(), **regret}

    def table(self) -> str:
        """For the terminal."""
        return self.regret.table() if self.regret else self.skill.table()


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


def run_text_tasks(
    generator: Generator,
    tasks: Sequence[str],
    folder: str | Path,
    *,
    name: str | None = None,
    baseline: str | Path | None = None,
    shots: Mapping[str, int] | None = None,
    shots_from: Mapping[str, str | Path] | None = None,
    grader: Grade | None = None,
    allow_code_execution: bool = False,
    batch_size: int = 16,
    confidence: float = 0.95,
    show_progress: bool = True,
) -> TextResult:
    """Ask a model the questions of text tasks; write `text/{task}.jsonl` and `text.json`.

    Everything that can be wrong is found before the first question. An interrupted run continues where it ended.

    Args:
        generator: The model.
        tasks: `gsm8k`, `mmlu` or `humaneval`, each maybe with `:` and a file, a folder or an id on the hub.
        folder: Where the answers and the results go.
        name: In reports; by default that of the folder.
        baseline: The folder of a run of the same tasks by the base model: gives the text regret.
        shots: By task, how many examples to show before each question; none by default.
        shots_from: By task, where these are from; by default the split for it beside the questions.
        grader: Of GSM8K and MMLU; `Grader()` by default.
        allow_code_execution: HumanEval runs code that the model wrote, in a sandbox; not without this.
        batch_size: Questions in a batch.
        confidence: Of the intervals.
        show_progress: Draw progress bars.

    Raises:
        ValueError: an unknown task, bad rows, a missing permission, or a baseline of other questions or settings.
        FileNotFoundError: a file of questions, or of the baseline's answers.
        SandboxError: code cannot be run safely on this machine.
    """
    parsed = parse_tasks(tasks)
    if not parsed:
        raise ValueError(f"no text task is given; there are {', '.join(TASKS)}.")
    _check_names(parsed, shots=shots, shots_from=shots_from)
    _check_code(parsed, allow_code_execution)
    prepared = [_prepare(task, source, shots or {}, shots_from or {}, grader) for task, source in parsed.items()]
    if baseline is not None:
        for task, _, _, settings in prepared:
            check_baseline(baseline, task.name, settings)
    for task, asked, grade, settings in prepared:
        file = Path(folder) / "text" / f"{task.name}.jsonl"
        asking.ask(generator, asked, grade, file, batch_size, show_progress, settings)
    names = [task.name for task in parsed]
    skill = text_skill(folder, names, name=name, confidence=confidence)
    regret = text_regret(baseline, folder, names, confidence=confidence) if baseline is not None else None
    result = TextResult(skill, regret)
    write_json(Path(folder) / "text.json", result.to_dict())
    return result


def _prepare(
    task: TextTask,
    source: str | None,
    shots: Mapping[str, int],
    shots_from: Mapping[str, str | Path],
    grader: Grade | None,
) -> tuple[TextTask, list[asking.Question], Grade, dict[str, Any]]:
    """The questions of a task, their grader, and what the answers depend on."""
    examples = task.examples(source)
    if not examples:
        raise ValueError(f"{source or task.hub} holds no question of {task.name}.")
    count = shots.get(task.name, 0)
    shown = task.shots_from(source, shots_from.get(task.name)) if count else []
    grade = task.grade(examples, grader)
    grading = {} if task.runs_code else getattr(grade, "settings", {})
    settings = {"task": task.name, "shots": count, "data": digest(examples), **grading}
    return task, questions(examples, count, shown), grade, settings


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
