"""Asking a model questions, and grading what it answers: for views of pairs and for text tasks alike."""

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
    """A request with its right answer."""

    key: str
    """Unique among the questions that are asked at once."""
    request: Request | Callable[[], Request]
    """Or a function that makes it when its turn has come, so that not all images are in memory."""
    expected: str
    choices: Sequence[str] | None = None
    """What may be chosen from, for the grader."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Stands in the record: plain values."""
    group: str = ""
    """Questions of one batch are of one group."""


def ask(
    generator: Generator,
    questions: Sequence[Question],
    grade: Callable[[str, str, Sequence[str] | None], Any],
    file: str | os.PathLike | None = None,
    batch_size: int = 16,
    show_progress: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Ask every question and grade the answers.

    In a distributed run every process calls it with the same questions, and gets all answers; `in_batches` says how.

    Args:
        generator: The model.
        questions: To be asked, batch by batch; of one group after the other.
        grade: Judges (text, expected, choices): gives `is_correct`, `answer` and `how`, as `Grader` does.
        file: JSONL with a header, then a line for each answer, written batch by batch. An interrupted one is continued
            as if it had not been, with the same batches.
        batch_size: Questions in a batch.
        show_progress: Draw a progress bar.
        settings: What else the answers depend on: for the header.

    Returns:
        In the order of the questions: `key`, the fields of the question, `expected`, `text`, `answer`, `is_correct`,
        `how`, `is_complete`; of a generator that can fall back, `is_fallback`.

    Raises:
        ValueError: a file of other settings (the setting is named), or a request that cannot be asked (its key is).
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
    """The records of a batch."""
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
    """What is asked: answers to other questions are not continued."""
    digest = hashlib.sha256()
    for question in questions:
        prompt = question.request.prompt if isinstance(question.request, Request) else None
        told = (question.key, question.group, prompt, question.expected, question.choices)
        digest.update(json.dumps(told, default=str).encode())
    return digest.hexdigest()[:16]
