"""Rows → batch. TRL's own vision collator does the multimodal work of each view; this one pairs the views."""

import os
import threading
from collections.abc import Mapping
from typing import Any

from transformers import ProcessorMixin

from .._compat import DataCollatorForVisionLanguageModeling
from ..curriculum.sampler import Slot
from ..data.quarantine import Quarantine
from ..images import PixelLimits
from ..views import (
    BAD_COLUMN,
    IMAGE_COLUMNS,
    OVERLONG_POLICIES,
    PAIR_COLUMNS,
    PLAIN_COLUMNS,
    SLOT_COLUMN,
    PairError,
    View,
)
from .groups import Rows, groups_of, is_filler, shows_an_image, with_an_image
from .image_tokens import image_token_ids
from .merge import merge
from .overlong import Limit, fit, without_teacher
from .render import HostCollators, Renderer
from .teacher_view import TEACHER_BATCH, TEACHER_VIEWS, TeacherView


class ProcessLock:
    """A lock among the threads of one process; a copy, also a pickled or a forked one, is a lock of its own.

    A data loader forks or pickles its collator into workers, where a thread that held the lock does not exist.
    """

    def __init__(self):
        self._pid, self._lock = os.getpid(), threading.Lock()

    def __enter__(self) -> None:
        if self._pid != os.getpid():
            self._pid, self._lock = os.getpid(), threading.Lock()
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple:
        return ProcessLock, ()


