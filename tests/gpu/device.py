"""The GPU of the tests in this folder: a real one, or in a dry run a fake one or the CPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


DRY_RUN = os.environ.get("GPU_DRY_RUN", "")
"""Empty, `fake` or `cpu`."""
IS_DRY = bool(DRY_RUN)
_fakes: list[Any] = []


@contextmanager
def dry_device() -> Iterator[torch.device]:
    """The device of a dry run."""
    if DRY_RUN == "cpu":
        yield torch.device("cpu")
        return
    from tests.testing.fake_cuda import fake_cuda

    with fake_cuda() as fake:
        _fakes.append(fake)
        try:
            yield torch.device("cuda", 0)
        finally:
            _fakes.remove(fake)


def moved(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """A model on the device, in place: a fake GPU does not take one by `to`."""
    return _fakes[-1].move(model) if _fakes else model.to(device)
