"""The layout of a batch: which of its rows and images belong to which view, and what its step decided for it."""

from dataclasses import dataclass, field
from typing import Any

import torch

from ..views import View


Part = dict[str, torch.Tensor]
"""What the host's collator made of some rows in one view."""

# Tensors `[rows, tokens]`, and the value of their padding; `None` is the tokenizer's pad id
TOKEN_FILL = {
    "input_ids": None,
    "attention_mask": 0,
    "labels": -100,
    "token_type_ids": 0,
    "mm_token_type_ids": 0,
}


# Tensors of rows, neither of their tokens nor of their images: what InstructBLIP's Q-Former reads of the prompt
OF_ROWS = ("qformer_input_ids", "qformer_attention_mask")


@dataclass(frozen=True)
class ViewLayout:
    """Where each view lies in a batch: views stand one after another along the first dimension of every tensor.

    The first `pairs` rows of the text_rich and of the vision_centric view belong together: row i and row i are the two
    views of one pair. The rows after them are pairs that the step trains in that view alone, and fillers.
    """

    rows: dict[View, int]
    """Number of rows of each view, in batch order."""
    tokens: dict[View, int]
    """Length that the rows of each view are padded to before the views are put together."""
    entries: dict[str, dict[View, int]]
    """For each tensor of the batch, its number of entries (rows, images or patches) of each view."""
    examples: dict[View, tuple[int, ...]] = field(default_factory=dict)
    """For each row of a view, the position of its example among those that were collated."""
    names: tuple[str, ...] = ()
    """For each example that was collated, its name in messages."""
    pairs: int = 0
    """Number of pairs that are in the batch in both views."""
    has_cross_entropy: dict[View, tuple[bool, ...]] = field(default_factory=dict)
    """For each row of a view, whether it has a cross-entropy or is there for the divergence alone; a view that is not
    listed has one in every row."""
    lengths: dict[View, tuple[int, ...]] = field(default_factory=dict)
    """Number of tokens of each row; padding follows them."""
    prefixes: tuple[int, ...] = ()
    """For each pair, how many tokens its views have in common from the start, up to the first image that differs."""
    shared_entries: dict[str, int] = field(default_factory=dict)
    """For each tensor of images, how many of the first text_rich entries the vision_centric rows show as well. They
    are in the batch once; `with_images_repeated` writes them out for both views."""
    sharing_pairs: int = 0
    """Number of pairs whose views show the same images: the first ones. Their vision_centric rows have no entries."""
    overlong: dict[str, int] = field(default_factory=dict)
    """Number of rows above `max_length` that were `dropped` from the batch, or `cut` in it."""
    bad_rows: int = 0
    """Number of rows that were left out of the batch because they cannot be collated (`bad_rows='skip'`)."""
    filler_tokens: int = 0
    """Number of tokens of rows that only lend their images, and are no part of the data."""
    step: int | None = None
    """The optimizer step that the plan made the batch for, from 0; `None` for rows without a plan (an evaluation)."""
    kl_factor: float = 1.0
    """What the schedule multiplies `kl_weight` with in that step."""

    def cross_entropy_rows(self, view: View) -> tuple[bool, ...]:
        """For each row of a view, whether it has a cross-entropy."""
        return self.has_cross_entropy.get(view, (True,) * self.rows[view])

    def spans(self) -> dict[View, slice]:
        """The rows of each view as a slice of the batch."""
        spans, start = {}, 0
        for view, count in self.rows.items():
            spans[view] = slice(start, start + count)
            start += count
        return spans


def with_images_repeated(inputs: dict[str, Any], layout: ViewLayout) -> dict[str, Any]:
    """The tensors of a batch with an entry for every image of every row, as the host's collator makes them."""
    repeated = dict(inputs)
    for key, count in layout.shared_entries.items():
        if key in inputs:
            tensor = inputs[key]
            own = layout.entries[key][View.TEXT_RICH]
            repeated[key] = torch.cat([tensor[:own], tensor[:count], tensor[own:]])
    return repeated


def without_examples_from(inputs: dict[str, Any], first: int) -> dict[str, Any]:
    """The batch with the labels of all examples at position `first` and after it set to −100.

    Without its token layout, which was made of all labels.
    """
    layout = inputs["view_layout"]
    examples = torch.tensor([example for view in layout.rows for example in layout.examples[view]])
    labels = inputs["labels"].masked_fill((examples >= first).unsqueeze(1).to(inputs["labels"].device), -100)
    return {key: value for key, value in inputs.items() if key != "token_layout"} | {"labels": labels}


def shared_prefix(first: torch.Tensor, second: torch.Tensor) -> int:
    """How many tokens two rows have in common from the start; each keeps at least one of its own."""
    n = max(0, min(len(first), len(second)) - 1)
    differ = (first[:n] != second[:n]).nonzero()
    return int(differ[0]) if len(differ) else n
