"""The vocabulary of pairs: views, the columns of a pair, and the checks that make a row a valid pair.

A *pair* is one question in two views that share one completion: `text_rich` (image, the facts in words, question) and
`vision_centric` (image, question). Imports nothing heavy, so that data can be checked without torch.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from os import PathLike
from typing import Any


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
IMAGE_COLUMNS = ("images", "image", "vision_centric_images")
PAIR_COLUMNS = (
    *IMAGE_COLUMNS,
    *PAIR_PROMPTS,
    *("completion", "level_prompts"),
    *("id", "answer", "choices", "category", "level"),  # of evaluations
)
# Position of a row in its dataset: added by `data.rows.PairRows`, so that messages can name the row
INDEX_COLUMN = "__index__"
# The slot of the plan that a row is in (`curriculum.Slot`): added by `curriculum.rows.PlannedRows` for the collator
SLOT_COLUMN = "__slot__"
# Columns of rows without a pair, as TRL's vision collator reads them
PLAIN_COLUMNS = ("messages", "prompt", "completion", "image", "images", "text")


def pair_features(*, category: bool = False, level_prompts: bool = False, vision_centric_images: bool = False) -> Any:
    """The Arrow types (`datasets.Features`) of pairs with plain text messages, and of the optional columns named."""
    from datasets import Features, Image, List, Value  # not at the top: this module stays light

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
            **({"vision_centric_images": List(Image())} if vision_centric_images else {}),
        }
    )


# What may be done with a row with images above `max_length`; see `PairedCollator`
OVERLONG_POLICIES = ("error", "drop", "cut_completion")


class PairError(ValueError):
    """A row that cannot be trained on; the message names the row, the field and the remedy."""

    def __init__(self, row: str, problem: str, remedy: str):
        super().__init__(f"{row}: {problem} {remedy}")
        self._parts = (row, problem, remedy)

    def __reduce__(self) -> tuple:
        return type(self), self._parts  # it comes back whole from another process


def is_pair(row: Mapping[str, Any]) -> bool:
    """Whether the row has a prompt of either view; a row of a mixed dataset without one holds `None` there."""
    return any(row.get(column) is not None for column in PAIR_PROMPTS)


def describe_row(row: Mapping[str, Any]) -> str:
    """A name for the row in messages: its index where known, its `id` where it has one, else how its prompt starts."""
    names = [] if row.get(INDEX_COLUMN) is None else [f"row {row[INDEX_COLUMN]}"]
    if row.get("id") is not None:
        names.append(f"id={row['id']!r}")
    if not names:
        fields = (*PAIR_PROMPTS, "prompt", "messages", "text", "completion")
        text = next((text_of(row[field]) for field in fields if row.get(field)), "")
        names.append(f"row starting {text[:60]!r}" if text else "row without any text")
    return ", ".join(names)


def images_of(row: Mapping[str, Any], view: View) -> list[Any]:
    """The images that a view of the row shows, as stored (not decoded); `[]` if it has none."""
    if view is View.VISION_CENTRIC and row.get("vision_centric_images") is not None:
        return list(row["vision_centric_images"])
    if row.get("images") is not None:
        return list(row["images"])
    return [] if row.get("image") is None else [row["image"]]


def shows_same_images(row: Mapping[str, Any]) -> bool:
    """Whether both views of a pair show the same images, judged by how they are stored."""
    own = row.get("vision_centric_images")
    if own is None:
        return True
    others = images_of(row, View.TEXT_RICH)
    stored = (Mapping, str)  # pixels in memory are the same only where they are the same object
    return len(own) == len(others) and all(
        a is b or (isinstance(a, stored) and isinstance(b, stored) and a == b)
        for a, b in zip(own, others, strict=True)
    )


def image_slots(prompt: str | Sequence[Mapping[str, Any]], image_token: str | None = None) -> int | None:
    """Number of places for an image that the prompt itself states, or `None` where it states none by design.

    A message list whose contents are plain strings has no slots of its own: the host puts all images before the first
    user message. A string has one slot for each `image_token`; without any (or with none known) it is left to the
    processor, since some write another token in prompts, or add the image themselves.
    """
    if isinstance(prompt, str):
        return prompt.count(image_token) or None if image_token else None
    blocks = [block for message in prompt if not isinstance(message["content"], str) for block in message["content"]]
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
            strings or all message lists); optional `vision_centric_images`, `answer`, `id`. Other columns are ignored.
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
        _check_text(name, column, value)
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
        _check_images(name, view, images_of(row, view), image_slots(fields[column], image_token), column)


def load_images(row: Mapping[str, Any], view: View, name: str | None = None) -> list[Any]:
    """Decode the images of one view as `datasets` does: PIL images, paths, or `{"bytes", "path"}` dicts → PIL images.

    Raises:
        PairError: an image cannot be opened or decoded; the row is named.
    """
    from datasets import Image  # not at the top: this module stays light

    decoded = []
    for position, value in enumerate(images_of(row, view)):
        try:
            if isinstance(value, Mapping):
                stored = {"path": value.get("path"), "bytes": value.get("bytes")}
                value = Image(mode=value.get("mode")).decode_example(stored)
            elif isinstance(value, str | PathLike):
                value = Image().decode_example({"path": str(value), "bytes": None})
            else:
                value.load()  # a lazily opened file may be truncated: find out here, where the row is known
        except (OSError, ValueError, SyntaxError) as error:
            raise PairError(
                name or describe_row(row),
                f"image {position} cannot be read ({type(error).__name__}: {error}).",
                "Repair or remove the row.",
            ) from error
        decoded.append(value)
    return decoded


def text_of(value: Any) -> str:
    """All text in a prompt, completion or message list, for emptiness checks and excerpts."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return text_of(value.get("content") or value.get("text") or "")
    return " ".join(filter(None, map(text_of, value)))


def without_none(value: Any) -> Any:
    """Drop the `None` fields that Arrow adds to message blocks of different kinds; templates read them as content."""
    if isinstance(value, Mapping):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_none(item) for item in value]
    return value


def _check_text(name: str, column: str, value: Any) -> None:
    if value is None:
        raise PairError(name, f"`{column}` is missing.", "A pair needs both prompts and the completion.")
    if not isinstance(value, str):
        well_formed = isinstance(value, Sequence) and all(
            isinstance(message, Mapping) and "role" in message and "content" in message for message in value
        )
        if not well_formed:
            raise PairError(
                name,
                f"`{column}` is neither a string nor a list of messages with `role` and `content`.",
                f"Got {type(value).__name__}.",
            )
    if not text_of(value).strip():
        raise PairError(name, f"`{column}` is empty.", "Fill it in or remove the row.")


def _check_images(name: str, view: View, images: list[Any], slots: int | None, column: str) -> None:
    where = "`vision_centric_images`/`images`" if view is View.VISION_CENTRIC else "`images`"
    if not images:
        raise PairError(name, f"the {view} view has no image.", f"Give it in {where}; a pair is about an image.")
    for position, image in enumerate(images):
        if isinstance(image, Mapping):
            known = image.get("bytes") is not None or image.get("path") is not None
        else:
            known = isinstance(image, str | PathLike) or hasattr(image, "load")
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
            "Give each image one slot, in order, or write the messages with plain string contents.",
        )
