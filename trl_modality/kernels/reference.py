"""The specification: plain autograd on full logits, in float32 or wider. Every other backend is compared with it."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .spec import (
    IGNORE_INDEX,
    IMPORTANCE_LOG_RATIO,
    K3_BOUND,
    K3_LOG_RATIO,
    NOT_SAMPLED,
    SAMPLED,
    LossSpec,
    Teacher,
    TokenGroup,
    TokenStats,
    TopTokens,
    accumulation_dtype,
    tensor_on,
    weighted_sum,
)


class Target(NamedTuple):
    """What a view learns from: a distribution over the vocabulary or classes of it, and what it says of the labels."""

    log_p: torch.Tensor
    """`[M, V]`, or `[M, K + 1]` of K tokens and all others, at the temperature of the divergence."""
    ids: torch.Tensor | None
    """`[M, K]`, the tokens that are classes of their own; `None` for all."""
    label_log_p: torch.Tensor
    """`[M]`, of the label, at the temperature of the divergence."""
    nll: torch.Tensor
    """`[M]`, nats, at temperature 1; so are the next three."""
    entropy: torch.Tensor
    is_top1: torch.Tensor
    p_max: torch.Tensor
    """`[M]`, probability of the likeliest token."""


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
            None
            if hidden_MH is None
            else _logits(hidden_MH, lm_head_weight, lm_head_bias, spec.logit_scale, spec.logit_softcap)
            for hidden_MH in (group.text_hidden, group.vision_hidden)
        )
        group_loss, group_stats = losses_of_logits(text_MV, vision_MV, group, spec)
        loss = loss + group_loss
        stats.append(group_stats)
    return loss / normalizer, stats


def losses_of_logits(
    text_MV: torch.Tensor | None,
    vision_MV: torch.Tensor | None,
    group: TokenGroup,
    spec: LossSpec,
    target: Target | None = None,
    teacher_share: torch.Tensor | None = None,
) -> tuple[torch.Tensor, TokenStats]:
    """The weighted sum of one group's losses, from the logits that the model would return (scaled and soft-capped).

    The vision_centric view learns from `target`, by default from what the group says, and by `teacher_share`, by
    default what `kl_mask` makes of that.
    """
    keep_M = group.labels != IGNORE_INDEX
    labels_M = group.labels.clamp(min=0)
    loss = torch.zeros((), device=labels_M.device)
    found: dict[str, torch.Tensor] = {}
    for view, z_MV, weight in (("text", text_MV, group.text_weight), ("vision", vision_MV, group.vision_weight)):
        if z_MV is None:
            continue
        nll_M = _keep(F.cross_entropy(z_MV, labels_M, reduction="none"), keep_M)
        loss = loss + weighted_sum(nll_M, weight)
        found[f"{view}_nll"] = nll_M
        found[f"{view}_entropy"] = _keep(_entropy(z_MV.detach()), keep_M)
        found[f"{view}_is_top1"] = (z_MV.argmax(-1) == labels_M) & keep_M

    if vision_MV is not None and (group.teacher is not None or text_MV is not None or target is not None):
        target = target or _target(group.teacher, text_MV, vision_MV, labels_M, spec)
        weight = group.kl_weight
        student_nll_M = found["vision_nll"].detach()
        if teacher_share is None:
            blind_nll_M = student_nll_M if group.blind_nll is None else group.blind_nll
            teacher_share = share_by_mask(target.nll, target.is_top1, target.p_max, blind_nll_M, spec)
        share_M = share_by_importance(teacher_share, group.sampled_nll, student_nll_M, spec)
        if share_M is not None:
            found["kl_share"] = share_M = _keep(share_M, keep_M)
            weight = tensor_on(share_M.device, weight, share_M.dtype) * share_M
        kl_M = _keep(_divergence_from(target, vision_MV, labels_M, weight, spec), keep_M)
        loss = loss + weighted_sum(kl_M, weight)
        found["kl"] = kl_M
        if group.teacher is not None:
            found["teacher_nll"], found["teacher_entropy"] = _keep(target.nll, keep_M), _keep(target.entropy, keep_M)
            found["teacher_is_top1"] = target.is_top1 & keep_M
    if text_MV is not None and group.anchor is not None:
        anchor = _target(group.anchor, None, text_MV, labels_M, spec)
        kl_M = _keep(_divergence_from(anchor, text_MV, labels_M, group.anchor_weight, spec), keep_M)
        loss = loss + weighted_sum(kl_M, group.anchor_weight)
        found["anchor_kl"] = kl_M
    values = {name: value.detach() for name, value in found.items()}
    return loss, TokenStats(**{name: values.get(name) for name in TokenStats._fields})


def _logits(hidden_MH, weight_VH, bias_V, scale: float, softcap: float | None) -> torch.Tensor:
    """`[M, V]` logits as the model itself makes them: the product in its dtype, scale and cap in float32 or wider."""
    if not torch.is_autocast_enabled(hidden_MH.device.type):
        weight_VH = weight_VH.to(hidden_MH.dtype)
        bias_V = None if bias_V is None else bias_V.to(hidden_MH.dtype)
    z_MV = F.linear(hidden_MH, weight_VH, bias_V)
    z_MV = z_MV.to(accumulation_dtype(z_MV.dtype)) * scale
    return z_MV if softcap is None else softcap * torch.tanh(z_MV / softcap)


@torch.no_grad()
def _target(teacher: Teacher | TopTokens | None, text_MV, student_MV, labels_M, spec: LossSpec) -> Target:
    """What a view learns from: a teacher, or the other view's logits where there is none."""
    if isinstance(teacher, TopTokens):
        return target_of_top_tokens(teacher, labels_M, dtype=student_MV.dtype)
    if teacher is None:
        z_MV = text_MV
    else:
        head, vocab_size = teacher.head, student_MV.shape[1]
        bias = None if head.bias is None else head.bias[:vocab_size]
        z_MV = _logits(teacher.hidden, head.weight[:vocab_size], bias, head.logit_scale, head.logit_softcap)
        z_MV = F.pad(z_MV, (0, vocab_size - z_MV.shape[1]), value=-math.inf)
    return target_of_logits(z_MV, labels_M, spec)


