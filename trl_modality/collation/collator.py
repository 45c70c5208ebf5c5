"""Rows → batch. TRL's own vision collator does the multimodal work of each view; this one pairs the views."""

import os
import threading
from typing import Any

from transformers import ProcessorMixin

from .._compat import DataCollatorForVisionLanguageModeling
from ..views import OVERLONG_POLICIES
from .groups import Rows, groups_of, with_an_image
from .merge import merge
from .overlong import Limit, fit
from .render import HostCollators, Renderer


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
        processor: Any processor with which TRL's collator can make prompt-completion batches (so not Mllama's or
            PaliGemma's); its tokenizer needs a pad token.
        max_length: Longest row in tokens. `None`: no limit.
        completion_only_loss: For plain `prompt`/`completion` rows: whether the prompt is left out of the loss.
        pad_to_multiple_of: Pads the rows to a multiple of this many tokens.
        dataset_text_field: Column of plain text rows.
        assistant_only_loss, chat_template: For plain `messages` rows, as in TRL.
        overlong: What is done with a row with images above `max_length`: `"error"`; `"drop"`, the row (with both of
            its views) is left out; `"cut_completion"`, its end is cut, by as many tokens in both views, never an
            image. A batch that would lose its last image keeps those of one row, without labels. Text-only rows are
            cut at their end as in TRL. Counts are in `ViewLayout.overlong`.

    Raises:
        PairError: a row that cannot be collated; the message names the row, the field and the remedy.
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
    ):
        if overlong not in OVERLONG_POLICIES:
            raise ValueError(f"`overlong` must be one of {', '.join(OVERLONG_POLICIES)}, got {overlong!r}.")
        self.processor = processor
        self.max_length = max_length
        self.pad_to_multiple_of = pad_to_multiple_of
        self.dataset_text_field = dataset_text_field
        self.overlong = overlong
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
    def from_host(cls, host: Any, completion_only_loss: bool, overlong: str = "error") -> "PairedCollator":
        """A paired collator with the settings of the collator that `SFTTrainer` made."""
        return cls(
            host.processor,
            max_length=host.max_length,
            completion_only_loss=completion_only_loss,
            pad_to_multiple_of=host.pad_to_multiple_of,
            dataset_text_field=host.dataset_text_field,
            assistant_only_loss=host.assistant_only_loss,
            chat_template=host.chat_template,
            overlong=overlong,
        )

    def __call__(self, rows: Rows) -> dict[str, Any]:
        """Collate rows into one batch: group → render → fit → merge."""
        rows = with_an_image(rows)
        render = Renderer(self.processor, self._hosts, self.dataset_text_field, self._lock)
        rendered = [render(rows, group) for group in groups_of(rows)]
        pad_id: Any = self.processor.tokenizer.pad_token_id
        image_ids = tuple(self.image_token_ids)
        fitted = fit(rendered, Limit(self.max_length, self.overlong, image_ids, pad_id), render.collate)
        return merge(fitted, rows, pad_id=pad_id, multiple=self.pad_to_multiple_of or 1, image_ids=image_ids)

    @property
    def image_token_ids(self) -> list[int]:
        """The tokens that stand for an image, or for a part of one."""
        # Gemma3's `image_token_id` is only what stands before the tokens of the image, which are in the plural one
        ids = {*getattr(self.processor, "image_token_ids", ()), getattr(self.processor, "image_token_id", None)}
        return sorted(ids - {None})
