"""One Triton kernel for the elementwise work on a tile: rows of logits become rows of gradients, in place.

One program per token walks the rows of both views twice (three times for the JSD, and where entries are clipped):
first for the statistics, then for the gradients, which it leaves where the logits were. So of every logit there are
two loads and one store, the least for any scheme that keeps no row on the chip. Rows of up to some 30,000 logits are
still in the L2 cache when they are loaded again. `torch_rows` has the formulas of the gradients, and is the twin to
compare with.

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
the loop has left there, rounded but once. Neither loop knows of a teacher's top tokens: these are taken out of the row
before the first one, and their gradients written (or they are put back) after the last.

Offsets of rows are int64: a tile may have more than 2³¹ elements.
"""

# Pyright does not know that flags compiled in decide what is bound, what a constant is, nor that blocks are returned
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false

import triton
import triton.language as tl

from .triton_divergences import (
    compare_rows,
    load_top,
    sampled,
    share_of_kl,
    take_out,
    top_divergence,
    with_top,
)
from .triton_functions import (
    FORWARD_KL,
    LOWEST,
    NO_DIVERGENCE,
    OF_STUDENT,
    REVERSE_KL,
    SAMPLED_K3,
    exp,
    fold_gap,
    fold_view,
    load_block,
    logits,
    merge_view,
)
from .triton_gradients import write_gradients


# Tiles differ in where their tokens begin: no alignment of what is per token may make a kernel of its own
PER_TOKEN = (
    "labels_ptr",
    "text_weight_ptr",
    "vision_weight_ptr",
    "kl_weight_ptr",
    "blind_nll_ptr",
    "sampled_nll_ptr",
    "top_ids_ptr",
    "top_log_probs_ptr",
    "label_log_p_ptr",
    "teacher_share_ptr",
    "text_nll_ptr",
    "vision_nll_ptr",
    "kl_ptr",
    "text_entropy_ptr",
    "vision_entropy_ptr",
    "text_is_top1_ptr",
    "vision_is_top1_ptr",
    "kl_share_ptr",
)


@triton.jit
def _fold_block(
    text_row, vision_row, columns, n_columns, label, text_scale, text_softcap, scale, softcap, inv_tau,
    top_r, total_r, moment_r, before_r, q_total_r, top_v, total_v, moment_v, before_v, q_total_v, gap,
    HAS_TEXT: tl.constexpr, HAS_VISION: tl.constexpr, GAP: tl.constexpr,
    TEMPERS_TEXT: tl.constexpr, TEMPERS_VISION: tl.constexpr,
    TEXT_SOFTCAP: tl.constexpr, HAS_SOFTCAP: tl.constexpr, IS_MARKED: tl.constexpr, IS_LAST: tl.constexpr,
):  # fmt: skip
    """All sums of all lanes with one more block of columns."""
    is_before = tl.max(columns, axis=1) < label - label % columns.shape[1]
    if HAS_TEXT:
        z = load_block(text_row, columns, n_columns, text_scale, text_softcap, TEXT_SOFTCAP, IS_LAST)
        old_r = total_r
        top_r, total_r, moment_r, before_r, d_r, e_r, moved_r = fold_view(
            z, is_before, top_r, total_r, moment_r, before_r
        )
    if HAS_VISION:
        z = load_block(vision_row, columns, n_columns, scale, softcap, HAS_SOFTCAP, IS_LAST, IS_MARKED)
        old_v = total_v
        top_v, total_v, moment_v, before_v, d_v, e_v, moved_v = fold_view(
            z, is_before, top_v, total_v, moment_v, before_v
        )
    if TEMPERS_TEXT:
        old_r, e_r = q_total_r, exp(d_r * inv_tau)
        q_total_r = exp(moved_r * inv_tau) * q_total_r + tl.sum(e_r, axis=1)
    if TEMPERS_VISION:
        old_v, e_v = q_total_v, exp(d_v * inv_tau)
        q_total_v = exp(moved_v * inv_tau) * q_total_v + tl.sum(e_v, axis=1)
    if GAP == FORWARD_KL:
        gap = fold_gap(gap, old_r, e_r, d_r, d_v, exp(moved_r * inv_tau), moved_r, moved_v)
    if GAP == REVERSE_KL:
        gap = fold_gap(gap, old_v, e_v, d_v, d_r, exp(moved_v * inv_tau), moved_v, moved_r)
    return top_r, total_r, moment_r, before_r, q_total_r, top_v, total_v, moment_v, before_v, q_total_v, gap


