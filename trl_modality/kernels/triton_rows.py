"""The elementwise work on one tile with Triton: what `torch_rows` does, by the kernel of `triton_kernels`."""

import contextlib
from typing import Any

import torch
import triton

from .spec import DIVERGENCES, LossSpec, TileRows, TokenStats
from .triton_kernels import rows_kernel


MAX_BLOCK = 2048
# Elements of an NVIDIA thread; warps of AMD are twice as wide, so their threads have half as many
ELEMENTS_PER_THREAD = 4
# Registers of a thread, such that two programs of 16 warps fill a multiprocessor
MAX_REGISTERS = 64


class TritonRows:
    """Elementwise work on tiles; takes the arguments of `TorchRows`."""

    def __init__(
        self, spec: LossSpec, dtype: torch.dtype, vocab_size: int, block_rows: int, n_views: int, device: torch.device
    ):
        self.spec = spec
        self.launch = launch_options(vocab_size, is_nvidia=device.type == "cuda" and torch.version.hip is None)

    @staticmethod
    def scratch_rows(spec: LossSpec, dtype: torch.dtype, n_views: int) -> int:
        """0: everything beside the tile is in registers."""
        return 0

    def __call__(self, tile: TileRows, stats: TokenStats) -> None:
        """Turn the tile's logits into gradients, and fill `stats`, the `[N]` tensors of the tile's tokens."""
        rows: Any = tile.vision if tile.text is None else tile.text
        n_tokens, vocab_size = rows.shape
        zeros = torch.zeros(n_tokens, dtype=torch.float32, device=rows.device)
        weights = torch.stack([zeros if weight is None else weight for weight in tile[3:]])
        found = torch.empty(len(stats), n_tokens, dtype=torch.float32, device=rows.device)
        is_paired = tile.text is not None and tile.vision is not None
        with _on_device_of(rows):
            kernel: Any = rows_kernel
            kernel[(n_tokens,)](
                rows if tile.text is None else tile.text,
                rows if tile.vision is None else tile.vision,
                tile.labels.contiguous(),
                weights,
                found,
                n_tokens,
                rows.stride(0),
                vocab_size,
                self.spec.logit_scale,
                self.spec.logit_softcap or 1.0,
                1.0 / self.spec.temperature,
                self.spec.beta,
                HAS_TEXT=tile.text is not None,
                HAS_VISION=tile.vision is not None,
                DIVERGENCE=1 + DIVERGENCES.index(self.spec.divergence) if is_paired else 0,
                TEXT_GRADIENT=tile.text_weight is not None,
                VISION_GRADIENT=tile.vision_weight is not None,
                KL_GRADIENT=tile.kl_weight is not None,
                HAS_SOFTCAP=self.spec.logit_softcap is not None,
                **self.launch,
            )
        for own, values in zip(stats, found, strict=True):
            if own is not None:
                own.copy_(values)


def launch_options(vocab_size: int, is_nvidia: bool) -> dict[str, int]:
    """Block size and warps, so small that no variant spills registers (at 8 elements a thread sm_100 does)."""
    block = min(MAX_BLOCK, triton.next_power_of_2(vocab_size))
    options = {"BLOCK": block, "num_warps": max(1, block // (32 * ELEMENTS_PER_THREAD))}
    # Left to itself, NVIDIA's assembler spills a few variants in order to fit a third program beside two
    return options | {"maxnreg": MAX_REGISTERS} if is_nvidia else options


def _on_device_of(tensor: torch.Tensor):
    """A context with the tensor's device as the current one, on which Triton launches; a split model has several."""
    if tensor.device.type == "cpu":  # the interpreter
        return contextlib.nullcontext()
    return getattr(torch, tensor.device.type).device_of(tensor)
