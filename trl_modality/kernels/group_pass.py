"""One group of tokens during the pass over tiles: its labelled tokens, their statistics, and its gradients."""

from dataclasses import dataclass
from typing import Any

import torch

from .gradient_filter import kept_columns
from .head import HeadProducts
from .reference import Target, share_by_mask, target_of_top_tokens
from .spec import (
    IGNORE_INDEX,
    SAMPLED,
    LossSpec,
    Teacher,
    TileRows,
    TokenGroup,
    TokenStats,
    TopTokens,
    accumulation_dtype,
    part_of,
    tensor_on,
    weighted_sum,
)
from .teacher_tiles import TeacherTiles
from .tiles import TileBuffers


@dataclass
class _ViewPass:
    """One view of a group of tokens: its hidden states, and the buffer of their gradient."""

    hidden: torch.Tensor
    makes_gradient: bool
    """Whether tiles of this view are turned into gradients: a loss of the view may have weight, and the hidden states
    or the head are trained."""
    gradient: torch.Tensor | None
    """`[M, H]`, filled tile by tile; `None` where the hidden states are not trained."""

    @property
    def stores_gradient(self) -> bool:
        return self.makes_gradient and self.gradient is not None


class GroupPass:
    """One group of tokens during the pass.

    Args:
        group: The group.
        n_ignored: How many of its tokens have no label.
        wants_hidden: Whether the hidden states of its text_rich, and of its vision_centric view are trained.
        wants_head: Whether the head or its bias is.
        divisor: What the gradients are divided by.
        spec: Options of the loss.
        dtype: Of the products.
    """

    def __init__(
        self, group: TokenGroup, n_ignored: int, wants_hidden, wants_head: bool, divisor, spec: LossSpec, dtype
    ):
        self.group, self.spec, self.sum_dtype = group, spec, accumulation_dtype(dtype)
        self.n_tokens = len(group.labels) - n_ignored
        self.kept = None
        if n_ignored:  # sorted to the front, in their order: `nonzero` would wait for the device to count them
            self.kept = (group.labels == IGNORE_INDEX).argsort(stable=True)[: self.n_tokens]
        self.labels = self._labelled(group.labels)
        weights = (group.text_weight, group.vision_weight, group.kl_weight, group.anchor_weight)
        self.weights = [self._per_token(weight) for weight in weights]
        self.stats = _new_stats(group, self.n_tokens, spec, self.sum_dtype)
        self.targets = {id(who): self._target_of(who) for who in (group.teacher, group.anchor)}

        has_kl = group.has_divergence and _may_be_above_0(group.kl_weight)
        has_anchor = group.anchor is not None and _may_be_above_0(group.anchor_weight)
        has_loss = (_may_be_above_0(group.text_weight) or has_anchor, _may_be_above_0(group.vision_weight) or has_kl)
        by_view = [
            None if hidden is None else self._view(hidden, has_loss[i], wants_hidden[i], wants_head)
            for i, hidden in enumerate(group[:2])
        ]
        self.views = [view for view in by_view if view is not None]
        self.hidden_gradients = [None if view is None else view.gradient for view in by_view]
        makes_text, makes_vision = (view is not None and view.makes_gradient for view in by_view)
        given = (makes_text, makes_vision, makes_vision and has_kl, makes_text and has_anchor)
        self.coefficients = [
            weight / divisor if is_given else None for weight, is_given in zip(self.weights, given, strict=True)
        ]

    def _view(self, hidden: torch.Tensor, has_loss: bool, wants_hidden: bool, wants_head: bool) -> _ViewPass:
        if not wants_hidden:
            return _ViewPass(hidden, makes_gradient=has_loss and wants_head, gradient=None)
        if not has_loss:  # zeros keep it in the graph; expanded, they take no memory
            return _ViewPass(hidden, makes_gradient=False, gradient=hidden.new_zeros(()).expand(hidden.shape))
        new = torch.empty if self.kept is None else torch.zeros
        return _ViewPass(
            hidden, makes_gradient=True, gradient=new(hidden.shape, dtype=hidden.dtype, device=hidden.device)
        )

    def run_tile(
        self,
        tokens: slice,
        head: HeadProducts,
        rows: Any,
        buffers: TileBuffers,
        teachers: TeacherTiles,
        gradient_filter: float,
    ) -> None:
        """Add the losses and gradients of some labelled tokens."""
        n = tokens.stop - tokens.start
        source = tokens if self.kept is None else self.kept[tokens]
        hidden, tile, gradient = buffers.of(n * len(self.views))
        for i, view in enumerate(self.views):
            hidden[i * n : (i + 1) * n].copy_(view.hidden[source])
        head.logits(hidden, tile)
        text = None if self.group.text_hidden is None else tile[:n]
        vision = None if self.group.vision_hidden is None else tile[-n:]
        self._compare(text, vision, tokens, source, rows, teachers)

        made = _rows_of([view.makes_gradient for view in self.views], n)
        filled = _rows_of([view.stores_gradient for view in self.views], n)
        if made is None:
            return
        columns = None
        if gradient_filter:
            largest = self._largest_weight(tokens)
            columns = kept_columns(tile[made], gradient_filter * largest, head.block_rows)
        if filled is not None:
            head.hidden_gradient(tile[filled], gradient[filled], columns)
        head.add_head_gradient(tile[made], hidden[made], columns)
        for i, view in enumerate(self.views):
            if view.stores_gradient and view.gradient is not None:
                view.gradient[source] = gradient[i * n : (i + 1) * n].to(view.gradient.dtype)

    def _compare(self, text, vision, tokens: slice, source, rows: Any, teachers: TeacherTiles) -> None:
        """Turn the logits of a tile into gradients, and fill the statistics of its tokens."""
        group, spec, stats, labels = self.group, self.spec, part_of(self.stats, tokens), self.labels[tokens]
        text_weight, vision_weight, kl_weight, anchor_weight = (_part(weight, tokens) for weight in self.coefficients)
        nlls = [_part(self._labelled(nll), tokens) for nll in (group.blind_nll, group.sampled_nll)]
        if group.teacher is None and group.anchor is None and not (group.is_paired and spec.teacher_top_k):
            rows(TileRows(text, vision, labels, text_weight, vision_weight, kl_weight, *nlls), stats)
            return
        if vision is not None:
            tile = TileRows(None, vision, labels, None, vision_weight, kl_weight, *nlls)
            own = stats if group.teacher is None else _with_statistics_of_teacher(stats)
            live = text if group.teacher is None else None
            self._learn(tile, own, group.teacher, live, tokens, source, rows, teachers)
        if text is not None:
            tile = TileRows(None, text, labels, None, text_weight, anchor_weight)
            own = _statistics_of_anchored(stats)
            self._learn(tile, own, group.anchor, None, tokens, source, rows, teachers)

    def _learn(self, tile: TileRows, stats: TokenStats, who, live, tokens, source, rows, teachers: TeacherTiles):
        """The losses of one view that learns from `who`, or from the logits of the live text_rich view."""
        spec = self.spec
        target: Target | None = self.targets.get(id(who)) if who is not None else None
        if target is not None:
            target = Target(*(_part(field, tokens) for field in target))
        elif live is not None or who is not None:
            made: Any = (live, None) if who is None else teachers.logits(who, source, len(tile.labels))
            logits, rules = made
            if spec.teacher_top_k is None:
                # What the torch twin does to them, others would read: the text_rich view, and whom the anchor holds
                keeps = live is not None or who is self.group.anchor
                rows(tile._replace(text=logits), stats, rules, keeps)
                if isinstance(who, Teacher) and stats.text_nll is not None:
                    teachers.know_no_others(who, stats.text_nll, tile.labels)
                return
            target = teachers.target(logits, rules, tile.labels, spec)
            if isinstance(who, Teacher):
                teachers.know_no_others(who, target.nll, tile.labels)
            if who is not None and stats.text_nll is not None:
                for own, values in zip(
                    (stats.text_nll, stats.text_entropy, stats.text_is_top1),
                    (target.nll, target.entropy, target.is_top1),
                    strict=True,
                ):
                    own.copy_(values)
        if target is not None:
            share = None
            if stats.kl_share is not None:
                share = share_by_mask(target.nll, target.is_top1, target.p_max, tile.blind_nll, spec)
            if spec.divergence in SAMPLED:
                tile = tile._replace(label_log_p=target.label_log_p, teacher_share=share)
            else:
                tile = tile._replace(top_ids=target.ids, top_log_probs=target.log_p, teacher_share=share)
        rows(tile, stats._replace(text_nll=None, text_entropy=None, text_is_top1=None))

    def weighted_loss(self) -> torch.Tensor:
        """The sum of the losses of all tokens."""
        stats, (text, vision, kl, anchor) = self.stats, self.weights
        kl = kl if stats.kl_share is None else kl * stats.kl_share
        losses = ((stats.text_nll, text), (stats.vision_nll, vision), (stats.kl, kl), (stats.anchor_kl, anchor))
        return torch.stack([weighted_sum(values, weight) for values, weight in losses if values is not None]).sum()

    def all_stats(self) -> TokenStats:
        """The statistics of every token of the group, including tokens without a label."""
        if self.kept is None:
            return self.stats
        everything = _new_stats(self.group, len(self.group.labels), self.spec, self.sum_dtype)
        for whole, values in zip(everything, self.stats, strict=True):
            if whole is not None and values is not None:
                whole[self.kept] = values
        return everything

    def _per_token(self, weight: float | torch.Tensor) -> torch.Tensor:
        labels = self.group.labels
        weight_M: Any = tensor_on(labels.device, weight, self.sum_dtype).detach().expand_as(labels)
        return self._labelled(weight_M)

    def _labelled(self, values: torch.Tensor | None) -> Any:
        """Values of all tokens, of those with a label."""
        return values if values is None or self.kept is None else values[self.kept]

    def _target_of(self, who: Teacher | TopTokens | None) -> Target | None:
        """What the labelled tokens learn from a teacher of which only the likeliest tokens are known."""
        if not isinstance(who, TopTokens):
            return None
        top = TopTokens(*(self._labelled(tensor) for tensor in who))
        target = target_of_top_tokens(top, self.labels, self.sum_dtype)
        if who is self.group.teacher:
            stats: Any = self.stats
            stats.teacher_nll.copy_(target.nll)
            stats.teacher_entropy.copy_(target.entropy)
            stats.teacher_is_top1.copy_(target.is_top1)
        return target

    def _largest_weight(self, tokens: slice) -> torch.Tensor:
        """The largest weight of a gradient: w_r + α of the text_rich view, or w_v + λ of the vision_centric one."""
        text, vision, kl, anchor = (_part(weight, tokens) for weight in self.coefficients)
        sums = [[weight for weight in weights if weight is not None] for weights in ((text, anchor), (vision, kl))]
        largest = torch.stack([torch.stack(weights).sum(0).max() for weights in sums if weights]).max()
        return largest if self.spec.importance_clip is None else largest * max(1.0, self.spec.importance_clip)


