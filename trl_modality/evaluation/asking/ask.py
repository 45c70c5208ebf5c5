"""Asking a model questions and grading its answers, for pairs and for text tasks alike."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..models.requests import Generator, Request, RequestError
from .batches import in_batches


@dataclass(frozen=True)
class Question:
    """A request to a model, with the right answer that its reply is graded by."""

    key: str
    """Identifies the question; unique within a call of `ask`."""
    request: Request | Callable[[], Request]
    """The request, or a function that makes it when its batch is asked, so that not all images are in memory."""
    expected: str
    """The right answer, for the grader."""
    choices: Sequence[str] | None = None
    """The choices of a multiple-choice question, for the grader."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Further plain values, copied into the record of the answer."""
    group: str = ""
    """A batch holds questions of one group only."""


def ask(
    generator: Generator,
    questions: Sequence[Question],
    grade: Callable[[str, str, Sequence[str] | None], Any],
    file: str | os.PathLike | None = None,
    batch_size: int = 16,
    show_progress: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Ask a model every question and grade its answers.

    In a distributed run every process makes this call with the same questions, and gets all answers; see `in_batches`.

    Args:
        generator: The model.
        questions: The questions; they are asked in batches, one group after the other.
        grade: Grades an answer: called with (text, expected, choices), returns an object with `is_correct`, `answer`
            and `how`, as `Grader` does.
        file: JSONL file with a header, then a line for each answer, written batch by batch. An interrupted file is
            continued with the batches that it would have had. `None`: nothing is written.
        batch_size: Questions in a batch.
        show_progress: Draw a progress bar.
        settings: What the answers depend on besides model, batch size and questions; written into the header.

    Returns:
        A record for each question, in their order: `key`, the fields of the question, `expected`, `text`, `answer`,
        `is_correct`, `how`, `is_complete`, and `is_fallback` where the generator sets it.

    Raises:
        ValueError: the file has answers of other settings (the setting is named), or a request cannot be asked (the
            key of the question is named).
    """

    return in_batches(
        questions,
        [question.key for question in questions],
        [question.group for question in questions],
        functools.partial(_answered, generator, grade),
        batch_size=batch_size,
        file=file,
        settings={
            "model": generator.name,
            "batch_size": batch_size,
            **getattr(generator, "settings", {}),
            **(settings or {}),
            "questions": _digest(questions),
        },
        title=f"asking {generator.name}",
        show_progress=show_progress,
        asks_together=getattr(generator, "asks_together", False),
    )


def _answered(
    generator: Generator, grade: Callable[[str, str, Sequence[str] | None], Any], batch: list[Question]
) -> list[dict[str, Any]]:
    """Ask one batch; the record of each answer."""
    requests = [each.request if isinstance(each.request, Request) else each.request() for each in batch]
    try:
        generations = generator(requests)
    except RequestError as error:
        raise ValueError(f"{batch[error.position].key}: {error}") from error
    records = []
    for question, generation in zip(batch, generations, strict=True):
        graded = grade(generation.text, question.expected, question.choices)
        records.append(
            {
                "key": question.key,
                **question.fields,
                "expected": question.expected,
                "text": generation.text,
                "answer": graded.answer,
                "is_correct": graded.is_correct,
                "how": graded.how,
                "is_complete": generation.is_complete,
                **({} if generation.is_fallback is None else {"is_fallback": generation.is_fallback}),
            }
        )
    return records


def _digest(questions: Sequence[Question]) -> str:
    """A hash of the questions, by which answers to other questions are recognized and not continued."""
    digest = hashlib.sha256()
    for question in questions:
        prompt = question.request.prompt if isinstance(question.request, Request) else None
        told = (question.key, question.group, prompt, question.expected, question.choices)
        digest.update(json.dumps(told, default=str).encode())
    return digest.hexdigest()[:16]
