"""Steps of tiny models of the families on a GPU: made on the CPU, moved as a trainer moves them."""

import functools
from typing import Any

import torch
from accelerate.utils import send_to_device

from tests.gpu.device import moved
from tests.testing.tiny_families import build, exact, pairs_of
from trl_modality import PairedCollator
from trl_modality.modeling.attention import use_shared_prefix
from trl_modality.modeling.forward import LossSettings, add_paired_loss
from trl_modality.modeling.token_layout import CollatorWithTokenLayout, TokenLayouts


ROWS, SHARED, PADDING_FREE = LossSettings(), LossSettings(share_prefix=True), LossSettings(padding_free=True)


def prepared(name: str, gpu: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """A family's model on the GPU, which takes `paired_loss`, and its processor."""
    model, processor = build(name)
    add_paired_loss(model)
    use_shared_prefix(model.get_decoder())
    return moved(model.to(dtype), gpu).train(), processor


@functools.cache
def _rows_of(name: str) -> list[dict]:
    return [row | {"vision_centric_images": None} for row in pairs_of(name)]


def batch_of(model: Any, processor: Any, name: str, settings: LossSettings, dtype: torch.dtype) -> dict[str, Any]:
    """The batch of a data loader with its token layout, on the CPU."""
    collate = CollatorWithTokenLayout(PairedCollator(processor), TokenLayouts(model).of(settings))
    batch = dict(collate(_rows_of(name)))
    batch["pixel_values"] = batch["pixel_values"].to(dtype)  # which Chameleon leaves to the caller
    return exact(batch) if dtype == torch.float64 else batch


def loss_and_gradients(model: Any, batch: dict[str, Any], settings: LossSettings, gpu: torch.device) -> dict[str, Any]:
    """The loss and the gradients by the names of the weights, in float64, where the GPU has them."""
    model.zero_grad()
    loss = model(**send_to_device(batch, gpu), paired_loss=settings).loss
    loss.backward()
    found = {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}
    return found | {"loss": loss.detach().double()}


def error(found: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> float:
    """‖gradients − truth‖ by ‖truth‖, of all weights together, or the loss's if that is larger."""
    names = truth.keys() - {"loss"}
    off = torch.stack([(found[name] - truth[name]).norm() for name in names]).norm()
    of_gradients = off / torch.stack([truth[name].norm() for name in names]).norm()
    of_loss = (found["loss"] - truth["loss"]).abs() / truth["loss"].abs()
    return max(of_gradients.item(), of_loss.item())
