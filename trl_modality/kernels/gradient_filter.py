"""Going below the dense floor: which columns of a tile's gradient are worth multiplying."""

import torch


# With more columns than this, gathering them costs more than the products of the others
MOST_KEPT = 0.6


def kept_columns(gradient_NV: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor | None:
    """The vocabulary entries (ascending) whose part in the gradient is not negligible; `None` for all of them.

    Left out are as many columns as can be, smallest first, such that their largest entries add up to `allowed` at
    most. So for every token of the tile

        Σ_{v left out} |g_tv|  ≤  Σ_{v left out} max_t |g_tv|  ≤  allowed

    and the gradient of its hidden state is off by at most `allowed · max_v ‖W_v‖`; that of the head by at most
    `allowed · Σ_t ‖h_t‖` in the sum of the norms of its rows.
    """
    # Two passes, but no tensor of the tile's size as `abs` would make
    largest_V = torch.maximum(gradient_NV.amax(0), gradient_NV.amin(0).neg_())
    ascending_V, order_V = torch.sort(largest_V.to(torch.promote_types(largest_V.dtype, torch.float32)))
    n_left_out = int((ascending_V.cumsum(0) <= allowed).sum())
    if len(order_V) - n_left_out > MOST_KEPT * len(order_V):
        return None
    return order_V[n_left_out:].sort().values
