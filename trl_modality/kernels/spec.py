"""Types that all backends share: their input (`LossSpec`, `TokenGroup`, `TileRows`) and output (`TokenStats`).

Legend of the shape suffixes in this folder: M tokens, H hidden, V vocabulary, K top tokens of a teacher, N rows of a
tile, R rows of a block.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch


IGNORE_INDEX = -100
DIVERGENCES = ("forward_kl", "reverse_kl", "jsd", "sampled_k3", "sampled_reverse_kl")
SAMPLED = ("sampled_k3", "sampled_reverse_kl")
"""Divergences that are estimated from the label alone."""
KL_MASKS = ("all", "teacher_correct", "confident", "visual_advantage")
# Bounds of the published k3: of the log-ratio, and of the estimate (arXiv 2510.22836)
K3_LOG_RATIO, K3_BOUND = 20.0, 10.0
# Of the logarithm of an importance weight
IMPORTANCE_LOG_RATIO = 20.0
NOT_SAMPLED = -1.0
"""In `sampled_nll`: this token was not sampled from the student."""


@dataclass(frozen=True)
class LossSpec:
    """Options of the loss: how logits become distributions, and which divergence compares two distributions."""

    divergence: str = "forward_kl"
    beta: float = 0.5
    temperature: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    kl_clip: float | None = None
    """Nats that one vocabulary entry may add to the divergence of a token; what it adds above has no gradient."""
    kl_mask: str = "all"
    confidence: float = 0.5
    """Probability that the teacher's likeliest token has at least, with `kl_mask="confident"`."""
    importance_clip: float | None = None
    """The largest importance weight of tokens that were sampled from older weights; `None` weighs none."""
    teacher_top_k: int | None = None
    """Compare the teacher's K likeliest tokens, and all others as one class."""

    def __post_init__(self):
        if self.divergence not in DIVERGENCES:
            raise ValueError(f"`divergence` must be one of {DIVERGENCES}, got {self.divergence!r}.")
        if self.kl_mask not in KL_MASKS:
            raise ValueError(f"`kl_mask` must be one of {KL_MASKS}, got {self.kl_mask!r}.")
        if not 0.0 <= self.confidence <= 1.0:
            raise ValueError(f"`confidence` must be in [0, 1], got {self.confidence}.")
        for name in ("kl_clip", "importance_clip"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"`{name}` must be positive and finite, or None, got {value}.")
        if self.teacher_top_k is not None and self.teacher_top_k < 1:
            raise ValueError(f"`teacher_top_k` must be at least 1, or None, got {self.teacher_top_k}.")
        if self.divergence in SAMPLED and (self.kl_clip is not None or self.teacher_top_k is not None):
            raise ValueError(
                f"`divergence={self.divergence!r}` looks at the label alone, so there is nothing for `kl_clip` or "
                "`teacher_top_k` to choose from: leave them out."
            )
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


class TeacherHead(NamedTuple):
    """The head of a teacher that is not the live model, and how its products become logits."""

    weight: torch.Tensor
    """`[V', H']`. Of a V' above V, the first V rows are used: what is beyond them the student cannot say. Below V, the
    teacher gives the tokens that it does not know a probability of 0."""
    bias: torch.Tensor | None = None
    """`[V']`."""
    logit_scale: float = 1.0
    logit_softcap: float | None = None


class Teacher(NamedTuple):
    """Whom a group's tokens learn from: another model, or the model's own older weights. No gradient reaches it."""

    hidden: torch.Tensor
    """`[M, H']`, last hidden states at the positions that predict the labels."""
    head: TeacherHead


class TopTokens(NamedTuple):
    """A teacher of which only its likeliest tokens are known, as a server returns them; all others are one class."""

    ids: torch.Tensor
    """`[M, K]` int64, each token once."""
    log_probs: torch.Tensor
    """`[M, K]`, at temperature 1, as parts of the whole vocabulary: what they leave to 1 is that of all others."""
    label_log_prob: torch.Tensor
    """`[M]`, that of the label."""


class TokenGroup(NamedTuple):
    """Tokens of the same kind: all in both views, or all in one (then the other's hidden states are `None`).

    The vision_centric view, or the rows of a single view, learn from `teacher`; from the text_rich view where that is
    `None`. The text_rich view learns from `anchor`.
    """

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
    anchor_weight: float | torch.Tensor = 0.0
    """Of the divergence from `anchor` to the text_rich view."""
    teacher: Teacher | TopTokens | None = None
    anchor: Teacher | TopTokens | None = None
    blind_nll: torch.Tensor | None = None
    """`[M]`, nats: −log p of the label by a teacher that sees no more than the student (`visual_advantage`)."""
    sampled_nll: torch.Tensor | None = None
    """`[M]`, nats: −log p of the label by the weights that sampled it (`importance_clip`), or `NOT_SAMPLED`."""

    @property
    def hidden(self) -> list[torch.Tensor]:
        """Hidden states of the views that are given."""
        return [hidden for hidden in self[:2] if hidden is not None]

    @property
    def is_paired(self) -> bool:
        return self.text_hidden is not None and self.vision_hidden is not None

    @property
    def has_divergence(self) -> bool:
        """Whether the vision_centric view, or that of single rows, has whom to learn from."""
        return self.vision_hidden is not None and (self.teacher is not None or self.text_hidden is not None)


class TokenStats(NamedTuple):
    """Statistics of each token `[M]`, without gradient: 0 where the label is ignored, `None` for a view not given."""

    text_nll: torch.Tensor | None
    vision_nll: torch.Tensor | None
    kl: torch.Tensor | None
    text_entropy: torch.Tensor | None
    vision_entropy: torch.Tensor | None
    text_is_top1: torch.Tensor | None
    vision_is_top1: torch.Tensor | None
    kl_share: torch.Tensor | None = None
    """What `kl_weight` of the token was multiplied with: by `kl_mask` and importance weights; `None` without them."""
    anchor_kl: torch.Tensor | None = None
    teacher_nll: torch.Tensor | None = None
    """Those of a teacher of its own; the live model's are those of the text_rich view."""
    teacher_entropy: torch.Tensor | None = None
    teacher_is_top1: torch.Tensor | None = None


class TileRows(NamedTuple):
    """The rows of one tile; a view that the group lacks is `None`, and so is a weight whose gradient nobody wants.

    One student and whom it learns from: the vision_centric view and the text_rich one; or any view and a teacher,
    whose logits then stand in `text`, without `text_weight`, and whose statistics go where those of that view do.
    """

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
    blind_nll: torch.Tensor | None = None
    """`[N]`, as in `TokenGroup`; so is the next."""
    sampled_nll: torch.Tensor | None = None
    top_ids: torch.Tensor | None = None
    """`[N, K]`: the divergence is to these tokens and all others as one class; of `text` only cross-entropies are
    taken then."""
    top_log_probs: torch.Tensor | None = None
    """`[N, K + 1]`, at the temperature of the divergence, the last of all others together."""
    label_log_p: torch.Tensor | None = None
    """`[N]`, what a teacher without `text` says of the labels, for divergences that look at nothing else."""
    teacher_share: torch.Tensor | None = None
    """`[N]`, the share of `kl_weight` by `kl_mask`, where `text` is not there to tell it."""


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
