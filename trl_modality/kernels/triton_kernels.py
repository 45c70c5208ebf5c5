"""One Triton kernel for the elementwise work on a tile: rows of logits become rows of gradients, in place.

One program per token walks the rows of both views twice (three times for the JSD): first for the statistics, then for
the gradients, which it leaves where the logits were. So of every logit there are two loads and one store, the least
for any scheme that keeps no row on the chip. Rows of up to some 30,000 logits are still in the L2 cache when they are
loaded again. `torch_rows` has the formulas of the gradients, and is the twin to compare with.

What would bound such a kernel is instructions, so threads share nothing before a row has ended. A block of columns is
a matrix of lanes, each a few neighbouring columns that one thread loads at once, and every lane keeps sums of its own,
relative to its own running maximum t. With d = z − t, and s ≤ 0 what a block moves t by (d becomes d + s):

    total     Σ e^d           becomes    e^s·total                     + Σ e^d
    moment    Σ e^d·d         becomes    e^s·(moment + total·s)        + Σ e^d·d
    gap       Σ q·(d − d')    becomes    q^s·(gap + Σ q·(s − s'))      + Σ q·(d − d')

where q = e^(d/τ), q^s = e^(s/τ), and d' and s' are of the other view. After the last block the lanes are brought to
the row's maximum by the same formulas, and added up.

Only the last block has a mask. Neither loop knows of the label. Whether it is the first of the greatest logits is seen
from the maximum of the lanes before its own, and from its own lane, looked at once. Its gradient is written over what
the loop has left there, rounded but once.

Offsets of rows are int64: a tile may have more than 2³¹ elements.
"""

# Pyright does not know that flags compiled in decide what is bound, what a constant is, nor that blocks are returned
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from .triton_functions import (
    FORWARD_KL,
    JSD,
    LN_2,
    LOG2_E,
    LOWEST,
    NO_DIVERGENCE,
    REVERSE_KL,
    divergence_gradient,
    exp,
    fold_gap,
    fold_view,
    load_block,
    logits,
    merge_view,
    mixture,
    slope,
    store_block,
    weighted,
)


# Tiles differ in where their tokens begin: no alignment of what is per token may make a kernel of its own
PER_TOKEN = (
    "labels_ptr",
    "text_weight_ptr",
    "vision_weight_ptr",
    "kl_weight_ptr",
    "text_nll_ptr",
    "vision_nll_ptr",
    "kl_ptr",
    "text_entropy_ptr",
    "vision_entropy_ptr",
    "text_is_top1_ptr",
    "vision_is_top1_ptr",
)


@triton.jit
def _fold_block(
    text_row, vision_row, columns, n_columns, label, scale, softcap, inv_tau,
    top_r, total_r, moment_r, before_r, q_total_r, top_v, total_v, moment_v, before_v, q_total_v, gap,
    HAS_TEXT: tl.constexpr, HAS_VISION: tl.constexpr, DIVERGENCE: tl.constexpr, IS_TEMPERED: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, IS_LAST: tl.constexpr,
):  # fmt: skip
    """All sums of all lanes with one more block of columns."""
    is_before = tl.max(columns, axis=1) < label - label % columns.shape[1]
    if HAS_TEXT:
        z = load_block(text_row, columns, n_columns, scale, softcap, HAS_SOFTCAP, IS_LAST)
        old_r = total_r
        top_r, total_r, moment_r, before_r, d_r, e_r, moved_r = fold_view(
            z, is_before, top_r, total_r, moment_r, before_r
        )
    if HAS_VISION:
        z = load_block(vision_row, columns, n_columns, scale, softcap, HAS_SOFTCAP, IS_LAST)
        old_v = total_v
        top_v, total_v, moment_v, before_v, d_v, e_v, moved_v = fold_view(
            z, is_before, top_v, total_v, moment_v, before_v
        )
    if DIVERGENCE != NO_DIVERGENCE:
        if IS_TEMPERED:
            old_r, old_v = q_total_r, q_total_v
            e_r, e_v = exp(d_r * inv_tau), exp(d_v * inv_tau)
            q_total_r = exp(moved_r * inv_tau) * q_total_r + tl.sum(e_r, axis=1)
            q_total_v = exp(moved_v * inv_tau) * q_total_v + tl.sum(e_v, axis=1)
        if DIVERGENCE == FORWARD_KL:
            gap = fold_gap(gap, old_r, e_r, d_r, d_v, exp(moved_r * inv_tau), moved_r, moved_v)
        if DIVERGENCE == REVERSE_KL:
            gap = fold_gap(gap, old_v, e_v, d_v, d_r, exp(moved_v * inv_tau), moved_v, moved_r)
    return top_r, total_r, moment_r, before_r, q_total_r, top_v, total_v, moment_v, before_v, q_total_v, gap


