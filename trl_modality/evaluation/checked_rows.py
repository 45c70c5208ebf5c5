"""The pairs of an evaluation, each read and checked once before a model is asked anything."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..views import INDEX_COLUMN, PAIR_PROMPTS, PairError, View, describe_row, load_images, validate_pair
from .conditions import image_digests


GROUPS = ("category", "level")


@dataclass(frozen=True)
class CheckedRows:
    """Pairs that were found fit to be asked; every list has one entry a row."""

    rows: Sequence[Mapping[str, Any]]
    """The pairs as stored: their images are not decoded."""
    facts: list[dict[str, Any]]
    """The position (`row`), `id`, `category` and `level` of each row; category and level are texts or `None`."""
    expected: list[str]
    """The right answers; empty texts where nothing is graded."""
    choices: list[list[str] | None]
    """The choices of each question; `None` where it has none."""
    shown: list[tuple[str, ...]]
    """Digests of the images of the vision_centric view (`image_digests`)."""
    digest: str
    """A hash of all prompts, answers, choices, groups and images: equal only for the same rows."""

    def __len__(self) -> int:
        return len(self.facts)


def check_rows(
    pairs: Any, *, needs_answer: bool = True, needs_completion: bool = False, show_progress: bool = True
) -> CheckedRows:
    """Read every pair once, with its images, and check that it can be asked.

    Args:
        pairs: A dataset, or any iterable of rows. A row is a pair with an `answer`; `id`, `category`, `level` and
            `choices` are optional.
        needs_answer: Whether each row needs its `answer`.
        needs_completion: Whether each row needs its `completion`.
        show_progress: Draw a progress bar.

    Raises:
        PairError: a row is no pair, has no `answer`, or has an image that cannot be read; the row is named.
        ValueError: there are no rows, or a dict of splits is given.
    """
    from tqdm.auto import tqdm

    rows = _stored(pairs)
    if not len(rows):
        raise ValueError("there is no pair to evaluate: the dataset is empty. Check its split and its filters.")
    facts, expected, choices, shown = [], [], [], []
    digest = hashlib.sha256()
    for position in tqdm(range(len(rows)), desc="reading rows", unit="row", disable=not show_progress, leave=False):
        row = rows[position]
        name = describe_row(row)
        validate_pair(row, name=name, needs_completion=needs_completion)
        facts.append({"row": position, "id": row.get("id"), **{name: _group(row.get(name)) for name in GROUPS}})
        expected.append(answer_of(row, name) if needs_answer else "")
        choices.append(choices_of(row, name))
        text_images, vision_images = (
            image_digests(load_images(row, view, name)) for view in (View.TEXT_RICH, View.VISION_CENTRIC)
        )
        shown.append(vision_images)
        told = [row.get(column) for column in (*PAIR_PROMPTS, "completion", "level_prompts")]
        told += [facts[-1], expected[-1], choices[-1], text_images, vision_images]
        digest.update(json.dumps(told, default=str).encode())
    return CheckedRows(rows, facts, expected, choices, shown, digest.hexdigest()[:16])


def _stored(pairs: Any) -> Sequence[Mapping[str, Any]]:
    from datasets import Dataset

    from ..data.rows import PairRows

    if isinstance(pairs, Dataset):
        rows: Any = PairRows(pairs)
        return rows
    if isinstance(pairs, Mapping):
        raise ValueError(f"`pairs` has the splits {', '.join(map(str, pairs))}; give one of them.")
    return [{**row, INDEX_COLUMN: position} for position, row in enumerate(pairs)]


def choices_of(row: Mapping[str, Any], name: str) -> list[str] | None:
    """The choices of a row as texts; raises `PairError` where they are none. `name` is what messages call the row."""
    choices = row.get("choices")
    if choices is None:
        return None
    if isinstance(choices, list | tuple):
        texts = [_as_text(choice) for choice in choices]
        if None not in texts:
            return [text for text in texts if text is not None] or None
    problem = f"`choices` must be a list of texts or numbers, got {str(choices)[:80]}."
    raise PairError(name, problem, "Give the text of each choice, in the order of their letters.")


def _as_text(value: Any) -> str | None:
    """A text that is not blank, or a finite number as text; `None` for anything else."""
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, float):
        return _shortest(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _shortest(value: float) -> str:
    """A float as people wrote it: 0.1 for 0.10000000149011612 of a float32 column, 0.3 for 0.30000000000000004."""
    with np.errstate(over="ignore"):
        narrow = np.float32(value)
    return str(narrow) if float(narrow) == value else f"{value:.15g}"


def _group(value: Any) -> str | None:
    """The name of a category or a level as text; `None` where it is not set."""
    return None if value is None else str(value)


def answer_of(row: Mapping[str, Any], name: str) -> str:
    """The answer of a row as text; raises `PairError` where there is none. `name` is what messages call the row."""
    answer = row.get("answer")
    text = _as_text(answer)
    if text is not None:
        return text
    problem = "`answer` is missing" if answer is None else f"`answer` is {answer!r}, which is no answer"
    raise PairError(name, f"{problem}.", "Give the right answer, by which the model's are graded.")
