"""Text tasks: how their examples are read, turned into chat messages with few-shot examples, and graded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..asking.ask import Question
from ..models.requests import Request


Grade = Callable[[str, str, "Sequence[str] | None"], Any]
"""A grader: called with (text, expected, choices), returns an object with `is_correct`, `answer` and `how`."""


@dataclass(frozen=True)
class Example:
    """A problem of a text task, with its right answer."""

    key: str
    prompt: str
    """The user's message."""
    completion: str
    """The assistant's message where the example is shown as a shot."""
    expected: str
    """The right answer, for the grader."""
    choices: tuple[str, ...] | None = None
    """The choices of a multiple-choice question."""
    subject: str | None = None
    """A question is shown shots of its own subject only."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Further values that grading needs, such as tests."""


@dataclass(frozen=True)
class TextTask:
    """A text task: where its examples are, and how they are read and graded.

    Args:
        name: Name in reports and of the file of answers.
        hub: Id of the dataset on the hub.
        split: The split that is asked.
        shots_split: The split that shots are taken from; `None` if there is none for that.
        read: Reads examples from (file, folder or id on the hub; split). Raises `FileNotFoundError` and `ValueError`,
            which name the file, the row and the field.
        grade: Makes the grader from (the examples, a `Grader` or `None`).
        runs_code: Whether grading runs code that the model wrote.
    """

    name: str
    hub: str
    split: str
    shots_split: str | None
    read: Callable[[str | Path, str], list[Example]]
    grade: Callable[[Sequence[Example], Grade | None], Grade]
    runs_code: bool = False

    def examples(self, source: str | Path | None = None) -> list[Example]:
        """The examples to ask, from a local file or folder, by default from the hub."""
        return self.read(source or self.hub, self.split)

    def shots_from(self, source: str | Path | None, shots_source: str | Path | None) -> list[Example]:
        """The examples that shots are taken from.

        Args:
            source: File, folder or id on the hub of the questions; `None`: the task's own on the hub.
            shots_source: The same for the shots; `None`: the split for shots of `source`.

        Raises:
            ValueError: the task has no split for shots, or the questions are a single file, and no `shots_source` is
                given.
        """
        if shots_source is not None:
            return self.read(shots_source, self.shots_split or self.split)
        if self.shots_split is None or (source is not None and Path(source).is_file()):
            raise ValueError(
                f"{self.name} has no examples to show beside those asked: give a file with some for shots."
            )
        return self.read(source or self.hub, self.shots_split)


def questions(examples: Sequence[Example], shots: int = 0, shown: Sequence[Example] = ()) -> list[Question]:
    """Questions in chat form: `shots` examples of the same subject, each with its answer, then the question itself.

    Args:
        examples: The examples to ask.
        shots: How many examples each question is preceded by.
        shown: Examples to take shots from; the first ones of a subject are used.

    Raises:
        ValueError: there are too few examples to show, or one of them is asked too.
    """
    if shots < 0:
        raise ValueError(f"`shots` must be 0 or more, got {shots}.")
    asked = {example.prompt for example in examples}
    by_subject: dict[str | None, list[dict[str, str]]] = {}
    for subject in dict.fromkeys(example.subject for example in examples):
        chosen = [example for example in shown if example.subject == subject][:shots]
        if len(chosen) < shots:
            of = f" of the subject {subject!r}" if subject else ""
            raise ValueError(f"{shots} shots are asked for, but there are {len(chosen)} examples{of} to show.")
        leaked = next((example.key for example in chosen if example.prompt in asked), None)
        if leaked:
            raise ValueError(f"the example {leaked!r} would be both shown and asked: take shots from another split.")
        by_subject[subject] = [message for example in chosen for message in _turns(example)]
    return [
        Question(
            key=example.key,
            request=Request([*by_subject[example.subject], {"role": "user", "content": example.prompt}]),
            expected=example.expected,
            choices=example.choices,
            fields={} if example.subject is None else {"subject": example.subject},
        )
        for example in examples
    ]


def digest(examples: Sequence[Example]) -> str:
    """A short hash of the examples with their right answers: equal only for the same questions."""
    told = [(e.key, e.prompt, e.expected, e.choices, dict(e.fields)) for e in examples]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _turns(example: Example) -> list[dict[str, str]]:
    return [{"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.completion}]
