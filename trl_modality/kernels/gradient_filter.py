"""The gradient filter: which vocabulary entries of a tile's logit gradient to keep in the gradient products."""

import torch

from .head import multiply_into, takes_out_dtype


# Columns go into buckets by log2 of their largest entry: quarters of an octave, over 16 octaves below `allowed`
STEPS_PER_OCTAVE, N_BUCKETS = 4, 64
# With more columns than this, gathering them costs more than the products of the others
MOST_KEPT = 0.6
# Relative margin on sums for their rounding. The factors are rounded by 2⁻¹¹ at most, where a GPU multiplies in TF32;
# those of half precision are exact. Of n numbers of one sign, a sum in float32 is off by n·2⁻²³ at most, in whatever
# order it is made, even if each addition cuts digits off: 4.9e-4 for the columns summed at a time. Both together are
# 9.8e-4, and the sums over blocks and buckets add less than 2e-5
ROUNDING, SUMMED_COLUMNS = 1e-3, 4096


def kept_columns(gradient_NV: torch.Tensor, allowed: torch.Tensor, block_columns: int) -> torch.Tensor | None:
    """The vocabulary entries (ascending) to keep in the gradient products; `None` for all of them.

    Columns are left out in the order of their largest entry, smallest first, as long as every token t of the tile has

        Σ_{v left out} |g_tv|  ≤  allowed

    The gradient of the token's hidden state is then off by at most `allowed · max_v ‖W_v‖`, and that of the head by at
    most `allowed · Σ_t ‖h_t‖` in the sum of the norms of its rows.

    Args:
        gradient_NV: gradients of one tile's logits.
        allowed: scalar, the bound above, in the units of the gradient.
        block_columns: columns that may be copied at a time.
    """
    # Two passes, but no tensor of the tile's size as `abs` would make
    largest_V = torch.maximum(gradient_NV.amax(0), gradient_NV.amin(0).neg_())
    sum_dtype = torch.promote_types(largest_V.dtype, torch.float32)
    octaves_V = largest_V.to(sum_dtype).div_(allowed).log2_()
    # Smaller columns go into the last bucket; one above `allowed` gets −1, and is always kept
    bucket_V = octaves_V.mul_(-STEPS_PER_OCTAVE).clamp_(-1, N_BUCKETS - 1).floor_().long()
    sums_NB = torch.zeros(len(gradient_NV), N_BUCKETS, dtype=sum_dtype, device=gradient_NV.device)
    # Where torch would round the sums to half precision, the factors are widened
    is_exact = takes_out_dtype("mm", gradient_NV.dtype, gradient_NV.device)
    dtype = gradient_NV.dtype if is_exact else sum_dtype
    for gradient, bucket in zip(
        *(x.split(min(block_columns, SUMMED_COLUMNS), -1) for x in (gradient_NV, bucket_V)), strict=True
    ):
        membership = torch.nn.functional.one_hot(bucket.clamp(min=0), N_BUCKETS).to(dtype)
        membership.mul_((bucket >= 0).unsqueeze(1))
        multiply_into(sums_NB, gradient.abs().to(dtype), membership, accumulate=True)
    # For each bucket, the largest sum of a token if this bucket and all smaller ones are left out
    lost_B = sums_NB.flip(1).cumsum(1).amax(0).flip(0) * (1 + ROUNDING)
    first_left_out = N_BUCKETS - (lost_B <= allowed).sum()
    kept = (bucket_V < first_left_out).nonzero().squeeze(1)
    return None if len(kept) > MOST_KEPT * len(bucket_V) else kept
