"""What the Triton kernel does to a block of columns: logits, the sums of its lanes, gradients.

Impossible tokens (logits of −inf) have d = −inf and e^d = 0, and 0·d is to be 0: a factor d is bounded where the
product is 0 anyway (`bounded`), or the product is guarded where infinite results are right. Running maxima start at
the lowest float and not at −inf, whose differences are no numbers.

Suffixes: `_r` is the text_rich view, `_v` the vision_centric one.
"""

# Pyright does not know that flags compiled in decide what is bound, what a constant is, nor that blocks are returned
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false, reportArgumentType=false

import triton
import triton.language as tl


# As `spec.DIVERGENCES` has them; `OF_STUDENT` is for a gradient that is a multiple of the student's distribution
NO_DIVERGENCE, FORWARD_KL, REVERSE_KL, JSD, SAMPLED_K3, SAMPLED_REVERSE_KL, OF_STUDENT = (
    tl.constexpr(i) for i in range(7)
)
LOWEST = tl.constexpr(-3.4028234663852886e38)
LOG2_E, LN_2 = tl.constexpr(1.4426950408889634), tl.constexpr(0.6931471805599453)


@triton.jit
def exp(x):
    """e^x by the one instruction that GPUs have for 2^x."""
    return tl.exp2(x * LOG2_E)


@triton.jit
def bounded(d):
    """d ≤ 0 as a factor beside e^d: from −1,000 on, where e^d is 0 in float32, finite even if d is not."""
    return tl.maximum(d, -1000.0)


@triton.jit
def weighted(weight, value):
    """weight·value; 0 where the weight is 0, whatever the value."""
    return tl.where(weight != 0, weight * value, 0.0)


@triton.jit
def log2_1p(x):
    """log2(1 + x) for x in [0, 1] within 1.6e-7 of itself; the logarithm of a library takes twice as long."""
    series = -0.0419450104 + x * 0.00739540206
    series = -0.358299077 + x * (0.275221199 + x * (-0.196238950 + x * (0.111832075 + x * series)))
    return x * (1.44269502 + x * (-0.721339524 + x * (0.480678886 + x * series)))


@triton.jit
def tanh(x):
    """tanh(x) within 1.5e-7, without a division."""
    size, square = tl.abs(x), x * x
    # 1 − e^(−2|x|) has lost its digits near 0, and 2·sigmoid − 1 half of one everywhere
    near = size * (1 + square * (-1 / 3 + square * (2 / 15 + square * (-17 / 315 + square * (62 / 2835)))))
    e = tl.exp2(size * (-2 * LOG2_E))
    # (1 − e)/(1 + e) for e up to e^(−1/2)
    series = 1.82437134 + e * (-1.42688310 + e * (0.778737247 + e * -0.208811015))
    series = -2 + e * (1.99999523 + e * (-1.99978745 + e * (1.99626958 + e * (-1.96644151 + e * series))))
    size = tl.where(size < 0.25, near, 1 + e * series)
    return tl.where(x < 0, -size, size)


@triton.jit
def logits(raw, scale, softcap, HAS_SOFTCAP: tl.constexpr, IS_MARKED: tl.constexpr = False):
    """Logits in float32 from the raw products of the head: scaled and soft-capped.

    `IS_MARKED`: a raw −inf stands for a token that is taken out, and stays what it is.
    """
    raw = raw.to(tl.float32)
    z = softcap * tanh(raw * (scale / softcap)) if HAS_SOFTCAP else raw * scale
    if IS_MARKED:
        z = tl.where(raw == -float("inf"), -float("inf"), z)
    return z


@triton.jit
def slope(z, softcap, HAS_SOFTCAP: tl.constexpr):
    """The derivative of the soft-capping from its result z."""
    if HAS_SOFTCAP:
        share = z * (1 / softcap)  # one division for all columns
        return 1 - share * share
    else:
        return 1.0


@triton.jit
def load_block(
    row, columns, n_columns, scale, softcap,
    HAS_SOFTCAP: tl.constexpr, IS_LAST: tl.constexpr, IS_MARKED: tl.constexpr = False,
):  # fmt: skip
    """Logits of a block of columns; beyond the row's end, which only the last block can reach, they are −inf."""
    if IS_LAST:
        mask = columns < n_columns
        z = logits(tl.load(row + columns, mask=mask, other=0.0), scale, softcap, HAS_SOFTCAP, IS_MARKED)
        z = tl.where(mask, z, -float("inf"))
    else:
        z = logits(tl.load(row + columns), scale, softcap, HAS_SOFTCAP, IS_MARKED)
    return z


@triton.jit
def store_block(row, columns, n_columns, values, IS_LAST: tl.constexpr):
    """Write a block of gradients, rounded to the dtype of the row."""
    if IS_LAST:
        tl.store(row + columns, values.to(row.dtype.element_ty), mask=columns < n_columns)
    else:
        tl.store(row + columns, values.to(row.dtype.element_ty))


