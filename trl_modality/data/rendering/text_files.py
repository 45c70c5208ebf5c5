"""Opens datasets of text: files by their ending, MMLU's CSV files, and whatever `data.sources` opens."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..importers.records import SUFFIXES, is_data_file, read_records, read_text, suffix_of
from ..sources import open_dataset
from ..text_benchmarks import mmlu_rows, mmlu_tables


if TYPE_CHECKING:
    from datasets import Dataset


def open_text(dataset: Any, split: str | None = None) -> Dataset:
    """The rows of a dataset.

    A folder with `{split}/SUBJECT_{split}.csv`, as MMLU is released, and one such file become rows with `question`,
    `choices`, `answer` and `subject`.

    Raises:
        ValueError: no row, or a file of another kind or form.
        FileNotFoundError: there is no such file.
    """
    rows = _opened(dataset, split)
    if not len(rows):
        raise ValueError(f"{dataset if isinstance(dataset, str | Path) else 'the dataset'} has no row.")
    return rows


def _opened(dataset: Any, split: str | None) -> Dataset:
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    path = Path(dataset) if isinstance(dataset, str | Path) else None
    if path is None:
        return _one_split(open_dataset(dataset, split), "the dataset")
    name, bracket, part = (split or "test").partition("[")
    if path.is_dir() and (tables := mmlu_tables(path, name)):
        return _part(Dataset.from_list([row for table in tables for row in _choices(table, name)]), bracket + part)
    if not path.is_file():
        if is_data_file(path):
            raise FileNotFoundError(f"no file {path}.")
        return _one_split(open_dataset(str(path), split), str(path))
    if not is_data_file(path):
        raise ValueError(f"{path} must be a file of {', '.join(SUFFIXES)} (or .gz), a folder, or an id on the hub.")
    if suffix_of(path) in (".csv", ".tsv"):
        rows = _choices(path, name) if _has_no_header(path) else _table_rows(path)
        return _part(Dataset.from_list(rows), bracket + part)
    try:
        return _part(_one_split(open_dataset(path), str(path)), bracket + part)
    except DatasetGenerationError as error:
        reason = str(error.__cause__ or error).strip()
        raise ValueError(f"{path} cannot be read as {path.suffix}: {reason}.") from error
    except ValueError as error:
        if "no data" in str(error):
            raise ValueError(f"{path} has no row.") from error
        if path.name in str(error):
            raise
        raise ValueError(f"{path} cannot be read as {path.suffix}: {error}.") from error


def _table_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV or TSV file as they are typed, with the same columns each; an empty cell is `None`."""
    records = [record for _, record in read_records(path)]
    columns = dict.fromkeys(name for record in records for name in record)
    return [{name: record.get(name) for name in columns} for record in records]


def _one_split(opened: Any, name: str) -> Dataset:
    """The split that is opened, else `train`, else the only one."""
    from datasets import DatasetDict

    if not isinstance(opened, DatasetDict):
        return opened
    if len(opened) > 1 and "train" not in opened:
        raise ValueError(f"{name} has the splits {', '.join(map(str, opened))}; say which one.")
    return opened["train"] if "train" in opened else next(iter(opened.values()))


def _part(rows: Dataset, part: str) -> Dataset:
    """The rows that a slice as on the hub names: `[:800]`, `[90%:]`; all where there is none."""
    from datasets import ReadInstruction

    if not part:
        return rows
    (chosen,) = ReadInstruction.from_spec(f"rows{part}").to_absolute({"rows": len(rows)})
    return rows.select(range(chosen.from_ or 0, len(rows) if chosen.to is None else chosen.to))


def _has_no_header(path: Path) -> bool:
    """Whether the first line of a CSV file is a question: three cells or more, of which the last is a letter."""
    cells = next(csv.reader(io.StringIO(read_text(path), newline="")), [])
    return len(cells) >= 4 and len(cells[-1].strip()) == 1 and cells[-1].strip().isupper()


def _choices(table: Path, split: str) -> list[dict[str, Any]]:
    return [
        {"question": row.question, "choices": row.choices, "answer": row.letter, "subject": row.subject}
        for row in mmlu_rows(table, split)
    ]
