"""The vocabulary of pairs: views, the columns of a pair, and the checks that make a row a valid pair.

A *pair* is one question in two views that share one completion: `text_rich` (image, the facts in words, question) and
`vision_centric` (image, question). Imports nothing heavy, so that data can be checked without torch.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from os import PathLike
from typing import Any

from .images import ImageFault, PixelLimits, read_image


class View(StrEnum):
    """The view of a row of a batch: one of a pair, `plain` for a row without a pair, `replay` for text mixed in."""

    TEXT_RICH = "text_rich"
    VISION_CENTRIC = "vision_centric"
    PLAIN = "plain"
    REPLAY = "replay"


PROMPT_COLUMN = {View.TEXT_RICH: "text_rich_prompt", View.VISION_CENTRIC: "vision_centric_prompt"}
PAIR_VIEWS = tuple(PROMPT_COLUMN)
PAIR_PROMPTS = tuple(PROMPT_COLUMN.values())
# The levels of MathVerse (arXiv 2403.14624), by the share of the needed facts that the words leave to the picture. Its
# Vision Dominant keeps properties in words; here the words only ever lose facts, so that levels are points of a scale.
LEVELS = {
    "text_dominant": 0.0,
    "text_lite": 0.25,
    "vision_intensive": 0.5,
    "vision_dominant": 0.75,
    "vision_only": 1.0,
}
# Where a view does not show the images of the pair; an empty list in the text_rich view: it is words alone
OWN_IMAGES = {View.TEXT_RICH: "text_rich_images", View.VISION_CENTRIC: "vision_centric_images"}
IMAGE_COLUMNS = ("images", "image", *OWN_IMAGES.values(), "teacher_images")
PAIR_COLUMNS = (
    *IMAGE_COLUMNS,
    *PAIR_PROMPTS,
    *("completion", "level_prompts", "teacher_prompt"),
    *("id", "answer", "choices", "category", "level"),  # of evaluations
)
# Position of a row in its dataset: added by `data.rows.PairRows`, so that messages can name the row
INDEX_COLUMN = "__index__"
# Name of the dataset of a row, for messages too
DATASET_COLUMN = "__dataset__"
# Why a row is left out (a `PairError`), where bad rows are (`bad_rows='skip'`)
BAD_COLUMN = "__bad__"
# The slot of the plan that a row is in (`curriculum.Slot`): added by `curriculum.rows.PlannedRows` for the collator
SLOT_COLUMN = "__slot__"
# Columns of rows without a pair, as TRL's vision collator reads them
PLAIN_COLUMNS = ("messages", "prompt", "completion", "image", "images", "text")


def pair_features(*, category: bool = False, level_prompts: bool = False, **own_images: bool) -> Any:
    """The Arrow types (`datasets.Features`) of pairs with plain text messages, and of the optional columns named, of
    which those of `own_images` are in `OWN_IMAGES`."""
    from datasets import Features, Image, List, Value  # not at the top: this module stays light

    if unknown := own_images.keys() - set(OWN_IMAGES.values()):
        raise TypeError(f"pair_features() has no argument {sorted(unknown)[0]!r}.")
    messages = List({"role": Value("string"), "content": Value("string")})
    return Features(
        {
            "id": Value("string"),
            **({"category": Value("string")} if category else {}),
            "images": List(Image()),
            "text_rich_prompt": messages,
            "vision_centric_prompt": messages,
            "completion": messages,
            "answer": Value("string"),
            **({"level_prompts": List(messages)} if level_prompts else {}),
            **{name: List(Image()) for name, is_there in own_images.items() if is_there},
        }
    )


# The roles of messages, as TRL's collator knows them
ROLES = ("system", "user", "assistant", "tool")
# What may be done with a row that cannot be read or collated; see `PairedCollator`
BAD_ROW_POLICIES = ("error", "skip")
# What may be done with a row with images above `max_length`; see `PairedCollator`
OVERLONG_POLICIES = ("error", "drop", "cut_completion")
ESCAPE = "A text that speaks of the token itself is written with `trl_modality.views.escape_image_token`."


class PairError(ValueError):
    """A row that cannot be trained on; the message names the row, the field and the remedy.

    Of one argument it is the whole message: so a data loader makes it anew of what a worker raised.
    """

    def __init__(self, row: str, problem: str = "", remedy: str = ""):
        message = f"{row}: {problem} {remedy}" if problem else row
        super().__init__(message.encode(errors="backslashreplace").decode())  # half a surrogate pair cannot be printed
        self.row, self.problem, self.remedy = row, problem, remedy

    def __reduce__(self) -> tuple:
        return type(self), (self.row, self.problem, self.remedy)  # it comes back whole from another process


def is_pair(row: Mapping[str, Any]) -> bool:
    """Whether the row has a prompt of either view; a row of a mixed dataset without one holds `None` there."""
    return any(row.get(column) is not None for column in PAIR_PROMPTS)


def describe_row(row: Mapping[str, Any]) -> str:
    """A name for the row in messages: its index where known, its `id` where it has one, else how its prompt starts."""
    dataset = "" if row.get(DATASET_COLUMN) is None else f"`{row[DATASET_COLUMN]}` "
    names = [] if row.get(INDEX_COLUMN) is None else [f"row {row[INDEX_COLUMN]}"]
    if row.get("id") is not None:
        names.append(f"id={row['id']!r}")
    if not names:
        fields = (*PAIR_PROMPTS, "prompt", "messages", "text", "completion")
        text = next((text_of(row[field]) for field in fields if row.get(field)), "")
        names.append(f"row starting {text[:60]!r}" if text else "row without any text")
    return dataset + ", ".join(names)


def images_of(row: Mapping[str, Any], view: View) -> list[Any]:
    """The images that a view of the row shows, as stored (not decoded); `[]` if it has none.

    Those of the view's own column (`OWN_IMAGES`) unless that is `None`, else those of `images` or `image`.

    Raises:
        PairError: a column of lists of images has something else.
    """
    own = (OWN_IMAGES[view],) if view in OWN_IMAGES else ()
    for column in (*own, "images"):
        if (images := row.get(column)) is not None:
            if not isinstance(images, Sequence) or isinstance(images, str | bytes):
                raise PairError(
                    describe_row(row),
                    f"`{column}` is {type(images).__name__}, not a list of images.",
                    "Put the image into a list, or use the column `image` for a single one.",
                )
            return list(images)
    return [] if row.get("image") is None else [row["image"]]


def shows_same_images(row: Mapping[str, Any]) -> bool:
    """Whether both views of a pair show the same images, judged by how they are stored."""
    if all(row.get(column) is None for column in OWN_IMAGES.values()):
        return True
    own, others = (images_of(row, view) for view in PAIR_VIEWS)
    stored = (Mapping, str)  # pixels in memory are the same only where they are the same object
    return len(own) == len(others) and all(
        a is b or (isinstance(a, stored) and isinstance(b, stored) and a == b)
        for a, b in zip(own, others, strict=True)
    )


def lent_view(row: Mapping[str, Any]) -> View | None:
    """The view whose images a row lends to a batch that has none: the first one with an image; `None` without any.

    A text_rich view may have none (`text_rich_images: []`), a row without a pair has its images in any view.
    """
    return next((view for view in PAIR_VIEWS if images_of(row, view)), None)


def image_slots(prompt: str | Sequence[Mapping[str, Any]], image_token: str | None = None) -> int | None:
    """Number of places for an image that the prompt itself states, or `None` where it states none by design.

    A message list whose contents are plain strings has no slots of its own: the host puts all images before the first
    user message. A string has one slot for each `image_token`; without any (or with none known) it is left to the
    processor, since some write another token in prompts, or add the image themselves.
    """
    if isinstance(prompt, str):
        return prompt.count(image_token) or None if image_token else None
    contents = [message.get("content") or () for message in prompt]
    blocks = [block for content in contents if not isinstance(content, str) for block in content]
    if not blocks and any(message["role"] == "user" for message in prompt):
        return None
    return sum(block.get("type") == "image" and block.get("image") is None for block in blocks)


def validate_pair(
    row: Mapping[str, Any],
    name: str | None = None,
    image_token: str | None = None,
    *,
    needs_completion: bool = True,
) -> None:
    """Check that a row is a pair that can be trained on, without decoding an image or tokenizing.

    Args:
        row: The row: `images` (list) or `image`; `text_rich_prompt`, `vision_centric_prompt`, `completion` (all
            strings or all message lists); optional `vision_centric_images`, `text_rich_images` (`[]`: that view is
            words alone), `answer`, `id`. Other columns are ignored.
        name: What messages call the row; by default its `id` or how its prompt starts.
        image_token: The processor's image placeholder; given, the slots in string prompts are counted.
        needs_completion: Otherwise the row is only asked, and its completion is not looked at.

    Raises:
        PairError: names the row, the field and the remedy.
    """
    name = name or describe_row(row)
    columns = (*PAIR_PROMPTS, "completion") if needs_completion else PAIR_PROMPTS
    fields: dict[str, Any] = {column: row.get(column) for column in columns}
    for column, value in fields.items():
        check_text(name, column, value)
    kinds = {column: isinstance(value, str) for column, value in fields.items()}
    if len(set(kinds.values())) > 1:
        strings = ", ".join(f"`{column}`" for column, is_string in kinds.items() if is_string)
        raise PairError(
            name,
            f"{strings} given as a string, the others as message lists.",
            f"Use one form for {'all three' if needs_completion else 'both'}.",
        )
    if row.get("images") is not None and row.get("image") is not None:
        raise PairError(name, "both `images` and `image` are set.", "Keep one of the two columns.")
    for view, column in PROMPT_COLUMN.items():
        images, slots = images_of(row, view), image_slots(fields[column], image_token)
        if not images:
            _check_shows_none(name, row, view, slots)
        check_images(name, view, images, slots, column)


def load_images(
    row: Mapping[str, Any], view: View, name: str | None = None, pixels: PixelLimits | None = None
) -> list[Any]:
    """Decode the images of one view as `datasets` does: PIL images, paths, or `{"bytes", "path"}` dicts → PIL images,
    scaled into the limits of `pixels` where given.

    Raises:
        PairError: an image cannot be read, or not be shown as it is; the row, the file and the remedy are named.
    """
    decoded = []
    for position, value in enumerate(images_of(row, view)):
        try:
            image = read_image(value)
            decoded.append(image if pixels is None else pixels.fitted(image))
        except ImageFault as fault:
            problem = f"image {position} {fault.problem}"
            raise PairError(name or describe_row(row), problem, fault.remedy) from fault
    return decoded


def text_of(value: Any) -> str:
    """All text in a prompt, completion or message list, for emptiness checks and excerpts."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return text_of(value.get("content") or value.get("text") or "")
    return " ".join(filter(None, map(text_of, value))) if isinstance(value, Sequence) else ""


