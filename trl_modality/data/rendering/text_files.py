"""Opens datasets of text: files by their ending, MMLU's CSV files, and whatever `data.sources` opens."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..importers.records import delimiter_of
from ..sources import open_dataset


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
    from datasets.exceptions import DatasetGenerationError

    path = Path(dataset) if isinstance(dataset, str | Path) else None
    if path is None:
        return _one_split(open_dataset(dataset, split), "the dataset")
    name, bracket, part = (split or "test").partition("[")
    if path.is_dir() and (tables := _mmlu_tables(path, name)):
        return _part(Dataset.from_list([row for table in tables for row in _mmlu_rows(table, name)]), bracket + part)
    if not path.is_file():
        if path.suffix in _BUILDERS:
            raise FileNotFoundError(f"no file {path}.")
        return _one_split(open_dataset(str(path), split), str(path))
    if path.suffix not in _BUILDERS:
        raise ValueError(f"{path} must be a file of {', '.join(_BUILDERS)}, a folder, or an id on the hub.")
    options = {"sep": delimiter_of(path)} if path.suffix == ".csv" else {}
    if path.suffix == ".csv" and _has_no_header(path):
        return _part(Dataset.from_list(_mmlu_rows(path, name)), bracket + part)
    try:
        loaded: Any = load_dataset(_BUILDERS[path.suffix], data_files=str(path), split="train", **options)
    except DatasetGenerationError as error:
        reason = str(error.__cause__ or error).strip()
        raise ValueError(f"{path} cannot be read as {path.suffix}: {reason}.") from error
    except ValueError as error:
        if "no data" in str(error):
            raise ValueError(f"{path} has no row.") from error
        raise
    return _part(loaded, bracket + part)


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


def _mmlu_tables(folder: Path, split: str) -> list[Path]:
    """The tables of a split in MMLU's folder, by name."""
    inner = folder / split
    return sorted((inner if inner.is_dir() else folder).glob(f"*_{split}.csv"))


def _has_no_header(path: Path) -> bool:
    """Whether the first line of a CSV file is a question: three cells or more, of which the last is a letter."""
    with path.open(newline="", encoding="utf-8") as file:
        cells = next(csv.reader(file), [])
    return len(cells) >= 4 and len(cells[-1].strip()) == 1 and cells[-1].strip().isupper()


def _mmlu_rows(path: Path, split: str) -> list[dict[str, Any]]:
    subject = path.stem.removesuffix(f"_{split}").replace("_", " ")
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
