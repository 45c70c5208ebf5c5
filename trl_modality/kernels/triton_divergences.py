"""What one token learns from, in the Triton kernel: its share, and the divergences that the lanes' sums do not tell.

These are the JSD, any divergence whose entries are clipped (each with a pass of its own over the columns), one over
the teacher's likeliest tokens and all others as one class, and estimates from the label.

Of top tokens the student's logits are taken out of the row before its sums are made, with −inf in their places: so the
sum over all others is exact however small it is, where 1 − Σ q of the top tokens would have no digits left. Suffix
`_k`: of the top tokens; `_rest`: of all others, or of the row without the top tokens.
"""

# Pyright does not know that flags compiled in decide what is bound, what a constant is, nor that blocks are returned
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from . import spec
from .triton_functions import (
    FORWARD_KL,
    JSD,
    LN_2,
    LOG2_E,
    LOWEST,
    REVERSE_KL,
    SAMPLED_K3,
    bounded,
    clipped_entry,
    exp,
    load_block,
    logits,
    mixture,
    slope,
    weighted,
)


NO_MASK, TEACHER_CORRECT, CONFIDENT, VISUAL_ADVANTAGE, GIVEN = (tl.constexpr(i) for i in range(5))
K3_LOG_RATIO, K3_BOUND = tl.constexpr(spec.K3_LOG_RATIO), tl.constexpr(spec.K3_BOUND)
IMPORTANCE_LOG_RATIO, NOT_SAMPLED = tl.constexpr(spec.IMPORTANCE_LOG_RATIO), tl.constexpr(spec.NOT_SAMPLED)


@triton.jit
def clamp(x, bound):
    """x in ±bound; what is no number stays so."""
    return tl.where(x > bound, bound, tl.where(x < -bound, -bound, x))


@triton.jit
def share_of_kl(
    token, nll_r, is_top1_r, sum_r, nll_v, blind_nll_ptr, sampled_nll_ptr, teacher_share_ptr, confidence,
    importance_clip, MASK: tl.constexpr, HAS_BLIND: tl.constexpr, IS_IMPORTANCE_WEIGHTED: tl.constexpr,
):  # fmt: skip
    """The share of its `kl_weight` that a token has; `reference.share_of_kl` says what the masks are."""
    share = 1.0
    if MASK == GIVEN:
        share = tl.load(teacher_share_ptr + token).to(tl.float32)
    if MASK == TEACHER_CORRECT:
        share = is_top1_r.to(tl.float32)
    if MASK == CONFIDENT:
        share = (1.0 / sum_r >= confidence).to(tl.float32)
    if MASK == VISUAL_ADVANTAGE:
        blind_nll = nll_v
        if HAS_BLIND:
            blind_nll = tl.load(blind_nll_ptr + token).to(tl.float32)
        gain = nll_r - blind_nll
        share = 1 - exp(tl.where(gain > 0, 0.0, gain))
    if IS_IMPORTANCE_WEIGHTED:
        sampled_nll = tl.load(sampled_nll_ptr + token).to(tl.float32)
        ratio = exp(clamp(sampled_nll - nll_v, IMPORTANCE_LOG_RATIO))
        ratio = tl.where(ratio > importance_clip, importance_clip, ratio)
        share *= tl.where(sampled_nll == NOT_SAMPLED, 1.0, ratio)
    return share


@triton.jit
def sampled(log_p, log_q, DIVERGENCE: tl.constexpr):
    """An estimate of a divergence from what teacher and student say of the label, and minus its slope by log q."""
    if DIVERGENCE == SAMPLED_K3:
        ratio = log_p - log_q
        bounded_ratio = clamp(ratio, K3_LOG_RATIO)
        growth = exp(bounded_ratio) - 1
        estimate = growth - bounded_ratio
        is_above = (ratio != bounded_ratio) | (estimate > K3_BOUND)
        return clamp(estimate, K3_BOUND), tl.where(is_above, 0.0, growth)
    else:
        return log_q - log_p, log_p - log_q


