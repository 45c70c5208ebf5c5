"""Rows above the longest length: refused, left out, or cut where no image is lost and both views stay alike."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from transformers.utils import logging

from ..views import PairError, View
from .layout import TOKEN_FILL, Part
from .render import Rendered


logger = logging.get_logger(__name__)


class Limit(NamedTuple):
    """The longest row in tokens, the policy for longer rows with images, and the token ids that cutting needs."""

    max_length: int | None
    policy: str
    image_ids: tuple[int, ...]
    pad_id: int


class Verdict(NamedTuple):
    """What becomes of the rows of a group, by their index in it."""

    dropped: frozenset[int]
    """Rows that are left out."""
    excess: tuple[int, ...]
    """For each row, the number of tokens that are cut from its end in every view."""
    images_only: frozenset[int] = frozenset()
    """Rows that are cut after their last image and have no labels."""


class Fitted(NamedTuple):
    """The groups of a batch, none of whose rows is too long, but for rows of which the images alone are left."""

    groups: list[Rendered]
    n_dropped: int = 0
    n_cut: int = 0


def without_teacher(fitted: Fitted) -> tuple[Fitted, Fitted]:
    """The groups of a batch, and those of what a teacher sees of its pairs, all of whose rows are text_rich ones."""
    own, taught = [], []
    for each in fitted.groups:
        parts = {view: part for view, part in each.parts.items() if isinstance(view, View)}
        own.append(each._replace(parts=parts))
        group = each.group._replace(views=(View.TEXT_RICH,), shares_images=False)
        for view in each.parts.keys() - parts.keys():
            seen = {View.TEXT_RICH: each.host_rows[view]}
            taught.append(each._replace(group=group, host_rows=seen, parts={View.TEXT_RICH: each.parts[view]}))
    return fitted._replace(groups=own), Fitted(taught)


def fit(rendered: Sequence[Rendered], limit: Limit, collate: Callable[[Rendered], Rendered]) -> Fitted:
    """Apply the policy to rows with images; rows of text alone are cut at their end, as `SFTTrainer` does.

    The views of a pair lose the same number of tokens, so that their completions stay the same. A row that is cut
    keeps all of its images, and at least one token to learn. A batch that would lose its last image keeps the images
    of one dropped row, without labels, so that the weights that read images have a gradient (of 0).

    Args:
        rendered: The groups of a batch; padding is at the end of their rows.
        limit: The limit.
        collate: Makes the parts of some rows again, for processors whose tensors cannot be cut by rows.

    Raises:
        PairError: an overlong row where the policy is `error`, or one that cannot be cut.
    """
    verdicts = [_judge(each, limit) for each in rendered]
    n_dropped = sum(len(verdict.dropped) for verdict in verdicts)
    n_cut = sum(sum(tokens > 0 for tokens in verdict.excess) for verdict in verdicts)
    if n_dropped:
        verdicts = _keep_one_image(rendered, verdicts)
    fitted = [_apply(each, verdict, limit, collate) for each, verdict in zip(rendered, verdicts, strict=True)]
    return Fitted([each for each in fitted if each is not None], n_dropped, n_cut)


def _judge(rendered: Rendered, limit: Limit) -> Verdict:
    parts, views, names = list(rendered.parts.values()), list(rendered.parts), rendered.names
    if rendered.group.is_filler:
        return Verdict(frozenset(), (0,) * len(names), frozenset(range(len(names))))
    if limit.max_length is None:
        return Verdict(frozenset(), (0,) * len(names))
    lengths = torch.stack([part["attention_mask"].sum(1) for part in parts])
    longest = lengths.argmax(0).tolist()
    excess = (lengths.amax(0) - limit.max_length).clamp(min=0).tolist()
    over = [row for row, tokens in enumerate(excess) if tokens]
    over_images = [row for row in over if rendered.has_images[row]]
    if len(over) > len(over_images):
        logger.warning_once(
            f"Text rows longer than `max_length`={limit.max_length} are cut at the end, as SFTTrainer does. Set it "
            "higher, or to None, to keep them whole."
        )
    if limit.policy == "drop":
        kept = (0 if row in over_images else tokens for row, tokens in enumerate(excess))
        return Verdict(frozenset(over_images), tuple(kept))
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
    return Verdict(frozenset(), tuple(excess))


def _check_cut(part: Part, row: int, excess: int, name: str, view: str, limit: Limit) -> None:
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


def _keep_one_image(rendered: Sequence[Rendered], verdicts: list[Verdict]) -> list[Verdict]:
    """Verdicts by which one row with an image stays: the first dropped one, its images only, where none would."""
    places = [(g, i) for g, each in enumerate(rendered) for i, has in enumerate(each.has_images) if has]
    if any(i not in verdicts[g].dropped for g, i in places):
        return verdicts
    g, i = min(places, key=lambda place: rendered[place[0]].group.positions[place[1]])
    kept = verdicts[g]._replace(dropped=verdicts[g].dropped - {i}, images_only=frozenset({i}))
    return [*verdicts[:g], kept, *verdicts[g + 1 :]]


def _apply(
    rendered: Rendered, verdict: Verdict, limit: Limit, collate: Callable[[Rendered], Rendered]
) -> Rendered | None:
    n_rows = len(rendered.names)
    kept = [i for i in range(n_rows) if i not in verdict.dropped]
    if not kept:
        return None
    if len(kept) < n_rows:
        selected = rendered.selected(kept)
        parts = {view: _rows_of(part, kept, rendered.n_images(view)) for view, part in rendered.parts.items()}
        known = {view: part for view, part in parts.items() if part is not None}
        rendered = selected._replace(parts=known) if len(known) == len(parts) else collate(selected)
    excess = [verdict.excess[i] for i in kept]
    bare = torch.tensor([i in verdict.images_only for i in kept])
    if len(kept) == n_rows and not any(excess) and not bare.any():
        return rendered
    return rendered._replace(
        parts={view: _shortened(part, excess, bare, limit) for view, part in rendered.parts.items()}
    )


def _rows_of(part: Part, kept: Sequence[int], n_images: Sequence[int]) -> Part | None:
    """Some rows of a part, with their images; `None` where its tensors do not say which images belong to which row."""
    rows = torch.tensor(kept)
    selected = {}
    for key, tensor in part.items():
        if key in TOKEN_FILL:
            selected[key] = tensor[rows]
            continue
        counts = _entries_of_rows(part, key, n_images) if isinstance(tensor, torch.Tensor) else None
        if counts is None:
            return None
        pieces = tensor.split(counts)
        selected[key] = torch.cat([pieces[i] for i in kept])
    return selected


def _entries_of_rows(part: Part, key: str, n_images: Sequence[int]) -> list[int] | None:
    """How many entries of a tensor of images belong to each row; `None` where that does not follow from its length."""
    n_entries, n_rows, total = len(part[key]), len(n_images), sum(n_images)
    if key == "pixel_values" and "image_grid_thw" in part:  # patches
        patches = iter(part["image_grid_thw"].prod(1).tolist())
        counts = [sum(next(patches) for _ in range(n)) for n in n_images]
        return counts if sum(counts) == n_entries else None
    # With an entry or more for every image, as many entries as images are one for each. Rows without images leave it
    # open whether as many entries as rows are those of images or of rows.
    if n_entries == total and (total != n_rows or all(n_images)):
        return list(n_images)
    return [1] * n_rows if n_entries == n_rows and all(n_images) else None


def _shortened(part: Part, excess: Sequence[int], bare: torch.Tensor, limit: Limit) -> Part:
    """The part without the end of its rows, and no wider than the longest that is left.

    Args:
        excess: Tokens to cut from each row.
        bare: `[rows]`, the rows that end with their last image and lose their labels.
    """
    lengths = part["attention_mask"].sum(1)
    kept = lengths - lengths.new_tensor(excess)
    is_image = torch.isin(part["input_ids"], part["input_ids"].new_tensor(limit.image_ids))
    places = torch.arange(is_image.shape[1])
    after_images = (is_image * (places + 1)).amax(1).clamp(min=2)  # one token, and one after it
    kept = torch.where(bare, torch.minimum(lengths, after_images), kept)
    width = int(kept.max())
    is_cut = torch.arange(width) >= kept.unsqueeze(1)
    cut = dict(part)
    for key in part.keys() & TOKEN_FILL.keys():
        fill = TOKEN_FILL[key]
        cut[key] = part[key][:, :width].masked_fill(is_cut, limit.pad_id if fill is None else fill)
    cut["labels"] = cut["labels"].masked_fill(bare.unsqueeze(1), -100)
    return cut
