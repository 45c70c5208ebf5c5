"""The paired loss: both cross-entropies and the divergence between the views, from hidden states and the head."""

from .paired_loss import PairedLossOutput, grouped_linear_loss, paired_linear_loss
from .spec import LossSpec, TokenGroup, TokenStats


__all__ = ["LossSpec", "PairedLossOutput", "TokenGroup", "TokenStats", "grouped_linear_loss", "paired_linear_loss"]