@torch.no_grad()
def target_of_logits(z_MV: torch.Tensor, labels_M: torch.Tensor, spec: LossSpec) -> Target:
    """What a view learns from logits; with `teacher_top_k`, from the likeliest of them."""
    log_p_MV = F.log_softmax(z_MV, -1)
    tempered_MV, ids = F.log_softmax(z_MV / spec.temperature, -1), None
    label_log_p = tempered_MV.gather(1, labels_M.unsqueeze(1)).squeeze(1)
    classes = tempered_MV
    if spec.teacher_top_k is not None:
        ids = tempered_MV.topk(min(spec.teacher_top_k, tempered_MV.shape[1]), dim=-1).indices
        classes = _classes(tempered_MV, ids)
    return Target(
        classes,
        ids,
        label_log_p,
        nll=-log_p_MV.gather(1, labels_M.unsqueeze(1)).squeeze(1),
        entropy=_entropy(z_MV),
        is_top1=z_MV.argmax(-1) == labels_M,
        p_max=log_p_MV.amax(-1).exp(),
    )


@torch.no_grad()
def target_of_top_tokens(top: TopTokens, labels_M: torch.Tensor, dtype: torch.dtype) -> Target:
    """What a view learns from a teacher of which only its likeliest tokens are known."""
    log_p_MK, label_log_p = top.log_probs.to(dtype), top.label_log_prob.to(dtype)
    rest = (1 - log_p_MK.exp().sum(-1, keepdim=True)).clamp(min=0)
    classes = torch.cat([log_p_MK, rest.log()], -1)
    likeliest = top.ids.gather(1, log_p_MK.argmax(-1, keepdim=True)).squeeze(1)
    return Target(
        classes,
        top.ids,
        label_log_p,
        nll=-label_log_p,
        entropy=-_expected(classes, classes),
        is_top1=likeliest == labels_M,
        p_max=log_p_MK.amax(-1).exp(),
    )


def _classes(log_q_MV: torch.Tensor, ids_MK: torch.Tensor) -> torch.Tensor:
    """`[M, K + 1]` log-probabilities of some tokens, and of all others together."""
    others_MV = torch.scatter(log_q_MV, 1, ids_MK, -math.inf)
    # A row without any other token has a logsumexp of −inf, whose gradient is no number
    is_there = (others_MV > -math.inf).any(-1, keepdim=True)
    rest = torch.where(is_there, others_MV, 0.0).logsumexp(-1, keepdim=True)
    return torch.cat([log_q_MV.gather(1, ids_MK), torch.where(is_there, rest, -math.inf)], -1)


def _divergence_from(target: Target, z_MV, labels_M, weight, spec: LossSpec) -> torch.Tensor:
    """`[M]` divergence of a view's logits from what it learns from."""
    log_q_MV = F.log_softmax(_connected(z_MV, weight) / spec.temperature, -1)
    if spec.divergence in SAMPLED:
        label_log_q = log_q_MV.gather(1, labels_M.unsqueeze(1)).squeeze(1)
        return _sampled(target.label_log_p, label_log_q, spec.divergence)
    classes = log_q_MV if target.ids is None else _classes(log_q_MV, target.ids)
    return _divergence(target.log_p, classes, spec.divergence, spec.beta, spec.kl_clip)


