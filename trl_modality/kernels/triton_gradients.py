"""How the Triton kernel overwrites a token's rows of logits by their gradients."""

# Pyright does not know that flags compiled in decide what is bound, what a constant is, nor that blocks are returned
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from .triton_divergences import top_gradient
from .triton_functions import (
    JSD,
    OF_STUDENT,
    SAMPLED_K3,
    divergence_gradient,
    exp,
    load_block,
    slope,
    store_block,
    weighted,
)


@triton.jit
def _gradients(
    z_r, z_v, max_r, max_v, ce_share_r, ce_share_v, share_r, share_v, expected, inv_tau, shift, beta, clip, weight,
    at_label_r, at_label_v, text_softcap, softcap,
    DIVERGENCE: tl.constexpr, HAS_CLIP: tl.constexpr,
    TEXT_GRADIENT: tl.constexpr, VISION_GRADIENT: tl.constexpr, KL_GRADIENT: tl.constexpr,
    TEXT_SOFTCAP: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
):  # fmt: skip
    """Gradients of both views from their logits, of a block or of one column; at the label the weight goes off."""
    text, vision = 0.0, 0.0
    d_r, d_v = z_r - max_r, z_v - max_v
    if TEXT_GRADIENT:
        text = (ce_share_r * exp(d_r) - at_label_r) * slope(z_r, text_softcap, TEXT_SOFTCAP)
    if VISION_GRADIENT:
        vision = ce_share_v * exp(d_v) - at_label_v
        if KL_GRADIENT:
            vision += divergence_gradient(
                d_r, d_v, share_r, share_v, expected, inv_tau, shift, beta, clip, weight, DIVERGENCE, HAS_CLIP
            )
        vision *= slope(z_v, softcap, HAS_SOFTCAP)
    return text, vision


@triton.jit
def _write_block(
    text_row, vision_row, columns, n_columns, text_scale, text_softcap, scale, softcap, max_r, max_v,
    ce_share_r, ce_share_v, share_r, share_v, expected, inv_tau, shift, beta, clip, weight,
    DIVERGENCE: tl.constexpr, HAS_CLIP: tl.constexpr,
    TEXT_GRADIENT: tl.constexpr, VISION_GRADIENT: tl.constexpr, KL_GRADIENT: tl.constexpr,
    TEXT_SOFTCAP: tl.constexpr, HAS_SOFTCAP: tl.constexpr, IS_MARKED: tl.constexpr, IS_LAST: tl.constexpr,
):  # fmt: skip
    """Overwrite a block of logits by their gradients, as if none were the label's."""
    z_r, z_v = 0.0, 0.0
    if TEXT_GRADIENT or (KL_GRADIENT and DIVERGENCE != OF_STUDENT):
        z_r = load_block(text_row, columns, n_columns, text_scale, text_softcap, TEXT_SOFTCAP, IS_LAST)
    if VISION_GRADIENT:
        z_v = load_block(vision_row, columns, n_columns, scale, softcap, HAS_SOFTCAP, IS_LAST, IS_MARKED)
    text, vision = _gradients(
        z_r, z_v, max_r, max_v, ce_share_r, ce_share_v, share_r, share_v, expected, inv_tau, shift, beta, clip, weight,
        0.0, 0.0, text_softcap, softcap,
        DIVERGENCE, HAS_CLIP, TEXT_GRADIENT, VISION_GRADIENT, KL_GRADIENT, TEXT_SOFTCAP, HAS_SOFTCAP,
    )  # fmt: skip
    if TEXT_GRADIENT:
        store_block(text_row, columns, n_columns, text, IS_LAST)
    if VISION_GRADIENT:
        store_block(vision_row, columns, n_columns, vision, IS_LAST)


@triton.jit
def _write_rows(
    text_row, vision_row, lanes, n_columns, text_scale, text_softcap, scale, softcap, max_r, max_v,
    ce_share_r, ce_share_v, share_r, share_v, expected, inv_tau, shift, beta, clip, weight,
    target_r, target_v, at_label_r, at_label_v,
    DIVERGENCE: tl.constexpr, HAS_CLIP: tl.constexpr,
    TEXT_GRADIENT: tl.constexpr, VISION_GRADIENT: tl.constexpr, KL_GRADIENT: tl.constexpr,
    TEXT_SOFTCAP: tl.constexpr, HAS_SOFTCAP: tl.constexpr, IS_MARKED: tl.constexpr,
):  # fmt: skip
    """Overwrite both rows by their gradients, as if none were the label's; returns those of the label."""
    BLOCK: tl.constexpr = lanes.shape[0] * lanes.shape[1]
    n_full = n_columns // BLOCK * BLOCK
    for start in range(0, n_full, BLOCK):
        _write_block(
            text_row, vision_row, start + lanes, n_columns, text_scale, text_softcap, scale, softcap, max_r, max_v,
            ce_share_r, ce_share_v, share_r, share_v, expected, inv_tau, shift, beta, clip, weight, DIVERGENCE,
            HAS_CLIP, TEXT_GRADIENT, VISION_GRADIENT, KL_GRADIENT, TEXT_SOFTCAP, HAS_SOFTCAP, IS_MARKED, False,
        )  # fmt: skip
    _write_block(
        text_row, vision_row, n_full + lanes, n_columns, text_scale, text_softcap, scale, softcap, max_r, max_v,
        ce_share_r, ce_share_v, share_r, share_v, expected, inv_tau, shift, beta, clip, weight, DIVERGENCE,
        HAS_CLIP, TEXT_GRADIENT, VISION_GRADIENT, KL_GRADIENT, TEXT_SOFTCAP, HAS_SOFTCAP, IS_MARKED, True,
    )  # fmt: skip
    return _gradients(
        target_r, target_v, max_r, max_v, ce_share_r, ce_share_v, share_r, share_v, expected, inv_tau, shift, beta,
        clip, weight, at_label_r, at_label_v, text_softcap, softcap,
        DIVERGENCE, HAS_CLIP, TEXT_GRADIENT, VISION_GRADIENT, KL_GRADIENT, TEXT_SOFTCAP, HAS_SOFTCAP,
    )  # fmt: skip


