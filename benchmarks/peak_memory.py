"""Peak memory of one forward with its backward, beside its inputs, its outputs and their gradients.

Call it in a process of its own: work done before leaves freed memory, whose reuse would not be counted.
"""

import ctypes
import gc
import sys
from dataclasses import replace

import torch
from peers import COMPILED, MIB, PEERS, Shape, make_inputs


def peak_extra_mib(shape: Shape, device: str, peer: str, setting: str, n_threads: int) -> float:
    """Peak in MiB minus the inputs and the gradients that exist at the end.

    If the peak came before the gradient of the head existed, the result is too small by the size of that gradient.
    """
    torch.set_num_threads(n_threads)
    # What is loaded or set up once is not counted: libraries, thread pools, kernels
    _forward_backward(make_inputs(replace(shape, n_tokens=8, vocab_size=1024), device), peer, setting)
    inputs = make_inputs(shape, device)
    _pack_products(inputs)
    run = PEERS[peer](inputs)[setting]
    if peer == COMPILED:  # for this very shape
        run().backward()
        inputs.clear_gradients()
    gc.collect()
    before = restart_peak(device)
    run().backward()
    gradients = sum(leaf.grad.nbytes for leaf in inputs.leaves.values())
    return (peak_bytes(device) - before - gradients) / MIB


def _forward_backward(inputs, peer: str, setting: str) -> None:
    PEERS[peer](inputs)[setting]().backward()


@torch.no_grad()
def _pack_products(inputs) -> None:
    """Make the BLAS of a CPU allocate its buffers for large factors, which it keeps: 30 MiB at V=151,936."""
    for dtype in {inputs.head.dtype, torch.float32}:  # half precision may be multiplied as float32
        rows, head = inputs.text[:512].to(dtype), inputs.head.to(dtype)
        logits = rows @ head.t()
        torch.mm(logits, head)
        torch.mm(logits.t(), rows)


def restart_peak(device: str) -> int:
    """Reset the peak; returns the bytes in use now."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    if sys.platform != "linux":
        raise NotImplementedError("the peak of resident memory is read from /proc, which only Linux has")
    ctypes.CDLL(None).malloc_trim(0)  # what is free but not given back would hide as much of the peak
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _resident("VmRSS")


def peak_bytes(device: str) -> int:
    if device != "cpu":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    return _resident("VmHWM")


def _resident(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
