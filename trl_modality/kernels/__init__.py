"""The paired loss: both cross-entropies and the divergence between the views, from hidden states and the head."""

from .paired_loss import PairedLossOutput, grouped_linear_loss, paired_linear_loss
from .spec import LossSpec, Teacher, TeacherHead, TokenGroup, TokenStats, TopTokens


__all__ = [
    "LossSpec",
    "PairedLossOutput",
    "Teacher",
    "TeacherHead",
    "TokenGroup",
    "TokenStats",
    "TopTokens",
    "grouped_linear_loss",
    "paired_linear_loss",
]
