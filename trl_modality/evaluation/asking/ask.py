"""Asking a model questions and grading its answers, for pairs and for text tasks alike."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...resumable.batches import Processes, in_batches
from ..models.requests import Generation, Generator, Request, RequestError


logger = logging.getLogger(__name__)

MAX_TEXT = 200_000
"""Characters of an answer that are kept and graded: its first and its last half of them, with a mark in between."""
ALL_FAILED = 16
"""So many questions without a single answer end a call."""
GRADING_LEFT = 1.0
"""Seconds in which answers are still graded after Ctrl-C; those that are not are asked again."""


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
        made: dict[int, dict[str, Any]] = {}
        try:
            generations = self._generator(requests)
            if len(generations) != len(batch):
                raise ValueError(
                    f"{self._generator.name} gave {len(generations)} answers to {len(batch)} requests, the first of "
                    f"which is {_name(batch[0])}; a generator gives one to each."
                )
            for position, generation in enumerate(generations):
                made[position] = self._record(batch[position], generation)
        except BaseException as error:
            raised = error
            if isinstance(error, RequestError):
                raised = ValueError(f"{_name(batch[error.position])}: {error}")
            is_interruption = isinstance(error, KeyboardInterrupt)
            raised.records = self._kept(batch, made, GRADING_LEFT if is_interruption else math.inf)  # pyright: ignore
            if raised is error:
                raise
            raise raised from error
        records = list(made.values())
        self._check(batch, records)
        return records

    def _kept(self, batch: list[Question], made: dict[int, dict[str, Any]], seconds: float) -> list[dict[str, Any]]:
        """The records of a batch that ended early, of a generator whose answers do not depend on their batch.

        Args:
            batch: The questions.
            made: The records so far, by position.
            seconds: For grading the answers that have none yet.
        """
        answered: dict[int, Generation] = getattr(self._generator, "answered", {})
        if not (self._has_answer or any(each.failure is None for each in answered.values())):
            return []
        end = time.monotonic() + seconds
        # The first error is the one that is raised
        with contextlib.suppress(KeyboardInterrupt, OSError, ImportError), _interrupted_after(seconds):
            for position in sorted(answered.keys() - made.keys()):
                if time.monotonic() >= end:
                    break
                made[position] = self._record(batch[position], answered[position])
        return [made[position] for position in sorted(made) if position in answered]

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


@contextlib.contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    """A context that an alarm interrupts, where there are alarms: a single answer may take long to grade."""
    is_main = threading.current_thread() is threading.main_thread()
    if not (is_main and hasattr(signal, "setitimer") and 0 < seconds < math.inf):
        yield
        return
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


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
