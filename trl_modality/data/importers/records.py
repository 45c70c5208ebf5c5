"""The records of a file of data: JSON, JSON lines, CSV, TSV and Parquet, each also in gzip but Parquet."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
SPACE = re.compile(r"[ \t\n\r]*")
ROWS_AT_ONCE = 256  # of a Parquet file, whose images are in memory

Record = Mapping[str, Any]


def suffix_of(path: Path) -> str:
    """What kind of file a name says that it is, without the `.gz` of a packed one."""
    names = [suffix.lower() for suffix in path.suffixes[-2:]]
    return names[0] if names[-1:] == [".gz"] and len(names) == 2 else (names or [""])[-1]


def is_data_file(path: Path) -> bool:
    """Whether the name is that of a file which `read_records` reads."""
    return suffix_of(path) in SUFFIXES


def read_records(path: Path) -> Iterator[tuple[str, Record]]:
    """The records of a file in order, each with the place that messages name ("record 3", "line 12").

    Raises:
        ValueError: the file is of another kind, is not what its name says, or has no record.
        OSError: it cannot be read.
    """
    kind = suffix_of(path)
    if kind not in SUFFIXES:
        raise ValueError(f"{path} is no file of records: its name ends in none of {', '.join(SUFFIXES)} (or .gz).")
    readers = {".parquet": _parquet, ".csv": _table, ".tsv": _table, ".json": _json}
    found = False
    for place, record in readers.get(kind, _json_lines)(path):
        found = True
        if not isinstance(record, Mapping):
            raise ValueError(f"{path}, {place}: it is {type(record).__name__}, not a record with fields.")
        yield place, record
    if not found:
        raise ValueError(f"{path} has no record.")


def _text(path: Path) -> str:
    content = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        written = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "windows-1252"
        raise ValueError(
            f"{path} is not UTF-8 (byte {error.start:,}); save it as UTF-8: in Excel as 'CSV UTF-8', or by `iconv -f "
            f"{written} -t utf-8 OLD > NEW`, if it is {written}."
        ) from error


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    text = _text(path)
    try:
        start = SPACE.match(text).end()  # pyright: ignore[reportOptionalMemberAccess] - it matches everywhere
        if text.startswith("[", start):
            for number, record in enumerate(_elements(text, start + 1)):
                yield f"record {number}", record
            return
        content = json.loads(text)
    except ValueError as error:
        first = text.lstrip().split("\n", 1)[0]
        if first.startswith("{") and _is_json(first):
            yield from _lines(path, text)  # JSON lines under another name
            return
        raise ValueError(f"{path} is not valid JSON ({error}).") from error
    for number, record in enumerate(_listed(content, path)):
        yield f"record {number}", record


def _elements(text: str, place: int) -> Iterator[Any]:
    """The elements of a JSON list one by one, from behind its bracket: a large file is never whole in objects, and
    Ctrl-C is heard between two of them."""

    def behind_space(place: int) -> int:
        return SPACE.match(text, place).end()  # pyright: ignore[reportOptionalMemberAccess]

    decode = json.JSONDecoder().raw_decode
    place = behind_space(place)
    while not text.startswith("]", place):
        element, place = decode(text, place)
        yield element
        place = behind_space(place)
        if text.startswith(",", place):
            place = behind_space(place + 1)
            if text.startswith("]", place):
                raise json.JSONDecodeError("Illegal trailing comma", text, place)
        elif not text.startswith("]", place):
            raise json.JSONDecodeError("Expecting ',' or ']' behind an element", text, place)
    if (end := behind_space(place + 1)) != len(text):
        raise json.JSONDecodeError("Extra data", text, end)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _listed(content: Any, path: Path) -> Sequence[Any]:
    """The records of a JSON document that is no list: one with a list in it, records by their ids, or one record."""
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list) and value]
        if len(lists) == 1 and all(isinstance(each, dict) for each in lists[0]) and not _is_conversation(content):
            return lists[0]
        if content and all(isinstance(value, dict) for value in content.values()):
            return [{"id": key, **value} for key, value in content.items()]
        return [content]
    raise ValueError(f"{path} holds {type(content).__name__}, not a list of records.")


def _is_conversation(content: Mapping[str, Any]) -> bool:
    return bool({"conversations", "conversation", "messages", "prompt"} & content.keys())


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    yield from _lines(path, _text(path))


def _lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    # Not `splitlines`: a line of JSON may have U+2028 in it
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: it is not valid JSON ({error}).") from error


def _table(path: Path) -> Iterator[tuple[str, Any]]:
    text = _text(path)
    delimiter = _delimiter(path, text)
    csv.field_size_limit(2**31 - 1)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = [name.strip() for name in next(rows, [])]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path} has several columns {doubled[0]!r}; give each its own name in its first line.")
    for row in rows:
        if not row:
            continue
        if len(row) != len(names):
            raise ValueError(
                f"{path}, line {rows.line_num}: it has {len(row)} fields, and the header {len(names)} "
                f"({', '.join(names)}), with {delimiter!r} between them. Put fields with a {delimiter!r} into quotes."
            )
        yield f"line {rows.line_num}", {name: value for name, value in zip(names, row, strict=True) if value != ""}


def delimiter_of(path: Path) -> str:
    """What stands between the fields of a CSV or TSV file: a comma, a semicolon (Excel's in much of Europe) or a tab.

    Raises:
        ValueError: the file is not UTF-8.
    """
    return _delimiter(path, _text(path))


def _delimiter(path: Path, text: str) -> str:
    header = text.split("\n", 1)[0]
    return "\t" if suffix_of(path) == ".tsv" else max(",;\t", key=header.count)


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                for record in batch.to_pylist():
                    yield f"record {number}", record
                    number += 1
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the file's: Arrow's own have no number
        raise ValueError(f"{path} is not a valid Parquet file ({error}).") from error
