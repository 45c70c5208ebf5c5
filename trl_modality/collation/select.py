"""Some views of a batch, as a batch of their own."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from ..views import View
from .layout import TOKEN_FILL, ViewLayout


OF_TOKENS = (*TOKEN_FILL, "cross_attention_mask")


def selected_views(batch: dict[str, Any], views: Iterable[View]) -> dict[str, Any] | None:
    """The rows and images of some views of a batch of `PairedCollator`; `None` where it has no row of them.

    Of images that both views of a pair show the text_rich view has the tensors, so the vision_centric view can only be
    had with it.
    """
    layout: ViewLayout = batch["view_layout"]
    kept = [view for view in layout.rows if view in set(views)]
    if not kept:
        return None
    if View.VISION_CENTRIC in kept and View.TEXT_RICH not in kept and layout.sharing_pairs:
        raise ValueError("the images of the vision_centric view are those of the text_rich one: select both.")
    rows, n_tokens = layout.spans(), max(layout.tokens[view] for view in kept)
    selected: dict[str, Any] = {}
    for key, value in batch.items():
        if key in OF_TOKENS:
            selected[key] = torch.cat([value[rows[view], :n_tokens] for view in kept])
        elif key in layout.entries:
            pieces = _pieces(value, layout.entries[key])
            of_views = [pieces[view] for view in kept if len(pieces[view])]
            if of_views:  # not copied where it is one view's alone
                selected[key] = of_views[0] if len(of_views) == 1 else torch.cat(of_views)
    both = {View.TEXT_RICH, View.VISION_CENTRIC} <= set(kept)
    selected["view_layout"] = replace(
        layout,
        rows={view: layout.rows[view] for view in kept},
        tokens={view: layout.tokens[view] for view in kept},
        entries={key: {view: entries.get(view, 0) for view in kept} for key, entries in layout.entries.items()},
        examples={view: layout.examples[view] for view in kept if view in layout.examples},
        has_cross_entropy={view: has for view, has in layout.has_cross_entropy.items() if view in kept},
        lengths={view: lengths for view, lengths in layout.lengths.items() if view in kept},
        **({} if both else {"pairs": 0, "prefixes": (), "shared_entries": {}, "sharing_pairs": 0}),
    )
    return selected


def _pieces(tensor: torch.Tensor, entries: dict[View, int]) -> dict[View, torch.Tensor]:
    pieces, start = {}, 0
    for view, count in entries.items():
        pieces[view] = tensor[start : start + count]
        start += count
    return pieces
