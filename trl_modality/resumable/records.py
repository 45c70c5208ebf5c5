"""Files of results: JSONL with a header of settings and then records, appended batch by batch; and JSON."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


logger = logging.getLogger(__name__)

FORMAT = 1
Record = dict[str, Any]


class OtherSettingsError(ValueError):
    """A file has records of other settings; `found` says which one differs."""

    def __init__(self, found: str, remedy: str):
        super().__init__(f"{found} {remedy}")
        self.found = found


class Journal:
    """A JSONL file of records that is written batch by batch and, after an interruption, continued.

    Args:
        path: The file; its folder is created. `None`: nothing is written.
        settings: What the records depend on; written into the header, and compared with it.
        restart: Where the file has results of other settings, move it aside (`.before-1`) and begin a new one.
    """

    def __init__(self, path: str | os.PathLike | None, settings: Mapping[str, Any], restart: bool = False):
        self.path = None if path is None else Path(path)
        self._header = {"format": FORMAT, "settings": json.loads(json.dumps(settings))}
        self._restart = restart

    def resume(self, batches: Sequence[Sequence[str]], any_order: bool = False) -> list[Record]:
        """The records that the file has of these batches, in order; half a record at its end is cut off.

        Only whole batches count, since padding changes floating point; what is there of the next one is cut off. Where
        the file has further records that do not follow there, as after two evaluations wrote into it at the same time,
        they are moved to a file beside it, with a warning.

        Args:
            batches: For every batch in the order of writing, the keys of its records.
            any_order: Every record counts, whatever else is in the file: none depends on its batch.

        Raises:
            ValueError: the file has other settings (the first one that differs is named), is no file of records, or
                has a broken line (it is named).
            OSError: the folder or the file cannot be written.
        """
        if self.path is None:
            return []
        with named_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lines = self._lines()
            if not lines:
                self.path.write_bytes(_line(self._header))
                return []
            records = _records(lines, self.path)
            kept = _first_of_each(records, batches) if any_order else _whole_batches(records, batches)
            self._keep(lines, kept, records, () if any_order else _following(batches, len(kept)))
            return [records[i] for i in kept]

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append the records of a batch, in one write.

        Raises:
            OSError: they cannot be written; the file and the free space are named.
        """
        if self.path is not None and records:
            with named_errors(self.path), open(self.path, "ab") as file:
                file.write(b"".join(map(_line, records)))

    def _lines(self) -> list[bytes]:
        """The whole lines of a file of these settings; none where it has to be begun."""
        assert self.path is not None
        lines = _whole_lines(self.path)
        if not lines:
            # Half a header is what a crash leaves; anything else is not ours, and not to be written over
            if self.path.is_file() and not _is_half_a_header(self.path.read_bytes()):
                _settings_of([self.path.read_bytes()], self.path)
            return []
        differs = self._difference(_settings_of(lines, self.path))
        if differs is None:
            return lines
        if not self._restart:
            raise OtherSettingsError(
                f"{self.path} has results of other settings: {differs}.",
                "Give another folder, or start anew with `restart=True` (`--restart`), which keeps the old results "
                "under another name.",
            )
        logger.warning(f"{self.path} has results of other settings: {differs}. They are in {_aside(self.path)} now.")
        return []

    def _difference(self, given: Mapping[str, Any]) -> str | None:
        own = self._header["settings"]
        for name in [*own, *given]:
            if given.get(name) != own.get(name):
                return f"`{name}` was {given.get(name)!r} and is {own.get(name)!r}"
        return None

    def _keep(self, lines: list[bytes], kept: list[int], records: list[Record], following: Sequence[str]) -> None:
        """Leave only the header and these records in the file; what is no part of the next batch is kept beside it."""
        assert self.path is not None
        left_out = [record["key"] for i, record in enumerate(records) if i not in set(kept)]
        is_begin = kept == list(range(len(kept)))
        if is_begin and left_out == list(following)[: len(left_out)]:
            os.truncate(self.path, sum(map(len, lines[: 1 + len(kept)])))
            return
        position = next(i for i in range(len(records)) if i >= len(kept) or kept[i] != i)
        whole = _aside(self.path, copy=True)
        logger.warning(
            f"{self.path}, line {position + 2}: the record {records[position]['key']!r} does not follow there; two "
            f"evaluations may have written into this file at the same time. {len(left_out):,} of {len(records):,} "
            f"records are left out, and asked again where they are missing; the file as it was is {whole}."
        )
        replacement = self.path.with_name(f".{self.path.name}.unfinished")
        replacement.write_bytes(b"".join([lines[0], *(lines[1 + i] for i in kept)]))
        replacement.replace(self.path)


