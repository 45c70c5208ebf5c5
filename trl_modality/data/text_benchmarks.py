"""The forms of text benchmarks that are not ready columns: GSM8K's answers, and MMLU's tables as released."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .importers.records import read_text


_CALCULATION = re.compile(r"<<[^<>]*>>")  # GSM8K's calculator annotations, which a model need not write
FINAL_MARK = "####"  # between reasoning and number in GSM8K


class Choice(NamedTuple):
    """A row of a table of MMLU; `where` is its place for errors ("{path}, row 3"), `letter` that of the answer."""

    where: str
    subject: str
    question: str
    choices: list[str]
    letter: str


def gsm8k_answer(text: str) -> tuple[str, str] | None:
    """The reasoning, without calculator annotations, and the number without commas; `None` where there is no `####`.

    The number is "" where nothing stands after the mark.
    """
    reasoning, mark, number = text.rpartition(FINAL_MARK)
    if not mark:
        return None
    return _CALCULATION.sub("", reasoning).strip(), number.strip().replace(",", "")


def mmlu_tables(folder: Path, split: str) -> list[Path]:
    """The tables of a split in MMLU's folder as released (`{split}/SUBJECT_{split}.csv`), by name."""
    inner = folder / split
    return sorted((inner if inner.is_dir() else folder).glob(f"*_{split}.csv"))


def mmlu_rows(table: Path, split: str) -> Iterator[Choice]:
    """The rows of a table without a header: question, choices, letter of the answer; its name is the subject.

    Raises:
        ValueError: a row has fewer than two choices; names its place.
    """
    subject = table.stem.removesuffix(f"_{split}").replace("_", " ")
    for number, cells in enumerate(csv.reader(io.StringIO(read_text(table), newline="")), 1):
        if not cells:
            continue
        where = f"{table}, row {number}"
        if len(cells) < 4:
            raise ValueError(
                f"{where} has {len(cells)} cells; expected a question, choices, and the letter of the right one."
            )
        yield Choice(where, subject, cells[0], cells[1:-1], cells[-1].strip())
