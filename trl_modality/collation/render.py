"""The rows of a group as TRL's collator makes them, view by view, and checked."""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from transformers import ProcessorMixin

from .._compat import DataCollatorForVisionLanguageModeling
from ..images import PixelLimits
from ..views import (
    ESCAPE,
    PairError,
    View,
    describe_row,
    load_images,
    validate_pair,
    validate_plain,
    without_none,
)
from .groups import Group, Rows
from .image_cache import with_cached_images
from .image_tokens import image_token_ids, with_collapsed_image_tokens
from .layout import OF_ROWS, TOKEN_FILL, Part
from .prompt_processors import for_prompts_and_completions
from .row_checks import check_learnt, check_literal_tokens, check_modes, remedy_of
from .teacher_view import TeacherView, check_same_completions, prompt_column, teacher_row
from .turns import mask_other_turns


class BatchError(ValueError):
    """Rows that can be collated one by one, but not together."""

    def __init__(self, rows: str, reason: str, remedy: str):
        super().__init__(f"these rows cannot be collated together, though each of them can: {rows} {reason}. {remedy}")
        self._parts = (rows, reason, remedy)

    def __reduce__(self) -> tuple:
        return type(self), self._parts


class HostCollators(NamedTuple):
    """TRL's collators, by the format of the rows that they are given."""

    pair: DataCollatorForVisionLanguageModeling
    completion: DataCollatorForVisionLanguageModeling
    document: DataCollatorForVisionLanguageModeling


class Rendered(NamedTuple):
    """A group of rows, collated in each of its views."""

    group: Group
    names: tuple[str, ...]
    """Names of the rows in messages."""
    host_rows: dict[View | TeacherView, list[dict[str, Any]]]
    """What TRL's collator was given: text, and decoded images. Pairs in both views may have a teacher's view too."""
    parts: dict[View | TeacherView, Part]
    """What it made of them. Of images that both views show, the vision_centric part has no tensors."""

    def n_images(self, view: View | TeacherView) -> list[int]:
        """The number of images that each row shows in a view."""
        return [len(row["images"]) for row in self.host_rows[view]]

    @property
    def has_images(self) -> list[bool]:
        """Whether each row shows an image in one of its views."""
        return [any(each) for each in zip(*map(self.n_images, self.group.views), strict=True)]

    def selected(self, kept: Sequence[int]) -> "Rendered":
        """Some of the rows; `parts` is still that of all."""
        positions = tuple(self.group.positions[i] for i in kept)
        return self._replace(
            group=self.group._replace(positions=positions),
            names=tuple(self.names[i] for i in kept),
            host_rows={view: [rows[i] for i in kept] for view, rows in self.host_rows.items()},
        )


