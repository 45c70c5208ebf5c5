"""What a text task is, and how its examples become questions."""

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
"""(text, expected, choices) → what has `is_correct`, `answer` and `how`."""


@dataclass(frozen=True)
class Example:
    """A problem of a text task."""

    key: str
    prompt: str
    """What the user says."""
    completion: str
    """What the assistant says where the example is shown as a shot."""
    expected: str
    """For the grader."""
    choices: tuple[str, ...] | None = None
    subject: str | None = None
    """Shots of an example are of its own subject."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What else its grade depends on."""


@dataclass(frozen=True)
class TextTask:
    """A text task.

    Args:
        name: In reports, and that of its file of answers.
        hub: Its id on the hub.
        split: Which is asked.
        shots_split: Which shots are from; `None` where it has none to spare.
        read: (file, folder or id on the hub; split) → examples. Raises `FileNotFoundError` and `ValueError` that name
            the file, the row and the field.
        grade: Makes the grader from (the examples, a `Grader` or `None`).
        runs_code: Grading runs what the model wrote.
    """

    name: str
    hub: str
    split: str
    shots_split: str | None
    read: Callable[[str | Path, str], list[Example]]
    grade: Callable[[Sequence[Example], Grade | None], Grade]
    runs_code: bool = False

    def examples(self, source: str | Path | None = None) -> list[Example]:
        """Those that are asked, from a local file or folder or the hub."""
        return self.read(source or self.hub, self.split)

    def shots_from(self, source: str | Path | None, shots_source: str | Path | None) -> list[Example]:
        """Those that shots are taken from.

        Raises:
            ValueError: the task has none of its own, or a single file is given for the questions and none for shots.
        """
        if shots_source is not None:
            return self.read(shots_source, self.shots_split or self.split)
        if self.shots_split is None or (source is not None and Path(source).is_file()):
            raise ValueError(
                f"{self.name} has no examples to show beside those asked: give a file with some for shots."
            )
        return self.read(source or self.hub, self.shots_split)


def questions(examples: Sequence[Example], shots: int = 0, shown: Sequence[Example] = ()) -> list[Question]:
    """Chat messages: the first `shots` of the shown examples of the subject, each with its answer, then the question.

    Raises:
        ValueError: too few examples to show, or one of them is asked too.
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
    """What the grades depend on beside the answers: a short hash of the examples."""
    told = [(e.key, e.prompt, e.expected, e.choices, dict(e.fields)) for e in examples]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _turns(example: Example) -> list[dict[str, str]]:
    return [{"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.completion}]