class PairedCollator:
    """Collates pairs, plain vision rows and text-only rows into one batch.

    A pair becomes two rows, one for each view, with the same completion ids; rows without a partner follow. The batch
    holds what TRL's `DataCollatorForVisionLanguageModeling` gives (`input_ids` `[R, L]`, `attention_mask`, `labels`,
    `pixel_values`, …) and `view_layout` (`ViewLayout`), which says which rows are which view. Images that both views
    of a pair show are decoded, processed and stored once; `with_images_repeated(batch, layout)` writes them out for
    both. Pairs whose views show different images come after those whose views show the same. The labels of a pair are
    its completion; those of the other rows follow `completion_only_loss` as in TRL. Of rows with a slot of a plan
    (`SLOT_COLUMN`), only the views that the step uses are collated. Several threads may call one collator.

    Args:
        processor: Any processor with which TRL's collator can make prompt-completion batches, or PaliGemma's or
            Mllama's; its tokenizer needs a pad token.
        max_length: Longest row in tokens. `None`: no limit.
        completion_only_loss: For plain `prompt`/`completion` rows: whether the prompt is left out of the loss.
        pad_to_multiple_of: Pads the rows to a multiple of this many tokens.
        dataset_text_field: Column of plain text rows.
        assistant_only_loss, chat_template: For plain `messages` rows, as in TRL.
        overlong: What is done with a row with images above `max_length`: `"error"`; `"drop"`, the row (with both of
            its views) is left out; `"cut_completion"`, its end is cut, by as many tokens in both views, never an
            image. A batch that would lose its last image keeps those of one row, without labels. Text-only rows are
            cut at their end as in TRL. Counts are in `ViewLayout.overlong`.
        quarantine: A list that rows which cannot be collated go to: they are left out of their batch, and their number
            is in `ViewLayout.bad_rows`. A batch that loses all of its rows, or its images, gets a good row from before
            that only lends its images, without labels. `None`: such a row raises.
        max_pixels, min_pixels: Every image of every row is scaled into these before the processor has it, its aspect
            ratio kept; see `images.PixelLimits`.
        teacher_view: What a teacher sees of the pairs that are in the batch in both views: `"text_rich"`, that view;
            `"text_only"`, its prompt without its images; `"teacher_prompt"`, the columns `teacher_prompt` and
            `teacher_images` (the images of the pair where it is missing, none where it is empty). Of any but the first
            the batch has the rows, a batch of its own under `teacher_batch`: row i is that of pair i, with the same
            completion ids. `overlong` is for these rows as for both views: a row too long in any of the three is
            refused, left out or cut in all.

    Raises:
        PairError: a row that cannot be collated; the message names the row, the field and the remedy. With a
            `quarantine`, where all rows of a batch are bad and none was good before.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        max_length: int | None = None,
        completion_only_loss: bool = True,
        pad_to_multiple_of: int | None = None,
        dataset_text_field: str = "text",
        assistant_only_loss: bool = False,
        chat_template: str | None = None,
        overlong: str = "error",
        quarantine: Quarantine | None = None,
        max_pixels: int | None = None,
        min_pixels: int | None = None,
        teacher_view: str = "text_rich",
    ):
        if teacher_view not in TEACHER_VIEWS:
            raise ValueError(f"`teacher_view` must be one of {', '.join(TEACHER_VIEWS)}, got {teacher_view!r}.")
        if overlong not in OVERLONG_POLICIES:
            raise ValueError(f"`overlong` must be one of {', '.join(OVERLONG_POLICIES)}, got {overlong!r}.")
        self.processor = processor
        self.max_length = max_length
        self.pad_to_multiple_of = pad_to_multiple_of
        self.dataset_text_field = dataset_text_field
        self.overlong = overlong
        self.quarantine = quarantine
        self.teacher_view = teacher_view
        self.pixels = PixelLimits(max_pixels, min_pixels).check()
        self._stand_in: Mapping[str, Any] | None = None
        # Lengths are judged here, with the row at hand: TRL's collator cuts without a word
        host = {"max_length": None, "dataset_text_field": dataset_text_field}
        self._hosts = HostCollators(
            pair=DataCollatorForVisionLanguageModeling(processor, **host, completion_only_loss=True),
            completion=DataCollatorForVisionLanguageModeling(
                processor, **host, completion_only_loss=completion_only_loss
            ),
            document=DataCollatorForVisionLanguageModeling(
                processor, **host, assistant_only_loss=assistant_only_loss, chat_template=chat_template
            ),
        )
        self._lock = ProcessLock()

    @classmethod
    def from_host(
        cls,
        host: Any,
        completion_only_loss: bool,
        overlong: str = "error",
        quarantine: Quarantine | None = None,
        pixels: PixelLimits | None = None,
        teacher_view: str = "text_rich",
    ) -> "PairedCollator":
        """A paired collator with the settings of the collator that `SFTTrainer` made."""
        # Not named where it is not used: a class of the user's may have no such argument
        more: Any = {} if teacher_view == View.TEXT_RICH else {"teacher_view": teacher_view}
        return cls(
            host.processor,
            max_length=host.max_length,
            completion_only_loss=completion_only_loss,
            pad_to_multiple_of=host.pad_to_multiple_of,
            dataset_text_field=host.dataset_text_field,
            assistant_only_loss=host.assistant_only_loss,
            chat_template=host.chat_template,
            overlong=overlong,
            quarantine=quarantine,
            **(pixels or PixelLimits()).set_ones,
            **more,
        )

    def __call__(self, rows: Rows) -> dict[str, Any]:
        """Collate rows into one batch: group → render → fit → merge."""
        unread = next((row[BAD_COLUMN] for row in rows if row.get(BAD_COLUMN) is not None), None)
        if self.quarantine is None and unread is not None:
            raise unread
        if self.quarantine is None:
            return self.collate_or_raise(rows)
        try:
            if unread is None:
                return self.collate_or_raise(rows)
        except PairError:
            pass  # found below, among all rows that are bad
        return self._without_bad_rows(rows, self.quarantine)

    def _without_bad_rows(self, rows: Rows, quarantine: Quarantine) -> dict[str, Any]:
        """Collate a batch with bad rows in it, which stay in their places, marked by their error."""
        marked = [{**row, BAD_COLUMN: self._why_bad(row)} for row in rows]
        bad = [row for row in marked if row[BAD_COLUMN] is not None and not is_filler(row)]
        for row in bad:
            quarantine.add(row, row[BAD_COLUMN])
        good = [row for row in marked if row[BAD_COLUMN] is None]
        if self._stand_in is not None:
            slot = next((row[SLOT_COLUMN] for row in rows if row.get(SLOT_COLUMN) is not None), None)
            slot = slot or Slot(0, False, (), (), None)
            lent = {**self._stand_in, SLOT_COLUMN: slot._replace(views=(), cross_entropy_views=())}
            # A batch of text alone stays one; of weights without a gradient an optimizer thinks otherwise than of 0
            if not good or (shows_an_image(lent) and any(_may_show_an_image(row) for row in bad)):
                marked.append(lent)
                good.append(lent)
        if not good:
            raise PairError(
                bad[0][BAD_COLUMN].row,
                f"it is bad, like all {len(bad)} row(s) of its batch, and no row was good before it: "
                f"{bad[0][BAD_COLUMN].problem}",
                "Mend the first rows, or let `check_rows` find a good one.",
            )
        return self.collate_or_raise(marked)

    def _why_bad(self, row: Mapping[str, Any]) -> PairError | None:
        if row.get(BAD_COLUMN) is not None:
            return row[BAD_COLUMN]
        try:
            self.collate_or_raise([row])
        except PairError as error:
            return error
        return None

    def collate_or_raise(self, rows: Rows) -> dict[str, Any]:
        """Collate rows into one batch; a bad row raises, also where there is a quarantine."""
        batch = self._collate(rows)
        if self.quarantine is not None and (self._stand_in is None or not shows_an_image(self._stand_in)):
            good = [row for row in rows if row.get(BAD_COLUMN) is None]
            self._stand_in = next((row for row in good if shows_an_image(row)), next(iter(good), None))
        return batch

    def _collate(self, rows: Rows) -> dict[str, Any]:
        rows = with_an_image(rows)
        view = TeacherView(self.teacher_view) if self.teacher_view != View.TEXT_RICH else None
        render = Renderer(self.processor, self._hosts, self.dataset_text_field, self.pixels, self._lock, view)
        rendered = [render(rows, group) for group in groups_of(rows)]
        pad_id: Any = self.processor.tokenizer.pad_token_id
        image_ids = tuple(self.image_token_ids)
        fitted = fit(rendered, Limit(self.max_length, self.overlong, image_ids, pad_id), render.collate)
        fitted, taught = without_teacher(fitted)
        options = {"pad_id": pad_id, "multiple": self.pad_to_multiple_of or 1, "image_ids": image_ids}
        batch = merge(fitted, rows, **options)
        return batch | {TEACHER_BATCH: merge(taught, rows, **options)} if taught.groups else batch

    @property
    def image_token_ids(self) -> list[int]:
        """The tokens that stand for an image, or for a part of one."""
        return image_token_ids(self.processor)


def _may_show_an_image(row: Mapping[str, Any]) -> bool:
    """Whether a bad row may have one; of a row that could not be read nobody knows."""
    known = {name for name in (*PLAIN_COLUMNS, *PAIR_COLUMNS) if row.get(name) is not None}
    return not known or bool({*IMAGE_COLUMNS} & known and any(row.get(name) for name in IMAGE_COLUMNS))
