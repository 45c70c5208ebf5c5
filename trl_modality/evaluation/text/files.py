"""Reading the rows of text tasks from local JSONL files or from the hub."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


Row = dict[str, Any]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_id(source: str | Path) -> bool:
    """Whether a source is an id on the hub: of the form `owner/name`, and no existing path or name of a data file."""
    name, path = str(source), Path(source)
    is_file_name = path.suffix in (".jsonl", ".gz", ".csv") or name.startswith(".")
    return _HUB_ID.fullmatch(name) is not None and not is_file_name and not path.exists()


def hub_rows(source: str, config: str | None, split: str) -> Iterator[tuple[str, Row]]:
    """The rows of a split on the hub, each with its place ("owner/name, split 'test', row 3") for errors."""
    from datasets import load_dataset

    dataset: Any = load_dataset(source, config, split=split)
    for index, row in enumerate(dataset):
        yield f"{source}, split {split!r}, row {index}", row


def jsonl_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """The rows of a JSONL file (also `.gz`), each with its place ("{path}, line 3") for errors.

    Raises:
        ValueError: a line is not a JSON object; its number is named.
    """
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{where} is not valid JSON: {error}.") from error
            if not isinstance(row, dict):
                raise ValueError(f"{where} is not a JSON object.")
            yield where, row


def local_file(source: str | Path, names: Iterable[str], what: str) -> Path:
    """The data file that a source names: the file itself or, of a folder, the first of `names` that is in it.

    `what` describes the expected data, for the error.

    Raises:
        FileNotFoundError: there is no such file; the message says what was looked for.
    """
    path = Path(source)
    names = tuple(names)
    candidates = [path / name for name in names] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = f"none of {', '.join(names)} in {path}" if path.is_dir() else f"no file or folder {path}"
    raise FileNotFoundError(f"{looked}; {what}.")


def field(row: Row, name: str, where: str) -> Any:
    """The value of a field of a row; `ValueError` where it is missing."""
    if row.get(name) is None:
        raise ValueError(f"{where} has no `{name}`; it has {', '.join(row)}.")
    return row[name]


def text(row: Row, name: str, where: str) -> str:
    """The text in a field of a row; `ValueError` where it is missing, not a text, or blank."""
    value = field(row, name, where)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: `{name}` must be text, got {value!r}.")
    return value
