"""JSON files of others: each error names the file, the field and the remedy."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: it is not JSON, which a half-written file is not, or not UTF-8.
        OSError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not whole JSON ({error}); it may be half written.") from error


class Fields(NamedTuple):
    """A JSON object in a file. Unknown fields are not looked at; a field that is `null` counts as absent."""

    path: Path
    data: Mapping[str, Any]
    where: str = ""

    def error(self, key: str, problem: str) -> ValueError:
        return ValueError(f"{self.path}: `{self.where}{key}` {problem}. Write the file again, or remove it.")

    def has(self, key: str) -> bool:
        return self.data.get(key) is not None

    def _get(self, key: str, kind: type | tuple[type, ...], name: str) -> Any:
        value = self.data.get(key)
        if value is None:
            raise self.error(key, "is missing")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            shown = repr(value)
            raise self.error(key, f"must be {name}, got {shown if len(shown) < 80 else shown[:80] + '…'}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        return default if default is not None and not self.has(key) else self._get(key, str, "a text")

    def truth(self, key: str) -> bool:
        return self._get(key, bool, "true or false")

    def integer(self, key: str, default: int | None = None) -> int:
        return default if default is not None and not self.has(key) else self._get(key, int, "a whole number")

    def number(self, key: str, default: float | None = None) -> float:
        if default is not None and not self.has(key):
            return default
        value = as_float(self._get(key, (int, float), "a number"))
        if not math.isfinite(value):
            raise self.error(key, f"must be a finite number, got {value}")
        return value

    def share(self, key: str, lowest: float = 0.0) -> float:
        """A number from `lowest` to 1."""
        value = self.number(key)
        if not lowest - 1e-9 <= value <= 1 + 1e-9:
            raise self.error(key, f"must be a share from {lowest:g} to 1, got {value:g}")
        return value

    def items(self, key: str) -> list[Any]:
        return self._get(key, list, "a list") if self.has(key) else []

    def inner(self, key: str) -> Fields:
        """The object in a field; an empty one where there is none."""
        data = self._get(key, dict, "an object") if self.has(key) else {}
        return Fields(self.path, data, f"{self.where}{key}.")

    def objects(self, key: str) -> Iterator[tuple[str, Fields]]:
        """The objects in the object of a field, by name; empty ones are left out."""
        inner = self.inner(key)
        found = ((name, inner.inner(name)) for name in inner.data)
        return ((name, fields) for name, fields in found if fields.data)


def as_float(value: float) -> float:
    """As a float; whole numbers that are too large for one are infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def open_fields(path: Path, kind: str, newest: int = 1) -> Fields:
    """A file that names its `format` and its `kind`.

    Raises:
        ValueError: another kind, no format, or one that this version does not read.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(data).__name__}.")
    fields = Fields(path, data)
    if not fields.has("format") or not fields.has("kind"):
        raise ValueError(
            f"{path} has no `format` and `kind`: it is not a file of trl-modality's that can be read here."
        )
    if fields.text("kind") != kind:
        raise ValueError(f"{path}: `kind` must be {kind!r}, got {fields.text('kind')!r}.")
    if (found := fields.integer("format")) != newest:
        remedy = "upgrade trl-modality" if found > newest else "write it again with this version"
        raise ValueError(f"{path}: `format` {found} is not the {newest} that this version reads; {remedy}.")
    return fields
