"""Checked reading of JSON objects: a wrong type or range is an error that names the file, the field and the remedy."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: the file is not UTF-8, or not whole JSON (a half-written file is not).
        OSError: the file cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not whole JSON ({error}); it may be half written.") from error


class Fields(NamedTuple):
    """A JSON object whose fields are read with their types checked.

    Fields that nobody reads are ignored, and a field that is `null` counts as absent. Every method that reads a field
    raises `ValueError` where its value is missing (unless a default is given), of another type, or out of range.
    """

    data: Mapping[str, Any]
    source: str = ""
    """The file, for errors; empty for an object that was not read from one."""
    where: str = ""
    """The dotted path from the top of the file to this object, with a dot at its end; empty at the top."""

    @classmethod
    def of(cls, data: JsonObject) -> Fields:
        """The object itself if it is already a `Fields`, else a dict wrapped without the name of a file."""
        return data if isinstance(data, Fields) else cls(data)

    @classmethod
    def open(cls, path: Path) -> Fields:
        """The JSON object in a file.

        Raises:
            ValueError: the file is not whole JSON, or holds something other than an object.
            OSError: the file cannot be read.
        """
        data = read_json(path)
        if not isinstance(data, dict):
            raise ValueError(f"{path} must hold a JSON object, got {type(data).__name__}.")
        return cls(data, str(path))

    def check_kind(self, kind: str, newest: int = 1) -> None:
        """Check the `format` (a number) and the `kind` (such as "gap") that every file of this package begins with.

        Raises:
            ValueError: one of them is missing, `kind` is another one, or this version does not read the format.
        """
        name = self.source or "this object"
        if not self.has("format") or not self.has("kind"):
            raise ValueError(
                f"{name} has no `format` and `kind`: it is not a file of trl-modality's that can be read here."
            )
        if self.text("kind") != kind:
            raise ValueError(f"{name}: `kind` must be {kind!r}, got {self.text('kind')!r}.")
        if (found := self.integer("format")) != newest:
            remedy = "upgrade trl-modality" if found > newest else "write it again with this version"
            raise ValueError(f"{name}: `format` {found} is not the {newest} that this version reads; {remedy}.")

    def error(self, key: str, problem: str) -> ValueError:
        """An error about a field, to be raised: "{file}: `{path.to.key}` {problem}. {remedy}"."""
        file, remedy = (f"{self.source}: ", " Write the file again, or remove it.") if self.source else ("", "")
        return ValueError(f"{file}`{self.where}{key}` {problem}.{remedy}")

    def has(self, key: str) -> bool:
        """Whether the field is there and not `null`."""
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
        """A string."""
        return default if default is not None and not self.has(key) else self._get(key, str, "a text")

    def truth(self, key: str) -> bool:
        """`true` or `false`."""
        return self._get(key, bool, "true or false")

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number."""
        return default if default is not None and not self.has(key) else self._get(key, int, "a whole number")

    def count(self, key: str, most: float = math.inf) -> int:
        """A whole number from 0 to `most`."""
        value = self.integer(key)
        if not 0 <= value <= most:
            raise self.error(key, f"must be a count from 0{'' if most == math.inf else f' to {most:g}'}, got {value}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        if default is not None and not self.has(key):
            return default
        value = as_float(self._get(key, (int, float), "a number"))
        if not math.isfinite(value):
            raise self.error(key, f"must be a finite number, got {value}")
        return value

    def share(self, key: str, lowest: float = 0.0, highest: float = 1.0) -> float:
        """A number from `lowest` to `highest`, give or take 1e-9."""
        value = self.number(key)
        if not lowest - 1e-9 <= value <= highest + 1e-9:
            raise self.error(key, f"must be a share from {lowest:g} to {highest:g}, got {value:g}")
        return value

    def items(self, key: str) -> list[Any]:
        """A list; an empty one where the field is absent."""
        return self._get(key, list, "a list") if self.has(key) else []

    def inner(self, key: str) -> Fields:
        """The object in a field; an empty one where the field is absent."""
        data = self._get(key, dict, "an object") if self.has(key) else {}
        return Fields(data, self.source, f"{self.where}{key}.")

    def objects(self, key: str) -> Iterator[tuple[str, Fields]]:
        """Name and object of each entry in the object of a field; empty objects are left out."""
        inner = self.inner(key)
        found = ((name, inner.inner(name)) for name in inner.data)
        return ((name, fields) for name, fields in found if fields.data)

    def list_of_objects(self, key: str) -> list[Fields]:
        """The objects in the list of a field; an empty list where the field is absent."""
        found = []
        for index, data in enumerate(self.items(key)):
            if not isinstance(data, dict):
                raise self.error(f"{key}.{index}", f"must be an object, got {type(data).__name__}")
            found.append(Fields(data, self.source, f"{self.where}{key}.{index}."))
        return found


JsonObject: TypeAlias = "Mapping[str, Any] | Fields"
"""What every `from_dict` takes: a dict as `to_dict` gives it, or the `Fields` of a file, so that errors name it."""


def as_float(value: float) -> float:
    """The number as a float; whole numbers that are too large for one become infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
