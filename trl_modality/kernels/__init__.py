"""The paired loss: both cross-entropies and the divergence between the views, from hidden states and the head."""

from .paired_loss import PairedLossOutput, paired_linear_loss


__all__ = ["PairedLossOutput", "paired_linear_loss"]
