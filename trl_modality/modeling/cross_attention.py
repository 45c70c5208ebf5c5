"""Cross-attention of a decoder to images that are encoded once, whatever rows show them (Mllama).

In a row of its own, a token sees the tiles that `cross_attention_mask` says; one that would see none, before the first
image, sees all tiles of its row, those of padding among them; and of a row without images nothing is read. That is
transformers' rule, and it is followed here in every batch: in transformers' own batches, tokens before the first image
see the padding of other rows too. A tile of zeros stands for no image: its keys and values are zeros, and so is what
is read of it.

Legend of the shapes: R rows, L places of a row, T tokens of a sequence, I images of a row at most, N images of the
batch, K tiles of an image, P features of a tile, A heads, D head size, H hidden.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F


Tensors = dict[str, torch.Tensor]


class TileGroups(NamedTuple):
    """The tokens of a sequence in groups that see the same tiles: the sizes of what `tile_groups` makes."""

    n_tokens: tuple[int, ...]
    n_tiles: tuple[int, ...]


def tile_groups(
    mask_RLIK: torch.Tensor, images_RI: torch.Tensor, sources_T: torch.Tensor
) -> tuple[TileGroups, Tensors]:
    """The groups of the tokens of a sequence, made on the host.

    Args:
        mask_RLIK: `cross_attention_mask` of the rows.
        images_RI: The images of each row, −1 where it has fewer.
        sources_T: The place of each token among the R·L places of the rows.

    Returns:
        The sizes of the groups, and `group_tokens` `[T]`, the tokens group by group; `group_places` `[T]`, where in
        that order each token is; `group_tiles`, the tiles of each group among the N·K of the batch, or N·K, the tile
        of zeros; `sees_image` `[T]`, whether the mask lets a token see any.
    """
    n_rows, length, _, n_tiles = mask_RLIK.shape
    n_images = int(images_RI.max()) + 1
    sees_TIK = mask_RLIK.reshape(n_rows * length, -1, n_tiles)[sources_T].bool()
    images_TI = images_RI[sources_T // length]
    sees_image = sees_TIK.flatten(1).any(1)
    sees_TIK = torch.where(sees_image[:, None, None], sees_TIK, (images_TI >= 0).unsqueeze(-1))
    # Padding of the rows goes to a column that is taken off again
    columns = torch.where(images_TI < 0, n_images, images_TI).unsqueeze(-1).expand_as(sees_TIK)
    of_batch = torch.zeros(len(sources_T), n_images + 1, n_tiles, dtype=torch.bool).scatter_(1, columns, sees_TIK)
    patterns, group_T = of_batch[:, :n_images].flatten(1).unique(dim=0, return_inverse=True)
    no_tile = torch.tensor([n_images * n_tiles])
    tiles = [pattern.nonzero().flatten() if pattern.any() else no_tile for pattern in patterns]
    tokens = group_T.argsort(stable=True)
    sizes = TileGroups(tuple(group_T.bincount().tolist()), tuple(map(len, tiles)))
    tensors = {"group_tokens": tokens, "group_places": tokens.argsort(), "group_tiles": torch.cat(tiles)}
    return sizes, {**tensors, "sees_image": sees_image}


@dataclass(frozen=True)
class TileAttention:
    """Attention of the tokens of one sequence to their tiles; layers get it where others get a mask."""

    groups: TileGroups
    tensors: Tensors
    n_features: int
    """P."""

    def __call__(self, query, key, value, scaling: float | None, dropout: float) -> torch.Tensor:
        """One call for each group, without a mask.

        Args:
            query: `[1, A, T, D]`.
            key, value: `[1, A or fewer, (N·K + 1)·P, D]`, the last tile that of zeros.

        Returns:
            `[1, T, A, D]`.
        """
        names = "group_tokens", "group_places", "group_tiles"
        tokens, places, tiles = (self.tensors[name].to(query.device) for name in names)  # layers may be on several
        k, v = (x.unflatten(2, (-1, self.n_features)).index_select(2, tiles).flatten(2, 3) for x in (key, value))
        lengths = [n * self.n_features for n in self.groups.n_tiles]
        q = query.index_select(2, tokens).split(self.groups.n_tokens, 2)
        outputs = [
            F.scaled_dot_product_attention(
                q_part, k_part, v_part, dropout_p=dropout, scale=scaling, enable_gqa=key.shape[1] != query.shape[1]
            )
            for q_part, k_part, v_part in zip(q, k.split(lengths, 2), v.split(lengths, 2), strict=True)
        ]
        return torch.cat(outputs, 2).index_select(2, places).transpose(1, 2)


@contextmanager
def images_read_by_rows(
    model: Any, batch: Mapping[str, Any], tensors: Tensors, groups: TileGroups | None = None
) -> Iterator[dict[str, Any]]:
    """A context in which the decoder of a model reads for each row the images that it shows; gives the model's inputs.

    The model still encodes its images itself, inside of its own forward, where the hooks of FSDP and DeepSpeed are.

    Args:
        model: The model with its language head.
        batch: With one entry for each image.
        tensors: `row_images` `[R, I]`, the images of each row, and of a sequence what `tile_groups` makes.
        groups: The sizes of the groups of a sequence; `None` where the rows are padded.

    Raises:
        ValueError: it is not known which tokens there are (PEFT's virtual tokens).
    """
    mask = batch.get("cross_attention_mask")
    if mask is None:
        yield dict(batch)
        return
    if "row_images" not in tensors:
        raise ValueError(
            f"{type(model).__name__} reads images through cross-attention, and is given embeddings or a cache: what "
            "of the images these see is not known. Give `input_ids` alone, or another adapter than virtual tokens."
        )

    def read(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        states = kwargs["cross_attention_states"]
        if groups is None:
            return args, {**kwargs, **_of_rows(states, mask, tensors["row_images"])}
        return args, {**kwargs, **_of_sequence(states, groups, tensors)}

    handle = model.get_decoder().register_forward_pre_hook(read, with_kwargs=True)
    try:
        yield {key: value for key, value in batch.items() if key != "cross_attention_mask"}
    finally:
        handle.remove()


def _of_rows(states: torch.Tensor, mask_RLIK: torch.Tensor, images_RI: torch.Tensor) -> dict[str, Any]:
    """The inputs of the decoder for padded rows, from the features `[N·K, P, H]`: those of each row, and its mask."""
    mask_RLIK, images_RI = mask_RLIK.to(states.device), images_RI.to(states.device)
    n_rows, length, _, n_tiles = mask_RLIK.shape
    n_features = states.shape[1]
    of_images = F.pad(states.reshape(-1, n_tiles * n_features, states.shape[-1]), (0, 0, 0, 0, 0, 1))
    images = torch.where(images_RI < 0, len(of_images) - 1, images_RI).flatten()
    sees_RL = mask_RLIK.flatten(2).any(-1)
    is_own = (images_RI >= 0)[:, None, :, None]
    is_own = is_own | ~is_own.any(2, keepdim=True)  # a row without images reads zeros, whichever it sees
    sees = torch.where(sees_RL[:, :, None, None], mask_RLIK.bool(), is_own)
    sees = sees.repeat_interleave(n_features, 3).reshape(n_rows, 1, length, -1)
    return {
        "cross_attention_states": of_images.index_select(0, images).view(n_rows, -1, states.shape[-1]),
        "cross_attention_mask": torch.zeros_like(sees, dtype=states.dtype).masked_fill(
            ~sees, torch.finfo(states.dtype).min
        ),
        "full_text_row_masked_out_mask": sees_RL[:, None, :, None].to(states.dtype),
    }


def _of_sequence(states: torch.Tensor, groups: TileGroups, tensors: Tensors) -> dict[str, Any]:
    """The same for one sequence: the features of each image once and a tile of zeros, and who sees which tiles."""
    return {
        "cross_attention_states": F.pad(states, (0, 0, 0, 0, 0, 1)).flatten(0, 1).unsqueeze(0),
        "cross_attention_mask": TileAttention(groups, tensors, states.shape[1]),
        "full_text_row_masked_out_mask": tensors["sees_image"][None, None, :, None].to(states),
    }
