"""What a forward has to know of the tokens of a batch, made on the host, where no value has to be waited for.

When the host asks a GPU for a value (how many labels are not ignored, whether two tensors are equal), it waits until
the GPU has done all its work, and then the GPU waits for the host. So the workers of the data loader make all that
depends on values. It travels with the batch, from pinned memory.

Legend of the shapes: R rows, L places of a row, T tokens of the sequence, M supervised tokens of a group.
"""

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..collation.cross_attention import images_of_rows
from ..collation.layout import TOKEN_FILL, ViewLayout, with_images_repeated
from ..views import View
from .attention import SegmentLayout
from .cross_attention import TileGroups, tile_groups
from .families import blocks_input, cross_attends, encodes_once, longest_sequence
from .image_blocks import blocks_of
from .packing import Packing, in_sequence, pack_views
from .recurrence import Needs, host_tensors, needs_of


IGNORED = -100
PAIRS = "pairs"
"""The name of the group of the pairs that are in the batch in both views."""
Tensors = dict[str, torch.Tensor]
_MADE_OF = (*TOKEN_FILL, "image_grid_thw", "cross_attention_mask")
"""The tensors of a batch that a layout is made of: tokens and sizes, not pixels."""


class PairedBatch(dict[str, Any]):
    """A batch whose token layout knows the tensors that it came with, so that later changes to them are found out.

    Whatever moves a batch (data loaders, accelerate) makes it anew by its class, with the moved tensors.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        tokens = self.get("token_layout")
        if tokens is not None and tokens.made_of is None:
            self["token_layout"] = tokens.known_as_of(self)


@dataclass(frozen=True)
class TokenLayout:
    """How a model runs the tokens of a batch, and where it predicts the supervised ones."""

    packs: bool
    """Whether the rows are laid into one sequence."""
    shares_prefix: bool
    """Whether what the views of a pair have in common is in it once."""
    encodes_once: bool
    """Whether rows read the features of images that other rows show as well."""
    shape: tuple[int, ...]
    """`(R, L)` of the rows."""
    n_supervised: dict[View, tuple[int, ...]]
    """Number of supervised tokens of each row."""
    label_range: tuple[int, int]
    """The smallest and the largest label; (0, 0) without any."""
    groups: dict[str, Tensors]
    """The supervised tokens of `pairs`, the pairs that are in the batch in both views, and of the other rows of each
    view: `labels` `[M]`, none ignored; `places` `[M]`, where among the hidden states each is predicted, which is at
    the token before it; `has_cross_entropy` `[M]`, unless every token has one. Of pairs these are of the
    vision_centric view, and `text_places` and `text_has_cross_entropy` of the text_rich view."""
    inputs: Tensors
    """`sources` `[T]`, the place among the R·L places of the rows of each token of the sequence; `n_rows` `[T]`, the
    number of rows that each is in, where prefixes are shared; `position_ids`, where the model does not count them
    itself; `image_sources`, for each image token the index of its feature, unless each has its own; where images are
    read through cross-attention `row_images` `[R, I]`, the images of each row, and of a sequence its `tile_groups`."""
    segments: SegmentLayout | None = None
    """Of the sequence."""
    segment_tensors: Tensors = field(default_factory=dict)
    """`segments.host_tensors()`."""
    tile_groups: TileGroups | None = None
    """The sizes of the groups of a sequence's tokens that see the same tiles of images."""
    made_of: dict[str, tuple[Any, int]] | None = None
    """What it describes of the batch that it is in, each with its version; `None` before it is in one."""

    def known_as_of(self, batch: Mapping[str, Any]) -> "TokenLayout":
        """The same, which tells from now on whether it is still that of a batch."""
        return replace(self, made_of=_versions(batch))

    def is_of(self, batch: Mapping[str, Any]) -> bool:
        """Whether nothing that it was made of is another tensor, or has been written to; values are not read."""
        now, then = _versions(batch), self.made_of or {}
        return now.keys() == then.keys() and all(
            now[key][0] is then[key][0] and now[key][1] == then[key][1] for key in now
        )

    def n_counted(self, layout: ViewLayout, views: Iterable[View]) -> int:
        """Number of tokens that count towards the normalizer N.

        A token counts if its view is one of `views` and its row has a cross-entropy there. Those of a pair with the
        divergence alone are counted once, in its vision_centric row.
        """
        views = set(views)
        counts = {view: [view in views and has for has in layout.cross_entropy_rows(view)] for view in layout.rows}
        for i in range(layout.pairs):
            if not counts[View.TEXT_RICH][i]:
                counts[View.VISION_CENTRIC][i] = True
        return sum(
            n
            for view, ns in self.n_supervised.items()
            for n, is_counted in zip(ns, counts[view], strict=True)
            if is_counted
        )

    def check_labels(self, vocab_size: int) -> None:
        """Raise `ValueError` for a label that the head has no row for: kernels would read elsewhere."""
        smallest, largest = self.label_range
        if smallest < 0 or largest >= vocab_size:
            raise ValueError(
                f"`labels` span [{smallest}, {largest}], outside the {vocab_size} rows of the head; use {IGNORED} for "
                "tokens to ignore."
            )

    def packed(self, rows: torch.Tensor) -> torch.Tensor:
        """Values of the rows `[..., R, L]` in the order of the sequence, `[..., 1, T]`."""
        return in_sequence(rows, self.inputs["sources"])

    def placed_segments(self) -> SegmentLayout:
        """The segments of the sequence, whose tensors are where those of this layout are."""
        assert self.segments is not None
        self.segments.put(self.segment_tensors)
        return self.segments

    def to(self, device: Any, non_blocking: bool = False) -> "TokenLayout":
        """The same with its tensors on a device; accelerate moves batches so."""
        return self._changed(lambda tensor: tensor.to(device, non_blocking=non_blocking), made_of=None)

    def pin_memory(self) -> "TokenLayout":
        """The same with its tensors in pinned memory; data loaders pin batches so."""
        # They do not make the batch by its class, so that it stays unknown what the layout is of until it is moved
        return self._changed(torch.Tensor.pin_memory, made_of={})

    def _changed(self, change: Callable[[torch.Tensor], torch.Tensor], made_of: dict | None) -> "TokenLayout":
        def changed(tensors: Tensors) -> Tensors:
            return {name: change(tensor) for name, tensor in tensors.items()}

        return replace(
            self,
            groups={name: changed(tensors) for name, tensors in self.groups.items()},
            inputs=changed(self.inputs),
            segment_tensors=changed(self.segment_tensors),
            made_of=made_of,
        )


