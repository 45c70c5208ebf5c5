r"""Make pairs from any dataset with images, questions and answers, column by column, without decoding an image.

```python
pairs = make_pairs(
    "my-org/charts",
    split="train",
    text_rich=lambda row: f"{row['table']}\n{row['question']}",
    vision_centric="question",
    completion=lambda row: f"{row['rationale']}\nAnswer: {row['answer']}",
    answer="answer",
)
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from logging import getLogger
from typing import TYPE_CHECKING, Any

from ..views import OWN_IMAGES, PAIR_PROMPTS, PairError, validate_pair
from .sources import open_dataset


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict

logger = getLogger(__name__)

Row = Mapping[str, Any]
Column = str | Callable[[Row], Any]
"""Where a field of a pair comes from: the name of a column, or a function of the row."""

PLACEHOLDER = "<image>"


def user(text: str) -> list[dict[str, str]]:
    """A message list with one message of the user."""
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, str]]:
    """A message list with one message of the assistant."""
    return [{"role": "assistant", "content": text}]


def make_pairs(
    dataset: Any,
    *,
    text_rich: Column,
    vision_centric: Column,
    completion: Column,
    images: Column | None = None,
    vision_centric_images: Column | None = None,
    text_rich_images: Column | None = None,
    answer: Column | None = None,
    choices: Column | None = None,
    id: Column | None = None,
    keep: Sequence[str] = (),
    split: str | None = None,
    streaming: bool = False,
    num_workers: int = 1,
    **load_kwargs: Any,
) -> Dataset | IterableDataset | DatasetDict | IterableDatasetDict:
    """Make pairs from the columns of a dataset, and check every row.

    Each field of a pair is given by a column's name or by a function of the row, which gets images as stored
    (`{"bytes", "path"}`). Prompts and completions are strings, which become one message of the user or the assistant,
    or message lists. Columns of images are taken over as they are, neither decoded nor copied.

    Args:
        dataset: An id on the hub, a folder, or an object of `datasets`: one split or a dict of them, streamed or not.
        text_rich, vision_centric, completion: The prompts of the two views, and the completion of both.
        images: An image or a list of images: pixels, a path, or `{"bytes", "path"}`. By default the column `images`
            or `image`.
        vision_centric_images, text_rich_images: Images of that view, if they differ from `images` (`None` in a row:
            they do not); `text_rich_images=lambda row: []` makes the text_rich view words alone.
        answer, id: The final answer alone, and a name for the row; numbers become strings.
        choices: The options of the question in the order of their letters, which the prompts have to state, so that a
            letter is graded as one of them; `None` for a question without.
        keep: Further columns to keep. All others are left out.
        split: Name of a split; by default all splits are taken.
        streaming: Whether to read the dataset while iterating. The result declares its columns either way.
        num_workers: Processes, for a dataset that is not streamed.
        **load_kwargs: Arguments for `datasets.load_dataset`.

    Returns:
        A dataset or a dict of splits, like the one given, with the columns of pairs that were asked for. Rows of a
        stream have their images as stored, which trainers and collators of this package take.

    Raises:
        ValueError: a column does not exist, or the two views of every pair are the same.
        PairError: a row is not a valid pair; the message names the row, where the field comes from, and the remedy.
            A streamed row is checked when it is read.
    """
    from datasets import DatasetDict, IterableDatasetDict

    opened = open_dataset(dataset, split, streaming, **load_kwargs)
    texts = {"text_rich_prompt": text_rich, "vision_centric_prompt": vision_centric, "completion": completion}
    labels = {"id": id, "answer": answer}
    fields = _Fields(texts, labels, images, vision_centric_images, tuple(keep), choices, text_rich_images)
    if isinstance(opened, DatasetDict | IterableDatasetDict):
        made = {name: _make_pairs(rows, fields, num_workers) for name, rows in opened.items()}
        return type(opened)(made)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return _make_pairs(opened, fields, num_workers)


@dataclass(frozen=True)
class _Fields:
    """Where each field of a pair comes from, and in which form the dataset has it."""

    texts: Mapping[str, Column]
    labels: Mapping[str, Column | None]
    images: Column | None
    vision_centric_images: Column | None
    keep: tuple[str, ...]
    choices: Column | None = None
    text_rich_images: Column | None = None
    in_parts: frozenset[str] = frozenset()
    """Fields whose messages have lists of content parts instead of strings."""
    is_single: bool = False
    """Whether the images come from a column of type `Image`, one to a row, which then becomes the column `image`."""

    def image_sources(self) -> dict[str, Column]:
        name = "image" if self.is_single else "images"
        own = {"vision_centric_images": self.vision_centric_images, "text_rich_images": self.text_rich_images}
        given = {name: self.images, **own}
        return {name: column for name, column in given.items() if column is not None}

    def check(self, columns: Sequence[str]) -> _Fields:
        """A copy with the column of the images filled in; raises `ValueError` for a column that does not exist."""
        named = {**self.texts, **self.labels, "choices": self.choices, **self.image_sources()}
        for name, column in (*named.items(), *(("keep", column) for column in self.keep)):
            if isinstance(column, str) and column not in columns:
                option = {"text_rich_prompt": "text_rich", "vision_centric_prompt": "vision_centric"}.get(name, name)
                raise ValueError(f"`{option}`: no column {column!r}; the dataset has {', '.join(columns)}.")
        if self.images is not None:
            return self
        found = [column for column in ("images", "image") if column in columns]
        if not found:
            raise ValueError(f"`images`: no column `images` or `image`; name one of {', '.join(columns)}.")
        return replace(self, images=found[0])


def _make_pairs(dataset: Any, fields: _Fields, num_workers: int) -> Any:
    from datasets import Dataset, Image

    stored = _disable_decoding(dataset)
    first = next(iter(stored), None)
    if first is None:
        raise ValueError("the dataset has no row; check its split and its filters.")
    columns = list(dataset.column_names or first)
    fields = fields.check(columns)
    named = (*fields.texts.values(), *fields.labels.values(), fields.choices)
    used = {column for column in named if isinstance(column, str)}
    used |= {column for column in fields.image_sources().values() if isinstance(column, str)} | set(fields.keep)
    if unused := [column for column in columns if column not in used]:
        logger.info("columns that are not named, and so not kept: %s", ", ".join(unused))
    in_parts = {name for name, column in fields.texts.items() if _has_parts(_call(first, column, "row 0", name))}
    is_single = isinstance(_feature_of(dataset.features, fields.images), Image)
    fields = replace(fields, in_parts=frozenset(in_parts), is_single=is_single)
    features = _features(fields, dataset.features)
    row_of = _RowMaker(fields)
    if not isinstance(dataset, Dataset):
        features = _without_decoding(features)
        return stored.map(row_of, with_indices=True, remove_columns=columns, features=features)
    made = _map_without_images(dataset, stored, row_of, features, num_workers)
    if fields.vision_centric_images is None and fields.text_rich_images is None:
        _check_views_differ(made)
    return made


def _disable_decoding(dataset: Any) -> Any:
    """The dataset with the decoding of images switched off; a stream with undeclared columns is left as it is."""
    from datasets import Dataset

    if not isinstance(dataset, Dataset):
        return dataset if dataset.features is None else dataset.decode(enable=False)
    dataset = dataset.with_format(None)
    for name, feature in _without_decoding(dataset.features).items():
        if feature != dataset.features[name]:
            dataset = dataset.cast_column(name, feature)
    return dataset


def _without_decoding(features: Features) -> Features:
    """The same columns, with the decoding of images switched off."""
    from datasets import Features, Image, List

    def stored(feature: Any) -> Any:
        if isinstance(feature, Image):
            return Image(mode=feature.mode, decode=False)
        if isinstance(feature, List) and isinstance(feature.feature, Image):
            return List(stored(feature.feature), length=feature.length)
        return feature

    return Features({name: stored(feature) for name, feature in features.items()})


def _map_without_images(dataset: Any, stored: Any, row_of: _RowMaker, features: Features, num_workers: int) -> Any:
    """The pairs of a stored dataset; columns of images are joined on from the dataset itself rather than copied."""
    from datasets import Features, concatenate_datasets

    sources = row_of.fields.image_sources()
    kept_images = {
        name: column for name, column in sources.items() if features[name] == _feature_of(dataset.features, column)
    }
    made_features = Features({name: feature for name, feature in features.items() if name not in kept_images})
    made = stored.map(
        replace(row_of, left_out=tuple(kept_images)),
        with_indices=True,
        remove_columns=stored.column_names,
        features=made_features,
        num_proc=num_workers if num_workers > 1 else None,
        desc="Making pairs",
    )
    views = [
        dataset.with_format(None).select_columns([column]).rename_columns({column: name} if column != name else {})
        for name, column in kept_images.items()
    ]
    return concatenate_datasets([made, *views], axis=1).select_columns(list(features))


def _check_views_differ(made: Dataset) -> None:
    """Refuse pairs that all have the same prompt in both views, whose images are the same; warn of some."""
    alike: list[int] = []
    batches: Any = made.select_columns(list(PAIR_PROMPTS)).with_format("arrow").iter(1000)
    for start, batch in enumerate(batches):
        both = zip(*(batch[column].to_pylist() for column in PAIR_PROMPTS), strict=True)
        alike += [1000 * start + place for place, (text, vision) in enumerate(both) if text == vision]
    if len(alike) == len(made):
        raise ValueError(
            f"`text_rich` and `vision_centric` give the same prompt in all {len(made):,} rows, so that both views are "
            "the same and there is nothing to learn from one for the other. The text_rich one needs the facts of the "
            "picture in words before the question."
        )
    if alike:
        logger.warning(
            "%d of %d pairs have the same prompt and images in both views (row %s): they have no gap to close.",
            len(alike),
            len(made),
            ", ".join(map(str, alike[:5])) + (", ..." if len(alike) > 5 else ""),
        )


def _features(fields: _Fields, given: Features | None) -> Features:
    from datasets import Features, Image, List, Value

    def messages(name: str) -> Any:
        part = List({"type": Value("string"), "text": Value("string")})
        return List({"role": Value("string"), "content": part if name in fields.in_parts else Value("string")})

    declared: dict[str, Any] = {name: Value("string") for name, column in fields.labels.items() if column is not None}
    if fields.choices is not None:
        declared["choices"] = List(Value("string"))
    for name, column in fields.image_sources().items():
        feature = _feature_of(given, column)
        is_kept = name == "image" or (isinstance(feature, List) and isinstance(feature.feature, Image))
        declared[name] = feature if is_kept else List(Image())
    declared |= {name: messages(name) for name in fields.texts}
    for column in fields.keep:
        if given is None:
            raise ValueError(f"`keep`: the type of {column!r} is unknown; declare the columns of the stream first.")
        declared[column] = given[column]
    return Features(declared)


def _feature_of(features: Features | None, column: Column | None) -> Any:
    return None if features is None or not isinstance(column, str) else features.get(column)


@dataclass(frozen=True)
class _RowMaker:
    """The function mapped over the rows; an object rather than a closure, so that it can be sent to workers."""

    fields: _Fields
    left_out: tuple[str, ...] = ()
    """Columns that are needed to check a row but are not written, since they are joined on from the dataset."""

    def __call__(self, row: Row, index: int) -> dict[str, Any]:
        fields = self.fields
        pair: dict[str, Any] = {}
        for name, column in fields.labels.items():
            if column is not None:
                value = _call(row, column, f"row {index}", name)
                pair[name] = None if value is None else str(value)
        where = f"row {index}" if pair.get("id") is None else f"row {index}, id={pair['id']!r}"
        if fields.choices is not None:
            pair["choices"] = _choices(_call(row, fields.choices, where, "choices"), where, _origin(fields.choices))
        for name, column in fields.texts.items():
            value = _call(row, column, where, name)
            pair[name] = _messages(value, name, where, _origin(column), name in fields.in_parts)
        for name, column in fields.image_sources().items():
            value = _call(row, column, where, name)
            if value is None and name in OWN_IMAGES.values():  # this view shows those of both
                pair[name] = None
                continue
            if value is None or (isinstance(value, list | tuple) and None in value):
                raise PairError(where, f"{_origin(column)} has no image.", "Filter such rows out first.")
            is_list = isinstance(value, list | tuple)
            pair[name] = value if name == "image" else list(value) if is_list else [value]
        validate_pair(pair, name=where)
        pair |= {column: row[column] for column in fields.keep}
        return {name: value for name, value in pair.items() if name not in self.left_out}


def _call(row: Row, column: Column, where: str, name: str) -> Any:
    try:
        return row[column] if isinstance(column, str) else column(row)
    except Exception as error:
        raise PairError(
            where,
            f"{_origin(column)} fails on it, for `{name}` ({type(error).__name__}: {error}).",
            "Make it cover such rows, or filter them out first.",
        ) from error


def _choices(value: Any, where: str, origin: str) -> list[str] | None:
    """The options of a question as texts; `None` where it has none. Raises `PairError`."""
    if value is None or (isinstance(value, list | tuple) and not value):
        return None
    if isinstance(value, list | tuple) and not any(each is None or isinstance(each, list | Mapping) for each in value):
        return [str(each) for each in value]
    raise PairError(
        where,
        f"{origin}, for `choices`, is {str(value)[:60]!r}.",
        "Give a list with the text of each option, in the order of their letters, or None.",
    )


def _origin(column: Column) -> str:
    return f"column {column!r}" if isinstance(column, str) else f"the function {getattr(column, '__name__', column)!r}"


def _has_parts(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(
        isinstance(message, Mapping) and not isinstance(message.get("content"), str) for message in value
    )


def _messages(value: Any, name: str, where: str, origin: str, in_parts: bool) -> list[dict[str, Any]]:
    """The field as a message list, whose contents are parts if `in_parts`, else strings. Raises `PairError`."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise PairError(where, f"{origin}, for `{name}`, is empty.", "Fill it in or filter such rows out first.")
    if isinstance(value, str):
        value = assistant(value) if name == "completion" else user(value)
    is_list = isinstance(value, list | tuple) and all(
        isinstance(m, Mapping) and {"role", "content"} <= m.keys() for m in value
    )
    if not is_list:
        raise PairError(
            where,
            f"{origin}, for `{name}`, is {type(value).__name__}.",
            "Give a string or a list of messages with `role` and `content`.",
        )
    if in_parts != _has_parts(value):
        raise PairError(
            where,
            f"{origin}, for `{name}`, has contents in parts in some rows and as plain text in others.",
            "Write all rows in one form.",
        )
    texts = [message["content"] for message in value if isinstance(message["content"], str)]
    if any(PLACEHOLDER in text for text in texts):
        raise PairError(
            where,
            f"{origin}, for `{name}`, has {PLACEHOLDER!r} in its text; the images are put before the text for you.",
            f"Take it out with a function, such as `lambda row: row[...].replace({PLACEHOLDER!r}, '')`.",
        )
    return [{"role": message["role"], "content": _content(message["content"], in_parts)} for message in value]


def _content(content: Any, in_parts: bool) -> Any:
    if not in_parts:
        return content
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [{"type": part.get("type"), "text": part.get("text")} for part in content]