class Renderer:
    """Loads the images of a batch once and collates its groups; made anew for every batch.

    Args:
        processor: Of the model.
        hosts: TRL's collators with that processor.
        text_field: Column of plain text rows.
        pixels: Into which images are scaled.
        lock: Held while the processor works: tokenizers keep how they pad as a state of their own.
        teacher_view: What a teacher sees of pairs, if that is not the text_rich view.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        hosts: HostCollators,
        text_field: str,
        pixels: PixelLimits,
        lock: AbstractContextManager[Any],
        teacher_view: TeacherView | None = None,
    ):
        # A copy for this batch alone, since it remembers images, and the processor may be changed between batches
        pair, completion, document = map(copy.copy, hosts)
        callable_one = for_prompts_and_completions(processor)
        pair.processor = with_cached_images(with_collapsed_image_tokens(callable_one))
        completion.processor = callable_one
        document.processor = for_prompts_and_completions(processor, is_for_conversations=True)
        self._hosts = HostCollators(pair, completion, document)
        self._processor, self._text_field, self._pixels, self._lock = processor, text_field, pixels, lock
        self._teacher_view = teacher_view

    def __call__(self, rows: Rows, group: Group) -> Rendered:
        """Collate the rows of a group.

        Raises:
            PairError: a row that cannot be collated.
        """
        names = tuple(describe_row(rows[i]) for i in group.positions)
        return self.collate(Rendered(group, names, self._host_rows(rows, group, names), {}))

    def collate(self, rendered: Rendered) -> Rendered:
        """Make the parts of rows whose images are loaded."""
        group, names, host_rows, _ = rendered
        parts: dict[View | TeacherView, Part] = {}
        for view, rows in host_rows.items():
            parts[view] = self._collate_naming_rows(getattr(self._hosts, group.row_format), rows, names, view)
            self._check_image_tokens(parts[view], rows, names, prompt_column(view) or "the text")
            if prompt_column(view) is not None:
                mask_other_turns(parts[view], rows, names, self._processor)
            check_learnt(parts[view], names, group.row_format)
        if len(parts) > 1:
            _check_completions(parts[View.TEXT_RICH], parts[View.VISION_CENTRIC], names)
            if self._teacher_view is not None and self._teacher_view in parts:
                check_same_completions(parts[View.TEXT_RICH], parts[self._teacher_view], self._teacher_view, names)
        if group.shares_images:
            vision = parts[View.VISION_CENTRIC]
            parts[View.VISION_CENTRIC] = {
                key: value for key, value in vision.items() if key in TOKEN_FILL or key in OF_ROWS
            }
        return rendered._replace(parts=parts)

    def _host_rows(self, rows: Rows, group: Group, names: Sequence[str]) -> dict[View | TeacherView, list[dict]]:
        """What TRL's collator is given for each view."""
        host_rows: dict[View | TeacherView, list[dict]] = {view: [] for view in group.views}
        for i, name in zip(group.positions, names, strict=True):
            row, images, loaded = rows[i], None, {}
            if group.row_format == "pair":
                validate_pair(row, name=name, image_token=getattr(self._processor, "image_token", None))
            else:
                validate_plain(row, name, self._text_field)
            for view in group.views:
                # The same objects for both views where they are the same images: see `CachedImageProcessor`
                if images is None or not group.shares_images:
                    images = load_images(row, view, name, self._pixels)
                    check_modes(images, self._processor, name)
                loaded[view] = images
                text = self._text(row, view)
                check_literal_tokens(text, len(images), self._processor, name, prompt_column(view))
                host_rows[view].append({**text, "images": images})
            if self._teacher_view is not None and len(group.views) > 1:
                host_rows.setdefault(self._teacher_view, []).append(self._teacher_row(row, name, loaded))
        return host_rows

    def _teacher_row(self, row: Mapping[str, Any], name: str, loaded: Mapping[View, list[Any]]) -> dict[str, Any]:
        assert self._teacher_view is not None
        text, images = teacher_row(row, self._teacher_view, name, self._processor, loaded, self._pixels)
        check_modes(images, self._processor, name)
        check_literal_tokens(text, len(images), self._processor, name, prompt_column(self._teacher_view))
        return {**text, "images": images}

    def _text(self, row: Mapping[str, Any], view: View) -> dict[str, Any]:
        column = prompt_column(view)
        if column is not None:
            return {"prompt": without_none(row[column]), "completion": without_none(row["completion"])}
        fields = ("prompt", "completion", "messages", self._text_field)
        return {field: without_none(row[field]) for field in fields if row.get(field) is not None}

    def _collate_naming_rows(
        self, host: Callable[[list[dict]], Mapping], rows: list[dict], names: Sequence[str], view: str
    ) -> Part:
        """Call TRL's collator; if it fails, find the row that makes it fail and name it."""
        with self._lock:
            try:
                return dict(host([dict(row) for row in rows]))
            except Exception as error:
                for row, name in zip(rows, names, strict=True):
                    try:
                        host([dict(row)])
                    except Exception as row_error:
                        raise PairError(
                            name,
                            f"the processor cannot collate its {view} view ({type(row_error).__name__}: {row_error}).",
                            remedy_of(row_error, [row], self._processor),
                        ) from row_error
                # Every row alone is fine: it is their combination
                raise BatchError(
                    "; ".join(names), f"({type(error).__name__}: {error})", remedy_of(error, rows, self._processor)
                ) from error

    def _check_image_tokens(self, part: Part, rows: list[dict], names: Sequence[str], column: str) -> None:
        """Images and image tokens come together, or the model fails (or worse: does not) much later."""
        image_token_id = getattr(self._processor, "image_token_id", None)
        if image_token_id is None:
            return
        has_slot = (part["input_ids"] == image_token_id).any(1).tolist()
        ids = part["input_ids"].new_tensor(image_token_ids(self._processor))
        has_token = torch.isin(part["input_ids"], ids).any(1).tolist()
        for row, name, found, has_any in zip(rows, names, has_slot, has_token, strict=True):
            if row["images"] and not has_any:
                raise PairError(name, *_no_image_token(row, column, self._processor))
            if found and not row["images"]:
                raise PairError(
                    name,
                    f"{column} has an image slot, but the row has no image.",
                    f"Give the image or drop the slot. {ESCAPE}",
                )


def _no_image_token(row: Mapping[str, Any], column: str, processor: ProcessorMixin) -> tuple[str, str]:
    """The problem and the remedy of a row with images and without a token of them."""
    n_images, token = len(row["images"]), getattr(processor, "image_token", "the image token")
    if isinstance(row.get("messages", row.get("prompt", "")), str):
        return (
            f"{column} has no image slot, but the row has {n_images} image(s).",
            f"Put {token!r} where each image belongs.",
        )
    sizes = ", ".join(f"{image.width} x {image.height}" for image in row["images"])
    return (
        f"{column} has no image token, but the row has {n_images} image(s) (of {sizes} pixels).",
        "Its image may be smaller than a patch of the processor: scale it up. Or the chat template leaves out blocks "
        "of type 'image': use the template of a model with images.",
    )


def _check_completions(text: Part, vision: Part, names: Sequence[str]) -> None:
    """Both views of a pair must have the same completion ids, one at least."""
    for row, name in enumerate(names):
        ids = [part["labels"][row][part["labels"][row] != -100] for part in (text, vision)]
        if not torch.equal(*ids):
            raise PairError(
                name,
                f"`completion` tokenizes differently in the two views ({len(ids[0])} and {len(ids[1])} tokens): the "
                "chat template renders it differently after the two prompts.",
                "End both prompts with the same role, or give prompts and completion as strings.",
            )