class TokenLayouts:
    """Makes the token layouts of batches for a model, of which it keeps no weights.

    Args:
        model: The model with its language head, not sharded yet: its class is sent to workers.
    """

    def __init__(self, model: Any):
        self._share_prefix = self._padding_free = False
        backbone = model.base_model
        self._encodes_once, self._cross_attends = encodes_once(model), cross_attends(model)
        self._needs = needs_of(model.get_decoder()) or Needs()
        self._longest = longest_sequence(model.config)
        self._image_token_id = backbone.config.image_token_id if self._encodes_once else None
        self._token_types, self._blocks_in_windows = blocks_input(model.config)
        self._rope = _without_weights(backbone) if self._encodes_once and hasattr(backbone, "get_rope_index") else None

    def of(self, settings: Any) -> "TokenLayouts":
        """Those that `share_prefix` and `padding_free` of a `LossSettings` ask for."""
        layouts = copy.copy(self)
        layouts._share_prefix, layouts._padding_free = settings.share_prefix, settings.padding_free
        return layouts

    def fits(self, tokens: TokenLayout, batch: Mapping[str, Any]) -> bool:
        """Whether a layout is the one that would be made of a batch, if it is still of it (`TokenLayout.is_of`)."""
        return (tokens.packs, tokens.shares_prefix, tokens.shape) == (
            *self._ways(batch["view_layout"]),
            tuple(batch["labels"].shape),
        )

    def __call__(self, batch: Mapping[str, Any]) -> TokenLayout:
        """The layout of a batch of `PairedCollator` that is on the CPU."""
        layout, labels = batch["view_layout"], batch["labels"]
        packs, shares_prefix = self._ways(layout)
        is_own = has_own_tokens(batch)
        encodes_once = self._encodes_once and is_own and bool(layout.shared_entries.keys() & batch.keys())
        packing = pack_views(layout, labels.shape[1], shares_prefix) if packs else None
        segments = None if packing is None else self._with_blocks(packing, batch)
        # The place of each token of the rows among the hidden states
        places = torch.arange(labels.numel()).view(labels.shape) if packing is None else packing.places
        inputs = {}
        positions = self._positions(batch, layout) if is_own else None
        if packing is not None:
            inputs["sources"] = order = packing.sources
            if shares_prefix:
                inputs["n_rows"] = packing.layout.n_rows()
            positions = packing.positions.unsqueeze(0) if positions is None else in_sequence(positions, order)
        if positions is not None:
            inputs["position_ids"] = positions
        groups = None
        if self._cross_attends and is_own and "cross_attention_mask" in batch:
            encodes_once = True
            inputs["row_images"] = images = images_of_rows(batch["input_ids"] == self._image_token_id, layout)
            if packing is not None:
                groups, tensors = tile_groups(batch["cross_attention_mask"], images, packing.sources)
                inputs |= tensors
        elif encodes_once:
            sources = self._image_sources(batch, layout)
            sources = (sources if packing is None else in_sequence(sources, packing.sources)).flatten()
            sources = sources[sources >= 0]
            if not torch.equal(sources, torch.arange(len(sources))):
                inputs["image_sources"] = sources
        # Each label is predicted at the place of the token before it
        labels, places = labels[:, 1:], places[:, :-1]
        is_supervised = labels != IGNORED
        known = labels[is_supervised]
        return TokenLayout(
            packs,
            shares_prefix,
            encodes_once,
            shape=tuple(batch["labels"].shape),
            n_supervised={view: tuple(is_supervised[rows].sum(1).tolist()) for view, rows in layout.spans().items()},
            label_range=(int(known.min()), int(known.max())) if len(known) else (0, 0),
            groups=_groups(labels, places, layout),
            inputs=inputs,
            segments=segments,
            tile_groups=groups,
            segment_tensors={}
            if segments is None
            else segments.host_tensors() | host_tensors(segments.segments, self._needs),
        )

    def _with_blocks(self, packing: Packing, batch: Mapping[str, Any]) -> SegmentLayout:
        """The segments of a sequence, with the images in it that see themselves."""
        types = None if self._token_types is None else batch.get(self._token_types)
        if types is None:
            return packing.layout
        is_image = in_sequence(types, packing.sources).flatten() == 1
        blocks = blocks_of(is_image, packing.layout.segments)
        return replace(packing.layout, blocks=blocks, blocks_in_windows=self._blocks_in_windows)

    def _ways(self, layout: ViewLayout) -> tuple[bool, bool]:
        """Whether the rows of a batch become one sequence, and whether views share their prefix in it."""
        shares_prefix = self._share_prefix and any(layout.prefixes)
        n_tokens = sum(map(sum, layout.lengths.values())) - shares_prefix * sum(layout.prefixes)
        if self._longest is not None and n_tokens > self._longest:
            return False, False
        return self._padding_free or shares_prefix, shares_prefix

    def _positions(self, batch: Mapping[str, Any], layout: ViewLayout) -> torch.Tensor | None:
        """M-RoPE position ids `[3, R, L]`, or `None` where the model numbers tokens one by one."""
        if self._rope is None or "image_grid_thw" not in batch:
            return None
        wanted = inspect.signature(self._rope.get_rope_index).parameters
        sizes = with_images_repeated({key: value for key, value in batch.items() if key in wanted}, layout)
        return self._rope.get_rope_index(**sizes)[0]

    def _image_sources(self, batch: Mapping[str, Any], layout: ViewLayout) -> torch.Tensor:
        """For each image token, the index of its feature among those of all images, `[R, L]`; −1 for other tokens.

        A vision_centric row that shows the images of its partner reads the features of its partner's images.
        """
        is_image = batch["input_ids"] == self._image_token_id
        sharing, n_text_rich = layout.sharing_pairs, layout.rows.get(View.TEXT_RICH, 0)
        counts = is_image.sum(1)
        counts[n_text_rich : n_text_rich + sharing] = 0
        begins = counts.cumsum(0) - counts
        begins[n_text_rich : n_text_rich + sharing] = begins[:sharing]
        return torch.where(is_image, begins.unsqueeze(1) + is_image.cumsum(1) - 1, -1)


