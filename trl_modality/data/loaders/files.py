"""What all loaders have in common: files that have to be there, options of a question, rows → dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...views import pair_features, validate_pair
from ..pairs import assistant, user


if TYPE_CHECKING:
    from datasets import Dataset


class Layout:
    """The folder of a set: gives its files, or says what was expected and where to get it.

    Args:
        folder: Where the set is.
        name: What messages call it.
        expected: Its official layout in a line.
        address: Where to get it.
    """

    def __init__(self, folder: str | Path, name: str, expected: str, address: str):
        self.folder = Path(folder)
        self._help = f"{name} is laid out as {expected}; get it at {address}."
        if not self.folder.is_dir():
            raise FileNotFoundError(f"no folder {self.folder}. {self._help}")

    def file(self, *parts: str) -> Path:
        """A file of the set that exists."""
        path = self.folder.joinpath(*parts)
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}. {self._help}")
        return path

    def image(self, *parts: str) -> dict[str, Any]:
        """An image that exists, as `datasets.Image` stores one that is not read yet."""
        return {"path": str(self.file(*parts)), "bytes": None}

    def json(self, *parts: str) -> Any:
        """The content of a JSON file."""
        path = self.file(*parts)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON ({error}). {self._help}") from error

    def problems(self, *parts: str) -> dict[str, dict[str, Any]]:
        """The problems of a JSON file that holds them by their ids."""
        content = self.json(*parts)
        if not isinstance(content, dict) or not all(isinstance(problem, dict) for problem in content.values()):
            raise ValueError(f"{self.folder.joinpath(*parts)} does not hold problems by their ids. {self._help}")
        if not content:
            raise ValueError(f"{self.folder.joinpath(*parts)} holds no problem. {self._help}")
        return content


def field(problem: Mapping[str, Any], name: str, where: str) -> Any:
    """A field that a problem must have."""
    if problem.get(name) is None:
        raise ValueError(f"{where} has no `{name}`; it has {', '.join(sorted(problem))}.")
    return problem[name]


def check_split(split: str, splits: Sequence[str]) -> None:
    """Raise `ValueError` for a split that the set does not have."""
    if split not in splits:
        raise ValueError(f"`split` must be one of {', '.join(splits)}, got {split!r}.")


def options(choices: Sequence[Any] | None) -> str:
    """`Options: (A) … (B) …`; empty where there are none."""
    if not choices:
        return ""
    return "Options: " + " ".join(f"({chr(ord('A') + i)}) {choice}" for i, choice in enumerate(choices))


def lines(*texts: str | None) -> str:
    """The texts that are not empty, one below the other."""
    return "\n".join(text.strip() for text in texts if text and text.strip())


def pair(
    id: str, category: str, image: dict[str, Any], facts: str, question: str, answer: str, reasoning: str = ""
) -> dict[str, Any]:
    """A checked pair: text_rich is the facts and the question, vision_centric the question; the answer comes last."""
    row = {
        "id": id,
        "category": category,
        "images": [image],
        "text_rich_prompt": user(lines(facts, question)),
        "vision_centric_prompt": user(question),
        "completion": assistant(lines(reasoning, f"Answer: {answer}")),
        "answer": answer,
    }
    validate_pair(row)
    return row


def to_dataset(rows: list[dict[str, Any]]) -> Dataset:
    """The rows of `pair` as a dataset; its images stay in their files until they are read."""
    from datasets import Dataset

    return Dataset.from_list(rows, features=pair_features(category=True))