@triton.jit
def _fold_jsd(
    text_row, vision_row, columns, n_columns, text_scale, text_softcap, scale, softcap, inv_tau, beta, max_r, max_v,
    shift, kl_r, kl_v, TEXT_SOFTCAP: tl.constexpr, HAS_SOFTCAP: tl.constexpr, IS_LAST: tl.constexpr,
):  # fmt: skip
    """−Σ q·log2(q/m) of every lane and both views, with one more block."""
    d_r = load_block(text_row, columns, n_columns, text_scale, text_softcap, TEXT_SOFTCAP, IS_LAST) - max_r
    d_v = load_block(vision_row, columns, n_columns, scale, softcap, HAS_SOFTCAP, IS_LAST) - max_v
    ratio_r, ratio_v = mixture(d_r, d_v, inv_tau, shift)
    kl_r += tl.sum(exp(d_r * inv_tau) * (ratio_r + tl.log2(beta)), axis=1)
    kl_v += tl.sum(exp(d_v * inv_tau) * (ratio_v + tl.log2(1 - beta)), axis=1)
    return kl_r, kl_v


@triton.jit
def _jsd(
    text_row, vision_row, lanes, n_columns, text_scale, text_softcap, scale, softcap, inv_tau, beta, max_r, max_v,
    q_sum_r, q_sum_v, shift, TEXT_SOFTCAP: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
):  # fmt: skip
    """KL(q_r ‖ m) and KL(q_v ‖ m): a pass of its own, since the mixture m needs the sums of both views."""
    BLOCK: tl.constexpr = lanes.shape[0] * lanes.shape[1]
    n_full = n_columns // BLOCK * BLOCK
    kl_r, kl_v = tl.zeros([lanes.shape[0]], tl.float32), tl.zeros([lanes.shape[0]], tl.float32)
    for start in range(0, n_full, BLOCK):
        kl_r, kl_v = _fold_jsd(
            text_row, vision_row, start + lanes, n_columns, text_scale, text_softcap, scale, softcap, inv_tau, beta,
            max_r, max_v, shift, kl_r, kl_v, TEXT_SOFTCAP, HAS_SOFTCAP, False,
        )  # fmt: skip
    kl_r, kl_v = _fold_jsd(
        text_row, vision_row, n_full + lanes, n_columns, text_scale, text_softcap, scale, softcap, inv_tau, beta,
        max_r, max_v, shift, kl_r, kl_v, TEXT_SOFTCAP, HAS_SOFTCAP, True,
    )  # fmt: skip
    return tl.sum(kl_r, axis=0) / q_sum_r * -LN_2, tl.sum(kl_v, axis=0) / q_sum_v * -LN_2


@triton.jit
def _fold_clipped(
    text_row, vision_row, columns, n_columns, text_scale, text_softcap, scale, softcap, inv_tau, beta, clip,
    max_r, max_v, unit_r, unit_v, shift, parts, slopes,
    DIVERGENCE: tl.constexpr, TEXT_SOFTCAP: tl.constexpr, HAS_SOFTCAP: tl.constexpr, IS_LAST: tl.constexpr,
):  # fmt: skip
    """Σ of what the entries add, and of their slopes, of every lane with one more block."""
    d_r = load_block(text_row, columns, n_columns, text_scale, text_softcap, TEXT_SOFTCAP, IS_LAST) - max_r
    d_v = load_block(vision_row, columns, n_columns, scale, softcap, HAS_SOFTCAP, IS_LAST) - max_v
    part, slope_q, _q = clipped_entry(d_r, d_v, unit_r, unit_v, inv_tau, shift, beta, clip, DIVERGENCE, True)
    return parts + tl.sum(part, axis=1), slopes + tl.sum(slope_q, axis=1)


