"""Rows → batch. TRL's own vision collator does the multimodal work of each view; this one pairs the views."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from transformers import ProcessorMixin

from .._compat import DataCollatorForVisionLanguageModeling
from ..views import (
    PROMPT_COLUMN,
    PairError,
    View,
    describe_row,
    images_of,
    load_images,
    validate_pair,
    without_none,
)
from .groups import Group, Rows, groups_of, learns_in, without_fillers
from .image_cache import with_cached_images
from .image_tokens import with_collapsed_image_tokens
from .layout import TOKEN_FILL, Part, ViewLayout, shared_prefix
from .overlong import IMAGES_ONLY, POLICIES, Limit, fit


class Collated(NamedTuple):
    """What the host made of a group, checked and of the right length."""

    positions: tuple[int, ...]
    """Of the rows that are left."""
    parts: dict[View, Part]
    shared_entries: dict[str, int] = {}
    """See `ViewLayout.shared_entries`."""
    n_dropped: int = 0
    n_cut: int = 0


class PairedCollator:
    """Collates pairs, plain vision rows and text-only rows into one batch.

    A pair becomes two rows, one for each view, with the same completion ids; rows without a partner follow. The batch
    holds what TRL's `DataCollatorForVisionLanguageModeling` gives (`input_ids` `[R, L]`, `attention_mask`, `labels`,
    `pixel_values`, …) and `view_layout` (`ViewLayout`), which says which rows are which view. The images that both
    views of a pair show are decoded, processed and stored once; `with_images_repeated(batch, layout)` writes them out
    for both. Pairs that show different images come after those that do not. The labels of a pair are its completion;
    those of the other rows follow `completion_only_loss` as in TRL. Of rows that a plan has marked (`SLOT_COLUMN`),
    only the views that the step uses are collated.

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
            image. Of a batch that loses all its rows the images of one are left, without labels. Text-only rows are
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
        if overlong not in POLICIES:
            raise ValueError(f"`overlong` must be one of {', '.join(POLICIES)}, got {overlong!r}.")
        self.processor = processor
        self.max_length = max_length
        self.pad_to_multiple_of = pad_to_multiple_of
        self.dataset_text_field = dataset_text_field
        self.overlong = overlong
        # Lengths are ours to judge, with the row at hand: the host cuts silently
        host = {"max_length": None, "dataset_text_field": dataset_text_field}
        self._collate_pairs = DataCollatorForVisionLanguageModeling(processor, **host, completion_only_loss=True)
        self._collate_completions = DataCollatorForVisionLanguageModeling(
            processor, **host, completion_only_loss=completion_only_loss
        )
        self._collate_documents = DataCollatorForVisionLanguageModeling(
            processor, **host, assistant_only_loss=assistant_only_loss, chat_template=chat_template
        )

    @classmethod
    def from_host(
        cls, host: DataCollatorForVisionLanguageModeling, completion_only_loss: bool, overlong: str = "error"
    ) -> "PairedCollator":
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
        """Collate rows into one batch."""
        rows, fillers = without_fillers(rows)
        # For this batch alone: it holds its images, and the processor may be changed at any time
        self._collate_pairs.processor = with_cached_images(with_collapsed_image_tokens(self.processor))
        try:
            batch = self._collate(rows or fillers[:1], self._limit(self.overlong))
            if fillers and batch is not None and batch.keys() <= {*TOKEN_FILL, "view_layout"}:
                batch = self._collate([*rows, fillers[0]], self._limit(self.overlong))
            if batch is None:
                # Every rank has its batch, with images, and learns nothing from this one
                kept = next((row for row in (*rows, *fillers) if images_of(row, View.TEXT_RICH)), rows[0])
                batch = self._collate([kept], self._limit(IMAGES_ONLY))
                assert batch is not None
                batch["view_layout"] = replace(batch["view_layout"], overlong={"dropped": len(rows), "cut": 0})
            return batch
        finally:
            self._collate_pairs.processor = self.processor

    def _collate(self, rows: Rows, limit: Limit) -> dict[str, Any] | None:
        """The batch, or `None` where every row is dropped."""
        groups = [self._collate_group(rows, group, limit) for group in groups_of(rows)]
        collated = [group for group in groups if group.parts]
        if not collated:
            return None
        parts = [(view, group.parts[view]) for view in View for group in collated if view in group.parts]
        batch, layout = self._merge(parts)
        examples = {
            view: tuple(i for group in collated if view in group.parts for i in group.positions)
            for view in layout.rows
        }
        sharing = next((group for group in collated if group.shared_entries), None)
        batch["view_layout"] = replace(
            layout,
            examples=examples,
            learns={view: tuple(learns_in(rows[i], view) for i in positions) for view, positions in examples.items()},
            pairs=sum(len(group.positions) for group in collated if len(group.parts) > 1),
            prefixes=tuple(prefix for group in collated for prefix in self._prefixes(group)),
            shared_entries={} if sharing is None else sharing.shared_entries,
            sharing_pairs=0 if sharing is None else len(sharing.positions),
            overlong={
                "dropped": sum(group.n_dropped for group in groups),
                "cut": sum(group.n_cut for group in groups),
            },
        )
        return batch

    def _host(self, group: Group) -> DataCollatorForVisionLanguageModeling:
        hosts = {"completion": self._collate_completions, "document": self._collate_documents}
        return hosts.get(group.form, self._collate_pairs)

    def _collate_group(self, rows: Rows, group: Group, limit: Limit) -> Collated:
        """The host's work on some rows, checked."""
        names = [describe_row(rows[i]) for i in group.positions]
        limit = limit if group.learns else self._limit(IMAGES_ONLY)
        host_rows = self._host_rows(rows, group, names)
        parts = {}
        for view, of_view in host_rows.items():
            parts[view] = _collate_naming_rows(self._host(group), of_view, names, view)
            self._check_image_tokens(parts[view], of_view, names, PROMPT_COLUMN.get(view, "the text"))
        if len(parts) > 1:
            _check_pairs(parts[View.TEXT_RICH], parts[View.VISION_CENTRIC], names)
        has_images = [bool(row["images"]) for row in host_rows[group.views[0]]]
        fitted = fit(list(parts.values()), group.views, names, has_images, limit)
        if fitted.dropped:
            kept = tuple(position for i, position in enumerate(group.positions) if i not in fitted.dropped)
            if not kept:
                return Collated((), {}, n_dropped=len(fitted.dropped))
            again = self._collate_group(rows, group._replace(positions=kept), limit)
            return again._replace(n_dropped=len(fitted.dropped))
        parts = dict(zip(parts, fitted.parts, strict=True))
        shared: dict[str, int] = {}
        if group.shares_images:
            shared = {key: len(value) for key, value in parts[View.TEXT_RICH].items() if key not in TOKEN_FILL}
            vision = parts[View.VISION_CENTRIC]
            parts[View.VISION_CENTRIC] = {key: value for key, value in vision.items() if key not in shared}
        return Collated(group.positions, parts, shared, n_cut=fitted.n_cut)

    def _host_rows(self, rows: Rows, group: Group, names: list[str]) -> dict[View, list[dict]]:
        """What the host's collator is given for each view."""
        host_rows: dict[View, list[dict]] = {view: [] for view in group.views}
        for i, name in zip(group.positions, names, strict=True):
            row, images = rows[i], None
            if group.form == "pair":
                validate_pair(row, name=name, image_token=getattr(self.processor, "image_token", None))
            for view in group.views:
                # The same objects for both views where they are the same images: see `CachedImageProcessor`
                if images is None or not group.shares_images:
                    images = load_images(row, view, name=name)
                host_rows[view].append({**self._text(row, view, name), "images": images})
        return host_rows

    def _text(self, row: Mapping[str, Any], view: View, name: str) -> dict[str, Any]:
        if view in PROMPT_COLUMN:
            return {
                "prompt": without_none(row[PROMPT_COLUMN[view]]),
                "completion": without_none(row["completion"]),
            }
        fields = ("prompt", "completion", "messages", self.dataset_text_field)
        text = {field: without_none(row[field]) for field in fields if row.get(field) is not None}
        if not {"messages", self.dataset_text_field} & set(text) and set(text) != {"prompt", "completion"}:
            raise PairError(
                name,
                f"neither a pair nor a plain row: it has {sorted(text) or 'no text column'}.",
                "Give both view prompts, or `prompt` and `completion`, or `messages`, or "
                f"`{self.dataset_text_field}`.",
            )
        return text

    def _prefixes(self, group: Collated) -> list[int]:
        """See `ViewLayout.prefixes`."""
        if len(group.parts) < 2:
            return []
        text, vision = group.parts[View.TEXT_RICH], group.parts[View.VISION_CENTRIC]
        image_ids = text["input_ids"].new_tensor(self.image_token_ids)
        prefixes = []
        for i in range(len(group.positions)):
            first, second = (part["input_ids"][i][part["attention_mask"][i].bool()] for part in (text, vision))
            prefix = shared_prefix(first, second)
            if not group.shared_entries:
                images = torch.isin(first[:prefix], image_ids).nonzero()
                prefix = int(images[0]) if len(images) else prefix
            prefixes.append(prefix)
        return prefixes

    def _limit(self, policy: str) -> Limit:
        pad_id: Any = self.processor.tokenizer.pad_token_id
        return Limit(self.max_length, policy, tuple(self.image_token_ids), pad_id)

    @property
    def image_token_ids(self) -> list[int]:
        """The tokens that stand for an image, or for a part of one."""
        # Gemma3's `image_token_id` is only what stands before the tokens of the image, which are in the plural one
        ids = {*getattr(self.processor, "image_token_ids", ()), getattr(self.processor, "image_token_id", None)}
        return sorted(ids - {None})

    def _check_image_tokens(self, part: Part, rows: list[dict], names: list[str], column: str) -> None:
        """Images and image tokens come together, or the model fails (or worse: does not) much later."""
        image_token_id = getattr(self.processor, "image_token_id", None)
        if image_token_id is None:
            return
        has_token = (part["input_ids"] == image_token_id).any(1).tolist()
        for row, name, found in zip(rows, names, has_token, strict=True):
            if row["images"] and not found:
                raise PairError(
                    name,
                    f"{column} has no image slot, but the row has {len(row['images'])} image(s).",
                    f"Put {getattr(self.processor, 'image_token', 'the image token')!r} where each image belongs.",
                )
            if found and not row["images"]:
                raise PairError(
                    name, f"{column} has an image slot, but the row has no image.", "Give the image or drop the slot."
                )

    def _merge(self, parts: list[tuple[View, Part]]) -> tuple[dict[str, Any], ViewLayout]:
        """Concatenate the parts of a batch, padding what differs in length (or in image size) with its filler."""
        views = list(dict.fromkeys(view for view, _ in parts))
        multiple = self.pad_to_multiple_of or 1
        tokens = {
            view: -(-max(p["input_ids"].shape[1] for v, p in parts if v is view) // multiple) * multiple
            for view in views
        }
        keys = list(dict.fromkeys(key for _, part in parts for key in part))
        batch: dict[str, Any] = {}
        entries: dict[str, dict[View, int]] = {}
        for key in keys:
            pieces = [(view, _token_tensor(key, part)) for view, part in parts if key in part or key in TOKEN_FILL]
            fill = TOKEN_FILL.get(key, 0)
            fill = self.processor.tokenizer.pad_token_id if fill is None else fill
            shape = list(map(max, zip(*(piece.shape[1:] for _, piece in pieces), strict=True)))
            if key in TOKEN_FILL:
                shape[0] = max(tokens.values())
            padded = [_pad_to(piece, shape, fill) for _, piece in pieces]
            # Images are large: what is whole already is not copied
            batch[key] = padded[0] if len(padded) == 1 else torch.cat(padded)
            entries[key] = {view: sum(len(piece) for v, piece in pieces if v is view) for view in views}
        rows = entries["input_ids"]
        lengths = {view: [p["attention_mask"].sum(1) for v, p in parts if v is view] for view in views}
        layout = ViewLayout(
            rows=dict(rows),
            tokens=tokens,
            entries=entries,
            lengths={view: tuple(torch.cat(each).tolist()) for view, each in lengths.items()},
        )
        return batch, layout


def _collate_naming_rows(host: Callable, rows: list[dict], names: list[str], view: View) -> Part:
    """Call the host's collator; if it fails, find the row that makes it fail and name it."""
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
                    "Check its images and its image slots.",
                ) from row_error
        raise error  # every row alone is fine: it is their combination