@triton.jit
def _store_view(
    nll_ptr, entropy_ptr, is_top1_ptr, row, token, label, target, maximum, total, moment, before,
    scale, softcap, HAS_SOFTCAP: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """A view's NLL, entropy and whether its label is top-1."""
    tl.store(nll_ptr + token, tl.log(total) - (target - maximum))
    tl.store(entropy_ptr + token, tl.log(total) - moment / total)
    # `argmax` returns the first maximum: a tie with an earlier token is not top-1
    beside = load_block(row, label - label % GROUP + tl.arange(0, GROUP), label, scale, softcap, HAS_SOFTCAP, True)
    is_first = (tl.max(before, axis=0) < maximum) & (tl.max(beside, axis=0) < maximum)
    tl.store(is_top1_ptr + token, ((target == maximum) & is_first).to(is_top1_ptr.dtype.element_ty))


@triton.jit
def _fold_jsd(
    text_row, vision_row, columns, n_columns, scale, softcap, inv_tau, beta, max_r, max_v, shift, kl_r, kl_v,
    HAS_SOFTCAP: tl.constexpr, IS_LAST: tl.constexpr,
):  # fmt: skip
    """−Σ q·log2(q/m) of every lane and both views, with one more block."""
    d_r = load_block(text_row, columns, n_columns, scale, softcap, HAS_SOFTCAP, IS_LAST) - max_r
    d_v = load_block(vision_row, columns, n_columns, scale, softcap, HAS_SOFTCAP, IS_LAST) - max_v
    ratio_r, ratio_v = mixture(d_r, d_v, inv_tau, shift)
    kl_r += tl.sum(exp(d_r * inv_tau) * (ratio_r + tl.log2(beta)), axis=1)
    kl_v += tl.sum(exp(d_v * inv_tau) * (ratio_v + tl.log2(1 - beta)), axis=1)
    return kl_r, kl_v


@triton.jit
def _jsd(
    text_row, vision_row, lanes, n_columns, scale, softcap, inv_tau, beta, max_r, max_v, q_sum_r, q_sum_v, shift,
    HAS_SOFTCAP: tl.constexpr,
):  # fmt: skip
    """KL(q_r ‖ m) and KL(q_v ‖ m): a pass of its own, since the mixture m needs the sums of both views."""
    BLOCK: tl.constexpr = lanes.shape[0] * lanes.shape[1]
    n_full = n_columns // BLOCK * BLOCK
    kl_r, kl_v = tl.zeros([lanes.shape[0]], tl.float32), tl.zeros([lanes.shape[0]], tl.float32)
    for start in range(0, n_full, BLOCK):
        kl_r, kl_v = _fold_jsd(
            text_row, vision_row, start + lanes, n_columns, scale, softcap, inv_tau, beta, max_r, max_v, shift,
            kl_r, kl_v, HAS_SOFTCAP, False,
        )  # fmt: skip
    kl_r, kl_v = _fold_jsd(
        text_row, vision_row, n_full + lanes, n_columns, scale, softcap, inv_tau, beta, max_r, max_v, shift,
        kl_r, kl_v, HAS_SOFTCAP, True,
    )  # fmt: skip
    return tl.sum(kl_r, axis=0) / q_sum_r * -LN_2, tl.sum(kl_v, axis=0) / q_sum_v * -LN_2


@triton.jit
def _gradients(
    z_r, z_v, max_r, max_v, ce_share_r, ce_share_v, share_r, share_v, expected, inv_tau, shift,
    at_label_r, at_label_v, softcap,
    DIVERGENCE: tl.constexpr, TEXT_GRADIENT: tl.constexpr, VISION_GRADIENT: tl.constexpr, KL_GRADIENT: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
):  # fmt: skip
    """Gradients of both views from their logits, of a block or of one column; at the label the weight goes off."""
    text, vision = 0.0, 0.0
    d_r, d_v = z_r - max_r, z_v - max_v
    if TEXT_GRADIENT:
        text = (ce_share_r * exp(d_r) - at_label_r) * slope(z_r, softcap, HAS_SOFTCAP)
    if VISION_GRADIENT:
        vision = ce_share_v * exp(d_v) - at_label_v
        if KL_GRADIENT:
            vision += divergence_gradient(d_r, d_v, share_r, share_v, expected, inv_tau, shift, DIVERGENCE)
        vision *= slope(z_v, softcap, HAS_SOFTCAP)
    return text, vision


@triton.jit
def _write_block(
    text_row, vision_row, columns, n_columns, scale, softcap, max_r, max_v, ce_share_r, ce_share_v,
    share_r, share_v, expected, inv_tau, shift,
    DIVERGENCE: tl.constexpr, TEXT_GRADIENT: tl.constexpr, VISION_GRADIENT: tl.constexpr, KL_GRADIENT: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, IS_LAST: tl.constexpr,
):  # fmt: skip
    """Overwrite a block of logits by their gradients, as if none were the label's."""
    z_r, z_v = 0.0, 0.0
    if TEXT_GRADIENT or KL_GRADIENT:
        z_r = load_block(text_row, columns, n_columns, scale, softcap, HAS_SOFTCAP, IS_LAST)
    if VISION_GRADIENT:
        z_v = load_block(vision_row, columns, n_columns, scale, softcap, HAS_SOFTCAP, IS_LAST)
    text, vision = _gradients(
        z_r, z_v, max_r, max_v, ce_share_r, ce_share_v, share_r, share_v, expected, inv_tau, shift, 0.0, 0.0, softcap,
        DIVERGENCE, TEXT_GRADIENT, VISION_GRADIENT, KL_GRADIENT, HAS_SOFTCAP,
    )  # fmt: skip
    if TEXT_GRADIENT:
        store_block(text_row, columns, n_columns, text, IS_LAST)
    if VISION_GRADIENT:
        store_block(vision_row, columns, n_columns, vision, IS_LAST)


@triton.jit(do_not_specialize=PER_TOKEN)
def rows_kernel(
    text_ptr, vision_ptr, labels_ptr, text_weight_ptr, vision_weight_ptr, kl_weight_ptr,
    text_nll_ptr, vision_nll_ptr, kl_ptr, text_entropy_ptr, vision_entropy_ptr, text_is_top1_ptr, vision_is_top1_ptr,
    stride, n_columns, scale, softcap, inv_tau, beta,
    HAS_TEXT: tl.constexpr, HAS_VISION: tl.constexpr, DIVERGENCE: tl.constexpr,
    TEXT_GRADIENT: tl.constexpr, VISION_GRADIENT: tl.constexpr, KL_GRADIENT: tl.constexpr,
    IS_TEMPERED: tl.constexpr, HAS_SOFTCAP: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Statistics and gradients of one token; what the flags exclude is neither read nor written.

    A lane is `GROUP` columns. `IS_TEMPERED`: the temperature is not 1, so that its exponentials are others.
    """
    token = tl.program_id(0).to(tl.int64)
    text_row, vision_row = text_ptr + token * stride, vision_ptr + token * stride
    label = tl.load(labels_ptr + token).to(tl.int32)
    n_full = n_columns // BLOCK * BLOCK
    N_LANES: tl.constexpr = BLOCK // GROUP
    lanes = tl.arange(0, N_LANES)[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    zeros, lowest = tl.zeros([N_LANES], tl.float32), tl.full([N_LANES], LOWEST, tl.float32)
    if not IS_TEMPERED:
        inv_tau = 1.0

    top_r, total_r, moment_r, before_r, q_total_r = lowest, zeros, zeros, zeros - float("inf"), zeros
    top_v, total_v, moment_v, before_v, q_total_v = lowest, zeros, zeros, zeros - float("inf"), zeros
    gap = zeros
    for start in range(0, n_full, BLOCK):
        (
            top_r, total_r, moment_r, before_r, q_total_r, top_v, total_v, moment_v, before_v, q_total_v, gap,
        ) = _fold_block(
            text_row, vision_row, start + lanes, n_columns, label, scale, softcap, inv_tau,
            top_r, total_r, moment_r, before_r, q_total_r, top_v, total_v, moment_v, before_v, q_total_v, gap,
            HAS_TEXT, HAS_VISION, DIVERGENCE, IS_TEMPERED, HAS_SOFTCAP, False,
        )  # fmt: skip
    top_r, total_r, moment_r, before_r, q_total_r, top_v, total_v, moment_v, before_v, q_total_v, gap = _fold_block(
        text_row, vision_row, n_full + lanes, n_columns, label, scale, softcap, inv_tau,
        top_r, total_r, moment_r, before_r, q_total_r, top_v, total_v, moment_v, before_v, q_total_v, gap,
        HAS_TEXT, HAS_VISION, DIVERGENCE, IS_TEMPERED, HAS_SOFTCAP, True,
    )  # fmt: skip

    target_r, target_v, max_r, max_v, sum_r, sum_v = 0.0, 0.0, 0.0, 0.0, 1.0, 1.0
    if HAS_TEXT:
        target_r = logits(tl.load(text_row + label), scale, softcap, HAS_SOFTCAP)
        max_r, sum_r, moment, moved_r = merge_view(top_r, total_r, moment_r)
        _store_view(
            text_nll_ptr, text_entropy_ptr, text_is_top1_ptr, text_row, token, label, target_r, max_r, sum_r, moment,
            before_r, scale, softcap, HAS_SOFTCAP, GROUP,
        )  # fmt: skip
    if HAS_VISION:
        target_v = logits(tl.load(vision_row + label), scale, softcap, HAS_SOFTCAP)
        max_v, sum_v, moment, moved_v = merge_view(top_v, total_v, moment_v)
        _store_view(
            vision_nll_ptr, vision_entropy_ptr, vision_is_top1_ptr, vision_row, token, label, target_v, max_v, sum_v,
            moment, before_v, scale, softcap, HAS_SOFTCAP, GROUP,
        )  # fmt: skip

    # Mean of the log-ratio under the vision_centric distribution, which its gradient needs
    expected, shift, q_sum_r, q_sum_v = 0.0, 0.0, sum_r, sum_v
    if DIVERGENCE != NO_DIVERGENCE:
        rescale_r, rescale_v = exp(moved_r * inv_tau), exp(moved_v * inv_tau)
        if IS_TEMPERED:
            q_sum_r, q_sum_v = tl.sum(rescale_r * q_total_r, axis=0), tl.sum(rescale_v * q_total_v, axis=0)
        else:
            q_total_r, q_total_v = total_r, total_v
        log_r_by_v = tl.log(q_sum_r) - tl.log(q_sum_v)
        if DIVERGENCE == FORWARD_KL:
            gap_sum = tl.sum(weighted(rescale_r, gap + q_total_r * (moved_r - moved_v)), axis=0)
            tl.store(kl_ptr + token, gap_sum * inv_tau / q_sum_r - log_r_by_v)
        if DIVERGENCE == REVERSE_KL:
            gap_sum = tl.sum(weighted(rescale_v, gap + q_total_v * (moved_v - moved_r)), axis=0)
            expected = gap_sum * inv_tau / q_sum_v
            tl.store(kl_ptr + token, expected + log_r_by_v)
        if DIVERGENCE == JSD:
            shift = (tl.log(beta) - tl.log(1 - beta) - log_r_by_v) * LOG2_E
            kl_r, kl_v = _jsd(
                text_row, vision_row, lanes, n_columns, scale, softcap, inv_tau, beta, max_r, max_v, q_sum_r, q_sum_v,
                shift, HAS_SOFTCAP,
            )  # fmt: skip
            tl.store(kl_ptr + token, beta * kl_r + (1 - beta) * kl_v)
            expected = kl_v + tl.log(1 - beta)

    if TEXT_GRADIENT or VISION_GRADIENT:
        at_label_r, at_label_v, share_r, share_v, ce_share_r, ce_share_v = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        if TEXT_GRADIENT:
            at_label_r = tl.load(text_weight_ptr + token) * scale
            ce_share_r = at_label_r / sum_r
        if VISION_GRADIENT:
            at_label_v = tl.load(vision_weight_ptr + token) * scale
            ce_share_v = at_label_v / sum_v
        if KL_GRADIENT:
            kl_weight = tl.load(kl_weight_ptr + token) * (scale * inv_tau)
            if DIVERGENCE == JSD:
                kl_weight *= 1 - beta
            share_r = tl.where(kl_weight != 0, kl_weight / q_sum_r, 0.0)
            share_v = tl.where(kl_weight != 0, kl_weight / q_sum_v, 0.0)
        # No warp may overwrite the label's logit before every other has read it
        tl.debug_barrier()
        for start in range(0, n_full, BLOCK):
            _write_block(
                text_row, vision_row, start + lanes, n_columns, scale, softcap, max_r, max_v, ce_share_r, ce_share_v,
                share_r, share_v, expected, inv_tau, shift, DIVERGENCE, TEXT_GRADIENT, VISION_GRADIENT, KL_GRADIENT,
                HAS_SOFTCAP, False,
            )  # fmt: skip
        _write_block(
            text_row, vision_row, n_full + lanes, n_columns, scale, softcap, max_r, max_v, ce_share_r, ce_share_v,
            share_r, share_v, expected, inv_tau, shift, DIVERGENCE, TEXT_GRADIENT, VISION_GRADIENT, KL_GRADIENT,
            HAS_SOFTCAP, True,
        )  # fmt: skip
        text, vision = _gradients(
            target_r, target_v, max_r, max_v, ce_share_r, ce_share_v, share_r, share_v, expected, inv_tau, shift,
            at_label_r, at_label_v, softcap, DIVERGENCE, TEXT_GRADIENT, VISION_GRADIENT, KL_GRADIENT, HAS_SOFTCAP,
        )  # fmt: skip
        # Only now that every warp has written its columns, of which the label is one
        tl.debug_barrier()
        if TEXT_GRADIENT:
            tl.store(text_row + label, text.to(text_ptr.dtype.element_ty))
        if VISION_GRADIENT:
            tl.store(vision_row + label, vision.to(vision_ptr.dtype.element_ty))