@triton.jit
def _clipped(
    text_row, vision_row, lanes, n_columns, text_scale, text_softcap, scale, softcap, inv_tau, beta, clip,
    max_r, max_v, unit_r, unit_v, shift,
    DIVERGENCE: tl.constexpr, TEXT_SOFTCAP: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
):  # fmt: skip
    """A divergence of clipped entries, and the sum of their slopes: what is clipped shows once all sums are known."""
    BLOCK: tl.constexpr = lanes.shape[0] * lanes.shape[1]
    n_full = n_columns // BLOCK * BLOCK
    parts, slopes = tl.zeros([lanes.shape[0]], tl.float32), tl.zeros([lanes.shape[0]], tl.float32)
    for start in range(0, n_full, BLOCK):
        parts, slopes = _fold_clipped(
            text_row, vision_row, start + lanes, n_columns, text_scale, text_softcap, scale, softcap, inv_tau, beta,
            clip, max_r, max_v, unit_r, unit_v, shift, parts, slopes, DIVERGENCE, TEXT_SOFTCAP, HAS_SOFTCAP, False,
        )  # fmt: skip
    parts, slopes = _fold_clipped(
        text_row, vision_row, n_full + lanes, n_columns, text_scale, text_softcap, scale, softcap, inv_tau, beta,
        clip, max_r, max_v, unit_r, unit_v, shift, parts, slopes, DIVERGENCE, TEXT_SOFTCAP, HAS_SOFTCAP, True,
    )  # fmt: skip
    return tl.sum(parts, axis=0), tl.sum(slopes, axis=0)


@triton.jit
def compare_rows(
    text_row, vision_row, lanes, n_columns, text_scale, text_softcap, scale, softcap, inv_tau, beta, clip,
    max_r, max_v, q_sum_r, q_sum_v, moved_r, moved_v, q_total_r, q_total_v, gap,
    DIVERGENCE: tl.constexpr, HAS_CLIP: tl.constexpr, TEXT_SOFTCAP: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
):  # fmt: skip
    """The divergence of whole rows; a mean under the vision_centric distribution, and a shift: its gradient's."""
    kl, expected, shift = 0.0, 0.0, 0.0
    log_r_by_v = tl.log(q_sum_r) - tl.log(q_sum_v)
    if DIVERGENCE == JSD:
        shift = (tl.log(beta) - tl.log(1 - beta) - log_r_by_v) * LOG2_E
    if HAS_CLIP:
        if DIVERGENCE != JSD:
            shift = log_r_by_v
        kl, expected = _clipped(
            text_row, vision_row, lanes, n_columns, text_scale, text_softcap, scale, softcap, inv_tau, beta, clip,
            max_r, max_v, 1.0 / q_sum_r, 1.0 / q_sum_v, shift, DIVERGENCE, TEXT_SOFTCAP, HAS_SOFTCAP,
        )  # fmt: skip
    elif DIVERGENCE == FORWARD_KL:
        gap_sum = tl.sum(weighted(exp(moved_r * inv_tau), gap + q_total_r * (moved_r - moved_v)), axis=0)
        kl = gap_sum * inv_tau / q_sum_r - log_r_by_v
    elif DIVERGENCE == REVERSE_KL:
        gap_sum = tl.sum(weighted(exp(moved_v * inv_tau), gap + q_total_v * (moved_v - moved_r)), axis=0)
        expected = gap_sum * inv_tau / q_sum_v
        kl = expected + log_r_by_v
    else:
        kl_r, kl_v = _jsd(
            text_row, vision_row, lanes, n_columns, text_scale, text_softcap, scale, softcap, inv_tau, beta,
            max_r, max_v, q_sum_r, q_sum_v, shift, TEXT_SOFTCAP, HAS_SOFTCAP,
        )  # fmt: skip
        kl, expected = beta * kl_r + (1 - beta) * kl_v, kl_v + tl.log(1 - beta)
    return kl, expected, shift


@triton.jit
def load_top(top_ids_ptr, top_log_probs_ptr, token, n_top, TOP: tl.constexpr):
    """The ids of top tokens, which of the `TOP` places have one, and what the teacher gives them and all others."""
    places = tl.arange(0, TOP)
    is_there = places < n_top
    ids = tl.load(top_ids_ptr + token * n_top + places, mask=is_there, other=-1)
    log_p_k = tl.load(top_log_probs_ptr + token * (n_top + 1) + places, mask=is_there, other=-float("inf"))
    log_p_rest = tl.load(top_log_probs_ptr + token * (n_top + 1) + n_top)
    return ids, is_there, log_p_k.to(tl.float32), log_p_rest.to(tl.float32)


