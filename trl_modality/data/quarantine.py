"""Bad rows that a run leaves out (`bad_rows='skip'`): their list on disk, and how many it may be."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..views import DATASET_COLUMN, IMAGE_COLUMNS, INDEX_COLUMN, PAIR_COLUMNS, PLAIN_COLUMNS, PairError


try:
    import fcntl
except ImportError:  # Windows: two processes may list a row twice there
    fcntl = None

logger = logging.get_logger(__name__)

QUARANTINE_FILE = "bad_rows.jsonl"
FEWEST = 10
"""Bad rows that a share of all rows (`bad_rows_limit` below 1) allows in any case."""


def allowed_bad_rows(limit: float, n_rows: int) -> int:
    """How many of `n_rows` rows may be bad: `limit` itself from 1 on, below that this share of them, at least 10."""
    return int(limit) if limit >= 1 else max(FEWEST, int(limit * n_rows)) if limit else 0


class Quarantine:
    """A file of bad rows, a JSON line for each: `dataset`, `index`, `id`, `field` and `reason`.

    A row is written once, however many epochs, processes or data loader workers meet it: each looks through the file
    and writes to it under a lock, and a line is written in one piece.

    Args:
        path: The file; it is made with its first row.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._said = False

    def add(self, row: Mapping[str, Any], error: PairError) -> None:
        """Write a row down, unless it is there; the first of a process is warned of.

        Args:
            row: As it was read; of one that could not be, what is known of it.
            error: Why it is left out.
        """
        record = {
            "dataset": row.get(DATASET_COLUMN),
            "index": row.get(INDEX_COLUMN),
            "id": None if row.get("id") is None else str(row["id"]),
            "field": field_of(error),
            "reason": str(error),
        }
        if not self._said:
            self._said = True
            logger.warning(
                f"{error} The row is left out (`bad_rows='skip'`); all such rows are in {str(self.path)!r}."
            )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b", buffering=0) as file, _locked(file):
                file.seek(0)
                content = file.read()
                if _key(record) not in map(_key, _records(content)):
                    start = b"\n" if content and not content.endswith(b"\n") else b""  # a line cut off
                    file.write(start + _line(record))
        except OSError as problem:  # the training is worth more than the list
            logger.warning(f"{str(self.path)!r} cannot be written ({problem}). {error} The row is left out.")

    def records(self) -> list[dict[str, Any]]:
        """The rows in the file; none where there is no file."""
        return list(_records(self.path.read_bytes())) if self.path.is_file() else []


def field_of(error: PairError) -> str | None:
    """The column that a message about a row is about, if it names one."""
    columns = {*PAIR_COLUMNS, *PLAIN_COLUMNS}
    named = next((name for name in re.findall(r"`(\w+)`", error.problem) if name in columns), None)
    return IMAGE_COLUMNS[0] if named is None and re.match(r"image \d", error.problem) else named


def _line(record: Mapping[str, Any]) -> bytes:
    # A text that is bad may be so for half of a surrogate pair, which UTF-8 cannot hold; as an escape it is valid JSON
    return json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def _records(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # cut off by a crash or a full disk
        if isinstance(record, dict):
            yield record


def _key(record: Mapping[str, Any]) -> tuple:
    # Rows of a stream that is evaluated have no number
    place = record.get("index")
    return record.get("dataset"), place, None if place is not None else (record.get("id"), record.get("reason"))


@contextmanager
def _locked(file: Any) -> Iterator[None]:
    """A context in which no other process writes, where the system and its file system know locks."""
    with suppress(OSError):
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
    yield  # closing the file gives the lock back
