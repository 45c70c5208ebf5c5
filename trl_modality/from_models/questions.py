"""Rows with a picture and a question, read from the columns that people have, and made pairs by facts in words."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..data.pairs import assistant, user
from ..data.rows import PairRows
from ..views import PAIR_COLUMNS, PairError, View, describe_row, images_of, text_of, without_none


if TYPE_CHECKING:
    from datasets import Dataset

PROMPT_COLUMNS = ("vision_centric_prompt", "prompt", "question")
FACTS_AND_QUESTION = "{facts}\n\n{question}"
IMAGE_SLOT = "<image>"
Messages = list[dict[str, Any]]
_TEXTS = ("string", "large_string")


class Questions:
    """The rows of a split as pictures with a question.

    A question is in `vision_centric_prompt`, `prompt` or `question`, the first of them that there is; a string is the
    words of the user. Images are those of the vision_centric view.

    Args:
        dataset: The split.
        name: Its name in messages.

    Raises:
        ValueError: there is no column with a question or with images, or no row.
    """

    def __init__(self, dataset: Dataset, name: str):
        columns = dataset.column_names
        found = [column for column in PROMPT_COLUMNS if column in columns]
        if not found or not {"images", "image"} & set(columns):
            what = "question (`vision_centric_prompt`, `prompt` or `question`)" if not found else "picture (`images`)"
            raise ValueError(
                f"split {name!r} has no column with a {what}; it has {', '.join(columns)}. Rename a column to one of "
                "these, or make pairs of it first (`trl-modality data make`)."
            )
        if not len(dataset):
            raise ValueError(f"split {name!r} has no row.")
        self.dataset, self.name, self.column = dataset, name, found[0]
        self.rows = PairRows(dataset, name)
        self._columns = [column for column, kind in dataset.features.items() if getattr(kind, "dtype", "") in _TEXTS]

    def __len__(self) -> int:
        return len(self.rows)

    def prompt(self, row: Mapping[str, Any]) -> Messages:
        """The question of a row as messages; raises `PairError` where it has none."""
        value = without_none(row[self.column])
        if not value or not text_of(value).strip():
            raise PairError(describe_row(row), f"`{self.column}` is empty.", "Fill it in or remove the row.")
        if isinstance(value, str) and IMAGE_SLOT in value:
            raise PairError(
                describe_row(row),
                f"`{self.column}` is a string with {IMAGE_SLOT!r} in it.",
                "Take it out: pictures are put before the words; or give messages.",
            )
        return user(value) if isinstance(value, str) else value

    def check_images(self, row: Mapping[str, Any]) -> None:
        """Raise `PairError` where a row has no picture."""
        if not images_of(row, View.VISION_CENTRIC):
            raise PairError(describe_row(row), "it has no picture.", "Remove the row.")

    def fields(self, row: Mapping[str, Any]) -> dict[str, str]:
        """The words of a row that a template may name: its columns of text, and `question`."""
        words = {name: row[name] for name in self._columns if isinstance(row[name], str)}
        return _Words(describe_row(row), {**words, "question": _last_words(self.prompt(row))})

    def check_template(self, template: str, option: str, own: Sequence[str] = ()) -> None:
        """Raise `ValueError` where a template names what rows do not have."""
        try:
            named = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        except ValueError as error:
            raise ValueError(f"`{option}` is no template ({error}); a brace itself is written twice.") from None
        known = {*self._columns, "question", *own}
        if unknown := sorted(named - known):
            raise ValueError(
                f"`{option}` names {{{unknown[0]}}}, and rows of {self.name!r} have {', '.join(sorted(known))}; a "
                "brace itself is written twice."
            )
        if missing := sorted({"facts"} & set(own) - named):
            raise ValueError(f"`{option}` must hold {{{missing[0]}}}, the place of the words of the picture.")

    def with_facts(self, row: Mapping[str, Any], facts: str, template: str = FACTS_AND_QUESTION) -> Messages:
        """The question with the facts before it: the last message of the user has its words by the template."""
        prompt = [dict(message) for message in self.prompt(row)]
        last = max(place for place, message in enumerate(prompt) if message["role"] == "user")
        fields = self.fields(row)
        fields["facts"] = facts
        words = template.format_map(fields)
        content = prompt[last]["content"]
        if isinstance(content, str):
            prompt[last]["content"] = words
        else:  # images keep their places before the words
            pictures = [part for part in content if part.get("type") != "text"]
            prompt[last]["content"] = [*pictures, {"type": "text", "text": words}]
        return prompt


class _Words(dict[str, str]):
    """The words of a row by their columns; a column that is empty is an error, which names the row."""

    def __init__(self, row: str, words: Mapping[str, str]):
        super().__init__(words)
        self._row = row

    def __missing__(self, column: str) -> str:
        raise PairError(self._row, f"`{column}` is empty, and is to be written.", "Fill it in or remove the row.")


def _last_words(prompt: Messages) -> str:
    users = [message for message in prompt if message["role"] == "user"]
    return text_of(users[-1]["content"]) if users else ""


def as_pairs(questions: Questions, kept: Sequence[int], text_rich: Sequence[Messages]) -> Dataset:
    """The rows that are kept as pairs, with their completions, if they have any, and their images as they are stored.

    Args:
        questions: The rows.
        kept: Their positions, in order.
        text_rich: The text_rich prompt of each row that is kept.
    """
    from datasets import Dataset, Features, concatenate_datasets

    dataset = questions.dataset.with_format(None)
    made: dict[str, Any] = {"text_rich_prompt": list(text_rich), "vision_centric_prompt": []}
    if "completion" in dataset.column_names:
        made["completion"] = []
    for position in kept:  # one row at a time, for its pictures come with it
        row = questions.rows[position]
        made["vision_centric_prompt"].append(questions.prompt(row))
        if "completion" in made:
            made["completion"].append(_as_completion(row["completion"]))
    features = Features({name: _messages_feature(value) for name, value in made.items()})
    texts = Dataset.from_dict(made, features=features)
    others = [column for column in dataset.column_names if column in PAIR_COLUMNS and column not in made]
    others = [column for column in others if column != "level_prompts"]  # of other facts
    whole = concatenate_datasets([dataset.select(kept).select_columns(others), texts], axis=1)
    order = [column for column in ("id", "category", "images", "image", *made) if column in whole.column_names]
    return whole.select_columns([*order, *(column for column in whole.column_names if column not in order)])


def _as_completion(value: Any) -> Messages:
    value = without_none(value)
    return assistant(value) if isinstance(value, str) else value


def _messages_feature(rows: Sequence[Messages]) -> Any:
    from datasets import List, Value

    has_parts = any(not isinstance(message.get("content"), str) for row in rows for message in row or ())
    content = List({"type": Value("string"), "text": Value("string")}) if has_parts else Value("string")
    return List({"role": Value("string"), "content": content})
