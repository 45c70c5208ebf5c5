"""Checks of a row's texts, images and labels that need the processor, and remedies for what a processor raises."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import ProcessorMixin

from ..views import ESCAPE, PairError
from .layout import Part


def check_literal_tokens(
    text: Mapping[str, Any], n_images: int, processor: ProcessorMixin, name: str, prompt_column: str | None
) -> None:
    """Refuse a text that has the processor's token of an image or a video where it stands for none.

    In strings an image token is the place of an image; in messages images are blocks, or stand before the first user
    message, so that a token in their texts is one too many.

    Args:
        text: What TRL's collator is given of the row.
        n_images: Number of images that it shows.
        processor: Of the model.
        name: Of the row in messages.
        prompt_column: What the column of the prompt is called in the dataset, if not `prompt`.
    """
    for kind in ("image", "video"):
        token = getattr(processor, f"{kind}_token", None)
        if not isinstance(token, str) or not token:
            continue
        for column, value in text.items():
            found = sum(each.count(token) for each in _texts(value))
            is_place = kind == "image" and isinstance(value, str) and column != "completion"
            if not found or (is_place and found == n_images):
                continue
            where = f"`{(prompt_column if column == 'prompt' else None) or column}`"
            if is_place:
                raise PairError(
                    name,
                    f"{where} has {found} image slot(s) ({token!r}), but the row has {n_images} image(s).",
                    f"Give each image one slot, in order. {ESCAPE}",
                )
            raise PairError(
                name,
                f"{where} has the {kind} token {token!r} in its text, where it stands for no {kind}.",
                f"Take it out: in messages, images come before the first user message or in blocks. {ESCAPE}"
                if kind == "image" and column != "completion"
                else f"Take it out. {ESCAPE}",
            )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(value.get("content") or value.get("text") or ())
    elif isinstance(value, Sequence):
        for each in value:
            yield from _texts(each)


def check_modes(images: Sequence[Any], processor: ProcessorMixin, name: str) -> None:
    """Refuse images that a processor with `do_convert_rgb=False` would take for other colours than they have."""
    if getattr(getattr(processor, "image_processor", None), "do_convert_rgb", None) is not False:
        return
    for position, image in enumerate(images):
        if image.mode not in ("RGB", "L"):
            raise PairError(
                name,
                f"image {position} has the mode {image.mode!r}, and its processor (`do_convert_rgb=False`) would read "
                "its values as colours of red, green and blue.",
                "Convert it in your dataset (`image.convert('RGB')`), or set `do_convert_rgb=True`.",
            )


def check_learnt(part: Part, names: Sequence[str], row_format: str) -> None:
    """Refuse a row of which no token is learnt: it has none, or none with a label after another token."""
    learnt = (part["labels"][:, 1:] != -100).any(1).tolist()
    if all(learnt):
        return
    name = names[learnt.index(False)]
    length = int(part["attention_mask"][learnt.index(False)].sum())
    if row_format != "document":
        raise PairError(name, "`completion` has no token.", "Fill it in or remove the row.")
    if length == 0:
        raise PairError(name, "its text has no token.", "Fill it in or remove the row.")
    raise PairError(
        name,
        f"nothing is learnt of its {length} token(s).",
        "Give it a second token, or with `assistant_only_loss` an assistant's message; or remove the row.",
    )


def remedy_of(error: Exception, rows: Sequence[Mapping[str, Any]], processor: ProcessorMixin | None = None) -> str:
    """What to do about an error of a processor, a tokenizer or a chat template, of the rows that it was given."""
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "Scale its images down, or lower the batch."
    texts = (text for row in rows for key, value in row.items() if key != "images" for text in _texts(value))
    if any("\ud800" <= char <= "\udfff" for text in texts for char in text):
        return "Its text is not valid Unicode: write it with `text.encode('utf-8', 'replace').decode()`."
    if type(error).__module__.startswith("jinja2"):
        return "The chat template does not take its messages: check their roles and their order."
    if "Invalid role" in str(error):
        return "Write its messages with these roles."
    if "_only_loss`" in str(error):  # TRL's word for rows of another form than the option is for
        return "Unset the option, or give the row in the form that it is for."
    token = getattr(processor, "image_token", None)
    if token and any(row.get("images") and _is_string_without(row, token) for row in rows):
        return (
            f"A string goes to the processor as it is, past the chat template: write {token!r} where each image "
            "belongs, or give messages, which the template writes with their images."
        )
    return "Check its images and its image slots."


def _is_string_without(row: Mapping[str, Any], token: str) -> bool:
    """Whether a row is text as it is, and has no place for an image."""
    texts = [value for key, value in row.items() if key not in ("images", "completion")]
    return any(isinstance(text, str) and token not in text for text in texts)