@triton.jit
def fold_view(z, is_before, top, total, moment, before):
    """The sums of a view's lanes with one more block; also d, e^d, and how far the maxima have moved (≤ 0, finite)."""
    highest = tl.max(z, axis=1)
    new = tl.maximum(top, highest)
    moved = tl.maximum(top - new, LOWEST)
    d = z - new[:, None]
    e, rescale = exp(d), exp(moved)
    moment = rescale * (moment + total * bounded(moved)) + tl.sum(e * bounded(d), axis=1)
    total = rescale * total + tl.sum(e, axis=1)
    return new, total, moment, tl.where(is_before, tl.maximum(before, highest), before), d, e, moved


@triton.jit
def fold_gap(gap, total, q, d, other_d, rescale, moved, other_moved):
    """Σ q·(d − d') of every lane with one more block; `total` is Σ q before it."""
    gap = weighted(rescale, gap + total * (moved - other_moved))
    return gap + tl.sum(q * tl.where(q > 0, d - other_d, 0.0), axis=1)


@triton.jit
def merge_view(top, total, moment):
    """A view's maximum, Σ e and Σ e·d of all lanes; also how far each lane's maximum is above the row's (≤ 0)."""
    maximum = tl.max(top, axis=0)
    moved = tl.maximum(top - maximum, LOWEST)
    rescale = exp(moved)
    moment = tl.sum(rescale * (moment + total * bounded(moved)), axis=0)
    return maximum, tl.sum(rescale * total, axis=0), moment, moved


@triton.jit
def mixture(d_r, d_v, inv_tau, shift):
    """log2 of m/(β·q_r) and of m/((1 − β)·q_v), m = (1 − β)·q_v + β·q_r; `shift` is log2(β/Σ q_r · Σ q_v/(1 − β))."""
    # Odds beyond these bounds are of a probability of 0 in one view; those of one of 0 in both are no number
    odds = tl.minimum(tl.maximum((d_r - d_v) * (inv_tau * LOG2_E) + shift, -10000.0), 10000.0)
    above = log2_1p(tl.exp2(-tl.abs(odds)))
    return tl.maximum(-odds, 0.0) + above, tl.maximum(odds, 0.0) + above


@triton.jit
def clipped_entry(
    d_r, d_v, unit_r, unit_v, inv_tau, shift, beta, clip, DIVERGENCE: tl.constexpr, HAS_CLIP: tl.constexpr
):
    """What an entry (or a class) of the vocabulary adds to a divergence, q·∂/∂q of that, and q.

    p is unit_r·e^(d_r/τ), and q likewise. `shift` is that of `mixture` for the JSD, else log(unit_v/unit_r). Of an
    entry that adds more than `clip`, as one that is infinite, `clip` is counted, with a slope of 0.
    """
    p, q = unit_r * exp(d_r * inv_tau), unit_v * exp(d_v * inv_tau)
    if DIVERGENCE == JSD:
        ratio_r, ratio_v = mixture(d_r, d_v, inv_tau, shift)
        slope_q = -(1 - beta) * q * (ratio_v * LN_2 + tl.log(1 - beta))
        part = slope_q - beta * p * (ratio_r * LN_2 + tl.log(beta))
    elif DIVERGENCE == FORWARD_KL:
        part, slope_q = tl.where(p > 0, p * ((d_r - d_v) * inv_tau - shift), 0.0), -p
    else:
        part = tl.where(q > 0, q * ((d_v - d_r) * inv_tau + shift), 0.0)
        slope_q = part + q
    if HAS_CLIP:
        is_above = part > clip  # not so of what is no number, which has to show
        part, slope_q = tl.where(is_above, clip, part), tl.where(is_above, 0.0, slope_q)
    return part, slope_q, q


@triton.jit
def divergence_gradient(
    d_r, d_v, share_r, share_v, expected, inv_tau, shift, beta, clip, weight,
    DIVERGENCE: tl.constexpr, HAS_CLIP: tl.constexpr,
):  # fmt: skip
    """Weight × gradient of the divergence for the vision_centric logits.

    A share is weight/(τ·Σ q). With a clip it is 1/Σ q, beside a weight/τ.
    """
    if HAS_CLIP:
        _, slope_q, q = clipped_entry(d_r, d_v, share_r, share_v, inv_tau, shift, beta, clip, DIVERGENCE, True)
        return weighted(weight, slope_q - q * expected)
    else:
        q_v = share_v * exp(d_v * inv_tau)
        if DIVERGENCE == OF_STUDENT:
            return q_v
        elif DIVERGENCE == FORWARD_KL:
            return q_v - share_r * exp(d_r * inv_tau)
        elif DIVERGENCE == REVERSE_KL:
            return weighted(q_v, (d_v - d_r) * inv_tau - expected)
        else:
            _, ratio_v = mixture(d_r, d_v, inv_tau, shift)
            return -q_v * (ratio_v * LN_2 + expected)
