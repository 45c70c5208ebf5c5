"""The specification: plain autograd on full logits, in float32 or wider. Every other backend is compared with it.

Legend of the shape suffixes: M tokens, H hidden, V vocabulary.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F


def paired_linear_loss(
    text_hidden: torch.Tensor | None,
    vision_hidden: torch.Tensor | None,
    lm_head_weight: torch.Tensor,
    labels: torch.Tensor,
    *,
    lm_head_bias: torch.Tensor | None,
    text_weight: float | torch.Tensor,
    vision_weight: float | torch.Tensor,
    kl_weight: float | torch.Tensor,
    divergence: str,
    beta: float,
    temperature: float,
    logit_scale: float,
    logit_softcap: float | None,
    normalizer: torch.Tensor,
) -> tuple[Any, ...]:
    """See `trl_modality.kernels.paired_linear_loss`; returns the fields of `PairedLossOutput` in order."""
    keep_M = labels != -100
    target_M = labels.clamp(min=0)
    loss = torch.zeros((), device=labels.device)
    logits_MV, nll_M, entropy_M, is_top1_M = {}, {}, {}, {}
    for view, hidden_MH, weight in (("text", text_hidden, text_weight), ("vision", vision_hidden, vision_weight)):
        if hidden_MH is None:
            continue
        z_MV = _logits(hidden_MH, lm_head_weight, lm_head_bias, logit_scale, logit_softcap)
        nll = _keep(F.cross_entropy(z_MV, target_M, reduction="none"), keep_M)
        # A token of weight 0 contributes 0, even where its label has no probability at all (0·inf is NaN)
        loss = loss + _weighted_sum(nll, weight)
        logits_MV[view], nll_M[view] = z_MV, nll.detach()
        entropy_M[view] = _keep(_entropy(z_MV.detach()), keep_M)
        is_top1_M[view] = (z_MV.argmax(-1) == target_M) & keep_M

    kl_M = None
    if len(logits_MV) == 2:
        log_p_MV = F.log_softmax(logits_MV["text"].detach() / temperature, -1)
        log_q_MV = F.log_softmax(logits_MV["vision"] / temperature, -1)
        kl_M = _keep(_divergence(log_p_MV, log_q_MV, divergence, beta), keep_M)
        loss = loss + _weighted_sum(kl_M, kl_weight)
        kl_M = kl_M.detach()
    return (
        loss / normalizer,
        nll_M.get("text"),
        nll_M.get("vision"),
        kl_M,
        entropy_M.get("text"),
        entropy_M.get("vision"),
        is_top1_M.get("text"),
        is_top1_M.get("vision"),
    )


def _logits(hidden_MH, weight_VH, bias_V, scale, softcap) -> torch.Tensor:
    """`[M, V]` logits as the model itself makes them: the product in the model's dtype, what follows in float32 up."""
    if not torch.is_autocast_enabled(hidden_MH.device.type):
        weight_VH = weight_VH.to(hidden_MH.dtype)
        bias_V = None if bias_V is None else bias_V.to(hidden_MH.dtype)
    z_MV = F.linear(hidden_MH, weight_VH, bias_V)
    z_MV = z_MV.to(torch.promote_types(z_MV.dtype, torch.float32)) * scale
    return z_MV if softcap is None else softcap * torch.tanh(z_MV / softcap)


def _keep(values_M: torch.Tensor, keep_M: torch.Tensor) -> torch.Tensor:
    return torch.where(keep_M, values_M, 0.0)


def _weighted_sum(values_M: torch.Tensor, weight: float | torch.Tensor) -> torch.Tensor:
    weight_M = torch.as_tensor(weight, dtype=values_M.dtype, device=values_M.device).expand_as(values_M)
    return (torch.where(weight_M != 0, values_M, 0.0) * weight_M).sum()


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