def _sampled(log_p_M: torch.Tensor, log_q_M: torch.Tensor, divergence: str) -> torch.Tensor:
    """`[M]` estimate of a divergence from the label alone."""
    if divergence == "sampled_k3":
        # As published, with the student in the place of the policy: for labels that p said, its mean is
        # χ²(p ‖ q) − KL(p ‖ q), no KL
        ratio_M = (log_p_M - log_q_M).clamp(-K3_LOG_RATIO, K3_LOG_RATIO)
        return (ratio_M.exp() - ratio_M - 1).clamp(-K3_BOUND, K3_BOUND)
    # For labels that q said, value and gradient have the means of KL(q ‖ p) and its gradient
    ratio_M = (log_q_M - log_p_M).detach()
    # A label that the teacher cannot say is infinitely far, and 0·inf would be no number
    return ratio_M + torch.where(ratio_M.isfinite(), ratio_M, 0.0) * (log_q_M - log_q_M.detach())


def share_by_mask(nll, is_top1, p_max, blind_nll, spec: LossSpec) -> torch.Tensor | None:
    """`[M]` share of `kl_weight` that tokens have by `kl_mask`, from what their teacher says; `None` for all of it."""
    if spec.kl_mask == "teacher_correct":
        return is_top1.to(nll.dtype)
    if spec.kl_mask == "confident":
        return (p_max >= spec.confidence).to(nll.dtype)
    if spec.kl_mask == "visual_advantage":
        # Of the teacher's belief in the label, what it owes to seeing more than the student: 1 − p_blind/p
        return -torch.expm1((nll - blind_nll).clamp(max=0.0))
    return None


def share_by_importance(share, sampled_nll, student_nll, spec: LossSpec) -> torch.Tensor | None:
    """The share `[M]` times p_now / p_then of labels that older weights have sampled, at most `importance_clip`."""
    if spec.importance_clip is None or sampled_nll is None:
        return share
    ratio = (sampled_nll - student_nll).clamp(-IMPORTANCE_LOG_RATIO, IMPORTANCE_LOG_RATIO).exp()
    weight = torch.where(sampled_nll == NOT_SAMPLED, 1.0, ratio.clamp(max=spec.importance_clip)).to(student_nll.dtype)
    return weight if share is None else share * weight


def _keep(values_M: torch.Tensor, keep_M: torch.Tensor) -> torch.Tensor:
    return torch.where(keep_M, values_M, 0.0)


def _connected(z_MV: torch.Tensor, weight: float | torch.Tensor) -> torch.Tensor:
    """The logits, detached in rows of weight 0, whose gradients may be infinite: 0·inf is NaN."""
    weight_M = tensor_on(z_MV.device, weight).expand(len(z_MV))
    return torch.where((weight_M != 0).unsqueeze(1), z_MV, z_MV.detach())


def _entropy(z_MV: torch.Tensor) -> torch.Tensor:
    log_p_MV = F.log_softmax(z_MV, -1)
    return -_expected(log_p_MV, log_p_MV)


def _parts(log_p_MV: torch.Tensor, values_MV: torch.Tensor) -> torch.Tensor:
    """p·value, where p = 0 counts as 0 whatever the value is: 0·log 0 is 0, in the value and in its gradient."""
    p_MV = log_p_MV.exp()
    # The inner `where` keeps infinities out of the backward, where the outer product alone would give 0·inf = NaN
    return p_MV * torch.where(p_MV > 0, values_MV, 0.0)


def _expected(log_p_MV: torch.Tensor, values_MV: torch.Tensor) -> torch.Tensor:
    return _parts(log_p_MV, values_MV).sum(-1)


def _divergence(
    log_p_MC: torch.Tensor, log_q_MC: torch.Tensor, divergence: str, beta: float, clip: float | None = None
) -> torch.Tensor:
    """`[M]` divergence of the student q from the teacher p, which carries no gradient, over classes of tokens.

    `clip` bounds what one class adds, as OPSD does (arXiv 2601.18734).
    """
    if divergence == "forward_kl":
        return _clipped(_parts(log_p_MC, log_p_MC - log_q_MC), clip).sum(-1)
    if divergence == "reverse_kl":
        if clip is not None:  # what is infinite is clipped, and its gradient is 0, not 0·inf
            log_p_MC = log_p_MC.clamp(min=torch.finfo(log_p_MC.dtype).min / 4)
        return _clipped(_parts(log_q_MC, log_q_MC - log_p_MC), clip).sum(-1)
    # logaddexp(-inf, -inf) has a NaN gradient; a token that neither view can say adds nothing, so any value serves
    impossible_MC = (log_p_MC == -math.inf) & (log_q_MC == -math.inf)
    safe_log_p_MC = log_p_MC.masked_fill(impossible_MC, 0.0)
    log_m_MC = torch.logaddexp(log_q_MC + math.log(1 - beta), safe_log_p_MC + math.log(beta))
    of_p, of_q = _parts(log_p_MC, log_p_MC - log_m_MC), _parts(log_q_MC, log_q_MC - log_m_MC)
    if clip is None:
        return beta * of_p.sum(-1) + (1 - beta) * of_q.sum(-1)
    return _clipped(beta * of_p + (1 - beta) * of_q, clip).sum(-1)


def _clipped(parts_MC: torch.Tensor, clip: float | None) -> torch.Tensor:
    return parts_MC if clip is None else parts_MC.clamp(max=clip)
