"""Multiple choice in the form of MMLU (Hendrycks et al. 2021, arXiv 2009.03300)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from ...data.text_benchmarks import mmlu_rows, mmlu_tables
from .files import field, hub_rows, is_hub_id, jsonl_rows, local_file, text
from .task import Example


PROMPT = '{about}{question}\n\n{choices}\n\nEnd with a line "Answer: " and the letter of the right choice alone.'
ABOUT = "The following is a question about {subject}.\n\n"
EXPECTED = "MMLU is a folder with `test/SUBJECT_test.csv` as released, one such file, or a file of JSON lines"


def read_mmlu(source: str | Path, split: str) -> list[Example]:
    """Read multiple-choice questions from MMLU's folder as released, one of its CSV files, a JSONL file, or the hub.

    - CSV without a header: question, choices, letter of the answer; the name of the file is the subject.
    - JSONL and the hub: `question`, `choices` (a list), `answer` (its index from 0, or its letter), optionally
      `subject`.

    Raises:
        FileNotFoundError: there is no such file; the message says what was looked for.
        ValueError: a row is not as described; the row and the field are named.
    """
    if is_hub_id(source):
        return _examples(_from_objects(hub_rows(str(source), "all", split)))
    path = Path(source)
    if path.is_dir():
        tables = mmlu_tables(path, split)
        if tables:
            return _examples(row for table in tables for row in mmlu_rows(table, split))
    file = local_file(source, (f"{split}.jsonl", f"{split}.jsonl.gz"), EXPECTED)
    return _examples(mmlu_rows(file, split) if file.suffix == ".csv" else _from_objects(jsonl_rows(file)))


_Found = tuple[str, str | None, str, list[str], Any]
"""Place of a row for errors, subject, question, choices, answer."""


def _from_objects(rows: Iterator[tuple[str, dict[str, Any]]]) -> Iterator[_Found]:
    for where, row in rows:
        choices = field(row, "choices", where)
        if not isinstance(choices, list) or len(choices) < 2:
            raise ValueError(f"{where}: `choices` must be a list of at least two, got {choices!r}.")
        subject = row.get("subject")
        yield (
            where,
            str(subject).replace("_", " ") if subject else None,
            text(row, "question", where),
            [str(choice) for choice in choices],
            field(row, "answer", where),
        )


def _examples(rows: Iterator[_Found]) -> list[Example]:
    examples = []
    for index, (where, subject, question, choices, answer) in enumerate(rows):
        position = _position(answer, choices, where)
        letter = ascii_uppercase[position]
        listed = "\n".join(f"{name}. {choice}" for name, choice in zip(ascii_uppercase, choices, strict=False))
        about = ABOUT.format(subject=subject) if subject else ""
        # Where the choices are letters themselves, perhaps in another order, a letter would be ambiguous: the expected
        # answer is then the text of the choice
        are_letters = any(len(choice.strip()) == 1 and choice.strip().isalpha() for choice in choices)
        examples.append(
            Example(
                key=f"mmlu-{index}",
                prompt=PROMPT.format(about=about, question=question.strip(), choices=listed),
                completion=f"Answer: {letter}",
                expected=choices[position] if are_letters else letter,
                choices=tuple(choices),
                subject=subject,
            )
        )
    return examples


def _position(answer: Any, choices: Sequence[str], where: str) -> int:
    """The index of the right choice, from 0; `ValueError` where `answer` names none."""
    if isinstance(answer, str) and len(answer.strip()) == 1 and answer.strip().isalpha():
        position = ascii_uppercase.find(answer.strip().upper())
    elif isinstance(answer, int | str) and str(answer).strip().isdecimal():
        position = int(answer)
    else:
        position = -1
    if not 0 <= position < len(choices) <= len(ascii_uppercase):
        raise ValueError(f"{where}: `answer` must name one of the {len(choices)} choices, got {answer!r}.")
    return position
