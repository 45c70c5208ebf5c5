"""Blocks: the tokens of an image that see one another, also those after them (Gemma 3, the larger Gemma 4).

A block lies within one segment of a sequence, so the rest of attention stays what it is: each place sees its prefix,
and its own segment up to itself or, if it is in a block, up to the end of that. A window is a limit to the left alone:
a token of a block sees all of the block that comes after it, as in the masks of transformers.

Legend of the shapes: T places of a sequence, Q queries and K keys of a segment.
"""

from collections.abc import Iterable, Sequence

import torch


Blocks = tuple[tuple[int, int], ...]
"""Start and end of runs of places."""


def blocks_of(is_image_T: torch.Tensor, segments: Sequence[tuple[int, int, int, int]]) -> Blocks:
    """The runs of image tokens in a sequence, as a model sees them that has each row by itself.

    Args:
        is_image_T: Whether each place has an image token, on the CPU.
        segments: Start, end, start of the prefix, end of the prefix of each segment.

    Raises:
        ValueError: a prefix that ends in the middle of an image. Its tokens would have to see a suffix.
    """
    is_first, is_last = is_image_T.clone(), is_image_T.clone()
    is_first[1:] &= ~is_image_T[:-1]
    is_last[:-1] &= ~is_image_T[1:]
    for start, end, prefix_start, prefix_end in segments:
        # Rows next to each other in the sequence have nothing to do with each other
        is_first[start], is_last[end - 1] = is_image_T[start], is_image_T[end - 1]
        if prefix_start == prefix_end or not is_image_T[prefix_end - 1]:
            continue
        if not is_last[prefix_end - 1] or is_image_T[start]:
            raise ValueError(
                f"The prefix of the segment at place {start} ends at place {prefix_end}, in the middle of an image "
                "whose tokens see one another. Let it end before the image."
            )
    firsts, lasts = (marks.nonzero().flatten().tolist() for marks in (is_first, is_last))
    return tuple((first, last + 1) for first, last in zip(firsts, lasts, strict=True))


def own_ends(n_places: int, blocks: Iterable[tuple[int, int]]) -> torch.Tensor:
    """End of what each place sees of its own segment, `[T]` int32: after itself, or after the block that it is in."""
    ends = torch.arange(1, n_places + 1, dtype=torch.int32)
    for start, end in blocks:
        ends[start:end] = end
    return ends


def mask_with_blocks(own_end_Q: torch.Tensor, n_prefix: int, window: int | None) -> torch.Tensor:
    """The mask of a segment with blocks `[Q, K]`, true where a query sees a key; its keys are its prefix and its own.

    Args:
        own_end_Q: Its `own_ends`, counted from its start.
        n_prefix: Number of tokens of its prefix.
        window: Number of tokens that a token sees, itself and those before it; `None` for all of them.
    """
    n_queries, device = own_end_Q.shape[0], own_end_Q.device
    keys = torch.arange(n_prefix + n_queries, device=device)
    mask = keys < own_end_Q[:, None] + n_prefix
    if window is not None:
        mask &= keys > torch.arange(n_prefix, n_prefix + n_queries, device=device)[:, None] - window
    return mask
