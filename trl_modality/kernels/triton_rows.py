"""The elementwise work on one tile with Triton: what `torch_rows` does, by the kernel of `triton_kernels`."""

import contextlib
from typing import Any

import torch
import triton

from .spec import DIVERGENCES, LossSpec, TileRows, TokenStats
from .triton_kernels import rows_kernel


# Threads of a program and registers of a thread on NVIDIA, such that two programs fill a multiprocessor. With smaller
# ones more rows are under way at a time, and those of smaller vocabularies no longer stay in the L2 cache
THREADS, REGISTERS = 512, 64
# Likewise, where logits are soft-capped: three, for instructions bound these, and with 64 registers some spill
CAPPED_THREADS, CAPPED_REGISTERS = 256, 80
# Bytes of a row that a thread loads at once, a lane of the kernel: the most that GPUs can, or half of that
WIDE_LANE, NARROW_LANE = 16, 8
NVIDIA_WARP, AMD_WARP = 32, 64


class TritonRows:
    """Elementwise work on tiles; takes the arguments of `TorchRows`."""

    def __init__(
        self, spec: LossSpec, dtype: torch.dtype, vocab_size: int, block_rows: int, n_views: int, device: torch.device
    ):
        self.spec = spec
        platform = "amd" if torch.version.hip else "nvidia" if device.type == "cuda" else "other"
        self.launch = launch_options(spec, dtype.itemsize, vocab_size, platform)

    @staticmethod
    def scratch_rows(spec: LossSpec, dtype: torch.dtype, n_views: int) -> int:
        """0: everything beside the tile is in registers."""
        return 0

    def __call__(self, tile: TileRows, stats: TokenStats, teacher_rules=None, keeps_text=False) -> None:
        """Turn the tile's logits into gradients, and fill `stats`, the contiguous `[N]` tensors of its tokens."""
        rows: Any = tile.vision if tile.text is None else tile.text
        n_tokens, vocab_size = rows.shape
        is_paired = tile.text is not None and tile.vision is not None
        spec = self.spec
        # What is absent is neither read nor written, but every pointer has to point somewhere
        weights = [rows if weight is None else weight.contiguous() for weight in tile[3:6]]
        with _on_device_of(rows):
            kernel: Any = rows_kernel
            kernel[(n_tokens,)](
                rows if tile.text is None else tile.text,
                rows if tile.vision is None else tile.vision,
                tile.labels.contiguous(),
                *weights,
                *(rows if own is None else own for own in stats[:7]),
                rows.stride(0),
                vocab_size,
                spec.logit_scale,
                spec.logit_softcap or 1.0,
                1.0 / spec.temperature,
                spec.beta,
                HAS_TEXT=tile.text is not None,
                HAS_VISION=tile.vision is not None,
                DIVERGENCE=1 + DIVERGENCES.index(spec.divergence) if is_paired else 0,
                TEXT_GRADIENT=tile.text_weight is not None,
                VISION_GRADIENT=tile.vision_weight is not None,
                KL_GRADIENT=tile.kl_weight is not None,
                IS_TEMPERED=is_paired and spec.temperature != 1.0,
                HAS_SOFTCAP=spec.logit_softcap is not None,
                **self.launch,
            )


def launch_options(spec: LossSpec, itemsize: int, vocab_size: int, platform: str) -> dict[str, int]:
    """Columns of a block and of a lane, and warps: one lane a thread, so wide that no variant spills registers.

    Args:
        spec: options of the loss.
        itemsize: bytes of a logit.
        vocab_size: V.
        platform: `nvidia`, `amd` or `other`.
    """
    is_nvidia, is_capped = platform == "nvidia", spec.logit_softcap is not None
    # Eight logits a lane are too many where they are soft-capped, or where the last block has a mask for each of them
    is_wide = itemsize == 4 or (vocab_size % 16 == 0 and not is_capped)
    group, warp = (WIDE_LANE if is_wide else NARROW_LANE) // itemsize, AMD_WARP if platform == "amd" else NVIDIA_WARP
    threads, registers = (CAPPED_THREADS, CAPPED_REGISTERS) if is_nvidia and is_capped else (THREADS, REGISTERS)
    block = max(warp * group, min(threads * group, triton.next_power_of_2(vocab_size)))
    options = {"BLOCK": block, "GROUP": group, "num_warps": block // (warp * group)}
    # Left to itself, NVIDIA's assembler spills in a few variants in order to fit another program
    return options | {"maxnreg": registers} if is_nvidia else options


def _on_device_of(tensor: torch.Tensor):
    """A context with the tensor's device as the current one, on which Triton launches; a split model has several."""
    if tensor.device.type == "cpu":  # the interpreter
        return contextlib.nullcontext()
    return getattr(torch, tensor.device.type).device_of(tensor)
