"""How far the losses and gradients of a model in a lower precision are from those in float64."""

from collections.abc import Mapping
from typing import Any

import torch

from tests.testing.in_float64 import InFloat64
from tests.testing.tiny_families import build, exact, pairs_of
from trl_modality import PairedCollator
from trl_modality.modeling.attention import shared_prefix_attention
from trl_modality.modeling.forward import LossSettings, add_paired_loss


WAYS = {"shared": {"share_prefix": True}, "padding_free": {"padding_free": True}}


def errors_of(name: str, dtype: torch.dtype, seed: int) -> dict[str, list[float]]:
    """Relative errors of the gradients and of the losses of all tokens: of separate rows (`rows`), and of `WAYS`.

    Args:
        name: Of a family.
        dtype: Of the model.
        seed: Of its weights, and of three pairs.
    """
    model, processor = build(name)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02 * bool(seed))
    for router in model.modules():
        if dtype == torch.bfloat16 and hasattr(router, "top_k"):  # choices turn over: the error of a lottery
            router.top_k = router.num_experts
    add_paired_loss(model)
    pairs = [row | {"vision_centric_images": None} for row in pairs_of(name, first=3 * seed)]
    batch = PairedCollator(processor)(pairs)
    with InFloat64():
        truth = _gradients_and_losses(model, exact(batch), {})
    model.to(dtype)
    batch["pixel_values"] = batch["pixel_values"].to(dtype)  # which Chameleon leaves to the caller
    found = {"rows": _gradients_and_losses(model, batch, {})}
    with shared_prefix_attention(model.get_decoder()):
        found |= {way: _gradients_and_losses(model, batch, settings) for way, settings in WAYS.items()}
    return {
        way: [float((own - exact).norm() / exact.norm()) for own, exact in zip(parts, truth, strict=True)]
        for way, parts in found.items()
    }


def _gradients_and_losses(model: Any, batch: Mapping[str, Any], settings: dict[str, bool]) -> list[torch.Tensor]:
    model.zero_grad()
    output = model(**batch, paired_loss=LossSettings(**settings))
    output.loss.backward()
    gradients = [p.grad.flatten().double() for p in model.parameters() if p.grad is not None]
    return [torch.cat(gradients), torch.cat([output.pairs.text_nll, output.pairs.vision_nll]).double().detach()]
