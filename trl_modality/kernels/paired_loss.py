"""`paired_linear_loss`, the losses of both views of pairs in one call, and the checks of its arguments."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch

from .backends import get_backend
from .checks import check_tensors, checked_values, with_weights_on
from .spec import IGNORE_INDEX, LossSpec, Teacher, TokenGroup, TokenStats, TopTokens, tensor_on
from .tiles import product_dtype


Function = TypeVar("Function", bound=Callable[..., Any])


def _opaque_when_compiled(function: Function) -> Function:
    """Keep a function out of the graphs of `torch.compile`: its sizes depend on data, and it writes into buffers."""
    disabled: Any = torch.compiler.disable(function)
    return disabled


class PairedLossOutput(NamedTuple):
    """The loss, and statistics of each token for metrics: without gradient, and 0 where the label is ignored.

    The statistics of a view that was not given are `None`, and so is `kl` unless both views were given.
    """

    loss: torch.Tensor
    """Scalar, nats: Σ of each loss below times its weight (`kl` by `kl_weight` and `kl_share`), / normalizer."""
    text_nll: torch.Tensor | None
    """`[M]`, nats: −log p of the label in the text_rich view, at temperature 1."""
    vision_nll: torch.Tensor | None
    """`[M]`, nats: the same in the vision_centric view, or of rows without a partner."""
    kl: torch.Tensor | None
    """`[M]`, nats: the divergence between the views at `temperature`."""
    text_entropy: torch.Tensor | None
    """`[M]`, nats."""
    vision_entropy: torch.Tensor | None
    """`[M]`, nats."""
    text_is_top1: torch.Tensor | None
    """`[M]`, bool: the label is the most likely token."""
    vision_is_top1: torch.Tensor | None
    """`[M]`, bool."""
    kl_share: torch.Tensor | None = None
    """`[M]`, what `kl_weight` was multiplied with by `kl_mask` and importance weights; `None` without them."""
    anchor_kl: torch.Tensor | None = None
    """`[M]`, nats: the divergence of the text_rich view from `anchor`."""
    teacher_nll: torch.Tensor | None = None
    """`[M]`, nats: −log p of the label by `teacher`; so are the next two, in nats and bool."""
    teacher_entropy: torch.Tensor | None = None
    teacher_is_top1: torch.Tensor | None = None


def paired_linear_loss(
    text_hidden: torch.Tensor | None,
    vision_hidden: torch.Tensor | None,
    lm_head_weight: torch.Tensor,
    labels: torch.Tensor,
    *,
    lm_head_bias: torch.Tensor | None = None,
    text_weight: float | torch.Tensor = 1.0,
    vision_weight: float | torch.Tensor = 1.0,
    kl_weight: float | torch.Tensor = 1.0,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    temperature: float = 1.0,
    logit_scale: float = 1.0,
    logit_softcap: float | None = None,
    teacher: Teacher | TopTokens | None = None,
    teacher_top_k: int | None = None,
    anchor: Teacher | TopTokens | None = None,
    anchor_weight: float | torch.Tensor = 0.0,
    kl_clip: float | None = None,
    kl_mask: str = "all",
    confidence: float = 0.5,
    blind_nll: torch.Tensor | None = None,
    sampled_nll: torch.Tensor | None = None,
    importance_clip: float | None = None,
    normalizer: float | torch.Tensor | None = None,
    backend: str = "auto",
    tile_mib: float | None = None,
    gradient_filter: float = 0.0,
) -> PairedLossOutput:
    """Cross-entropy of both views and the divergence between them, over the supervised tokens of a batch of pairs.

        loss = Σ_t [ w_r·CE_r(t) + w_v·CE_v(t) + λ·D( stopgrad p_r(t) ‖ p_v(t) ) ] / normalizer

    The text_rich distribution is the teacher, unless one is given: the divergence sends no gradient into
    `text_hidden`, nor into the head through the text_rich view. With an `anchor` another divergence holds the
    text_rich view: α·D(p_anchor ‖ p_r).

    Args:
        text_hidden: `[M, H]`, last hidden states of the text_rich view at the positions that predict `labels`; `None`
            for rows without that view (plain rows, a vision_centric stage): then there is no divergence either.
        vision_hidden: `[M, H]`, the same for the vision_centric view; `None` for rows without that view.
        lm_head_weight: `[V, H]`.
        labels: `[M]` int64, the next token, one for both views; −100 contributes nothing.
        lm_head_bias: `[V]`.
        text_weight, vision_weight, kl_weight: w_r, w_v and λ, ≥ 0, floats or `[M]` tensors without gradient (a mask is
            a weight of 0).
        divergence: `"forward_kl"` KL(p_r‖p_v), `"reverse_kl"` KL(p_v‖p_r), or `"jsd"`: β·KL(p_r‖m) + (1−β)·KL(p_v‖m)
            with m = (1−β)·p_v + β·p_r. As in TRL, β=0 stands for the forward KL and β=1 for the reverse KL. Or an
            estimate from the label alone: `"sampled_k3"`, as published (exp(d) − d − 1 with d = log p_r − log p_v in
            ±20, bounded by 10), whose mean over labels that p_r said is χ²(p_r‖p_v) − KL(p_r‖p_v); or
            `"sampled_reverse_kl"`, whose value and gradient are, in the mean over labels that p_v said, those of
            KL(p_v‖p_r).
        beta: β of the generalized JSD, in [0, 1]; ignored by the two KLs.
        temperature: τ that divides the logits of both views in the divergence (no τ² factor), not in the
            cross-entropies.
        logit_scale: factor on the logits, before soft-capping.
        logit_softcap: `c` of `c·tanh(logits / c)`, before the temperature.
        teacher: Whom the vision_centric view learns from in place of the text_rich view: a [`Teacher`] of any width,
            with a frozen head, or the [`TopTokens`] of one that is asked elsewhere. With `text_hidden=None` the rows
            of `vision_hidden` may be of any view.
        teacher_top_k: K ≥ 1: the divergence is over the teacher's K likeliest tokens, and all others as one class.
        anchor: Whom the text_rich view is held to by the same divergence.
        anchor_weight: α ≥ 0, as the other weights.
        kl_clip: nats that one vocabulary entry (with `teacher_top_k`, one class) adds to a divergence at most; what it
            would add above that has no gradient.
        kl_mask: which tokens learn from the teacher: `"all"`; `"teacher_correct"`, those whose label is its likeliest
            token; `"confident"`, those where that has a probability of `confidence` at least; `"visual_advantage"`,
            each by the share 1 − p_blind/p of the label that the teacher owes to what the student does not see.
        confidence: in [0, 1], for `"confident"`.
        blind_nll: `[M]`, nats: what `teacher` says of the labels where it sees no more than the student. For a live
            teacher that is the vision_centric view, and need not be given.
        sampled_nll: `[M]`, nats: −log p of the labels by the weights that sampled them, or −1 where they were not
            sampled.
        importance_clip: weighs the divergence of sampled tokens by exp(sampled_nll − vision_nll), at most this.
        normalizer: what the sum is divided by, a count of tokens or a sum of weights; by default the supervised tokens
            of the views that are given (2·M for pairs without ignored labels). 0 is taken as 1, so that a batch
            without supervised tokens has a loss of 0 that is still part of the graph.
        backend: `"reference"` is plain autograd on full logits; `"torch"` and `"triton"` hold no more than a tile of
            them and make the gradients in the forward; `"auto"` is `"triton"` on GPUs that have it, else `"torch"`.
        tile_mib: what the tile and everything beside it may take, in MiB. By default 256 on a CPU; elsewhere as much
            as the gradient of the head takes in float32 (V·H·4 bytes), half of that with a frozen head, and 512 to
            4,096 in any case. Memory does not grow with M beyond the gradients themselves. A head in half precision
            has its gradient summed in float32, unless one tile holds all tokens and the head is bfloat16. On a GPU a
            head in another dtype than the products, as float32 under autocast, is converted once (V·H·2 bytes, beside
            the default budget, or within a given one of twice the size), else block by block for every tile.
        gradient_filter: ε ≥ 0, off at 0. Leaves out of the two gradient products the vocabulary entries that matter
            least: of every token, entries of the logit gradient with at most ε·w/normalizer in the sum of their
            absolute values, where w is the largest weight of a token (w_v + λ in the vision_centric view). The
            gradient of a hidden state is then off by at most ε·w/normalizer·max_v ‖W_v‖. That is absolute: a token
            which the model is sure of, with a gradient as small as that, may lose all of it. The loss and the
            per-token outputs stay exact. On peaked distributions most of the vocabulary goes. Which entries go is
            decided tile by tile, and so depends on `tile_mib`.

    Returns:
        `PairedLossOutput`; only `loss` carries a gradient, to the hidden states, the head and its bias. Unless the
        backend is `"reference"`, `loss` can be differentiated only once.

    Raises:
        ValueError: on shapes, devices, labels, weights or options that do not fit; the message names the argument.

    Under `torch.compile` the call is a graph break.
    """
    weights = (text_weight, vision_weight, kl_weight, anchor_weight)
    group = TokenGroup(text_hidden, vision_hidden, labels, *weights, teacher, anchor, blind_nll, sampled_nll)
    how = (divergence, beta, temperature, logit_scale, logit_softcap)
    if normalizer is None:
        normalizer = len(group.hidden) * (labels != IGNORE_INDEX).sum()
    loss, (stats,) = grouped_linear_loss(
        [group],
        lm_head_weight,
        lm_head_bias=lm_head_bias,
        spec=LossSpec(*how, kl_clip, kl_mask, confidence, importance_clip, teacher_top_k),
        normalizer=normalizer,
        backend=backend,
        tile_mib=tile_mib,
        gradient_filter=gradient_filter,
    )
    return PairedLossOutput(loss, *stats)


@_opaque_when_compiled
def grouped_linear_loss(
    groups: list[TokenGroup],
    lm_head_weight: torch.Tensor,
    *,
    lm_head_bias: torch.Tensor | None = None,
    spec: LossSpec,
    normalizer: float | torch.Tensor,
    backend: str = "auto",
    tile_mib: float | None = None,
    gradient_filter: float = 0.0,
    checked: bool = False,
) -> tuple[torch.Tensor, list[TokenStats]]:
    """`paired_linear_loss` over several groups of tokens at once: a batch of pairs and of rows without a partner.

    All groups share one pass and one gradient of the head. Arguments and errors are those of `paired_linear_loss`, and

    Args:
        checked: the caller vouches for the values: that no label is −100, that every label is a token of the head,
            every weight finite and ≥ 0, and `normalizer` a finite number ≥ 0. Then, if the tensors are on the device
            of the head and `gradient_filter` is 0, neither the forward nor the backward waits for a GPU. Otherwise
            one transfer checks all values; what is said of them wrongly has no defined result.

    Returns:
        The sum of the losses of all groups divided by `normalizer`, and the statistics of each group's tokens.
    """
    if not groups:
        raise ValueError("`groups` is empty: give one group of tokens at least.")
    if tile_mib is not None and not (tile_mib > 0 and math.isfinite(tile_mib)):
        raise ValueError(f"`tile_mib` must be positive and finite, or None, got {tile_mib}.")
    if not 0.0 <= gradient_filter < 1.0:
        raise ValueError(f"`gradient_filter` must be in [0, 1), got {gradient_filter}; 0 leaves nothing out.")
    normalizer = tensor_on(lm_head_weight.device, normalizer)
    if normalizer.numel() != 1 or normalizer.requires_grad:
        raise ValueError(f"`normalizer` must be a number without gradient, got shape {tuple(normalizer.shape)}.")
    normalizer = normalizer.reshape(())
    for group in groups:
        check_tensors(group, lm_head_weight, lm_head_bias, spec)
    groups = [with_weights_on(lm_head_weight.device, group) for group in groups]
    n_ignored = [0] * len(groups) if checked else checked_values(groups, normalizer, vocab_size=len(lm_head_weight))
    dtype = product_dtype([hidden for group in groups for hidden in group.hidden])
    return get_backend(backend, lm_head_weight.device, dtype)(
        groups,
        lm_head_weight,
        lm_head_bias,
        spec,
        normalizer.masked_fill(normalizer == 0, 1),
        n_ignored=n_ignored,
        tile_mib=tile_mib,
        gradient_filter=gradient_filter,
    )