def counted_labels(
    batches: Iterable[dict[str, Any]], layouts: TokenLayouts, settings: Any, device: torch.device
) -> list[dict[str, torch.Tensor]]:
    """For each batch as many labels as count towards N by a `LossSettings`, for `Trainer` to count.

    A batch of another data loader than ours, or whose labels have been changed, is given its token layout.
    """
    counted = []
    for batch in batches:
        if "token_layout" not in without_stale_layout(batch):
            batch["token_layout"] = layouts.of(settings)(on_host(batch)).to(device).known_as_of(batch)
        count = batch["token_layout"].n_counted(batch["view_layout"], settings.supervised_views)
        labels = torch.zeros((), dtype=torch.long, device=device).expand(count)
        # Both names: what the host counts of plain `labels` depends on the model's own loss
        counted.append({"labels": labels, "shift_labels": labels})
    return counted


@dataclass(frozen=True)
class CollatorWithTokenLayout:
    """A collator whose batches have their `TokenLayout`, under the key `token_layout`.

    It is made of the finished batch: a collator of the user's may have changed labels.
    """

    collate: Callable[[Any], dict[str, Any]]
    layouts: TokenLayouts

    def __call__(self, rows: Any) -> dict[str, Any]:
        batch = self.collate(rows)
        return PairedBatch({**batch, "token_layout": self.layouts(batch)})