def _check_pairs(text: Part, vision: Part, names: list[str]) -> None:
    if "cross_attention_mask" in text:
        raise PairError(
            names[0],
            "its processor is for a model with cross-attention to its images, whose mask TRL's collator makes for the "
            "prompt alone.",
            "Train a model that reads its images as tokens of the row.",
        )
    for row, name in enumerate(names):
        ids = [part["labels"][row][part["labels"][row] != -100] for part in (text, vision)]
        if not torch.equal(*ids):
            raise PairError(
                name,
                f"`completion` tokenizes differently in the two views ({len(ids[0])} and {len(ids[1])} tokens): the "
                "chat template renders it differently after the two prompts.",
                "End both prompts with the same role, or give prompts and completion as strings.",
            )
        if not len(ids[0]):
            raise PairError(name, "`completion` has no token.", "Fill it in or remove the row.")


def _token_tensor(key: str, part: Part) -> torch.Tensor:
    """The part's tensor; a token tensor that only other parts have (such as `mm_token_type_ids`) is zero here."""
    return part[key] if key in part else torch.zeros_like(part["input_ids"])


def _pad_to(tensor: torch.Tensor, shape: list[int], fill: int) -> torch.Tensor:
    """Pad every dimension but the first at its end; processors pad image patches and counts the same way."""
    missing = [want - have for have, want in zip(tensor.shape[1:], shape, strict=True)]
    if not any(missing):
        return tensor
    return F.pad(tensor, [pad for amount in reversed(missing) for pad in (0, amount)], value=fill)
