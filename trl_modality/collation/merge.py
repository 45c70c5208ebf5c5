"""The groups of a batch → one batch: views one after another in every tensor, and the layout that says so."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..views import BAD_COLUMN, SLOT_COLUMN, View, describe_row
from .cross_attention import cross_attention_mask, images_of_rows
from .groups import Rows, has_cross_entropy
from .layout import OF_ROWS, TOKEN_FILL, Part, ViewLayout, shared_prefix
from .overlong import Fitted
from .render import Rendered


def merge(fitted: Fitted, rows: Rows, *, pad_id: int, multiple: int, image_ids: Sequence[int]) -> dict[str, Any]:
    """The batch, with its `ViewLayout` under `view_layout`.

    Args:
        fitted: Its groups.
        rows: All rows that were collated.
        pad_id: Token id of padding.
        multiple: Rows are padded to a multiple of this many tokens.
        image_ids: Token ids that stand for images.
    """
    groups = fitted.groups
    parts = [(view, group.parts[view]) for view in View for group in groups if view in group.parts]
    views = list(dict.fromkeys(view for view, _ in parts))
    tokens = {view: _padded_length([p for v, p in parts if v is view], multiple) for view in views}
    batch: dict[str, Any] = {}
    entries: dict[str, dict[View, int]] = {}
    for key in dict.fromkeys(key for _, part in parts for key in part):
        pieces = [(view, _token_tensor(key, part)) for view, part in parts if key in part or key in TOKEN_FILL]
        fill = TOKEN_FILL.get(key, 0)
        shape = list(map(max, zip(*(piece.shape[1:] for _, piece in pieces), strict=True)))
        if key in TOKEN_FILL:
            shape[0] = max(tokens.values())
        padded = [_pad_to(piece, shape, pad_id if fill is None else fill) for _, piece in pieces]
        # Images are large: what is whole already is not copied
        batch[key] = padded[0] if len(padded) == 1 else torch.cat(padded)
        entries[key] = {view: sum(len(piece) for v, piece in pieces if v is view) for view in views}
    examples = {view: tuple(i for g in groups if view in g.parts for i in g.group.positions) for view in views}
    lengths = {view: [p["attention_mask"].sum(1) for v, p in parts if v is view] for view in views}
    sharing = next((group for group in groups if group.group.shares_images), None)
    slot = next((row[SLOT_COLUMN] for row in rows if row.get(SLOT_COLUMN) is not None), None)
    batch["view_layout"] = layout = ViewLayout(
        rows=dict(entries["input_ids"]),
        tokens=tokens,
        entries=entries,
        examples=examples,
        names=tuple(map(describe_row, rows)),
        pairs=sum(len(group.names) for group in groups if len(group.parts) > 1),
        has_cross_entropy={
            view: tuple(has_cross_entropy(rows[i], view) for i in positions) for view, positions in examples.items()
        },
        lengths={view: tuple(torch.cat(each).tolist()) for view, each in lengths.items()},
        prefixes=tuple(prefix for group in groups for prefix in _prefixes(group, image_ids)),
        shared_entries={} if sharing is None else _image_entries(sharing.parts[View.TEXT_RICH]),
        sharing_pairs=0 if sharing is None else len(sharing.names),
        filler_tokens=sum(_n_tokens(part) for g in groups if g.group.is_filler for part in g.parts.values()),
        bad_rows=sum(row.get(BAD_COLUMN) is not None for row in rows),
        overlong={"dropped": fitted.n_dropped, "cut": fitted.n_cut},
        # All rows of a batch belong to one step
        **({} if slot is None else {"step": slot.step, "kl_factor": slot.kl_factor}),
    )
    if "aspect_ratio_mask" in batch:
        is_image = torch.isin(batch["input_ids"], batch["input_ids"].new_tensor(image_ids))
        images, has_tile = images_of_rows(is_image, layout), batch["aspect_ratio_mask"].squeeze(1)
        batch["cross_attention_mask"] = cross_attention_mask(is_image, images, has_tile)
    return batch


def _padded_length(parts: Sequence[Part], multiple: int) -> int:
    return -(-max(part["input_ids"].shape[1] for part in parts) // multiple) * multiple


def _n_tokens(part: Part) -> int:
    return int(part["attention_mask"].sum())


def _image_entries(part: Part) -> dict[str, int]:
    return {key: len(value) for key, value in part.items() if key not in TOKEN_FILL and key not in OF_ROWS}


def _prefixes(rendered: Rendered, image_ids: Sequence[int]) -> list[int]:
    """For each pair of a group, how many tokens its views share; see `ViewLayout.prefixes`."""
    if len(rendered.parts) < 2:
        return []
    text, vision = rendered.parts[View.TEXT_RICH], rendered.parts[View.VISION_CENTRIC]
    is_image_id = text["input_ids"].new_tensor(image_ids)
    prefixes = []
    for i in range(len(rendered.names)):
        first, second = (part["input_ids"][i][part["attention_mask"][i].bool()] for part in (text, vision))
        prefix = shared_prefix(first, second)
        if not rendered.group.shares_images:
            images = torch.isin(first[:prefix], is_image_id).nonzero()
            prefix = int(images[0]) if len(images) else prefix
            # In Mllama, tokens before the first image see all images of their row
            if "aspect_ratio_mask" in text.keys() | vision.keys():
                prefix *= not torch.isin(torch.cat([first, second]), is_image_id).any()
        elif text.keys() & {"token_type_ids", "mm_token_type_ids"}:
            prefix = _outside_images(prefix, *(torch.isin(row, is_image_id) for row in (first, second)))
        prefixes.append(prefix)
    return prefixes


def _outside_images(prefix: int, first_is_image: torch.Tensor, second_is_image: torch.Tensor) -> int:
    """The prefix without the beginning of an image that goes on after it in a view, whose tokens may see it."""
    ends_inside = prefix and first_is_image[prefix - 1] and (first_is_image[prefix] or second_is_image[prefix])
    if not ends_inside:
        return prefix
    others = (~first_is_image[:prefix]).nonzero()
    return int(others[-1]) + 1 if len(others) else 0


def _token_tensor(key: str, part: Part) -> torch.Tensor:
    """The part's tensor; a token tensor that only other parts have (such as `mm_token_type_ids`) is zero here."""
    return part[key] if key in part else torch.zeros_like(part["input_ids"])


def _pad_to(tensor: torch.Tensor, shape: list[int], fill: int) -> torch.Tensor:
    """Pad every dimension but the first at its end; processors pad image patches and counts the same way."""
    missing = [want - have for have, want in zip(tensor.shape[1:], shape, strict=True)]
    if not any(missing):
        return tensor
    return F.pad(tensor, [pad for amount in reversed(missing) for pad in (0, amount)], value=fill)
