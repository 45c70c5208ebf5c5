"""One Triton kernel for the elementwise work on a tile: rows of logits become rows of gradients, in place.

One program per token walks the rows of both views twice (three times for the JSD): first for the statistics, kept as
sums relative to a running maximum, then for the gradients, which it leaves where the logits were. So of every logit
there are two loads and one store, the least for any scheme that keeps no row on the chip. Rows of up to some 30,000
logits are still in the L2 cache when they are loaded again. `torch_rows` has the formulas, and is the twin to compare
with.

Offsets of rows are int64: a tile may have more than 2³¹ elements. Impossible tokens (logits of −inf) need no detour
here: a product with a probability of 0 is 0 (`_weighted`).
"""

# Pyright does not know that flags compiled in decide what is bound, nor that functions return tuples of blocks
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false

import triton
import triton.language as tl


NO_DIVERGENCE, FORWARD_KL, REVERSE_KL, JSD = (tl.constexpr(i) for i in range(4))


@triton.jit
def _logits(raw, scale, softcap, HAS_SOFTCAP: tl.constexpr):
    """Logits in float32 from the raw products of the head: scaled and soft-capped."""
    z = raw.to(tl.float32) * scale
    if HAS_SOFTCAP:
        x = z / softcap
        # 1 − e^(−2|x|) has lost its digits near 0, and 2·sigmoid − 1 half of one everywhere
        square = x * x
        series = x * (1 + square * (-1 / 3 + square * (2 / 15 + square * (-17 / 315 + square * 62 / 2835))))
        e = tl.exp(-2 * tl.abs(x))
        size = (1 - e) / (1 + e)
        z = softcap * tl.where(tl.abs(x) < 0.25, series, tl.where(x < 0, -size, size))
    return z


@triton.jit
def _slope(z, scale, softcap, HAS_SOFTCAP: tl.constexpr):
    """The derivative of `_logits` with respect to the raw product, from its result z."""
    slope = scale
    if HAS_SOFTCAP:
        slope = scale * (1 - (z / softcap) * (z / softcap))
    return slope


@triton.jit
def _weighted(weight, value):
    """weight·value; 0 where the weight is 0, whatever the value."""
    return tl.where(weight > 0, weight * value, 0.0)


@triton.jit
def _new_maximum(z, maximum):
    """The running maximum with one more block, the logits relative to it, and how far it has moved (≤ 0)."""
    new = tl.maximum(maximum, tl.max(z, axis=0))
    base = tl.where(new == -float("inf"), 0.0, new)  # nothing possible yet: −inf − (−inf) is no number
    moved = tl.where(maximum == -float("inf"), 0.0, maximum - base)
    return new, z - base, moved


@triton.jit
def _fold(d, moved, total, moment):
    """Σ e and Σ e·d with one more block, where d is z relative to the maximum."""
    rescale = tl.exp(moved)
    e = tl.exp(d)
    moment = rescale * (moment + total * moved) + tl.sum(_weighted(e, d), axis=0)
    return rescale * total + tl.sum(e, axis=0), moment


@triton.jit
def _fold_divergence(d_r, d_v, moved_r, moved_v, total_r, total_v, gap, inv_tau, DIVERGENCE: tl.constexpr):
    """Σ q of both views and Σ q·(gap of the views), unnormalized, with one more block; gap is in units of τ."""
    rescale_r, rescale_v = tl.exp(moved_r * inv_tau), tl.exp(moved_v * inv_tau)
    q_r, q_v = tl.exp(d_r * inv_tau), tl.exp(d_v * inv_tau)
    if DIVERGENCE == FORWARD_KL:
        gap = _weighted(rescale_r, gap + total_r * (moved_r - moved_v)) + tl.sum(_weighted(q_r, d_r - d_v), axis=0)
    if DIVERGENCE == REVERSE_KL:
        gap = _weighted(rescale_v, gap + total_v * (moved_v - moved_r)) + tl.sum(_weighted(q_v, d_v - d_r), axis=0)
    return rescale_r * total_r + tl.sum(q_r, axis=0), rescale_v * total_v + tl.sum(q_v, axis=0), gap


