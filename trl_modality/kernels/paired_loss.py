"""`paired_linear_loss`, the losses of both views of pairs in one call, and the checks of its arguments."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch

from .backends import get_backend
from .spec import IGNORE_INDEX, LossSpec, TokenGroup, TokenStats, tensor_on
from .tiles import product_dtype


Function = TypeVar("Function", bound=Callable[..., Any])
WEIGHTS = ("text_weight", "vision_weight", "kl_weight")


def _opaque_when_compiled(function: Function) -> Function:
    """Keep a function out of the graphs of `torch.compile`: its sizes depend on data, and it writes into buffers."""
    disabled: Any = torch.compiler.disable(function)
    return disabled


class PairedLossOutput(NamedTuple):
    """The loss, and statistics of each token for metrics: without gradient, and 0 where the label is ignored.

    The statistics of a view that was not given are `None`, and so is `kl` unless both views were given.
    """

    loss: torch.Tensor
    """Scalar, nats: (Σ text_weight·text_nll + vision_weight·vision_nll + kl_weight·kl) / normalizer."""
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
    normalizer: float | torch.Tensor | None = None,
    backend: str = "auto",
    tile_mib: float | None = None,
    gradient_filter: float = 0.0,
) -> PairedLossOutput:
    """Cross-entropy of both views and the divergence between them, over the supervised tokens of a batch of pairs.

        loss = Σ_t [ w_r·CE_r(t) + w_v·CE_v(t) + λ·D( stopgrad p_r(t) ‖ p_v(t) ) ] / normalizer

    The text_rich distribution is the teacher: the divergence sends no gradient into `text_hidden`, nor into the head
    through the text_rich view.

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
            with m = (1−β)·p_v + β·p_r. As in TRL, β=0 stands for the forward KL and β=1 for the reverse KL.
        beta: β of the generalized JSD, in [0, 1]; ignored by the two KLs.
        temperature: τ that divides the logits of both views in the divergence (no τ² factor), not in the
            cross-entropies.
        logit_scale: factor on the logits, before soft-capping.
        logit_softcap: `c` of `c·tanh(logits / c)`, before the temperature.
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
    group = TokenGroup(text_hidden, vision_hidden, labels, text_weight, vision_weight, kl_weight)
    if normalizer is None:
        normalizer = len(group.hidden) * (labels != IGNORE_INDEX).sum()
    loss, (stats,) = grouped_linear_loss(
        [group],
        lm_head_weight,
        lm_head_bias=lm_head_bias,
        spec=LossSpec(divergence, beta, temperature, logit_scale, logit_softcap),
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
        _check_tensors(group, lm_head_weight, lm_head_bias)
    groups = [_with_weights_on(lm_head_weight.device, group) for group in groups]
    n_ignored = [0] * len(groups) if checked else _checked_values(groups, normalizer, vocab_size=len(lm_head_weight))
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


def _check_tensors(group: TokenGroup, lm_head_weight: torch.Tensor, lm_head_bias: torch.Tensor | None) -> None:
    """Check shapes, dtypes and devices. Raises `ValueError`."""
    labels, (vocab_size, hidden_size) = group.labels, lm_head_weight.shape
    if not group.hidden:
        raise ValueError("`text_hidden` and `vision_hidden` are both None: give the states of one view at least.")
    if labels.dim() != 1 or labels.dtype != torch.int64:
        raise ValueError(f"`labels` must be [M] int64, got {tuple(labels.shape)} {labels.dtype}.")
    for hidden in group.hidden:
        if hidden.shape != (len(labels), hidden_size):
            raise ValueError(
                f"hidden states have shape {tuple(hidden.shape)}, expected [M, H] = {(len(labels), hidden_size)} from "
                "`labels` and `lm_head_weight`."
            )
    if lm_head_bias is not None and lm_head_bias.shape != (vocab_size,):
        raise ValueError(f"`lm_head_bias` has shape {tuple(lm_head_bias.shape)}, expected [{vocab_size}].")
    for name in WEIGHTS:
        weight = getattr(group, name)
        if not isinstance(weight, torch.Tensor):
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"`{name}` must be a finite number ≥ 0 or a tensor [M], got {weight}.")
        elif weight.dim() and weight.shape != labels.shape:
            raise ValueError(f"`{name}` has shape {tuple(weight.shape)}, expected [M] = {tuple(labels.shape)}.")
        elif weight.requires_grad:
            raise ValueError(f"`{name}` requires a gradient, but weights are constants of the loss; detach it.")
    tensors = {"the hidden states": group.hidden[0], "the other view's": group.hidden[-1], "`labels`": labels}
    for name, tensor in (tensors | {"`lm_head_bias`": lm_head_bias}).items():
        if tensor is not None and tensor.device != lm_head_weight.device:
            raise ValueError(
                f"{name} are on {tensor.device}, `lm_head_weight` is on {lm_head_weight.device}; move them there."
            )


def _with_weights_on(device: torch.device, group: TokenGroup) -> TokenGroup:
    weights = {name: getattr(group, name) for name in WEIGHTS}
    return group._replace(
        **{name: tensor_on(device, weight) for name, weight in weights.items() if isinstance(weight, torch.Tensor)}
    )


def _checked_values(groups: list[TokenGroup], normalizer: torch.Tensor, vocab_size: int) -> list[int]:
    """Check the values of all tensors and count the ignored labels of each group.

    All in one transfer, since each waits for the device. Raises `ValueError`.
    """
    n_ignored = [(group.labels == IGNORE_INDEX).sum() for group in groups]
    is_wrong, messages = (
        [~(normalizer.isfinite() & (normalizer >= 0))],
        [lambda: f"`normalizer` must be a finite number ≥ 0 (a count of tokens), got {normalizer.item()}."],
    )
    for group in groups:
        # A negative label that is not the ignored one would be read as a token
        outside = (group.labels < 0) | (group.labels >= vocab_size)
        is_wrong.append((outside & (group.labels != IGNORE_INDEX)).any())
        messages.append(functools.partial(_labels_outside, group.labels, vocab_size))
        for name in WEIGHTS:
            weight = getattr(group, name)
            if isinstance(weight, torch.Tensor):
                is_wrong.append((~(weight.isfinite() & (weight >= 0))).any())
                messages.append(functools.partial(_not_a_weight, name))
    found = torch.stack([*n_ignored, *is_wrong]).tolist()
    for is_so, message in zip(found[len(groups) :], messages, strict=True):
        if is_so:
            raise ValueError(message())
    return found[: len(groups)]


def _labels_outside(labels: torch.Tensor, vocab_size: int) -> str:
    return (
        f"`labels` span [{labels.min()}, {labels.max()}], outside the {vocab_size} rows of the head; use "
        f"{IGNORE_INDEX} for tokens to ignore."
    )


def _not_a_weight(name: str) -> str:
    return f"`{name}` must be finite and ≥ 0 for every token; use 0 to leave one out."
