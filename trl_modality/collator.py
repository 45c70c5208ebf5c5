"""Rows → batch. TRL's own vision collator does the multimodal work of each view; this one pairs the views."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

import torch
import torch.nn.functional as F
from transformers import ProcessorMixin
from transformers.utils import logging

from ._compat import DataCollatorForVisionLanguageModeling
from .batch import TOKEN_FILL, Part, ViewLayout, shared_prefix
from .views import PROMPT_COLUMN, PairError, View, describe_row, is_pair, load_images, validate_pair


logger = logging.get_logger(__name__)

Rows = Sequence[Mapping[str, Any]]


class PairedCollator:
    """Collates pairs, plain vision rows and text-only rows into one batch.

    A pair becomes two rows, one for each view, with the same completion ids; rows without a partner follow. The batch
    holds what TRL's `DataCollatorForVisionLanguageModeling` gives (`input_ids` `[R, L]`, `attention_mask`, `labels`,
    `pixel_values`, …) and `view_layout` (`ViewLayout`), which says which rows are which view. The labels of a pair are
    its completion; those of the other rows follow `completion_only_loss` as in TRL.

    Args:
        processor: Any processor with which TRL's collator can make prompt-completion batches (so not Mllama's or
            PaliGemma's); its tokenizer needs a pad token.
        max_length: Longest row in tokens. A pair above it is an error (cutting would misalign its views); a plain row
            is cut at the end as TRL does, with one warning, unless that would cut an image. `None`: no limit.
        completion_only_loss: For plain `prompt`/`completion` rows: whether the prompt is left out of the loss.
        pad_to_multiple_of: Pads the rows to a multiple of this many tokens.
        dataset_text_field: Column of plain text rows.
        assistant_only_loss, chat_template: For plain `messages` rows, as in TRL.

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
    ):
        self.processor = processor
        self.max_length = max_length
        self.pad_to_multiple_of = pad_to_multiple_of
        self.dataset_text_field = dataset_text_field
        # Lengths are ours to judge, with the row at hand: the host cuts silently
        host = {"processor": processor, "max_length": None, "dataset_text_field": dataset_text_field}
        self._collate_pairs = DataCollatorForVisionLanguageModeling(**host, completion_only_loss=True)
        self._collate_completions = DataCollatorForVisionLanguageModeling(
            **host, completion_only_loss=completion_only_loss
        )
        self._collate_documents = DataCollatorForVisionLanguageModeling(
            **host, assistant_only_loss=assistant_only_loss, chat_template=chat_template
        )

    @classmethod
    def from_host(cls, host: DataCollatorForVisionLanguageModeling, completion_only_loss: bool) -> "PairedCollator":
        """A paired collator with the settings of the collator that `SFTTrainer` made."""
        return cls(
            host.processor,
            max_length=host.max_length,
            completion_only_loss=completion_only_loss,
            pad_to_multiple_of=host.pad_to_multiple_of,
            dataset_text_field=host.dataset_text_field,
            assistant_only_loss=host.assistant_only_loss,
            chat_template=host.chat_template,
        )

    def __call__(self, rows: Rows) -> dict[str, Any]:
        """Collate rows into one batch."""
        positions = {kind: [i for i, row in enumerate(rows) if is_pair(row) is kind] for kind in (True, False)}
        parts: list[tuple[View, Part]] = []
        prefixes: tuple[int, ...] = ()
        if positions[True]:
            text, vision = self._pair_parts([rows[i] for i in positions[True]])
            parts += [(View.TEXT_RICH, text), (View.VISION_CENTRIC, vision)]
            prefixes = self._prefixes([rows[i] for i in positions[True]], text, vision)
        plain_parts, order = self._plain_parts([rows[i] for i in positions[False]])
        parts += [(View.PLAIN, part) for part in plain_parts]
        batch = self._merge(parts)
        pairs = tuple(positions[True])
        plain = tuple(positions[False][i] for i in order)
        examples = {View.TEXT_RICH: pairs, View.VISION_CENTRIC: pairs, View.PLAIN: plain}
        layout = batch["view_layout"]
        batch["view_layout"] = replace(
            layout, examples={view: examples[view] for view in layout.rows}, prefixes=prefixes
        )
        return batch

    def _pair_parts(self, rows: Rows) -> tuple[Part, Part]:
        """The two views of the pairs, each collated by the host, with completions checked to be the same ids."""
        names = [describe_row(row) for row in rows]
        image_token = getattr(self.processor, "image_token", None)
        parts = []
        for view, column in PROMPT_COLUMN.items():
            host_rows = []
            for row, name in zip(rows, names, strict=True):
                validate_pair(row, name=name, image_token=image_token)
                host_rows.append(
                    {
                        "prompt": _without_none(row[column]),
                        "completion": _without_none(row["completion"]),
                        "images": load_images(row, view, name=name),
                    }
                )
            part = _collate_naming_rows(self._collate_pairs, host_rows, names, view)
            if "cross_attention_mask" in part:
                raise PairError(
                    names[0],
                    f"{type(self.processor).__name__} is for a model with cross-attention to its images, whose mask "
                    "TRL's collator makes for the prompt alone.",
                    "Train a model that reads its images as tokens of the row.",
                )
            self._check_image_tokens(part, host_rows, names, column)
            self._check_length(part, names, view)
            parts.append(part)
        text, vision = parts
        _check_alignment(text, vision, names)
        return text, vision

    def _prefixes(self, rows: Rows, text: Part, vision: Part) -> tuple[int, ...]:
        """See `ViewLayout.prefixes`."""
        image_ids = text["input_ids"].new_tensor(self._image_ids())
        prefixes = []
        for i, row in enumerate(rows):
            first, second = (part["input_ids"][i][part["attention_mask"][i].bool()] for part in (text, vision))
            prefix = shared_prefix(first, second)
            shows_others = row.get("vision_centric_images") is not None
            if shows_others or torch.isin(second[prefix:], image_ids).any():
                return ()
            prefixes.append(prefix)
        return tuple(prefixes)

    def _image_ids(self) -> list[int]:
        # Gemma3's `image_token_id` is only what stands before the tokens of the image, which are in the plural one
        ids = {*getattr(self.processor, "image_token_ids", ()), getattr(self.processor, "image_token_id", None)}
        return sorted(ids - {None})

    def _plain_parts(self, rows: Rows) -> tuple[list[Part], list[int]]:
        """Rows without a partner: prompt-completion rows, then whole documents, each as the host collates them.

        Also returns which row each row of the parts is.
        """
        completions: tuple[Any, list[dict], list[int]] = (self._collate_completions, [], [])
        documents: tuple[Any, list[dict], list[int]] = (self._collate_documents, [], [])
        for position, row in enumerate(rows):
            name = describe_row(row)
            fields = ("prompt", "completion", "messages", self.dataset_text_field)
            host_row = {field: _without_none(row[field]) for field in fields if row.get(field) is not None}
            if not {"messages", self.dataset_text_field} & set(host_row) and set(host_row) != {"prompt", "completion"}:
                raise PairError(
                    name,
                    f"neither a pair nor a plain row: it has {sorted(host_row) or 'no text column'}.",
                    "Give both view prompts, or `prompt` and `completion`, or `messages`, or "
                    f"`{self.dataset_text_field}`.",
                )
            host_row["images"] = load_images(row, View.PLAIN, name=name)
            _, host_rows, positions = completions if "prompt" in host_row else documents
            host_rows.append(host_row)
            positions.append(position)
        parts = []
        for host, host_rows, positions in (completions, documents):
            if host_rows:
                names = [describe_row(rows[position]) for position in positions]
                part = _collate_naming_rows(host, host_rows, names, View.PLAIN)
                self._check_image_tokens(part, host_rows, names, "the text")
                parts.append(self._cut(part, names))
        return parts, [*completions[2], *documents[2]]

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

    def _check_length(self, part: Part, names: list[str], view: View) -> None:
        lengths = part["attention_mask"].sum(1).tolist()
        for name, length in zip(names, lengths, strict=True):
            if self.max_length is not None and length > self.max_length:
                raise PairError(
                    name,
                    f"the {view} view has {length} tokens, above `max_length`={self.max_length}; cutting it would cut "
                    "its image or misalign the completions of the two views.",
                    f"Set `max_length` to {length} or more (or None), or shorten the row.",
                )

    def _cut(self, part: Part, names: list[str]) -> Part:
        """Cut plain rows to `max_length` as the host does, but never an image."""
        if self.max_length is None or part["input_ids"].shape[1] <= self.max_length:
            return part
        beyond = part["input_ids"][:, self.max_length :]
        has_image_beyond = torch.isin(beyond, beyond.new_tensor(self._image_ids())).any(1)
        for name in compress(names, has_image_beyond.tolist()):
            raise PairError(
                name,
                f"`max_length`={self.max_length} would cut its image.",
                "Increase `max_length` or set it to None.",
            )
        logger.warning_once(
            f"Rows longer than `max_length`={self.max_length} are cut at the end, as SFTTrainer does. Set it "
            "higher, or to None, to keep them whole."
        )
        return {key: value[:, : self.max_length] if key in TOKEN_FILL else value for key, value in part.items()}

    def _merge(self, parts: list[tuple[View, Part]]) -> dict[str, Any]:
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
            batch[key] = torch.cat([_pad_to(piece, shape, fill) for _, piece in pieces])
            entries[key] = {view: sum(len(piece) for v, piece in pieces if v is view) for view in views}
        rows = entries["input_ids"]
        lengths = {view: [p["attention_mask"].sum(1) for v, p in parts if v is view] for view in views}
        batch["view_layout"] = ViewLayout(
            rows=dict(rows),
            tokens=tokens,
            entries=entries,
            lengths={view: tuple(torch.cat(each).tolist()) for view, each in lengths.items()},
        )
        return batch


def _without_none(value: Any) -> Any:
    """Drop the `None` fields that Arrow adds to message blocks of different kinds; templates read them as content."""
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value


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


def _check_alignment(text: Part, vision: Part, names: list[str]) -> None:
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