@triton.jit
def _log_ratios(d_r, d_v, log_total_r, log_total_v, inv_tau, beta):
    """log q_r − log m and log q_v − log m of the mixture m = (1 − β)·q_v + β·q_r."""
    log_q_r, log_q_v = d_r * inv_tau - log_total_r, d_v * inv_tau - log_total_v
    a, b = log_q_r + tl.log(beta), log_q_v + tl.log(1 - beta)
    top = tl.maximum(tl.maximum(a, b), -1e30)  # impossible in both views: any number will do
    log_m = top + tl.log(tl.exp(a - top) + tl.exp(b - top))
    return log_q_r - log_m, log_q_v - log_m


@triton.jit
def _divergence_gradient(d_r, d_v, total_r, total_v, expected, inv_tau, beta, DIVERGENCE: tl.constexpr):
    """Gradient of the divergence for the vision_centric logits, without the factor 1/τ."""
    q_v = tl.exp(d_v * inv_tau) / total_v
    if DIVERGENCE == FORWARD_KL:
        return q_v - tl.exp(d_r * inv_tau) / total_r
    elif DIVERGENCE == REVERSE_KL:
        return _weighted(q_v, (d_v - d_r) * inv_tau - expected)
    else:
        _, log_ratio = _log_ratios(d_r, d_v, tl.log(total_r), tl.log(total_v), inv_tau, beta)
        return (1 - beta) * _weighted(q_v, log_ratio - expected)


@triton.jit
def _store_view(stats_ptr, n_tokens, field, token, target, maximum, total, moment, before):
    """A view's NLL, entropy and whether its label is top-1, in the rows `field`, `field` + 3 and `field` + 5."""
    column = stats_ptr + token
    tl.store(column + field * n_tokens, tl.log(total) - (target - maximum))
    tl.store(column + (field + 3) * n_tokens, tl.log(total) - moment / total)
    # `argmax` returns the first maximum: a tie with an earlier token is not top-1
    tl.store(column + (field + 5) * n_tokens, ((target == maximum) & (before < maximum)).to(tl.float32))


