"""Rows above the longest length: refused, left out, or cut where that costs no image and no agreement of views."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers.utils import logging

from ..views import PairError, View
from .layout import TOKEN_FILL, Part


logger = logging.get_logger(__name__)

POLICIES = ("error", "drop", "cut_completion")
# What is left of a row in place of a batch that lost all of its rows
IMAGES_ONLY = "images_only"


class Limit(NamedTuple):
    """The longest row in tokens, what to do with others that have images, and what the cut needs to know."""

    max_length: int | None
    policy: str
    image_ids: tuple[int, ...]
    pad_id: int


class Fitted(NamedTuple):
    """The collated views of some rows; none is too long but those to be dropped."""

    parts: list[Part]
    dropped: tuple[int, ...] = ()
    """Positions of the rows that have no place. Where there are any, nothing is cut yet: collate the others."""
    n_cut: int = 0
    """Rows that lost some of their end."""


def fit(
    parts: Sequence[Part], views: Sequence[View], names: Sequence[str], has_images: Sequence[bool], limit: Limit
) -> Fitted:
    """Apply the policy to rows with images; rows of text alone are cut at their end, as `SFTTrainer` does.

    The views of a pair lose the same number of tokens, so that their completions stay the same. A row with images
    keeps all of them, and at least one token to learn.

    Args:
        parts: The same rows in each of the `views`; padding at their ends.
        names, has_images: Of the rows.

    Raises:
        PairError: an overlong row where the policy is `error`, or one that cannot be cut.
    """
    if limit.policy == IMAGES_ONLY:
        return Fitted([_images_only(part, limit) for part in parts])
    if limit.max_length is None:
        return Fitted(list(parts))
    lengths = torch.stack([part["attention_mask"].sum(1) for part in parts])
    longest = lengths.argmax(0).tolist()
    excess = (lengths.amax(0) - limit.max_length).clamp(min=0).tolist()
    over = [row for row, tokens in enumerate(excess) if tokens]
    over_images = [row for row in over if has_images[row]]
    if not over:
        return Fitted(list(parts))
    if over_images and limit.policy == "drop":
        return Fitted(list(parts), dropped=tuple(over_images))
    for row in over_images:
        view = longest[row]
        if limit.policy == "error":
            length = int(lengths[view, row])
            raise PairError(
                names[row],
                f"the {views[view]} view has {length} tokens, above `max_length`={limit.max_length}; cutting it could "
                "cut its image, and changes what is learnt.",
                f"Set `max_length` to {length} or more (or None), shorten the row, or set `overlong` to 'drop' or "
                "'cut_completion'.",
            )
        for part, each in zip(parts, views, strict=True):
            _check_cut(part, row, excess[row], names[row], each, limit)
    if len(over) > len(over_images):
        logger.warning_once(
            f"Text rows longer than `max_length`={limit.max_length} are cut at the end, as SFTTrainer does. Set it "
            "higher, or to None, to keep them whole."
        )
    return Fitted([_cut_ends(part, excess, limit.pad_id) for part in parts], n_cut=len(over))


def _check_cut(part: Part, row: int, excess: int, name: str, view: View, limit: Limit) -> None:
    end = int(part["attention_mask"][row].sum())
    ids, labels = (part[key][row, :end] for key in ("input_ids", "labels"))
    if torch.isin(ids[end - excess :], ids.new_tensor(limit.image_ids)).any():
        raise PairError(
            name,
            f"`max_length`={limit.max_length} would cut its image ({view} view).",
            "Increase `max_length` or set it to None.",
        )
    if not (labels[: end - excess] != -100).any():
        raise PairError(
            name,
            f"its {view} view has nothing left to learn below `max_length`={limit.max_length}: the prompt fills it.",
            "Increase `max_length`, shorten the prompt, or set `overlong` to 'drop'.",
        )


def _images_only(part: Part, limit: Limit) -> Part:
    """The rows up to their last image, without labels."""
    is_image = torch.isin(part["input_ids"], part["input_ids"].new_tensor(limit.image_ids))
    places = torch.arange(is_image.shape[1])
    ends = (is_image * (places + 1)).amax(1).clamp(min=2)  # one token, and one after it
    amounts = (part["attention_mask"].sum(1) - ends).clamp(min=0).tolist()
    cut = _cut_ends(part, amounts, limit.pad_id)
    return {**cut, "labels": torch.full_like(cut["labels"], -100)}


def _cut_ends(part: Part, amounts: Sequence[int], pad_id: int) -> Part:
    """The part with so many tokens less at the end of each row, and no wider than the longest that is left."""
    lengths = part["attention_mask"].sum(1)
    kept = lengths - lengths.new_tensor(amounts)
    width = int(kept.max())
    is_cut = torch.arange(width) >= kept.unsqueeze(1)
    cut = dict(part)
    for key in part.keys() & TOKEN_FILL.keys():
        fill = TOKEN_FILL[key]
        cut[key] = part[key][:, :width].masked_fill(is_cut, pad_id if fill is None else fill)
    return cut