@triton.jit
def _folded(
    text_row, vision_row, lanes, n_columns, label, text_scale, text_softcap, scale, softcap, inv_tau,
    HAS_TEXT: tl.constexpr, HAS_VISION: tl.constexpr, GAP: tl.constexpr,
    TEMPERS_TEXT: tl.constexpr, TEMPERS_VISION: tl.constexpr,
    TEXT_SOFTCAP: tl.constexpr, HAS_SOFTCAP: tl.constexpr, IS_MARKED: tl.constexpr,
):  # fmt: skip
    """All sums of all lanes over a row; tops, totals and moments, then where the label is, then of the divergence."""
    BLOCK: tl.constexpr = lanes.shape[0] * lanes.shape[1]
    n_full = n_columns // BLOCK * BLOCK
    zeros, lowest = tl.zeros([lanes.shape[0]], tl.float32), tl.full([lanes.shape[0]], LOWEST, tl.float32)
    top_r, total_r, moment_r, before_r, q_total_r = lowest, zeros, zeros, zeros - float("inf"), zeros
    top_v, total_v, moment_v, before_v, q_total_v = lowest, zeros, zeros, zeros - float("inf"), zeros
    gap = zeros
    for start in range(0, n_full, BLOCK):
        (
            top_r, total_r, moment_r, before_r, q_total_r, top_v, total_v, moment_v, before_v, q_total_v, gap,
        ) = _fold_block(
            text_row, vision_row, start + lanes, n_columns, label, text_scale, text_softcap, scale, softcap, inv_tau,
            top_r, total_r, moment_r, before_r, q_total_r, top_v, total_v, moment_v, before_v, q_total_v, gap,
            HAS_TEXT, HAS_VISION, GAP, TEMPERS_TEXT, TEMPERS_VISION, TEXT_SOFTCAP, HAS_SOFTCAP, IS_MARKED, False,
        )  # fmt: skip
    return _fold_block(
        text_row, vision_row, n_full + lanes, n_columns, label, text_scale, text_softcap, scale, softcap, inv_tau,
        top_r, total_r, moment_r, before_r, q_total_r, top_v, total_v, moment_v, before_v, q_total_v, gap,
        HAS_TEXT, HAS_VISION, GAP, TEMPERS_TEXT, TEMPERS_VISION, TEXT_SOFTCAP, HAS_SOFTCAP, IS_MARKED, True,
    )  # fmt: skip


@triton.jit
def _view_statistics(
    nll_ptr, entropy_ptr, is_top1_ptr, row, token, label, target, maximum, total, moment, before,
    scale, softcap, HAS_SOFTCAP: tl.constexpr, IS_MARKED: tl.constexpr, GROUP: tl.constexpr, IS_STORED: tl.constexpr,
):  # fmt: skip
    """A view's NLL and whether its label is top-1; stored with its entropy, if anybody asks for them."""
    nll = tl.log(total) - (target - maximum)
    # `argmax` returns the first maximum: a tie with an earlier token is not top-1
    beside = load_block(
        row, label - label % GROUP + tl.arange(0, GROUP), label, scale, softcap, HAS_SOFTCAP, True, IS_MARKED
    )
    is_first = (tl.max(before, axis=0) < maximum) & (tl.max(beside, axis=0) < maximum)
    is_top1 = (target == maximum) & is_first
    if IS_STORED:
        tl.store(nll_ptr + token, nll)
        tl.store(entropy_ptr + token, tl.log(total) - moment / total)
        tl.store(is_top1_ptr + token, is_top1.to(is_top1_ptr.dtype.element_ty))
    return nll, is_top1


