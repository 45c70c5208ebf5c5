"""Where a micro-batch waits for the GPU, by torch's own account: nowhere in this package; in hosts it is reported."""

import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from accelerate.utils import send_to_device

from tests.gpu.steps import PADDING_FREE, ROWS, SHARED, batch_of, prepared


@pytest.mark.parametrize("settings", [SHARED, ROWS, PADDING_FREE], ids=["shared", "rows", "padding_free"])
@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava", "smolvlm"])
def test_no_line_of_ours_waits_in_a_micro_batch(real_gpu, name, settings, record_property):
    """Forward and backward of a batch that has been moved, the second time: what is made once has been made."""
    model, processor = prepared(name, real_gpu, torch.bfloat16)
    batch = send_to_device(batch_of(model, processor, name, settings, torch.bfloat16), real_gpu)

    def step() -> None:
        model(**batch, paired_loss=settings, num_items_in_batch=torch.tensor(50, device=real_gpu)).loss.backward()

    step()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = Counter(
        f"{'/'.join(Path(each.filename).parts[-3:])}:{each.lineno}"
        for each in caught
        if "synchronizing CUDA operation" in str(each.message)
    )
    record_property("waits_of_hosts", dict(waits))
    ours = {place: n for place, n in waits.items() if "trl_modality" in place}
    assert not ours, f"lines that wait for the GPU: {ours}"


def test_the_check_finds_a_wait(real_gpu):
    """So that the test above can fail: a value that is read back is told of with the line that reads it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            torch.ones(1, device=real_gpu).item()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert any(Path(each.filename) == Path(__file__) for each in caught)
