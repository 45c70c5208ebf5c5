"""What a batch of views is: how its rows and images belong to views, and a batch of some of them."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .views import View


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

    Row i of the text_rich view and row i of the vision_centric view are the two views of one pair.
    """

    rows: dict[View, int]
    """Rows of each view, in batch order."""
    tokens: dict[View, int]
    """Padded length that the rows of each view need."""
    entries: dict[str, dict[View, int]]
    """For each tensor of the batch, its entries of each view (rows, images or patches)."""
    examples: dict[View, tuple[int, ...]] = field(default_factory=dict)
    """For each row of a view, the position of its example among those that were collated."""
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


def select_views(batch: dict[str, Any], views: set[View]) -> dict[str, Any]:
    """The batch without the rows of other views: what a one-view stage of a curriculum needs, and nothing else.

    Padding that only the dropped views needed goes too. Images that a kept view shares with a dropped one stay.
    """
    layout: ViewLayout = batch["view_layout"]
    if set(layout.rows) <= views:
        return batch
    kept = [view for view in layout.rows if view in views]
    length = max((layout.tokens[view] for view in kept), default=0)
    selected: dict[str, Any] = {}
    entries: dict[str, dict[View, int]] = {}
    for key, counts in layout.entries.items():
        by_view = dict(zip(counts, batch[key].split(list(counts.values())), strict=True))
        if View.VISION_CENTRIC in kept and key in layout.shared_entries:
            shared = by_view[View.TEXT_RICH][: layout.shared_entries[key]]
            by_view[View.VISION_CENTRIC] = torch.cat([shared, by_view[View.VISION_CENTRIC]])
        tensor = torch.cat([by_view[view] for view in kept]) if kept else batch[key][:0]
        if key in TOKEN_FILL:
            tensor = tensor[:, :length]
        if key in TOKEN_FILL or len(tensor):  # a batch left without images must not have empty pixel values
            selected[key] = tensor
            entries[key] = {view: len(by_view[view]) for view in kept}
    selected["view_layout"] = replace(
        layout,
        rows={view: layout.rows[view] for view in kept},
        tokens={view: layout.tokens[view] for view in kept},
        entries=entries,
        shared_entries={},
        sharing_pairs=0,
        examples={view: layout.examples[view] for view in kept},
        lengths={view: layout.lengths[view] for view in kept},
        prefixes=(),
    )
    return selected


def labels_of(batch: dict[str, Any], views: set[View]) -> torch.Tensor:
    """The labels of the batch with the rows of other views ignored."""
    labels = batch["labels"].clone()
    for view, span in batch["view_layout"].spans().items():
        if view not in views:
            labels[span] = -100
    return labels


def shared_prefix(first: torch.Tensor, second: torch.Tensor) -> int:
    """How many tokens two rows have in common from the start; one at least is left to each."""
    n = max(0, min(len(first), len(second)) - 1)
    differ = (first[:n] != second[:n]).nonzero()
    return int(differ[0]) if len(differ) else n
