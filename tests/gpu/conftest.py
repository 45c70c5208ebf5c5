"""Tests that need a GPU: `CUDA_VISIBLE_DEVICES=0 pytest tests/gpu`, or `benchmarks/gpu_check.py`; skipped elsewhere.

With `GPU_DRY_RUN=fake` they run at small sizes on a fake GPU (`cpu`: on the CPU), to try the tests themselves; what
needs CUDA's own kernels is then skipped.
"""

import warnings
from pathlib import Path

import pytest
import torch

from tests.gpu.device import IS_DRY, dry_device


FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.gpu)


@pytest.fixture
def gpu():
    """The device; a test that uses it is skipped where there is none."""
    if torch.cuda.is_available() and not IS_DRY:
        yield torch.device("cuda", 0)
        torch.cuda.empty_cache()
        return
    if not IS_DRY:
        pytest.skip("needs a GPU: CUDA_VISIBLE_DEVICES=0 makes one visible to the tests")
    with dry_device() as device:
        yield device


@pytest.fixture
def real_gpu(gpu):
    """The device, for what a fake one does not have: kernels of CUDA, a compiler for it, NCCL."""
    if IS_DRY:
        pytest.skip("needs kernels that a fake GPU does not have")
    return gpu


@pytest.fixture(autouse=True)
def _exact_float32():
    """Products in float32 as they are compared: no TF32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer names for it exist, older torch has this one
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
