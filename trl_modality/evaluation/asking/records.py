"""Results in a JSONL file: a header with the settings, then batches of records, each written at once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


FORMAT = 1


class Journal:
    """A JSONL file that is written batch by batch, and continued where it ends.

    Args:
        path: The file; its folder is made. `None`: nothing is kept.
        settings: What the records depend on.
    """

    def __init__(self, path: str | os.PathLike | None, settings: Mapping[str, Any]):
        self.path = None if path is None else Path(path)
        self._header = {"format": FORMAT, "settings": json.loads(json.dumps(settings))}

    def resume(self, batches: Sequence[Sequence[str]]) -> list[list[dict[str, Any]]]:
        """The records of the whole batches that the file has; the rest of it is cut off.

        Args:
            batches: The keys of the records of every batch, in the order in which they are written.

        Raises:
            ValueError: the file is of other settings; the first one that differs is named.
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
        """Append a batch."""
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
        ValueError: it is not such a file.
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
    """Write a JSON file, whole or not at all."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    # Half of a surrogate pair, which a model may write, has no UTF-8; its escape is JSON
    unfinished.write_bytes(text.encode(errors="backslashreplace"))
    unfinished.replace(path)


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=True).encode() + b"\n"


def _whole_lines(path: Path) -> list[bytes]:
    """The lines that were written to their end."""
    if not path.is_file():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    return lines if not lines or lines[-1].endswith(b"\n") else lines[:-1]