def without_none(value: Any) -> Any:
    """Drop the `None` fields that Arrow adds to message blocks of different kinds; templates read them as content."""
    if isinstance(value, Mapping):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_none(item) for item in value]
    return value


def check_text(name: str, column: str, value: Any) -> None:
    """Raise `PairError` unless a prompt or a completion is a string or messages, with text in it."""
    if value is None:
        raise PairError(name, f"`{column}` is missing.", "A pair needs both prompts and the completion.")
    if not isinstance(value, str):
        check_messages(name, column, value)
    if not _has_text(value):
        raise PairError(name, f"`{column}` is empty.", "Fill it in or remove the row.")


def _has_text(value: Any) -> bool:
    return bool(text_of(value).strip()) or (not isinstance(value, str) and any(m.get("tool_calls") for m in value))


def check_messages(name: str, column: str, messages: Any) -> None:
    """Check that a value is a list of messages as TRL's collator takes them: roles, and contents or calls of tools.

    Raises:
        PairError: names the row, the field, the message and the remedy.
    """
    is_list = isinstance(messages, Sequence) and all(isinstance(message, Mapping) for message in messages)
    if is_list and any("from" in message and "role" not in message for message in messages):
        raise PairError(name, f"`{column}` has messages with `from` and `value`.", SHARE_GPT)
    if not (is_list and all("role" in message for message in messages)):
        raise PairError(
            name,
            f"`{column}` is neither a string nor a list of messages with `role` and `content`.",
            f"Got {type(messages).__name__}.",
        )
    for place, message in enumerate(messages):
        where, role, content = f"message {place} of `{column}`", message["role"], message.get("content")
        if role not in (*ROLES, "developer"):
            known = SHARE_GPT if role in ("human", "gpt") else f"Give one of {', '.join(ROLES)}."
            raise PairError(name, f"{where} has the role {role!r}.", known)
        if content is None and not message.get("tool_calls"):
            raise PairError(name, f"{where} has no `content`.", "Fill it in, or leave the message out.")
        if not isinstance(content, str | None):
            _check_blocks(name, where, content)


