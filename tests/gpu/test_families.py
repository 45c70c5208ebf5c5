"""Tiny models of every family that shares a prefix, on a GPU: shared, without padding and in rows, against float64."""

import pytest
import torch

from tests.gpu.device import IS_DRY
from tests.gpu.steps import PADDING_FREE, ROWS, SHARED, batch_of, error, loss_and_gradients, prepared
from trl_modality.modeling import families


# The most used first; a dry run tries two
SHARING = ["qwen2_5_vl", "llava"]
if not IS_DRY:
    SHARING += [name for name, each in families.FAMILIES.items() if not each.why_not_shared and name not in SHARING]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("name", SHARING)
def test_the_error_is_that_of_rows_of_their_own(gpu, name, dtype, record_property):
    model, processor = prepared(name, gpu, torch.float64)
    truth = loss_and_gradients(model, batch_of(model, processor, name, ROWS, torch.float64), ROWS, gpu)
    model, processor = prepared(name, gpu, dtype)
    errors = {}
    for what, settings in {"rows": ROWS, "shared": SHARED, "padding_free": PADDING_FREE}.items():
        batch = batch_of(model, processor, name, settings, dtype)
        errors[what] = error(loss_and_gradients(model, batch, settings, gpu), truth)
    record_property("errors", {what: f"{value:.2e}" for what, value in errors.items()})
    for what in ("shared", "padding_free"):
        assert errors[what] <= 1.3 * errors["rows"] + 1e-5, errors
    assert errors["rows"] <= (0.2 if dtype == torch.bfloat16 else 1e-3)


@pytest.mark.parametrize("name", SHARING[:2])
def test_under_autocast_with_checkpointing(gpu, name):
    """Weights in float32, as LoRA on a float32 model has them: the same gradients as without checkpointing."""
    model, processor = prepared(name, gpu, torch.float32)
    batch = batch_of(model, processor, name, SHARED, torch.float32)

    def gradients():
        with torch.autocast(gpu.type, torch.bfloat16):
            return loss_and_gradients(model, batch, SHARED, gpu)

    plain = gradients()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert error(gradients(), plain) <= 1e-2