def has_own_tokens(batch: Mapping[str, Any]) -> bool:
    """Whether a batch has its tokens as the collator made them, and nothing stands before them."""
    return "input_ids" in batch and batch.get("past_key_values") is None


def on_host(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with what layouts are made of on the CPU: tokens and sizes, not pixels. It waits for their device."""
    # PEFT's virtual tokens leave `token_type_ids` as `None`
    return {key: value.cpu() if key in _MADE_OF and value is not None else value for key, value in batch.items()}


def without_stale_layout(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch, without its token layout where that was made of other tensors than are in it now.

    A `training_step` or a `compute_loss` of the user's may have changed labels.
    """
    tokens = batch.get("token_layout")
    if tokens is None or tokens.is_of(batch):
        return batch
    return {key: value for key, value in batch.items() if key != "token_layout"}


def _versions(batch: Mapping[str, Any]) -> dict[str, tuple[Any, int]]:
    """What a layout is made of in a batch, each with a number that grows when its values are written to."""
    found = {key: (batch[key], batch[key]._version) for key in _MADE_OF if batch.get(key) is not None}
    return {**found, "view_layout": (batch["view_layout"], 0)}


def _groups(labels: torch.Tensor, places: torch.Tensor, layout: ViewLayout) -> dict[str, Tensors]:
    spans, groups = layout.spans(), {}

    def tokens(view: View, first: int, end: int) -> Tensors:
        """Of some rows of a view."""
        rows = slice(spans[view].start + first, spans[view].start + end)
        kept, has = labels[rows] != IGNORED, layout.cross_entropy_rows(view)[first:end]
        found = {"labels": labels[rows][kept], "places": places[rows][kept]}
        if not all(has):
            found["has_cross_entropy"] = torch.tensor(has).unsqueeze(1).expand_as(kept)[kept]
        return found

    if layout.pairs:
        text = tokens(View.TEXT_RICH, 0, layout.pairs)
        del text["labels"]
        vision = tokens(View.VISION_CENTRIC, 0, layout.pairs)
        groups[PAIRS] = {**vision, **{f"text_{name}": tensor for name, tensor in text.items()}}
    for view, count in layout.rows.items():
        first = layout.pairs if view in (View.TEXT_RICH, View.VISION_CENTRIC) else 0
        if count > first:
            groups[str(view)] = tokens(view, first, count)
    return groups


def _without_weights(module: Any) -> Any:
    """A module with the methods and the config of another; it can be sent to the workers of a data loader."""
    owner = module.get_rope_index.__self__  # the module itself, or what a wrapper hands on to
    bare: Any = object.__new__(type(owner))
    torch.nn.Module.__init__(bare)
    bare.config = owner.config
    # Some read a size off the module (`spatial_merge_size` of Qwen-Omni)
    vars(bare).update({name: value for name, value in vars(owner).items() if type(value) in (int, str)})
    return bare
