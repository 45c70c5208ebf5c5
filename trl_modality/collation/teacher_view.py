"""What a teacher sees of a pair, where that is not the text_rich view: a prompt and images of its own.

A batch of pairs has its rows apart, under `TEACHER_BATCH`: a batch of their own whose rows are all of one view.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import torch
from transformers import ProcessorMixin

from ..images import PixelLimits
from ..views import (
    OWN_IMAGES,
    PAIR_PROMPTS,
    PROMPT_COLUMN,
    PairError,
    View,
    check_images,
    check_text,
    image_slots,
    images_of,
    load_images,
    without_none,
)
from .image_slots import without_image_parts, without_image_slots
from .layout import Part


class TeacherView(StrEnum):
    """What a teacher sees in place of the text_rich view."""

    TEXT_ONLY = "text_only"
    """The text_rich prompt without its images."""
    TEACHER_PROMPT = "teacher_prompt"
    """The row's own `teacher_prompt` and `teacher_images`; without `teacher_images`, the images of the pair."""


TEACHER_VIEWS = (str(View.TEXT_RICH), *map(str, TeacherView))
TEACHER_BATCH = "teacher_batch"
"""The key of what a teacher reads, in a batch of pairs."""
PROMPT, IMAGES = "teacher_prompt", "teacher_images"


def prompt_column(view: View | TeacherView) -> str | None:
    """The column of a view's prompt; `None` for rows without a pair."""
    if isinstance(view, View):
        return PROMPT_COLUMN.get(view)
    return PROMPT if view is TeacherView.TEACHER_PROMPT else PAIR_PROMPTS[0]


def teacher_row(
    row: Mapping[str, Any],
    view: TeacherView,
    name: str,
    processor: ProcessorMixin,
    loaded: Mapping[View, list[Any]],
    pixels: PixelLimits,
) -> tuple[dict[str, Any], list[Any]]:
    """The texts that a teacher is given of a valid pair, and the decoded images that it is shown.

    Args:
        row: The pair, as stored.
        view: What the teacher sees.
        name: Of the row in messages.
        processor: Of the model.
        loaded: The images that the views of the pair show. What the teacher sees too is not decoded again.
        pixels: Into which other images are scaled.

    Raises:
        PairError: names the row, the field and the remedy.
    """
    completion = without_none(row["completion"])
    if view is TeacherView.TEXT_ONLY:
        return {"prompt": _without_images(row[PAIR_PROMPTS[0]], name, processor), "completion": completion}, []
    _check_prompt(row, name)
    own = row.get(IMAGES)
    if own is not None and (not isinstance(own, Sequence) or isinstance(own, str | bytes)):
        problem = f"`{IMAGES}` is {type(own).__name__}, not a list of images."
        raise PairError(name, problem, "Put the image into a list; an empty one shows the teacher no image.")
    stored = images_of(row, View.PLAIN) if own is None else list(own)
    slots = image_slots(row[PROMPT], getattr(processor, "image_token", None))
    check_images(name, view, stored, slots, PROMPT)
    texts = {"prompt": without_none(row[PROMPT]), "completion": completion}
    for shown, images in loaded.items():
        if own is None and row.get(OWN_IMAGES[shown]) is None:
            return texts, images
    try:
        return texts, load_images({"images": stored}, View.PLAIN, name, pixels)
    except PairError as error:
        raise PairError(name, f"`{'images' if own is None else IMAGES}`: {error.problem}", error.remedy) from error


def _check_prompt(row: Mapping[str, Any], name: str) -> None:
    if row.get(PROMPT) is None:
        raise PairError(
            name,
            f"`{PROMPT}` is missing, which `teacher_view='teacher_prompt'` lets the teacher read.",
            "Fill it in, or set `teacher_view` to 'text_rich' or 'text_only'.",
        )
    check_text(name, PROMPT, row[PROMPT])
    if isinstance(row[PROMPT], str) != isinstance(row["completion"], str):
        string, other = (PROMPT, "completion") if isinstance(row[PROMPT], str) else ("completion", PROMPT)
        raise PairError(name, f"`{string}` given as a string, `{other}` as a message list.", "Use one form for both.")


def _without_images(prompt: Any, name: str, processor: ProcessorMixin) -> Any:
    if not isinstance(prompt, str):
        return without_image_parts(without_none(prompt))
    try:
        return without_image_slots(prompt, processor)
    except ValueError as error:
        raise PairError(name, "`teacher_view='text_only'` cannot take its image out.", f"{error}") from error


def check_same_completions(text: Part, teacher: Part, view: TeacherView, names: Sequence[str]) -> None:
    """The teacher must read the tokens of the pair's completion, from the first that is learnt to the end."""
    for row, name in enumerate(names):
        own, theirs = (_completion(part, row) for part in (teacher, text))
        if not all(map(torch.equal, own, theirs)):
            raise PairError(
                name,
                f"`completion` tokenizes differently after `{prompt_column(view)}` as the teacher sees it "
                f"({len(own[0])} tokens) than after `{PAIR_PROMPTS[0]}` ({len(theirs[0])}).",
                "End both prompts with the same role, or give prompts and completion as strings.",
            )


def _completion(part: Part, row: int) -> tuple[torch.Tensor, torch.Tensor]:
    length = int(part["attention_mask"][row].sum())
    ids, labels = (part[key][row, :length] for key in ("input_ids", "labels"))
    learnt = (labels != -100).nonzero()
    start = int(learnt[0]) if len(learnt) else length
    return ids[start:], labels[start:]


def with_labels_of(teacher: dict[str, Any], batch: Mapping[str, Any]) -> dict[str, Any]:
    """What a teacher reads, with the labels that its pairs have in the batch, which may have been changed since.

    Completions stand at the end of their rows, so that a label is as far from the end in either.

    Raises:
        ValueError: the teacher's rows are not those of the pairs.
    """
    layout, own = batch["view_layout"], teacher["view_layout"]
    if own.rows[View.TEXT_RICH] != layout.pairs:
        raise ValueError(
            f"`{TEACHER_BATCH}` has {own.rows[View.TEXT_RICH]} rows, the batch {layout.pairs} pairs in both views: a "
            "`data_collator` that changes which rows are in a batch has to make both."
        )
    span = layout.spans()[View.VISION_CENTRIC]
    labels = batch["labels"][span.start : span.start + layout.pairs]
    ends, own_ends = (
        torch.tensor(lengths, device=labels.device).unsqueeze(1)
        for lengths in (layout.lengths[View.VISION_CENTRIC][: layout.pairs], own.lengths[View.TEXT_RICH])
    )
    places = torch.arange(teacher["labels"].shape[1], device=labels.device)
    sources = places - own_ends + ends
    is_known = (places < own_ends) & (sources >= 0)
    found = labels.gather(1, sources.clamp(0, labels.shape[1] - 1)).masked_fill(~is_known, -100)
    return {**teacher, "labels": found}
