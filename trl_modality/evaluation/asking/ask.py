"""Asking a model questions and grading its answers, for pairs and for text tasks alike."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...resumable.batches import Processes, in_batches
from ..models.requests import Generation, Generator, Request, RequestError


logger = logging.getLogger(__name__)

MAX_TEXT = 200_000
"""Characters of an answer that are kept and graded: its first and its last half of them, with a mark in between."""
ALL_FAILED = 16
"""So many questions without a single answer end a call."""


@dataclass(frozen=True)
class Question:
    """A request to a model, with the right answer that its reply is graded by."""

    key: str
    """Identifies the question; unique within a call of `ask`."""
    request: Request | Callable[[], Request]
    """The request, or a function that makes it when its batch is asked, so that not all images are in memory."""
    expected: str = ""
    """The right answer, for the grader."""
    choices: Sequence[str] | None = None
    """The choices of a multiple-choice question, for the grader."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Further plain values, copied into the record of the answer."""
    group: str = ""
    """A batch holds questions of one group only."""
    name: str = ""
    """What messages call it; by default its key."""


def ask(
    generator: Generator,
    questions: Sequence[Question],
    grade: Callable[[str, str, Sequence[str] | None], Any] | None,
    file: str | os.PathLike | None = None,
    batch_size: int = 16,
    show_progress: bool = True,
    settings: Mapping[str, Any] | None = None,
    restart: bool = False,
) -> list[dict[str, Any]]:
    """Ask a model every question and grade its answers; in a distributed run every process calls it, as `in_batches`.

    Args:
        generator: The model.
        questions: The questions; they are asked in batches, one group after the other.
        grade: Grades an answer: called with (text, expected, choices), returns an object with `is_correct`, `answer`
            and `how`, as `Grader` does. `None`: the answers are only kept.
        file: JSONL file with a header, then a line for each answer, written batch by batch. An interrupted file is
            continued with the batches that it would have had. `None`: nothing is written.
        batch_size: Questions in a batch.
        show_progress: Draw a progress bar.
        settings: What the answers depend on besides model, batch size and questions; written into the header.
        restart: Where the file has answers of other settings, move it aside and begin a new one.

    Returns:
        A record for each question, in their order: `key`, the fields of the question, `expected`, `text`, `answer`,
        `is_correct`, `how`, `is_complete`, `is_fallback` where the generator sets it, `failure` (why) where there is
        no graded answer, and `characters` where the text was shortened. Without `grade` there is no grade in it.

    Raises:
        ValueError: the file has answers of other settings, a request cannot be asked, or not one of the first batch
            has an answer; the setting or the question is named.
        Interrupted: by Ctrl-C; it says how much is done, and what is there is in the file.
    """
    asker = _Asker(generator, grade, len(questions))
    records = in_batches(
        questions,
        [question.key for question in questions],
        [question.group for question in questions],
        asker,
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
        any_order=hasattr(generator, "answered"),
        restart=restart,
        on_resume=asker.take_over,
    )
    if grade is not None:  # else it is said by who makes something of the answers
        _say_failures(records)
    return records


def _say_failures(records: Sequence[Mapping[str, Any]]) -> None:
    failed = [record for record in records if record.get("failure")]
    if failed and Processes().rank == 0:
        logger.warning(
            f"{len(failed):,} of {len(records):,} questions have no graded answer, and count as neither right nor "
            f"wrong; the first is {failed[0]['key']}: {failed[0]['failure']}."
        )


class _Asker:
    """Asks and grades the batches of one call of `ask`; it notices where not a single request has an answer."""

    def __init__(
        self, generator: Generator, grade: Callable[[str, str, Sequence[str] | None], Any] | None, total: int
    ):
        self._generator, self._grade, self._total = generator, grade, total
        self._asked, self._has_answer = 0, False

    def take_over(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Take the records of an interrupted call into account."""
        self._asked, self._has_answer = len(records), any(not record.get("failure") for record in records)

    def __call__(self, batch: list[Question]) -> list[dict[str, Any]]:
        """The record of each answer. An error has those that were made before it as its attribute `records`."""
        requests = [each.request if isinstance(each.request, Request) else each.request() for each in batch]
        try:
            generations = self._generator(requests)
        except BaseException as error:
            raised = error
            if isinstance(error, RequestError):
                raised = ValueError(f"{_name(batch[error.position])}: {error}")
            answered: dict[int, Generation] = getattr(self._generator, "answered", {})
            if self._has_answer or any(each.failure is None for each in answered.values()):
                raised.records = [self._record(batch[i], answered[i]) for i in sorted(answered)]  # pyright: ignore
            if raised is error:
                raise
            raise raised from error
        if len(generations) != len(batch):
            raise ValueError(
                f"{self._generator.name} gave {len(generations)} answers to {len(batch)} requests, the first of which "
                f"is {_name(batch[0])}; a generator gives one to each."
            )
        records = [self._record(*each) for each in zip(batch, generations, strict=True)]
        self._check(batch, records)
        return records

    def _record(self, question: Question, generation: Generation) -> dict[str, Any]:
        text, failure, graded = _shortened(generation.text), generation.failure, None
        if failure is None and self._grade is not None:
            try:
                graded = self._grade(text, question.expected, question.choices)
            except (OSError, ImportError):  # of the machine, and not of the answer
                raise
            except Exception as error:
                failure = f"the grader failed ({type(error).__name__}: {error})"
        grade = {
            "answer": graded.answer if graded else "",
            "is_correct": graded.is_correct if graded else False,
            "how": graded.how if graded else "none",
        }
        return {
            "key": question.key,
            **question.fields,
            **({} if self._grade is None else {"expected": question.expected}),
            "text": text,
            **({} if self._grade is None else grade),
            "is_complete": generation.is_complete,
            **({} if generation.is_fallback is None else {"is_fallback": generation.is_fallback}),
            **({} if failure is None else {"failure": failure}),
            **({} if text is generation.text else {"characters": len(generation.text)}),
        }

    def _check(self, batch: Sequence[Question], records: Sequence[Mapping[str, Any]]) -> None:
        """Raise where all requests so far failed: it is for one reason then, and the rest would only fail too."""
        self._asked += len(records)
        self._has_answer = self._has_answer or any("failure" not in record for record in records)
        if not self._has_answer and self._asked >= min(ALL_FAILED, self._total):
            graded = "an" if self._grade is None else "a graded"
            raise ValueError(
                f"{self._generator.name}: not one of the {self._asked:,} questions asked so far has {graded} answer; "
                f"{_name(batch[0])}: {records[0]['failure']}."
            )


def _name(question: Question) -> str:
    return question.name or question.key


def _shortened(text: str) -> str:
    """A text of more than `MAX_TEXT` characters without its middle, and a mark there; any other as it is."""
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters are left out here ...]\n{text[-half:]}"


def _digest(questions: Sequence[Question]) -> str:
    """A hash of the questions, by which answers to other questions are recognized and not continued."""
    digest = hashlib.sha256()
    for question in questions:
        prompt = question.request.prompt if isinstance(question.request, Request) else None
        told = (question.key, question.group, prompt, question.expected, question.choices)
        digest.update(json.dumps(told, default=str).encode())
    return digest.hexdigest()[:16]
