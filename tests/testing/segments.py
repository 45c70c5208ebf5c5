"""Layouts of segments, and attention over them as it is defined: every score of a batch under one explicit mask."""

from itertools import pairwise

import torch

from trl_modality.modeling.attention import Segment, SegmentLayout


# Places of a batch: pairs that share 5, 1 and 0 tokens, rows without a partner, a suffix of one token
PAIRS = (
    Segment(0, 9),
    Segment(9, 13, 0, 5),
    Segment(13, 14),
    Segment(14, 20),
    Segment(20, 21, 14, 15),
    Segment(21, 24),
    Segment(24, 31, 21, 23),
)
LAYOUTS = {
    "pairs and rows": (1, PAIRS),
    "one row": (1, (Segment(0, 31),)),
    "two branches of a branch's prefix": (1, (Segment(0, 20), Segment(20, 25, 0, 12), Segment(25, 31, 0, 12))),
    "rows with padding": (2, (Segment(0, 10), Segment(10, 14, 0, 6), Segment(14, 20), Segment(20, 40))),
}

# Images in those of "pairs and rows": within a prefix, up to its end, at the start of a suffix, next to another row's
BLOCKS = ((1, 4), (4, 5), (10, 13), (14, 15), (16, 20), (21, 23), (26, 31))


def visible(layout: SegmentLayout, window: int | None) -> torch.Tensor:
    """`[T, T]`: which places each place sees."""
    total = layout.segments[-1].end
    mask = torch.zeros(total, total, dtype=torch.bool)
    for segment in layout.segments:
        prefix = list(range(segment.prefix_start, segment.prefix_end))
        for place in range(segment.start, segment.end):
            seen = prefix + list(range(segment.start, place + 1))
            mask[place, seen if window is None else seen[-window:]] = True
    if layout.has_blocks(window):
        for start, end in layout.blocks:
            for place in range(start, end):
                mask[place, place + 1 : end] = True
    return mask


def under_one_mask(query, key, value, mask, scale):
    """Attention of `[B, A, L, D]` with every score of the whole batch made, and most of them thrown away."""
    batch, n_heads, length, _ = query.shape
    q, k, v = (x.transpose(0, 1).reshape(x.shape[1], batch * length, -1) for x in (query, key, value))
    k, v = (x.repeat_interleave(n_heads // x.shape[0], 0) for x in (k, v))
    scores = (q @ k.transpose(1, 2) * scale).masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1) @ v).view(n_heads, batch, length, -1).permute(1, 2, 0, 3)


def slow_varlen(q, k, v, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout, scale, window):
    """What flash-attn documents of its `flash_attn_varlen_func(causal=True)`: run by run, aligned at the bottom right.

    A query at place i of a run of n_q sees the keys up to i + n_k − n_q, of these the last `window`.
    """
    assert dropout == 0.0
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    assert all(x.is_contiguous() for x in (cu_seqlens_q, cu_seqlens_k))
    outputs = []
    bounds = zip(pairwise(cu_seqlens_q.tolist()), pairwise(cu_seqlens_k.tolist()), strict=True)
    for (q0, q1), (k0, k1) in bounds:
        n_q, n_k = q1 - q0, k1 - k0
        assert n_q <= max_seqlen_q
        assert n_k <= max_seqlen_k
        last = torch.arange(n_q)[:, None] + n_k - n_q
        places = torch.arange(n_k)[None]
        mask = (places <= last) & (places > last - (window or n_k + n_q))
        group = q.shape[1] // k.shape[1]
        keys, values = (x[k0:k1].repeat_interleave(group, 1).transpose(0, 1) for x in (k, v))
        scores = (q[q0:q1].transpose(0, 1) @ keys.transpose(1, 2) * scale).masked_fill(~mask, -torch.inf)
        outputs.append((scores.softmax(-1) @ values).transpose(0, 1))
    return torch.cat(outputs)
