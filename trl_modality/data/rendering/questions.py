"""Rows of text datasets → questions with their answers: columns by name, GSM8K's `####`, the choices of MMLU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from string import ascii_uppercase
from typing import Any

from ...views import PairError
from ..text_benchmarks import FINAL_MARK, gsm8k_answer


logger = logging.getLogger(__name__)

Column = str | Callable[[Mapping[str, Any]], Any]
"""Where a field comes from: the name of a column, or a function of the row."""

NAMES = {
    "question": ("question", "problem", "query", "instruction", "prompt", "input"),
    "answer": ("answer", "final_answer", "target", "label"),
    "completion": ("completion", "solution", "rationale", "response", "output"),
    "context": ("context", "passage", "article", "document"),
    "choices": ("choices", "options"),
    "id": ("id",),
    "category": ("category", "subject"),
}
"""Names that a field is looked for under, in this order, where none is given."""

ANSWER = "Answer: "


@dataclass(frozen=True)
class Columns:
    """Where each field of a question comes from; `None` where it is not there."""

    question: Column
    answer: Column | None = None
    completion: Column | None = None
    context: Column | None = None
    choices: Column | None = None
    id: Column | None = None
    category: Column | None = None


@dataclass(frozen=True)
class Question:
    """A question in words with what is learnt of it."""

    text: str
    completion: str
    answer: str | None
    context: str | None
    choices: tuple[str, ...]
    id: str | None
    category: str | None

    @property
    def listed_choices(self) -> str:
        """The choices by letter, a line each."""
        return "\n".join(f"{name}. {choice}" for name, choice in zip(ascii_uppercase, self.choices, strict=False))


def find_columns(names: Sequence[str], given: Mapping[str, Column], *, needs_context: bool) -> Columns:
    """The columns given, and those found by name.

    Args:
        names: The columns of the dataset.
        given: Columns by field; the others are looked for.
        needs_context: Whether a context is needed.

    Raises:
        ValueError: a field or a column does not exist, or a needed one is not found; names those of the dataset.
    """
    if unknown := [field for field in given if field not in NAMES]:
        raise ValueError(f"`columns`: no field {unknown[0]!r}; there is {', '.join(NAMES)}.")
    found: dict[str, Column | None] = {}
    for field in fields(Columns):
        column = given.get(field.name)
        if isinstance(column, str) and column not in names:
            raise ValueError(f"`columns`: no column {column!r} for the {field.name}; there is {', '.join(names)}.")
        found[field.name] = column or next((name for name in NAMES[field.name] if name in names), None)
    needed = ["question", *(["context"] if needs_context else [])]
    needed += [] if found["answer"] or found["completion"] else ["answer"]
    for name in needed:
        if found[name] is None:
            raise ValueError(
                f"no column for the {name}: looked for {', '.join(NAMES[name])}; the dataset has {', '.join(names)}. "
                f"Name it in `columns` (`--columns {name}=COLUMN`)."
            )
    if found["question"] == "instruction" and "question" not in given and "input" in {*names} - {*found.values()}:
        found["question"] = with_input
    if found["context"] is not None and not needs_context:
        logger.warning(
            f"{_label(found['context'], 'context')} is the context of questions, and stands in neither view; it is "
            'drawn with `what="context"` (`--what context`).'
        )
        found["context"] = None
    return Columns(**found)  # pyright: ignore[reportArgumentType]


def with_input(row: Mapping[str, Any]) -> Any:
    """The instruction of a row and, below it, its input, as Alpaca has them; many rows have an empty input."""
    instruction, text = row["instruction"], row["input"]
    return f"{instruction}\n\n{text}" if instruction and isinstance(text, str) and text.strip() else instruction


def read_question(row: Mapping[str, Any], columns: Columns, name: str) -> Question:
    """The question of a row.

    Raises:
        PairError: a field is empty or of the wrong form; names the row, the column, what was found and the remedy.
    """
    text = _text(row, columns.question, "question", name)
    context = None if columns.context is None else _text(row, columns.context, "context", name)
    choices, names = _choices(row, columns.choices, name)
    answer, reasoning = _answer(row, columns.answer, choices, names, name)
    if columns.completion is not None:
        completion = _text(row, columns.completion, "completion", name)
    else:
        letter = ascii_uppercase[choices.index(answer)] if answer in choices else answer
        completion = "\n".join(filter(None, (reasoning, f"{ANSWER}{letter}")))
    labels = (_value(row, column) for column in (columns.id, columns.category))
    id, category = (None if label is None else str(label) for label in labels)
    return Question(text, completion, answer, context, choices, id, category)


def _value(row: Mapping[str, Any], column: Column | None) -> Any:
    if column is None:
        return None
    return column(row) if callable(column) else row.get(column)


def _label(column: Column, field: str) -> str:
    return f"the function for `{field}`" if callable(column) else f"`{column}`"


def _text(row: Mapping[str, Any], column: Column, field: str, name: str) -> str:
    """A text, or that of the only message of a message list."""
    value = _value(row, column)
    if (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) == 1
        and isinstance(value[0], Mapping)
    ):
        value = value[0].get("content")
    if value is not None and not isinstance(value, str):
        raise PairError(
            name,
            f"{_label(column, field)} must be a text, got {type(value).__name__}.",
            f"Name another column for the {field}, or give a function of the row.",
        )
    if not value or not value.strip():
        raise PairError(name, f"{_label(column, field)} is empty.", "Fill it in, or leave the row out.")
    return value.strip("\n").rstrip()


def _choices(row: Mapping[str, Any], column: Column | None, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The choices, and the names by which an answer may mean them: ARC's labels, or choices that are numbers."""
    value, labels = _value(row, column), ()
    if isinstance(value, Mapping):  # as ARC has them
        value, labels = value.get("text"), value.get("label") or ()
    if value is None:
        return (), ()
    if not isinstance(value, Sequence) or isinstance(value, str) or not 2 <= len(value) <= len(ascii_uppercase):
        assert column is not None
        raise PairError(
            name,
            f"{_label(column, 'choices')} must be a list of 2 to {len(ascii_uppercase)} choices, got {value!r}.",
            "Name another column, or give a function of the row.",
        )
    if not labels and not any(isinstance(choice, str) for choice in value):
        labels = value
    return tuple(str(choice).strip() for choice in value), tuple(map(str, labels))


