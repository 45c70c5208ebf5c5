"""All losses and their gradients in one pass over tiles of logits; the whole `[M, V]` logits are never in memory.

A tile of logits is computed once, overwritten by its gradient, and multiplied into the gradients of the hidden states
and of the head. The forward can do this because the head is the last layer and the weights of the losses are known
before the backward, which then only scales the stored gradients. In units of one product of `[M, H]` and `[H, V]` a
pair costs 6 (4 with a frozen head), where ops that recompute the logits in their backward cost 14 (11).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .gradient_filter import kept_columns
from .head import HeadProducts, needs_temporary
from .spec import (
    IGNORE_INDEX,
    LossSpec,
    TileRows,
    TokenGroup,
    TokenStats,
    accumulation_dtype,
    part_of,
    tensor_on,
    weighted_sum,
)
from .tiles import TileBuffers, count_multiprocessors, plan_tiles, product_dtype


# Elements of a gradient that are converted to a wider dtype at a time, to be scaled
SCALED_AT_A_TIME = 2**22


def linear_losses(
    groups: list[TokenGroup],
    lm_head_weight: torch.Tensor,
    lm_head_bias: torch.Tensor | None,
    spec: LossSpec,
    normalizer: torch.Tensor,
    *,
    rows_class: Any,
    n_ignored: list[int],
    tile_mib: float | None = None,
    gradient_filter: float = 0.0,
) -> tuple[torch.Tensor, list[TokenStats]]:
    """As `reference.linear_losses`; `rows_class` (`TorchRows`, `TritonRows`) does the elementwise work on tiles.

    Nothing here waits for the device, but for `gradient_filter`. So the sizes must be known: `n_ignored` are the
    tokens of each group without a label.
    """
    inputs = [lm_head_weight, lm_head_bias, *(hidden for group in groups for hidden in group[:2])]
    wants_weight, wants_bias, *wants_hidden = (
        torch.is_grad_enabled() and x is not None and x.requires_grad for x in inputs
    )
    dtype = product_dtype([hidden for group in groups for hidden in group.hidden])
    # `dtype` takes autocast into account already; inside autocast the sums would be rounded
    with torch.no_grad(), torch.autocast(lm_head_weight.device.type, enabled=False):
        n_views = 2 if any(group.is_paired for group in groups) else 1
        device = lm_head_weight.device
        n_labelled = [len(group.labels) - ignored for group, ignored in zip(groups, n_ignored, strict=True)]
        plan = plan_tiles(
            n_tokens=max(n_labelled),
            n_views=n_views,
            n_scratch=rows_class.scratch_rows(spec, dtype, n_views),
            head=lm_head_weight,
            dtype=dtype,
            tile_mib=tile_mib,
            filters=gradient_filter > 0,
            trains_head=wants_weight,
            needs_temporary=needs_temporary(dtype, device),
            n_multiprocessors=count_multiprocessors(device),
        )
        n_tiles = sum(-(-n // plan.tokens) for n in n_labelled)
        head = HeadProducts(
            lm_head_weight,
            lm_head_bias,
            dtype,
            plan.head_rows,
            wants_weight,
            wants_bias,
            copies=plan.copies_head,
            is_one_tile=n_tiles == 1 and not gradient_filter,
        )
        rows = rows_class(spec, dtype, len(lm_head_weight), plan.block_rows, n_views, device)
        buffers = TileBuffers(plan, n_views, lm_head_weight, dtype)
        normalizer = normalizer.to(accumulation_dtype(dtype))
        divisor = normalizer if dtype != torch.float16 else _divisor_for_float16(groups, normalizer)
        passes = [
            _GroupPass(group, ignored, wants, wants_weight or wants_bias, divisor, dtype)
            for group, ignored, *wants in zip(groups, n_ignored, wants_hidden[::2], wants_hidden[1::2], strict=True)
        ]
        for group_pass in passes:
            for start in range(0, group_pass.n_tokens, plan.tokens):
                group_pass.run_tile(
                    slice(start, min(start + plan.tokens, group_pass.n_tokens)), head, rows, buffers, gradient_filter
                )
        loss = torch.stack([group_pass.weighted_loss() for group_pass in passes]).sum() / normalizer
        gradients = [*head.finished(), *(gradient for each in passes for gradient in each.hidden_gradients)]
    if any(gradient is not None for gradient in gradients):
        loss = _WithGradients.apply(loss, divisor / normalizer, gradients, *inputs)
    return loss, [group_pass.all_stats() for group_pass in passes]


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


class _GroupPass:
    """One group of tokens during the pass: its labelled tokens, their weights and statistics, and its gradients."""

    def __init__(self, group: TokenGroup, n_ignored: int, wants_hidden, wants_head: bool, divisor, dtype):
        self.group, self.sum_dtype = group, accumulation_dtype(dtype)
        self.n_tokens = len(group.labels) - n_ignored
        self.kept, self.labels = None, group.labels
        if n_ignored:  # sorted to the front, in their order: `nonzero` would wait for the device to count them
            self.kept = (group.labels == IGNORE_INDEX).argsort(stable=True)[: self.n_tokens]
            self.labels = group.labels[self.kept]
        self.weights = [self._per_token(weight) for weight in group[3:]]
        self.stats = _new_stats(group, self.n_tokens, self.sum_dtype)

        has_kl = group.is_paired and _may_be_above_0(group.kl_weight)
        has_loss = (_may_be_above_0(group.text_weight), _may_be_above_0(group.vision_weight) or has_kl)
        by_view = [
            None if hidden is None else self._view(hidden, has_loss[i], wants_hidden[i], wants_head)
            for i, hidden in enumerate(group[:2])
        ]
        self.views = [view for view in by_view if view is not None]
        self.hidden_gradients = [None if view is None else view.gradient for view in by_view]
        makes_text, makes_vision = (view is not None and view.makes_gradient for view in by_view)
        self.coefficients = [
            weight / divisor if given else None
            for weight, given in zip(self.weights, (makes_text, makes_vision, makes_vision and has_kl), strict=True)
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

    def run_tile(self, tokens: slice, head: HeadProducts, rows, buffers: TileBuffers, gradient_filter: float) -> None:
        n = tokens.stop - tokens.start
        source = tokens if self.kept is None else self.kept[tokens]
        hidden, tile, gradient = buffers.of(n * len(self.views))
        for i, view in enumerate(self.views):
            hidden[i * n : (i + 1) * n].copy_(view.hidden[source])
        head.logits(hidden, tile)
        text = None if self.group.text_hidden is None else tile[:n]
        vision = None if self.group.vision_hidden is None else tile[-n:]
        weights = [None if weight is None else weight[tokens] for weight in self.coefficients]
        rows(TileRows(text, vision, self.labels[tokens], *weights), part_of(self.stats, tokens))

        made = _rows_of([view.makes_gradient for view in self.views], n)
        filled = _rows_of([view.stores_gradient for view in self.views], n)
        if made is None:
            return
        columns = None
        if gradient_filter:
            columns = kept_columns(tile[made], gradient_filter * _largest(weights), head.block_rows)
        if filled is not None:
            head.hidden_gradient(tile[filled], gradient[filled], columns)
        head.add_head_gradient(tile[made], hidden[made], columns)
        for i, view in enumerate(self.views):
            if view.stores_gradient and view.gradient is not None:
                view.gradient[source] = gradient[i * n : (i + 1) * n].to(view.gradient.dtype)

    def weighted_loss(self) -> torch.Tensor:
        losses = zip((self.stats.text_nll, self.stats.vision_nll, self.stats.kl), self.weights, strict=True)
        return torch.stack([weighted_sum(values, weight) for values, weight in losses if values is not None]).sum()

    def all_stats(self) -> TokenStats:
        """The statistics of every token of the group, including tokens without a label."""
        if self.kept is None:
            return self.stats
        everything = _new_stats(self.group, len(self.group.labels), self.sum_dtype)
        for whole, values in zip(everything, self.stats, strict=True):
            if whole is not None and values is not None:
                whole[self.kept] = values
        return everything

    def _per_token(self, weight: float | torch.Tensor) -> torch.Tensor:
        labels = self.group.labels
        weight_M = tensor_on(labels.device, weight, self.sum_dtype).detach().expand_as(labels)
        return weight_M if self.kept is None else weight_M[self.kept]


class _WithGradients(torch.autograd.Function):
    """The loss as a node of the graph whose gradients are already computed; the backward scales them."""

    @staticmethod
    def forward(ctx, loss, unit, gradients, *inputs):
        ctx.save_for_backward(unit, *gradients)
        ctx.dtypes = [None if x is None else x.dtype for x in inputs]
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs):  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad_loss,) = grad_outputs
        unit, *gradients = ctx.saved_tensors
        # With `retain_graph` the backward may run again, so it scales copies; also where torch cannot tell
        keeps_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)()
        scale = grad_loss * unit
        scaled = (
            None if gradient is None else _scaled(gradient, scale, dtype, in_place=not keeps_graph)
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        )
        return None, None, None, *scaled


def _scaled(gradient: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype, in_place: bool) -> torch.Tensor:
    """gradient·scale, multiplied in the dtype of the scale (float32 or wider) and rounded once, to `dtype`."""
    if not any(gradient.stride()):  # an expanded zero
        return torch.zeros_like(gradient, dtype=dtype, memory_format=torch.contiguous_format)
    is_cpu = gradient.device.type == "cpu"
    # On a CPU `item` waits for no device, and skipping a scale of 1 spares a pass over the head's large gradient
    if in_place and is_cpu and scale.item() == 1.0:
        return gradient.to(dtype)
    has_room = in_place and gradient.dtype == dtype
    scaled = gradient if has_room else torch.empty_like(gradient, dtype=dtype)
    # A scalar would be rounded to the gradient's dtype first; a tensor with a dimension decides that of the product
    scale = scale.reshape(1)
    if not is_cpu or gradient.dtype == scale.dtype == dtype:
        return torch.mul(
            gradient, scale, out=scaled
        )  # one pass: only a CPU converts in tensors of the gradient's size
    at_a_time = max(1, SCALED_AT_A_TIME // max(1, gradient.stride(0)))
    for source, target in zip(gradient.split(at_a_time), scaled.split(at_a_time), strict=True):
        torch.mul(source, scale, out=target)
    return scaled


def _divisor_for_float16(groups: list[TokenGroup], normalizer: torch.Tensor) -> torch.Tensor:
    """Divisor for the gradients of float16 tiles instead of the normalizer, so that the largest one is near 1.

    In float16, 1 / normalizer of a long batch underflows before a loss scale is applied. The quotient of the two
    divisors is a power of two, so that applying it in the backward costs no rounding.
    """
    weights = [
        tensor_on(normalizer.device, weight, normalizer.dtype).flatten()
        for group in groups
        for weight in (group.text_weight, group.vision_weight + group.kl_weight)
    ]
    largest = torch.cat([normalizer.new_zeros(1), *weights]).max()
    ratio = normalizer / torch.where(largest > 0, largest, 1.0)
    return normalizer / ratio.log2().floor().exp2()


def _new_stats(group: TokenGroup, n_tokens: int, dtype: torch.dtype) -> TokenStats:
    def zeros(is_there: bool, dtype: torch.dtype = dtype) -> torch.Tensor | None:
        return torch.zeros(n_tokens, dtype=dtype, device=group.labels.device) if is_there else None

    text, vision = group.text_hidden is not None, group.vision_hidden is not None
    nlls_and_kl = zeros(text), zeros(vision), zeros(group.is_paired)
    return TokenStats(*nlls_and_kl, zeros(text), zeros(vision), zeros(text, torch.bool), zeros(vision, torch.bool))


def _may_be_above_0(weight: float | torch.Tensor) -> bool:
    """Whether a weight may be above 0; `True` for a tensor, since reading its values would wait for the device."""
    return isinstance(weight, torch.Tensor) or weight > 0


def _rows_of(chosen: list[bool], n: int) -> slice | None:
    """The slice of a tile's rows of the chosen views (one view, or both, which are adjacent); `None` for no view."""
    if not any(chosen):
        return None
    first, last = chosen.index(True), len(chosen) - chosen[::-1].index(True)
    return slice(first * n, last * n)


def _largest(weights: list[torch.Tensor | None]) -> torch.Tensor:
    """The largest weight of a token's gradient: w_r of the text_rich view, or w_v + λ of the vision_centric view."""
    text, vision, kl = weights
    if vision is not None and kl is not None:
        vision = vision + kl
    return torch.stack([weight.max() for weight in (text, vision) if weight is not None]).max()