def _following(batches: Sequence[Sequence[str]], count: int) -> Sequence[str]:
    """The keys of the batch that follows so many records of whole batches."""
    for keys in batches:
        if count == 0:
            return keys
        count -= len(keys)
    return ()


def _whole_batches(records: Sequence[Record], batches: Sequence[Sequence[str]]) -> list[int]:
    """The positions of the records of all batches that the list begins with."""
    start = 0
    for keys in batches:
        if [record["key"] for record in records[start : start + len(keys)]] != list(keys):
            break
        start += len(keys)
    return list(range(start))


def _first_of_each(records: Sequence[Record], batches: Sequence[Sequence[str]]) -> list[int]:
    """The positions of the first record of each key that is in a batch."""
    wanted = {key for keys in batches for key in keys}
    first: dict[str, int] = {}
    for position, record in enumerate(records):
        if record["key"] in wanted:
            first.setdefault(record["key"], position)
    return list(first.values())


def read_records(
    path: str | os.PathLike, needs: Mapping[str, type] | None = None
) -> tuple[dict[str, Any], list[Record]]:
    """The settings and the records of a file that a `Journal` wrote.

    Args:
        path: The file.
        needs: Fields that every record must have, with their types.

    Raises:
        ValueError: the file does not begin with the header of a journal, a line is no record, lacks a field or has one
            of another type, or two have the same key; the line is named.
        OSError: the file cannot be read.
    """
    lines = _whole_lines(Path(path))
    settings, records = _settings_of(lines, path), _records(lines, path, needs)
    lines_by_key: dict[str, int] = {}
    for number, record in enumerate(records, 2):
        if lines_by_key.setdefault(record["key"], number) != number:
            raise ValueError(
                f"{path}, line {number}: {record['key']!r} is in line {lines_by_key[record['key']]} already; two "
                "evaluations have written into this file at the same time. Evaluate into this folder again, which "
                "mends it."
            )
    return settings, records


def _records(lines: list[bytes], path: str | os.PathLike, needs: Mapping[str, type] | None = None) -> list[Record]:
    records = []
    for number, line in enumerate(lines[1:], 2):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path}, line {number} is not JSON ({error}). Remove that line, or give another folder."
            ) from error
        for name, kind in {"key": str, **(needs or {})}.items():
            value = record.get(name) if isinstance(record, dict) else None
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise ValueError(
                    f"{path}, line {number}: `{name}` must be of type {kind.__name__}, got {str(value)[:80]}. Remove "
                    "that line, or evaluate again into another folder."
                )
        records.append(record)
    return records


def _settings_of(lines: list[bytes], path: str | os.PathLike) -> dict[str, Any]:
    found = ""
    try:
        header = json.loads(lines[0])
        if header["format"] == FORMAT:
            return dict(header["settings"])
        found = f" (it is of format {header['format']!r}, which another version of trl-modality may have written)"
    except (IndexError, KeyError, TypeError, ValueError):
        pass
    raise ValueError(f"{path} does not begin with a header of format {FORMAT}{found}: it holds no results of ours.")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically: to another name first, then renamed.

    Raises:
        OSError: it cannot be written; the file and the free space are named, and an older file is as it was.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with named_errors(path):
        try:
            # A model may write half of a surrogate pair, which UTF-8 cannot hold; as an escape it is valid JSON
            unfinished.write_bytes(text.encode(errors="backslashreplace"))
            unfinished.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """A context in which an `OSError` names the file and the free space beside it, which a full disk's does not."""
    try:
        yield
    except OSError as error:
        free = ""
        with contextlib.suppress(OSError):
            free = f"; {shutil.disk_usage(path.parent).free / 2**20:,.0f} MiB are free there"
        why = error.strerror or str(error)
        raise OSError(error.errno, f"{path} cannot be written ({why}{free}); what it held before is kept") from error


def _aside(path: Path, copy: bool = False) -> Path:
    """Move or copy a file to the next free name `.before-N`; that name."""
    number = 1
    while (other := path.with_name(f"{path.name}.before-{number}")).exists():
        number += 1
    shutil.copy2(path, other) if copy else path.rename(other)
    return other


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=True).encode() + b"\n"


def _is_half_a_header(content: bytes) -> bool:
    start = _line({"format": FORMAT, "settings": {}}).removesuffix(b"}}\n")
    return content.startswith(start) or start.startswith(content)


def _whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that end with a newline; none where there is no file."""
    if not path.is_file():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    return lines if not lines or lines[-1].endswith(b"\n") else lines[:-1]