@triton.jit
def take_out(row, ids, is_there):
    """The raw logits of top tokens, in whose places −inf is left."""
    raw_k = tl.load(row + ids, mask=is_there, other=0.0)
    # Several warps read the same logit: none may find what another has left there
    tl.debug_barrier()
    tl.store(row + ids, tl.full(ids.shape, -float("inf"), tl.float32).to(row.dtype.element_ty), mask=is_there)
    tl.debug_barrier()
    return raw_k


@triton.jit
def with_top(
    raw_k, ids, is_there, label, target, maximum, total, moment, before, scale, softcap, HAS_SOFTCAP: tl.constexpr
):
    """Logits of the top tokens, and what a row's sums are with them: these are of the row without."""
    z_k = tl.where(is_there, logits(raw_k, scale, softcap, HAS_SOFTCAP), -float("inf"))
    is_top = tl.max((ids == label).to(tl.int32), axis=0) > 0
    target = tl.where(is_top, tl.sum(tl.where(ids == label, z_k, 0.0), axis=0), target)
    before = tl.maximum(before, tl.max(tl.where(ids < label, z_k, -float("inf")), axis=0))
    new = tl.maximum(maximum, tl.max(z_k, axis=0))
    moved, d_k = tl.maximum(maximum - new, LOWEST), z_k - new
    e_k, rescale = exp(d_k), exp(moved)
    moment = rescale * (moment + total * bounded(moved)) + tl.sum(e_k * bounded(d_k), axis=0)
    return z_k, is_top, target, before, new, rescale * total + tl.sum(e_k, axis=0), moment


@triton.jit
def top_divergence(
    z_k, log_p_k, log_p_rest, max_v, max_rest, q_sum_rest, inv_tau, beta, clip,
    DIVERGENCE: tl.constexpr, HAS_CLIP: tl.constexpr,
):  # fmt: skip
    """The divergence over classes, and its gradients: of the top tokens' logits, and of another token by e^(d/τ).

    The d of another token is relative to the maximum of these.
    """
    shift = 0.0  # the sums are in the logarithms already
    if DIVERGENCE == JSD:
        shift = (tl.log(beta) - tl.log(1 - beta)) * LOG2_E
    moved = (max_rest - max_v) * inv_tau
    q_sum_v = exp(moved) * q_sum_rest + tl.sum(exp((z_k - max_v) * inv_tau), axis=0)
    log_sum = tl.log(q_sum_v)
    log_q_k, log_q_rest = (z_k - max_v) * inv_tau - log_sum, moved + tl.log(q_sum_rest) - log_sum
    part_k, slope_k, q_k = clipped_entry(log_p_k, log_q_k, 1.0, 1.0, 1.0, shift, beta, clip, DIVERGENCE, HAS_CLIP)
    part_rest, slope_rest, _q = clipped_entry(
        log_p_rest, log_q_rest, 1.0, 1.0, 1.0, shift, beta, clip, DIVERGENCE, HAS_CLIP
    )
    expected = tl.sum(slope_k, axis=0) + slope_rest
    # A token's part of the probability of its class is told without that, which may be 0 in float32
    of_rest = tl.where(q_sum_rest > 0, slope_rest / q_sum_rest, 0.0) - expected * exp(moved) / q_sum_v
    return tl.sum(part_k, axis=0) + part_rest, slope_k - q_k * expected, of_rest


@triton.jit
def top_gradient(z_k, ids, label, of_divergence_k, max_v, ce_share_v, at_label_v, softcap, HAS_SOFTCAP: tl.constexpr):
    """Gradients of the top tokens' logits, of which the label may be one."""
    cross_entropy = ce_share_v * exp(z_k - max_v) - tl.where(ids == label, at_label_v, 0.0)
    return (cross_entropy + of_divergence_k) * slope(z_k, softcap, HAS_SOFTCAP)
