"""Training micro-batches of tiny models on the fake GPU, as the trainer runs them.

    TRITON_INTERPRET=1 PYTHONPATH=examples python -m tests.testing.fake_cuda.steps llava qwen2_5_vl

prints where the host waits for the GPU in one of each family, per way of laying out its rows.
"""

import copy
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch

from tests.testing.tiny import shown
from tests.testing.tiny_families import build, pairs_of
from trl_modality import PairedCollator
from trl_modality.modeling.attention import shared_prefix_attention
from trl_modality.modeling.forward import LossSettings, add_paired_loss, loss_to_backward
from trl_modality.modeling.token_layout import CollatorWithTokenLayout, TokenLayouts, counted_labels
from trl_modality.training.metrics import LossMetrics
from trl_modality.views import View

from .machine import FakeGpu, fake_cuda


WAYS = {"rows": {}, "shared": {"share_prefix": True}, "padding_free": {"padding_free": True}}
_TURNS = [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "noise"}]
TEXT: dict[str, Any] = {"messages": _TURNS, "images": []}
Gradients = dict[str, torch.Tensor]


class Step(NamedTuple):
    """What a micro-batch left behind, on the CPU."""

    loss: torch.Tensor
    gradients: Gradients


def rows_of(name: str) -> list[dict[str, Any]]:
    """Pairs, one of them in one view alone, and a row of text that is rehearsed."""
    pairs = pairs_of(name)
    return [*pairs, shown(pairs[0], View.VISION_CENTRIC), shown(TEXT, View.REPLAY)]


def collated(model: Any, processor: Any, settings: LossSettings, rows: Sequence[dict]) -> dict[str, Any]:
    """A batch as the data loader of a trainer makes it, on the CPU."""
    collate = CollatorWithTokenLayout(PairedCollator(processor), TokenLayouts(model).of(settings))
    return collate(copy.deepcopy(list(rows)))


def run_step(model: Any, batch: dict[str, Any], settings: LossSettings, layouts: TokenLayouts, autocast: bool) -> Any:
    """Forward, backward and metrics of one micro-batch, wherever its tensors are; the scalar loss."""
    device = batch["labels"].device
    (counted,) = counted_labels([batch], layouts, settings, device)
    num_items = (counted["labels"] != -100).sum()
    metrics = LossMetrics()
    with shared_prefix_attention(model.get_decoder()) if settings.needs_segments else nullcontext():
        with torch.autocast(device.type, torch.bfloat16) if autocast else nullcontext():
            output = model(**batch, paired_loss=settings, num_items_in_batch=num_items)
            metrics.add(output, settings, batch["view_layout"])
        if torch.is_grad_enabled():
            loss_to_backward(output, ranks=1).backward()
    return output.loss.detach()


def prepared(name: str, dtype: torch.dtype, checkpointing: bool = False, **text: Any) -> tuple[Any, Any]:
    """A tiny model of the family that takes the paired loss, and its processor."""
    model, processor = build(name, **text)
    model.to(dtype)
    for router in model.modules():
        if hasattr(router, "top_k"):  # half precision turns choices over: a lottery of errors
            router.top_k = router.num_experts
    add_paired_loss(model)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train(), processor


def step_on_gpu(gpu: FakeGpu, model: Any, batch: dict[str, Any], settings: LossSettings, autocast: bool) -> Step:
    """A micro-batch of the model, which is moved to the GPU; the batch comes from pinned memory, as in a trainer."""
    layouts = TokenLayouts(model)
    gpu.move(model)
    loss = run_step(model, gpu.move(batch, pinned=True), settings, layouts, autocast)
    gradients = {
        key: gpu.values(parameter.grad) for key, parameter in model.named_parameters() if parameter.grad is not None
    }
    return Step(gpu.values(loss), gradients)


def step_on_cpu(model: Any, batch: dict[str, Any], settings: LossSettings, autocast: bool = False) -> Step:
    """The same on the CPU."""
    loss = run_step(model, batch, settings, TokenLayouts(model), autocast)
    return Step(
        loss, {key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None}
    )


def main() -> None:
    for name in sys.argv[1:]:
        for way, options in WAYS.items():
            settings = LossSettings(**options)
            model, processor = prepared(name, torch.bfloat16)
            batch = collated(model, processor, settings, rows_of(name))
            batch["pixel_values"] = batch["pixel_values"].bfloat16()
            with fake_cuda() as gpu:
                step_on_gpu(gpu, model, batch, settings, autocast=False)
                print(f"{name}, {way}\n{gpu.table()}\n")


if __name__ == "__main__":
    main()