SHARE_GPT = (
    "They are in the form of ShareGPT: write `role` and `content`, 'user' in place of 'human', 'assistant' of 'gpt'."
)


def _check_blocks(name: str, where: str, content: Any) -> None:
    blocks = content if isinstance(content, Sequence) else [content]
    for block in blocks:
        if not isinstance(block, Mapping) or not isinstance(block.get("type"), str):
            raise PairError(
                name,
                f"the `content` of {where} is {type(content).__name__} with {type(block).__name__} in it."
                if blocks is content
                else f"the `content` of {where} is {type(content).__name__}.",
                "Give a string, or a list of blocks with a `type`.",
            )
        if block["type"] == "text" and not isinstance(block.get("text"), str):
            raise PairError(name, f"{where} has a block of text without `text`.", "Fill it in, or leave it out.")


def validate_plain(row: Mapping[str, Any], name: str | None = None, text_field: str = "text") -> None:
    """Check that a row without a pair has a text that TRL's collator takes, without tokenizing.

    Args:
        row: The row: `messages`, or `prompt` and `completion` (both strings or both message lists), or a string in
            `text_field`.
        name: What messages call the row; by default its `id` or how its text starts.
        text_field: Column of plain text rows.

    Raises:
        PairError: names the row, the field and the remedy.
    """
    name = name or describe_row(row)
    given = {field for field in ("prompt", "completion", "messages", text_field) if row.get(field) is not None}
    if not {"messages", text_field} & given and given != {"prompt", "completion"}:
        raise PairError(
            name,
            f"neither a pair nor a plain row: it has {sorted(given) or 'no text column'}.",
            f"Give both view prompts, or `prompt` and `completion`, or `messages`, or `{text_field}`.",
        )
    # TRL's collator reads the first of these, and an empty prompt is one
    column = next(field for field in ("messages", text_field, "completion") if field in given)
    if column == text_field and not isinstance(row[text_field], str):
        kind = type(row[text_field]).__name__
        raise PairError(name, f"`{text_field}` is {kind}, not a string.", "Fill it in or remove the row.")
    for field in given - {text_field}:
        if field == "messages" or not isinstance(row[field], str):
            check_messages(name, field, row[field])
    if {"prompt", "completion"} <= given and isinstance(row["prompt"], str) != isinstance(row["completion"], str):
        string = "prompt" if isinstance(row["prompt"], str) else "completion"
        raise PairError(name, f"`{string}` given as a string, the other as a message list.", "Use one form for both.")
    if not (row[column] if isinstance(row[column], str) else _has_text(row[column])):
        raise PairError(name, f"`{column}` is empty.", "Fill it in or remove the row.")


