"""All losses and their gradients in one pass over tiles of logits; the whole `[M, V]` logits are never in memory.

A tile of logits is computed once, overwritten by its gradient, and multiplied into the gradients of the hidden states
and of the head. The forward can do this because the head is the last layer and the weights of the losses are known
before the backward, which then only scales the stored gradients. In units of one product of `[M, H]` and `[H, V]` a
pair costs 6 (4 with a frozen head), where ops that recompute the logits in their backward cost 14 (11). A teacher of
its own is one more: its tile of logits has no gradient.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .group_pass import GroupPass
from .head import HeadProducts, needs_temporary
from .spec import LossSpec, Teacher, TokenGroup, TokenStats, accumulation_dtype, tensor_on
from .teacher_tiles import TeacherTiles
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
        has_teacher = any(isinstance(who, Teacher) for group in groups for who in (group.teacher, group.anchor))
        device, n_compared = lm_head_weight.device, max(n_views, 1 + has_teacher)
        n_labelled = [len(group.labels) - ignored for group, ignored in zip(groups, n_ignored, strict=True)]
        plan = plan_tiles(
            n_tokens=max(n_labelled),
            n_views=n_views + has_teacher,
            n_scratch=rows_class.scratch_rows(spec, dtype, n_compared),
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
        rows = rows_class(spec, dtype, len(lm_head_weight), plan.block_rows, n_compared, device)
        buffers = TileBuffers(plan, n_views, lm_head_weight, dtype)
        teachers = TeacherTiles(head, lm_head_weight, lm_head_bias, plan, has_teacher)
        normalizer = normalizer.to(accumulation_dtype(dtype))
        divisor = normalizer if dtype != torch.float16 else _divisor_for_float16(groups, normalizer)
        passes = [
            GroupPass(group, ignored, wants, wants_weight or wants_bias, divisor, spec, dtype)
            for group, ignored, *wants in zip(groups, n_ignored, wants_hidden[::2], wants_hidden[1::2], strict=True)
        ]
        for group_pass in passes:
            for start in range(0, group_pass.n_tokens, plan.tokens):
                tokens = slice(start, min(start + plan.tokens, group_pass.n_tokens))
                group_pass.run_tile(tokens, head, rows, buffers, teachers, gradient_filter)
        loss = torch.stack([group_pass.weighted_loss() for group_pass in passes]).sum() / normalizer
        gradients = [*head.finished(), *(gradient for each in passes for gradient in each.hidden_gradients)]
    if any(gradient is not None for gradient in gradients):
        loss = _WithGradients.apply(loss, divisor / normalizer, gradients, *inputs)
    return loss, [group_pass.all_stats() for group_pass in passes]


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
        for weight in (group.text_weight + group.anchor_weight, group.vision_weight + group.kl_weight)
    ]
    largest = torch.cat([normalizer.new_zeros(1), *weights]).max()
    ratio = normalizer / torch.where(largest > 0, largest, 1.0)
    return normalizer / ratio.log2().floor().exp2()