@triton.jit(do_not_specialize=(*PER_TOKEN, "n_top"))
def rows_kernel(
    text_ptr, vision_ptr, labels_ptr, text_weight_ptr, vision_weight_ptr, kl_weight_ptr,
    blind_nll_ptr, sampled_nll_ptr, top_ids_ptr, top_log_probs_ptr, label_log_p_ptr, teacher_share_ptr,
    text_nll_ptr, vision_nll_ptr, kl_ptr, text_entropy_ptr, vision_entropy_ptr, text_is_top1_ptr, vision_is_top1_ptr,
    kl_share_ptr,
    stride, n_columns, n_top, scale, softcap, text_scale, text_softcap, inv_tau, beta, clip, confidence,
    importance_clip,
    HAS_TEXT: tl.constexpr, HAS_VISION: tl.constexpr, DIVERGENCE: tl.constexpr, HAS_CLIP: tl.constexpr,
    TOP: tl.constexpr, HAS_SHARE: tl.constexpr, MASK: tl.constexpr, HAS_BLIND: tl.constexpr,
    IS_IMPORTANCE_WEIGHTED: tl.constexpr, TEXT_STATS: tl.constexpr, VISION_STATS: tl.constexpr,
    TEXT_GRADIENT: tl.constexpr, VISION_GRADIENT: tl.constexpr, KL_GRADIENT: tl.constexpr, IS_TEMPERED: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, HAS_TEXT_RULES: tl.constexpr, TEXT_SOFTCAP: tl.constexpr,
    BLOCK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Statistics and gradients of one token; what the flags exclude is neither read nor written.

    A lane is `GROUP` columns. `IS_TEMPERED`: the temperature is not 1, so that its exponentials are others. `TOP`: the
    places for a teacher's top tokens, `n_top` of which have one; 0 without.
    """
    IS_SAMPLED: tl.constexpr = DIVERGENCE >= SAMPLED_K3
    HAS_CLASSES: tl.constexpr = TOP > 0
    GRADIENT_OF: tl.constexpr = OF_STUDENT if HAS_CLASSES or IS_SAMPLED else DIVERGENCE
    TEMPERS_TEXT: tl.constexpr = IS_TEMPERED and HAS_TEXT and not HAS_CLASSES
    token = tl.program_id(0).to(tl.int64)
    text_row, vision_row = text_ptr + token * stride, vision_ptr + token * stride
    label = tl.load(labels_ptr + token).to(tl.int32)
    lanes = tl.arange(0, BLOCK // GROUP)[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    if not IS_TEMPERED:
        inv_tau = 1.0
    if not HAS_TEXT_RULES:
        text_scale, text_softcap = scale, softcap
    ids, is_there, is_top, raw_k, z_k, gradient_k, max_rest = 0, 0, 0, 0.0, 0.0, 0.0, 0.0
    if HAS_CLASSES:
        ids, is_there, log_p_k, log_p_rest = load_top(top_ids_ptr, top_log_probs_ptr, token, n_top, TOP)
        raw_k = take_out(vision_row, ids, is_there)

    top_r, total_r, moment_r, before_r, q_total_r, top_v, total_v, moment_v, before_v, q_total_v, gap = _folded(
        text_row, vision_row, lanes, n_columns, label, text_scale, text_softcap, scale, softcap, inv_tau,
        HAS_TEXT, HAS_VISION, NO_DIVERGENCE if HAS_CLIP else GRADIENT_OF, TEMPERS_TEXT, IS_TEMPERED,
        TEXT_SOFTCAP, HAS_SOFTCAP, HAS_CLASSES,
    )  # fmt: skip
    target_r, target_v, max_r, max_v, sum_r, sum_v = 0.0, 0.0, 0.0, 0.0, 1.0, 1.0
    nll_r, nll_v, is_top1_r, q_sum_r, q_sum_v = 0.0, 0.0, 0.0, 1.0, 1.0
    if HAS_TEXT:
        target_r = logits(tl.load(text_row + label), text_scale, text_softcap, TEXT_SOFTCAP)
        max_r, sum_r, moment, moved_r = merge_view(top_r, total_r, moment_r)
        q_sum_r = sum_r
        nll_r, is_top1_r = _view_statistics(
            text_nll_ptr, text_entropy_ptr, text_is_top1_ptr, text_row, token, label, target_r, max_r, sum_r, moment,
            before_r, text_scale, text_softcap, TEXT_SOFTCAP, False, GROUP, TEXT_STATS,
        )  # fmt: skip
    if HAS_VISION:
        target_v = logits(tl.load(vision_row + label), scale, softcap, HAS_SOFTCAP)
        max_v, sum_v, moment, moved_v = merge_view(top_v, total_v, moment_v)
        q_sum_v = sum_v
        if HAS_CLASSES:
            max_rest = max_v
            z_k, is_top, target_v, before_v, max_v, sum_v, moment = with_top(
                raw_k, ids, is_there, label, target_v, max_v, sum_v, moment, before_v, scale, softcap, HAS_SOFTCAP
            )
        nll_v, _ = _view_statistics(
            vision_nll_ptr, vision_entropy_ptr, vision_is_top1_ptr, vision_row, token, label, target_v, max_v, sum_v,
            moment, before_v, scale, softcap, HAS_SOFTCAP, HAS_CLASSES, GROUP, VISION_STATS,
        )  # fmt: skip

    share, expected, shift, of_student, of_label = 1.0, 0.0, 0.0, 0.0, 0.0
    if HAS_SHARE:
        share = share_of_kl(
            token, nll_r, is_top1_r, sum_r, nll_v, blind_nll_ptr, sampled_nll_ptr, teacher_share_ptr, confidence,
            importance_clip, MASK, HAS_BLIND, IS_IMPORTANCE_WEIGHTED,
        )  # fmt: skip
        tl.store(kl_share_ptr + token, share)
    if TEMPERS_TEXT:
        q_sum_r = tl.sum(exp(moved_r * inv_tau) * q_total_r, axis=0)
    if IS_TEMPERED:
        q_sum_v = tl.sum(exp(moved_v * inv_tau) * q_total_v, axis=0)
    if HAS_CLASSES:
        kl, gradient_k, of_student = top_divergence(
            z_k, log_p_k, log_p_rest, max_v, max_rest, q_sum_v, inv_tau, beta, clip, DIVERGENCE, HAS_CLIP
        )
    elif IS_SAMPLED:
        if HAS_TEXT:
            log_p = (target_r - max_r) * inv_tau - tl.log(q_sum_r)
        else:
            log_p = tl.load(label_log_p_ptr + token).to(tl.float32)
        kl, of_label = sampled(log_p, (target_v - max_v) * inv_tau - tl.log(q_sum_v), DIVERGENCE)
        of_student = of_label / q_sum_v
    elif DIVERGENCE != NO_DIVERGENCE:
        if not IS_TEMPERED:
            q_total_r, q_total_v = total_r, total_v
        kl, expected, shift = compare_rows(
            text_row, vision_row, lanes, n_columns, text_scale, text_softcap, scale, softcap, inv_tau, beta, clip,
            max_r, max_v, q_sum_r, q_sum_v, moved_r, moved_v, q_total_r, q_total_v, gap,
            DIVERGENCE, HAS_CLIP, TEXT_SOFTCAP, HAS_SOFTCAP,
        )  # fmt: skip
    if DIVERGENCE != NO_DIVERGENCE:
        tl.store(kl_ptr + token, kl)

    write_gradients(
        text_row, vision_row, token, label, lanes, n_columns, text_weight_ptr, vision_weight_ptr, kl_weight_ptr, share,
        text_scale, text_softcap, scale, softcap, inv_tau, beta, clip, max_r, max_v, max_rest, sum_r, sum_v,
        q_sum_r, q_sum_v, target_r, target_v, expected, shift, of_student, of_label,
        ids, is_there, is_top, raw_k, z_k, gradient_k,
        DIVERGENCE, GRADIENT_OF, HAS_CLIP, HAS_CLASSES, HAS_SHARE, TEXT_GRADIENT, VISION_GRADIENT, KL_GRADIENT,
        IS_TEMPERED, TEXT_SOFTCAP, HAS_SOFTCAP,
    )  # fmt: skip