@triton.jit
def rows_kernel(
    text_ptr,
    vision_ptr,
    labels_ptr,
    weights_ptr,
    stats_ptr,
    n_tokens,
    stride,
    n_columns,
    scale,
    softcap,
    inv_tau,
    beta,
    HAS_TEXT: tl.constexpr,
    HAS_VISION: tl.constexpr,
    DIVERGENCE: tl.constexpr,
    TEXT_GRADIENT: tl.constexpr,
    VISION_GRADIENT: tl.constexpr,
    KL_GRADIENT: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    text_row, vision_row = text_ptr + token * stride, vision_ptr + token * stride
    label = tl.load(labels_ptr + token)
    lanes = tl.arange(0, BLOCK)
    lowest = -float("inf")

    max_r, total_r, moment_r, before_r, q_total_r = lowest, 0.0, 0.0, lowest, 0.0
    max_v, total_v, moment_v, before_v, q_total_v = lowest, 0.0, 0.0, lowest, 0.0
    gap = 0.0
    for start in range(0, n_columns, BLOCK):
        columns = start + lanes
        mask = columns < n_columns
        if HAS_TEXT:
            z = _logits(tl.load(text_row + columns, mask=mask, other=0.0), scale, softcap, HAS_SOFTCAP)
            z = tl.where(mask, z, lowest)
            before_r = tl.maximum(before_r, tl.max(tl.where(columns < label, z, lowest), axis=0))
            max_r, d_r, moved_r = _new_maximum(z, max_r)
            total_r, moment_r = _fold(d_r, moved_r, total_r, moment_r)
        if HAS_VISION:
            z = _logits(tl.load(vision_row + columns, mask=mask, other=0.0), scale, softcap, HAS_SOFTCAP)
            z = tl.where(mask, z, lowest)
            before_v = tl.maximum(before_v, tl.max(tl.where(columns < label, z, lowest), axis=0))
            max_v, d_v, moved_v = _new_maximum(z, max_v)
            total_v, moment_v = _fold(d_v, moved_v, total_v, moment_v)
        if DIVERGENCE != NO_DIVERGENCE:
            q_total_r, q_total_v, gap = _fold_divergence(
                d_r, d_v, moved_r, moved_v, q_total_r, q_total_v, gap, inv_tau, DIVERGENCE
            )

    if HAS_TEXT:
        target = _logits(tl.load(text_row + label), scale, softcap, HAS_SOFTCAP)
        _store_view(stats_ptr, n_tokens, 0, token, target, max_r, total_r, moment_r, before_r)
    if HAS_VISION:
        target = _logits(tl.load(vision_row + label), scale, softcap, HAS_SOFTCAP)
        _store_view(stats_ptr, n_tokens, 1, token, target, max_v, total_v, moment_v, before_v)

    # Mean of the log-ratio under the vision_centric distribution, which its gradient needs
    expected = 0.0
    log_q_total_r, log_q_total_v = tl.log(q_total_r), tl.log(q_total_v)
    if DIVERGENCE == FORWARD_KL:
        kl = gap * inv_tau / q_total_r - log_q_total_r + log_q_total_v
        tl.store(stats_ptr + 2 * n_tokens + token, kl)
    if DIVERGENCE == REVERSE_KL:
        expected = gap * inv_tau / q_total_v
        tl.store(stats_ptr + 2 * n_tokens + token, expected - log_q_total_v + log_q_total_r)
    if DIVERGENCE == JSD:
        kl_r = 0.0
        for start in range(0, n_columns, BLOCK):
            columns = start + lanes
            mask = columns < n_columns
            z_r = _logits(tl.load(text_row + columns, mask=mask, other=0.0), scale, softcap, HAS_SOFTCAP)
            z_v = _logits(tl.load(vision_row + columns, mask=mask, other=0.0), scale, softcap, HAS_SOFTCAP)
            d_r, d_v = tl.where(mask, z_r, lowest) - max_r, tl.where(mask, z_v, lowest) - max_v
            ratio_r, ratio_v = _log_ratios(d_r, d_v, log_q_total_r, log_q_total_v, inv_tau, beta)
            kl_r += tl.sum(_weighted(tl.exp(d_r * inv_tau) / q_total_r, ratio_r), axis=0)
            expected += tl.sum(_weighted(tl.exp(d_v * inv_tau) / q_total_v, ratio_v), axis=0)
        tl.store(stats_ptr + 2 * n_tokens + token, beta * kl_r + (1 - beta) * expected)

    text_weight = tl.load(weights_ptr + token)
    vision_weight = tl.load(weights_ptr + n_tokens + token)
    kl_weight = tl.load(weights_ptr + 2 * n_tokens + token) * inv_tau
    if TEXT_GRADIENT or VISION_GRADIENT:
        # No warp may overwrite the label's logit before every other has read it
        tl.debug_barrier()
        for start in range(0, n_columns, BLOCK):
            columns = start + lanes
            mask = columns < n_columns
            is_label = (columns == label).to(tl.float32)
            if TEXT_GRADIENT or KL_GRADIENT:
                z = _logits(tl.load(text_row + columns, mask=mask, other=0.0), scale, softcap, HAS_SOFTCAP)
                d_r = z - max_r
                if TEXT_GRADIENT:
                    gradient = text_weight * (tl.exp(d_r) / total_r - is_label)
                    gradient *= _slope(z, scale, softcap, HAS_SOFTCAP)
                    tl.store(text_row + columns, gradient.to(text_ptr.dtype.element_ty), mask=mask)
            if VISION_GRADIENT:
                z = _logits(tl.load(vision_row + columns, mask=mask, other=0.0), scale, softcap, HAS_SOFTCAP)
                d_v = z - max_v
                gradient = vision_weight * (tl.exp(d_v) / total_v - is_label)
                if KL_GRADIENT:
                    gradient += _weighted(
                        kl_weight,
                        _divergence_gradient(d_r, d_v, q_total_r, q_total_v, expected, inv_tau, beta, DIVERGENCE),
                    )
                gradient *= _slope(z, scale, softcap, HAS_SOFTCAP)
                tl.store(vision_row + columns, gradient.to(vision_ptr.dtype.element_ty), mask=mask)