def _answer(
    row: Mapping[str, Any], column: Column | None, choices: tuple[str, ...], names: tuple[str, ...], name: str
) -> tuple[str | None, str]:
    """The final answer (of choices, the text of the right one) and the reasoning before it."""
    if column is None:
        return None, ""
    value = _value(row, column)
    if choices:
        return choices[_position(value, choices, names, _label(column, "answer"), name)], ""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        what = "is empty" if value is None or value == "" else f"must be a text or a number, got {value!r}"
        raise PairError(name, f"{_label(column, 'answer')} {what}.", "Fill it in, or leave the row out.")
    parts = gsm8k_answer(str(value))
    if parts is None:
        return str(value).strip(), ""
    reasoning, final = parts
    if not final:
        raise PairError(name, f"{_label(column, 'answer')} has nothing after `{FINAL_MARK}`.", "Fill it in.")
    return final, reasoning


def _position(value: Any, choices: tuple[str, ...], names: tuple[str, ...], label: str, name: str) -> int:
    """The index of the right choice: from its name, an index from 0, a letter, or its text."""
    if str(value).strip() in names[: len(choices)]:
        position = names.index(str(value).strip())
    elif isinstance(value, int) and not isinstance(value, bool):
        position = value
    else:
        text = str(value).strip()
        letter = ascii_uppercase.find(text.upper()) if len(text) == 1 and text.isalpha() else -1
        position = int(text) if text.isdecimal() else letter
        if text in choices:  # before numbers and letters, where choices are such themselves
            position = choices.index(text)
    if not 0 <= position < len(choices):
        raise PairError(
            name,
            f"{label} names none of the {len(choices)} choices: {value!r}.",
            "Give its index from 0, its letter, or its text.",
        )
    return position
