"""Shared by the loaders: files and fields that must exist, texts of a question, pairs and their dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...views import pair_features, validate_pair
from ..pairs import assistant, user


if TYPE_CHECKING:
    from datasets import Dataset


class SetFolder:
    """The folder of a published set; an error about a file states the expected layout and where to get the set.

    Args:
        folder: Folder of the set.
        name: Name of the set in messages.
        expected: Its official layout in one line.
        address: Where to get the set.
    """

    def __init__(self, folder: str | Path, name: str, expected: str, address: str):
        self.folder = Path(folder)
        self._help = f"{name} is laid out as {expected}; get it at {address}."
        if not self.folder.is_dir():
            raise FileNotFoundError(f"no folder {self.folder}. {self._help}")

    def file(self, *parts: str) -> Path:
        """Path of a file of the set. Raises `FileNotFoundError` if it does not exist."""
        path = self.folder.joinpath(*parts)
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}. {self._help}")
        return path

    def image(self, *parts: str) -> dict[str, Any]:
        """An image file of the set, unread, as `datasets.Image` stores it. Raises as `file` does."""
        return {"path": str(self.file(*parts)), "bytes": None}

    def json(self, *parts: str) -> Any:
        """The content of a JSON file of the set."""
        path = self.file(*parts)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON ({error}). {self._help}") from error

    def problems(self, *parts: str) -> dict[str, dict[str, Any]]:
        """The problems of a JSON file that maps ids to problems."""
        content = self.json(*parts)
        if not isinstance(content, dict) or not all(isinstance(problem, dict) for problem in content.values()):
            raise ValueError(f"{self.folder.joinpath(*parts)} does not hold problems by their ids. {self._help}")
        if not content:
            raise ValueError(f"{self.folder.joinpath(*parts)} holds no problem. {self._help}")
        return content


def required_field(problem: Mapping[str, Any], name: str, where: str) -> Any:
    """The value of a field that a problem must have. Raises `ValueError` if it is missing."""
    if problem.get(name) is None:
        raise ValueError(f"{where} has no `{name}`; it has {', '.join(sorted(problem))}.")
    return problem[name]


def check_split(split: str, splits: Sequence[str]) -> None:
    """Raise `ValueError` for a split that the set does not have."""
    if split not in splits:
        raise ValueError(f"`split` must be one of {', '.join(splits)}, got {split!r}.")


def options_text(choices: Sequence[Any] | None) -> str:
    """The options of a question as text: `Options: (A) … (B) …`; empty without options."""
    if not choices:
        return ""
    return "Options: " + " ".join(f"({chr(ord('A') + i)}) {choice}" for i, choice in enumerate(choices))


def join_lines(*texts: str | None) -> str:
    """The texts that are not empty, joined by newlines."""
    return "\n".join(text.strip() for text in texts if text and text.strip())


def make_pair_row(
    id: str,
    category: str,
    image: dict[str, Any],
    facts: str,
    question: str,
    answer: str,
    reasoning: str = "",
    choices: Sequence[Any] | None = None,
) -> dict[str, Any]:
    """A checked pair row: text_rich has the facts and the question, vision_centric the question alone.

    The options of a question are its last line (`options_text`), and the column `choices`, by which an answer that is
    a letter is graded. The completion is the reasoning, if any, and a last line `Answer: …`.
    """
    question = join_lines(question, options_text(choices))
    row = {
        "id": id,
        "category": category,
        "images": [image],
        "text_rich_prompt": user(join_lines(facts, question)),
        "vision_centric_prompt": user(question),
        "completion": assistant(join_lines(reasoning, f"Answer: {answer}")),
        "answer": answer,
        "choices": [str(choice) for choice in choices] if choices else None,
    }
    validate_pair(row)
    return row


def to_dataset(rows: list[dict[str, Any]]) -> Dataset:
    """The rows as a dataset, with a column `choices` if some question has any; images stay in their files."""
    from datasets import Dataset, Features, List, Value

    features = pair_features(category=True)
    if any(row["choices"] for row in rows):
        return Dataset.from_list(rows, features=Features({**features, "choices": List(Value("string"))}))
    return Dataset.from_list([{name: row[name] for name in features} for row in rows], features=features)
