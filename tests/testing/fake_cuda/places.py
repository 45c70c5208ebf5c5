"""Where in the code the host waits for a GPU."""

import sys
from typing import NamedTuple

import torch


# Frames of these files are neither ours nor the hosts': what they were called by is of interest
_SKIPPED = ("/torch/", "/fake_cuda/machine.py", "/fake_cuda/tensors.py", "/fake_cuda/autocast.py", "/contextlib.py")
_PACKAGE = "trl_modality/"


class BlockingPoint(NamedTuple):
    """A line at which the host waits for the GPU."""

    kind: str
    by: str
    """The innermost line outside of torch, as `file:line function`; inside of the backward, the node of its graph."""
    ours: str
    """The innermost line of `trl_modality`, the same way; empty if there is none."""

    @property
    def is_ours(self) -> bool:
        """Whether a line of `trl_modality` itself asks the GPU, and not a host that it called."""
        return self.by.startswith(_PACKAGE)


def blocking_point(kind: str) -> BlockingPoint:
    """The point of whoever called into torch."""
    by, frame = "", sys._getframe(1)
    while frame is not None:
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        if not by and name == "_engine_run_backward" and "/torch/autograd/" in path:
            return BlockingPoint(kind, _backward_node(), "")
        if not path.startswith("<") and not any(part in path for part in _SKIPPED):
            line = f"{_short(path)}:{frame.f_lineno} {name}"
            by = by or line
            if line.startswith(_PACKAGE):
                return BlockingPoint(kind, by, line)
        frame = frame.f_back
    return BlockingPoint(kind, by or _backward_node(), "")


def _backward_node() -> str:
    node = torch._C._current_autograd_node()
    return "backward" if node is None else f"backward {node.name()}"


def _short(path: str) -> str:
    if f"/{_PACKAGE}" in path:
        return _PACKAGE + path.rpartition(f"/{_PACKAGE}")[2]
    return path.rpartition("site-packages/")[2] if "site-packages/" in path else "/".join(path.split("/")[-3:])