def escape_image_token(text: str, image_token: str) -> str:
    """The text with a space inside of every image token, so that a processor reads it as text and not as an image.

    For texts that speak of the token itself, as of "<image>" in HTML: a tokenizer finds its special tokens wherever
    they stand, and has no other way to write them.

    Args:
        text: A prompt, a completion or the content of a message.
        image_token: Of the processor (`processor.image_token`).
    """
    return text.replace(image_token, f"{image_token[0]} {image_token[1:]}")


def _check_shows_none(name: str, row: Mapping[str, Any], view: View, slots: int | None) -> None:
    """Raise unless a view may be without an image: the text_rich one, by `text_rich_images: []` and without a slot."""
    own, column = OWN_IMAGES[view], PROMPT_COLUMN[view]
    if row.get(own) is not None and not lent_view(row):
        raise PairError(name, "neither view has an image.", "Give it in `images`; a pair is about an image.")
    if view is View.VISION_CENTRIC:
        remedy = f"Give it in `{own}`/`images`; only the text_rich view may be words alone (`text_rich_images: []`)."
        raise PairError(name, f"the {view} view has no image.", remedy)
    if row.get(own) is None:
        remedy = f"Give it in `images`; a pair is about an image. A view of words alone has `{own}: []`."
        raise PairError(name, f"the {view} view has no image.", remedy)
    if slots:
        remedy = f"Take the slot out, or give the image in `{own}`. {ESCAPE}"
        raise PairError(name, f"`{own}` is empty, but `{column}` has {slots} image slot(s).", remedy)


def check_images(name: str, view: str, images: list[Any], slots: int | None, column: str) -> None:
    """Raise `PairError` unless the images of a view are such, and as many as its prompt has slots, if it tells."""
    for position, image in enumerate(images):
        known = isinstance(image, str | PathLike) or hasattr(image, "load")
        if isinstance(image, Mapping):
            known = image.get("bytes") is not None or image.get("path") is not None
        if not known:
            raise PairError(
                name,
                f"image {position} of the {view} view is {type(image).__name__}.",
                "Use a PIL image, a path, or a dict with `bytes` or `path`.",
            )
    if slots is not None and slots != len(images):
        raise PairError(
            name,
            f"`{column}` has {slots} image slot(s), but the {view} view has {len(images)} image(s).",
            f"Give each image one slot, in order, or write the messages with plain string contents. {ESCAPE}",
        )
