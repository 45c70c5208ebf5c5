"""What a batch of views is: how its rows and images belong to views."""

from dataclasses import dataclass, field
from typing import Any

import torch

from ..views import View


Part = dict[str, torch.Tensor]

# Tensors `[rows, tokens]`, and what a padded place holds in them; a missing one (`None`) is the tokenizer's pad id.
TOKEN_FILL = {
    "input_ids": None,
    "attention_mask": 0,
    "labels": -100,
    "token_type_ids": 0,
    "mm_token_type_ids": 0,
}


@dataclass(frozen=True)
class ViewLayout:
    """Where each view lies in a batch: the views stand one after another in every tensor, along its first dimension.

    Of the first `pairs` rows of the text_rich and of the vision_centric view, row i and row i are the two views of one
    pair; the rows after them are pairs of which the step uses that view alone.
    """

    rows: dict[View, int]
    """Rows of each view, in batch order."""
    tokens: dict[View, int]
    """Padded length that the rows of each view need."""
    entries: dict[str, dict[View, int]]
    """For each tensor of the batch, its entries of each view (rows, images or patches)."""
    examples: dict[View, tuple[int, ...]] = field(default_factory=dict)
    """For each row of a view, the position of its example among those that were collated."""
    pairs: int = 0
    """Pairs that are there in both views."""
    learns: dict[View, tuple[bool, ...]] = field(default_factory=dict)
    """For each row of a view, whether it has a cross-entropy (all, where it is not said); without one it is there for
    the divergence."""
    lengths: dict[View, tuple[int, ...]] = field(default_factory=dict)
    """Tokens of each row; padding follows them."""
    prefixes: tuple[int, ...] = ()
    """For each pair, how many tokens its views share from the start, up to the first image that they do not."""
    shared_entries: dict[str, int] = field(default_factory=dict)
    """For each tensor of images, how many of the first text_rich entries the vision_centric rows use again: they stand
    in the batch once, and `with_images_repeated` puts them where the vision_centric rows would have them."""
    sharing_pairs: int = 0
    """Pairs whose views show the same images: the first so many. Their vision_centric rows have no entries."""
    overlong: dict[str, int] = field(default_factory=dict)
    """Rows above the longest length, by what was done: `dropped` are not in the batch, `cut` are."""

    def learning(self, view: View) -> tuple[bool, ...]:
        """For each row of a view, whether it has a cross-entropy."""
        return self.learns.get(view, (True,) * self.rows[view])

    def spans(self) -> dict[View, slice]:
        """The rows of each view as a slice."""
        spans, start = {}, 0
        for view, count in self.rows.items():
            spans[view] = slice(start, start + count)
            start += count
        return spans


def with_images_repeated(inputs: dict[str, Any], layout: ViewLayout) -> dict[str, Any]:
    """The tensors of a batch with every row's own images, as the host's collator makes them."""
    repeated = dict(inputs)
    for key, count in layout.shared_entries.items():
        if key in inputs:
            tensor = inputs[key]
            own = layout.entries[key][View.TEXT_RICH]
            repeated[key] = torch.cat([tensor[:own], tensor[:count], tensor[own:]])
    return repeated


def labels_of(batch: dict[str, Any], views: set[View]) -> torch.Tensor:
    """The labels whose number divides the loss: those with a cross-entropy, in one of `views` and of a row that has
    one there. A pair without any is there for the divergence, and counts in the vision_centric view."""
    labels, layout = batch["labels"].clone(), batch["view_layout"]
    counted = {view: [view in views and learns for learns in layout.learning(view)] for view in layout.rows}
    for i in range(layout.pairs):
        if not counted[View.TEXT_RICH][i]:
            counted[View.VISION_CENTRIC][i] = True
    for view, span in layout.spans().items():
        ignored = ~torch.tensor(counted[view], dtype=torch.bool, device=labels.device)
        labels[span] = labels[span].masked_fill(ignored.unsqueeze(1), -100)
    return labels


def without_examples_from(inputs: dict[str, Any], first: int) -> dict[str, Any]:
    """The batch with nothing to learn of the examples at position `first` and after it."""
    layout = inputs["view_layout"]
    examples = torch.tensor([example for view in layout.rows for example in layout.examples[view]])
    labels = inputs["labels"].masked_fill((examples >= first).unsqueeze(1).to(inputs["labels"].device), -100)
    return {**inputs, "labels": labels}


def shared_prefix(first: torch.Tensor, second: torch.Tensor) -> int:
    """How many tokens two rows have in common from the start; one at least is left to each."""
    n = max(0, min(len(first), len(second)) - 1)
    differ = (first[:n] != second[:n]).nonzero()
    return int(differ[0]) if len(differ) else n