@triton.jit
def write_gradients(
    text_row, vision_row, token, label, lanes, n_columns, text_weight_ptr, vision_weight_ptr, kl_weight_ptr, share,
    text_scale, text_softcap, scale, softcap, inv_tau, beta, clip, max_r, max_v, max_rest, sum_r, sum_v,
    q_sum_r, q_sum_v, target_r, target_v, expected, shift, of_student, of_label,
    ids, is_there, is_top, raw_k, z_k, gradient_k,
    DIVERGENCE: tl.constexpr, GRADIENT_OF: tl.constexpr, HAS_CLIP: tl.constexpr, HAS_CLASSES: tl.constexpr,
    HAS_SHARE: tl.constexpr, TEXT_GRADIENT: tl.constexpr, VISION_GRADIENT: tl.constexpr, KL_GRADIENT: tl.constexpr,
    IS_TEMPERED: tl.constexpr, TEXT_SOFTCAP: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
):  # fmt: skip
    """Overwrite the rows of the views whose gradients are wanted; top tokens that were taken out are put back.

    `of_student` is what the gradient of the divergence is of the student's e^(d/τ), where it is that and no more but
    at the label (`of_label`, of estimates from it), or at the top tokens (`gradient_k`).
    """
    if TEXT_GRADIENT or VISION_GRADIENT:
        at_label_r, at_label_v, share_r, share_v, ce_share_r, ce_share_v = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        kl_weight = 0.0
        if TEXT_GRADIENT:
            at_label_r = tl.load(text_weight_ptr + token) * text_scale
            ce_share_r = at_label_r / sum_r
        if VISION_GRADIENT:
            at_label_v = tl.load(vision_weight_ptr + token) * scale
            ce_share_v = at_label_v / sum_v
        if KL_GRADIENT:
            kl_weight = tl.load(kl_weight_ptr + token) * (scale * inv_tau)
            if HAS_SHARE:
                kl_weight *= share
            if GRADIENT_OF == OF_STUDENT:
                share_v, gradient_k = weighted(kl_weight, of_student), weighted(kl_weight, gradient_k)
            elif HAS_CLIP:
                share_r, share_v = 1.0 / q_sum_r, 1.0 / q_sum_v
            else:
                if DIVERGENCE == JSD:
                    kl_weight *= 1 - beta
                share_r = tl.where(kl_weight != 0, kl_weight / q_sum_r, 0.0)
                share_v = tl.where(kl_weight != 0, kl_weight / q_sum_v, 0.0)
            if DIVERGENCE >= SAMPLED_K3:
                at_label_v += weighted(kl_weight, of_label)
        else:
            gradient_k = 0.0
        if HAS_CLASSES and VISION_GRADIENT:
            gradient_k = top_gradient(z_k, ids, label, gradient_k, max_v, ce_share_v, at_label_v, softcap, HAS_SOFTCAP)
            # From here on all is relative to the maximum of the other tokens
            ce_share_v, max_v = ce_share_v * exp(max_rest - max_v), max_rest
        if GRADIENT_OF == OF_STUDENT and not IS_TEMPERED:
            ce_share_v += share_v
        # No warp may overwrite the label's logit before every other has read it
        tl.debug_barrier()
        text, vision = _write_rows(
            text_row, vision_row, lanes, n_columns, text_scale, text_softcap, scale, softcap, max_r, max_v,
            ce_share_r, ce_share_v, share_r, share_v, expected, inv_tau, shift, beta, clip, kl_weight,
            target_r, target_v, at_label_r, at_label_v,
            GRADIENT_OF, HAS_CLIP and not HAS_CLASSES, TEXT_GRADIENT, VISION_GRADIENT,
            KL_GRADIENT and (IS_TEMPERED or GRADIENT_OF != OF_STUDENT), TEXT_SOFTCAP, HAS_SOFTCAP, HAS_CLASSES,
        )  # fmt: skip
        # Only now that every warp has written its columns, of which the label is one
        tl.debug_barrier()
        if TEXT_GRADIENT:
            tl.store(text_row + label, text.to(text_row.dtype.element_ty))
        if VISION_GRADIENT:
            if HAS_CLASSES:  # that of a top token is written below, by another thread perhaps
                tl.store(vision_row + label, vision.to(vision_row.dtype.element_ty), mask=is_top == 0)
            else:
                tl.store(vision_row + label, vision.to(vision_row.dtype.element_ty))
    if HAS_CLASSES:
        if not VISION_GRADIENT:
            gradient_k = raw_k
            tl.debug_barrier()
        tl.store(vision_row + ids, gradient_k.to(vision_row.dtype.element_ty), mask=is_there)
