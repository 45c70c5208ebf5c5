"""Files of results: JSONL with a header of settings and then records, appended batch by batch; and JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


FORMAT = 1


class Journal:
    """A JSONL file of records that is written batch by batch and, after an interruption, continued.

    Args:
        path: The file; its folder is created. `None`: nothing is written.
        settings: What the records depend on; written into the header, and compared with it.
    """

    def __init__(self, path: str | os.PathLike | None, settings: Mapping[str, Any]):
        self.path = None if path is None else Path(path)
        self._header = {"format": FORMAT, "settings": json.loads(json.dumps(settings))}

    def resume(self, batches: Sequence[Sequence[str]]) -> list[list[dict[str, Any]]]:
        """The records of all complete batches in the file, one list for each; what follows them is cut off the file.

        Args:
            batches: For every batch in the order of writing, the keys of its records.

        Raises:
            ValueError: the file has other settings; the first one that differs is named.
        """
        if self.path is None:
            return []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = _whole_lines(self.path)
        if not lines:
            self.path.write_bytes(_line(self._header))
            return []
        self._check_settings(_settings_of(lines, self.path))
        done, start = [], 1
        for keys in batches:
            records = [json.loads(line) for line in lines[start : start + len(keys)]]
            if [record["key"] for record in records] != list(keys):
                break
            done.append(records)
            start += len(keys)
        os.truncate(self.path, sum(map(len, lines[:start])))
        return done

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append the records of a batch, in one write."""
        if self.path is not None:
            with open(self.path, "ab") as file:
                file.write(b"".join(map(_line, records)))

    def _check_settings(self, given: Mapping[str, Any]) -> None:
        own = self._header["settings"]
        for name in [*own, *given]:
            if given.get(name) != own.get(name):
                raise ValueError(
                    f"{self.path} has results of other settings: `{name}` was {given.get(name)!r} and is "
                    f"{own.get(name)!r}. Give another folder, or remove this one to start anew."
                )


def read_records(path: str | os.PathLike) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The settings and the records of a file that a `Journal` wrote.

    Raises:
        ValueError: the file does not begin with the header of a journal.
        OSError: the file cannot be read.
    """
    lines = _whole_lines(Path(path))
    return _settings_of(lines, path), [json.loads(line) for line in lines[1:]]


def _settings_of(lines: list[bytes], path: str | os.PathLike) -> dict[str, Any]:
    try:
        header = json.loads(lines[0])
        if header["format"] == FORMAT:
            return header["settings"]
    except (IndexError, KeyError, TypeError, ValueError):
        pass
    raise ValueError(f"{path} does not begin with a header of format {FORMAT}: it holds no results of ours.")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically: to another name first, then renamed."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    # A model may write half of a surrogate pair, which UTF-8 cannot hold; as an escape it is valid JSON
    unfinished.write_bytes(text.encode(errors="backslashreplace"))
    unfinished.replace(path)


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=True).encode() + b"\n"


def _whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that end with a newline; none where there is no file."""
    if not path.is_file():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    return lines if not lines or lines[-1].endswith(b"\n") else lines[:-1]
