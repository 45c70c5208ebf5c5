"""The specification: plain autograd on full logits, in float32 or wider. Every other backend is compared with it."""

import math

import torch
import torch.nn.functional as F

from .spec import IGNORE_INDEX, LossSpec, TokenGroup, TokenStats, accumulation_dtype, tensor_on, weighted_sum


def linear_losses(
    groups: list[TokenGroup],
    lm_head_weight: torch.Tensor,
    lm_head_bias: torch.Tensor | None,
    spec: LossSpec,
    normalizer: torch.Tensor,
    *,
    n_ignored: list[int] | None = None,
    tile_mib: float | None = None,
    gradient_filter: float = 0.0,
) -> tuple[torch.Tensor, list[TokenStats]]:
    """The losses of several groups of tokens under one head, summed and divided by `normalizer`.

    `n_ignored`, `tile_mib` and `gradient_filter` are not used: here the logits are those of all tokens, whole, and
    every gradient is exact.
    """
    loss = torch.zeros((), device=lm_head_weight.device)
    stats = []
    for group in groups:
        text_MV, vision_MV = (
            None if hidden_MH is None else _logits(hidden_MH, lm_head_weight, lm_head_bias, spec)
            for hidden_MH in (group.text_hidden, group.vision_hidden)
        )
        group_loss, group_stats = losses_of_logits(text_MV, vision_MV, group, spec)
        loss = loss + group_loss
        stats.append(group_stats)
    return loss / normalizer, stats


def losses_of_logits(
    text_MV: torch.Tensor | None, vision_MV: torch.Tensor | None, group: TokenGroup, spec: LossSpec
) -> tuple[torch.Tensor, TokenStats]:
    """The weighted sum of one group's losses, from the logits that the model would return (scaled and soft-capped)."""
    keep_M = group.labels != IGNORE_INDEX
    target_M = group.labels.clamp(min=0)
    loss = torch.zeros((), device=target_M.device)
    nll_M, entropy_M, is_top1_M = {}, {}, {}
    for view, z_MV, weight in (("text", text_MV, group.text_weight), ("vision", vision_MV, group.vision_weight)):
        if z_MV is None:
            continue
        nll = _keep(F.cross_entropy(z_MV, target_M, reduction="none"), keep_M)
        loss = loss + weighted_sum(nll, weight)
        nll_M[view] = nll.detach()
        entropy_M[view] = _keep(_entropy(z_MV.detach()), keep_M)
        is_top1_M[view] = (z_MV.argmax(-1) == target_M) & keep_M

    kl_M = None
    if text_MV is not None and vision_MV is not None:
        log_p_MV = F.log_softmax(text_MV.detach() / spec.temperature, -1)
        log_q_MV = F.log_softmax(_connected(vision_MV, group.kl_weight) / spec.temperature, -1)
        kl_M = _keep(_divergence(log_p_MV, log_q_MV, spec.divergence, spec.beta), keep_M)
        loss = loss + weighted_sum(kl_M, group.kl_weight)
        kl_M = kl_M.detach()
    return loss, TokenStats(
        text_nll=nll_M.get("text"),
        vision_nll=nll_M.get("vision"),
        kl=kl_M,
        text_entropy=entropy_M.get("text"),
        vision_entropy=entropy_M.get("vision"),
        text_is_top1=is_top1_M.get("text"),
        vision_is_top1=is_top1_M.get("vision"),
    )


def _logits(hidden_MH, weight_VH, bias_V, spec: LossSpec) -> torch.Tensor:
    """`[M, V]` logits as the model itself makes them: the product in its dtype, scale and cap in float32 or wider."""
    if not torch.is_autocast_enabled(hidden_MH.device.type):
        weight_VH = weight_VH.to(hidden_MH.dtype)
        bias_V = None if bias_V is None else bias_V.to(hidden_MH.dtype)
    z_MV = F.linear(hidden_MH, weight_VH, bias_V)
    z_MV = z_MV.to(accumulation_dtype(z_MV.dtype)) * spec.logit_scale
    return z_MV if spec.logit_softcap is None else spec.logit_softcap * torch.tanh(z_MV / spec.logit_softcap)


def _keep(values_M: torch.Tensor, keep_M: torch.Tensor) -> torch.Tensor:
    return torch.where(keep_M, values_M, 0.0)


def _connected(z_MV: torch.Tensor, weight: float | torch.Tensor) -> torch.Tensor:
    """The logits, detached in rows of weight 0, whose gradients may be infinite: 0·inf is NaN."""
    weight_M = tensor_on(z_MV.device, weight).expand(len(z_MV))
    return torch.where((weight_M != 0).unsqueeze(1), z_MV, z_MV.detach())


def _entropy(z_MV: torch.Tensor) -> torch.Tensor:
    log_p_MV = F.log_softmax(z_MV, -1)
    return -_expected(log_p_MV, log_p_MV)


def _expected(log_p_MV: torch.Tensor, values_MV: torch.Tensor) -> torch.Tensor:
    """Σ_v p·value, where p = 0 counts as 0 whatever the value is: 0·log 0 is 0, in the value and in its gradient."""
    p_MV = log_p_MV.exp()
    # The inner `where` keeps infinities out of the backward, where the outer product alone would give 0·inf = NaN
    return (p_MV * torch.where(p_MV > 0, values_MV, 0.0)).sum(-1)


def _kl(log_p_MV: torch.Tensor, log_q_MV: torch.Tensor) -> torch.Tensor:
    """`[M]` KL(p ‖ q); +inf where p > 0 meets q = 0."""
    return _expected(log_p_MV, log_p_MV - log_q_MV)


def _divergence(log_p_MV: torch.Tensor, log_q_MV: torch.Tensor, divergence: str, beta: float) -> torch.Tensor:
    """`[M]` divergence of the student q (vision_centric) from the teacher p (text_rich); p carries no gradient."""
    if divergence == "forward_kl":
        return _kl(log_p_MV, log_q_MV)
    if divergence == "reverse_kl":
        return _kl(log_q_MV, log_p_MV)
    # logaddexp(-inf, -inf) has a NaN gradient; a token that neither view can say adds nothing, so any value serves
    impossible_MV = (log_p_MV == -math.inf) & (log_q_MV == -math.inf)
    safe_log_p_MV = log_p_MV.masked_fill(impossible_MV, 0.0)
    log_m_MV = torch.logaddexp(log_q_MV + math.log(1 - beta), safe_log_p_MV + math.log(beta))
    return beta * _kl(log_p_MV, log_m_MV) + (1 - beta) * _kl(log_q_MV, log_m_MV)
