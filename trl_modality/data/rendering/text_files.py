"""Opens datasets of text: files by their ending, MMLU's CSV files, and whatever `data.sources` opens."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..sources import open_split


if TYPE_CHECKING:
    from datasets import Dataset

_BUILDERS = {".jsonl": "json", ".json": "json", ".gz": "json", ".csv": "csv", ".parquet": "parquet"}


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
    from datasets import Dataset, load_dataset

    path = Path(dataset) if isinstance(dataset, str | Path) else None
    if path is None:
        return open_split(dataset, split)
    if path.is_dir() and (tables := _mmlu_tables(path, split)):
        return Dataset.from_list([row for table in tables for row in _mmlu_rows(table, split)])
    if not path.is_file():
        if path.suffix in _BUILDERS:
            raise FileNotFoundError(f"no file {path}.")
        return open_split(str(path), split)
    if path.suffix not in _BUILDERS:
        raise ValueError(f"{path} must be a file of {', '.join(_BUILDERS)}, a folder, or an id on the hub.")
    if path.suffix == ".csv" and _has_no_header(path):
        return Dataset.from_list(_mmlu_rows(path, split))
    loaded: Any = load_dataset(_BUILDERS[path.suffix], data_files=str(path), split="train")
    return loaded


def _mmlu_tables(folder: Path, split: str | None) -> list[Path]:
    """The tables of a split in MMLU's folder, by name."""
    inner = folder / (split or "test")
    return sorted((inner if inner.is_dir() else folder).glob(f"*_{split or 'test'}.csv"))


def _has_no_header(path: Path) -> bool:
    """Whether the first line of a CSV file is a question: three cells or more, of which the last is a letter."""
    with path.open(newline="", encoding="utf-8") as file:
        cells = next(csv.reader(file), [])
    return len(cells) >= 4 and len(cells[-1].strip()) == 1 and cells[-1].strip().isupper()


def _mmlu_rows(path: Path, split: str | None) -> list[dict[str, Any]]:
    subject = path.stem.removesuffix(f"_{split or 'test'}").replace("_", " ")
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for number, cells in enumerate(csv.reader(file), 1):
            if not cells:
                continue
            if len(cells) < 4:
                raise ValueError(
                    f"{path}, row {number} has {len(cells)} cells; expected a question, choices and the letter of one."
                )
            rows.append(
                {"question": cells[0], "choices": cells[1:-1], "answer": cells[-1].strip(), "subject": subject}
            )
    return rows