def _new_stats(group: TokenGroup, n_tokens: int, spec: LossSpec, dtype: torch.dtype) -> TokenStats:
    def zeros(is_there: bool, dtype: torch.dtype = dtype) -> torch.Tensor | None:
        return torch.zeros(n_tokens, dtype=dtype, device=group.labels.device) if is_there else None

    text, vision = group.text_hidden is not None, group.vision_hidden is not None
    teacher = vision and group.teacher is not None
    has_share = spec.kl_mask != "all" or (spec.importance_clip is not None and group.sampled_nll is not None)
    return TokenStats(
        text_nll=zeros(text),
        vision_nll=zeros(vision),
        kl=zeros(group.has_divergence),
        text_entropy=zeros(text),
        vision_entropy=zeros(vision),
        text_is_top1=zeros(text, torch.bool),
        vision_is_top1=zeros(vision, torch.bool),
        kl_share=zeros(group.has_divergence and has_share),
        anchor_kl=zeros(group.anchor is not None),
        teacher_nll=zeros(teacher),
        teacher_entropy=zeros(teacher),
        teacher_is_top1=zeros(teacher, torch.bool),
    )


def _with_statistics_of_teacher(stats: TokenStats) -> TokenStats:
    """The statistics of a view and its teacher, where rows write those of both views."""
    return stats._replace(
        text_nll=stats.teacher_nll, text_entropy=stats.teacher_entropy, text_is_top1=stats.teacher_is_top1
    )


def _statistics_of_anchored(stats: TokenStats) -> TokenStats:
    """The statistics of the text_rich view, where rows write those of a student; whom it is held to has none."""
    unread: Any = stats.text_nll
    return TokenStats(
        text_nll=torch.empty_like(unread),
        vision_nll=stats.text_nll,
        kl=stats.anchor_kl,
        text_entropy=torch.empty_like(unread),
        vision_entropy=stats.text_entropy,
        text_is_top1=torch.empty_like(unread, dtype=torch.bool),
        vision_is_top1=stats.text_is_top1,
    )


def _part(values: torch.Tensor | None, tokens: slice) -> Any:
    return None if values is None else values[tokens]


def _may_be_above_0(weight: float | torch.Tensor) -> bool:
    """Whether a weight may be above 0; `True` for a tensor, since reading its values would wait for the device."""
    return isinstance(weight, torch.Tensor) or weight > 0


def _rows_of(chosen: list[bool], n: int) -> slice | None:
    """The slice of a tile's rows of the chosen views (one view, or both, which are adjacent); `None` for no view."""
    if not any(chosen):
        return None
    first, last = chosen.index(True), len(chosen) - chosen[::-1].index(True)
    return slice(first * n, last * n)
