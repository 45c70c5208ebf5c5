"""Types that all backends share: their input (`LossSpec`, `TokenGroup`, `TileRows`) and output (`TokenStats`).

Legend of the shape suffixes in this folder: M tokens, H hidden, V vocabulary, N rows of a tile, R rows of a block.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch


IGNORE_INDEX = -100
DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")


@dataclass(frozen=True)
class LossSpec:
    """Options of the loss: how logits become distributions, and which divergence compares two distributions."""

    divergence: str = "forward_kl"
    beta: float = 0.5
    temperature: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float | None = None

    def __post_init__(self):
        if self.divergence not in DIVERGENCES:
            raise ValueError(f"`divergence` must be one of {DIVERGENCES}, got {self.divergence!r}.")
        if not 0.0 <= self.beta <= 1.0:
            raise ValueError(f"`beta` must be in [0, 1], got {self.beta}; 0 is the forward KL, 1 the reverse KL.")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"`temperature` must be positive and finite, got {self.temperature}.")
        if not math.isfinite(self.logit_scale):
            raise ValueError(f"`logit_scale` must be finite, got {self.logit_scale}.")
        if self.logit_softcap is not None and not (self.logit_softcap > 0 and math.isfinite(self.logit_softcap)):
            raise ValueError(f"`logit_softcap` must be positive and finite, or None, got {self.logit_softcap}.")
        if self.divergence == "jsd" and self.beta in (0.0, 1.0):
            object.__setattr__(self, "divergence", "forward_kl" if self.beta == 0.0 else "reverse_kl")


class TokenGroup(NamedTuple):
    """Tokens of the same kind: all in both views, or all in one (then the other's hidden states are `None`)."""

    text_hidden: torch.Tensor | None
    """`[M, H]`."""
    vision_hidden: torch.Tensor | None
    """`[M, H]`."""
    labels: torch.Tensor
    """`[M]` int64; −100 is ignored."""
    text_weight: float | torch.Tensor
    """A float, or `[M]`; so are the next two."""
    vision_weight: float | torch.Tensor
    kl_weight: float | torch.Tensor

    @property
    def hidden(self) -> list[torch.Tensor]:
        """Hidden states of the views that are given."""
        return [hidden for hidden in self[:2] if hidden is not None]

    @property
    def is_paired(self) -> bool:
        return self.text_hidden is not None and self.vision_hidden is not None


class TokenStats(NamedTuple):
    """Statistics of each token `[M]`, without gradient: 0 where the label is ignored, `None` for a view not given."""

    text_nll: torch.Tensor | None
    vision_nll: torch.Tensor | None
    kl: torch.Tensor | None
    text_entropy: torch.Tensor | None
    vision_entropy: torch.Tensor | None
    text_is_top1: torch.Tensor | None
    vision_is_top1: torch.Tensor | None


class TileRows(NamedTuple):
    """The rows of one tile; a view that the group lacks is `None`, and so is a weight whose gradient nobody wants."""

    text: torch.Tensor | None
    """`[N, V]`: logits before scale and soft-capping, overwritten by their gradients where `text_weight` is given."""
    vision: torch.Tensor | None
    """`[N, V]`, likewise."""
    labels: torch.Tensor
    """`[N]`; none is ignored."""
    text_weight: torch.Tensor | None
    """`[N]`; so are the next two. `vision_weight` is given (perhaps 0) wherever `kl_weight` is."""
    vision_weight: torch.Tensor | None
    kl_weight: torch.Tensor | None


def part_of(fields, rows: slice):
    """The rows of every field of a `TileRows` or `TokenStats`."""
    return type(fields)(*(None if field is None else field[rows] for field in fields))


def tensor_on(device: torch.device, value: float | torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A number or a tensor as a tensor on a device, in its own dtype or the given one.

    A number is written by the device itself, and so is the only element of a CPU tensor: a copy would wait for it.
    """
    if isinstance(value, torch.Tensor):
        if value.numel() != 1 or value.device.type != "cpu" or device.type == "cpu":
            return value.to(device, dtype)
        return torch.full(value.shape, value.item(), dtype=dtype or value.dtype, device=device)
    return torch.full((), value, dtype=dtype, device=device)


def weighted_sum(values_M: torch.Tensor, weight: float | torch.Tensor) -> torch.Tensor:
    """Σ weight·value. A token of weight 0 adds 0, even where its label has no probability at all (0·inf is NaN)."""
    weight_M = tensor_on(values_M.device, weight, values_M.dtype).expand_as(values_M)
    return (torch.where(weight_M != 0, values_M, 0.0) * weight_M).sum()


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums and statistics: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)
