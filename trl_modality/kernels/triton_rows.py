"""The elementwise work on one tile with Triton: what `torch_rows` does, by the kernel of `triton_kernels`."""

import contextlib
from dataclasses import replace
from typing import Any

import torch
import triton

from .spec import DIVERGENCES, KL_MASKS, LossSpec, TileRows, TokenStats
from .triton_kernels import rows_kernel


# Threads of a program and registers of a thread on NVIDIA, such that two programs fill a multiprocessor. With smaller
# ones more rows are under way at a time, and those of smaller vocabularies no longer stay in the L2 cache
THREADS, REGISTERS = 512, 64
# Likewise, where logits are soft-capped: three, for instructions bound these, and with 64 registers some spill
CAPPED_THREADS, CAPPED_REGISTERS = 256, 80
# Bytes of a row that a thread loads at once, a lane of the kernel: the most that GPUs can, or half of that
WIDE_LANE, NARROW_LANE = 16, 8
NVIDIA_WARP, AMD_WARP = 32, 64


# The codes of `kl_mask` in `triton_divergences`, where the last is for shares that are told
MASKS = (*KL_MASKS, "given")
# Places for top tokens: a power of two, and so many at least, that few kernels serve any number of them
MIN_TOP_PLACES = 32


class TritonRows:
    """Elementwise work on tiles; takes the arguments of `TorchRows`."""

    def __init__(
        self, spec: LossSpec, dtype: torch.dtype, vocab_size: int, block_rows: int, n_views: int, device: torch.device
    ):
        self.spec = spec
        platform = "amd" if torch.version.hip else "nvidia" if device.type == "cuda" else "other"
        self.launch = launch_options(spec, dtype.itemsize, vocab_size, platform)
        # Where a teacher alone soft-caps
        self.capped_launch = launch_options(replace(spec, logit_softcap=1.0), dtype.itemsize, vocab_size, platform)

    @staticmethod
    def scratch_rows(spec: LossSpec, dtype: torch.dtype, n_views: int) -> int:
        """0: everything beside the tile is in registers."""
        return 0

    def __call__(
        self,
        tile: TileRows,
        stats: TokenStats,
        teacher_rules: tuple[float, float | None] | None = None,
        keeps_text: bool = False,
    ) -> None:
        """Turn the tile's logits into gradients, and fill `stats`, the contiguous `[N]` tensors of its tokens.

        Args:
            tile: Its rows.
            stats: Of a view, NLL, entropy and top-1 are all wanted or none (`None`).
            teacher_rules: Scale and soft-capping of `tile.text`, if that is a teacher's; by default the student's.
            keeps_text: Leave `tile.text`, which has no `text_weight`, as it is; so it is here in any case.
        """
        spec = self.spec
        rows: Any = tile.vision if tile.text is None else tile.text
        n_tokens, vocab_size = rows.shape
        if (
            tile.text is not None
            and tile.vision is not None
            and n_tokens > 1
            and tile.vision.stride(0) != rows.stride(0)
        ):
            raise ValueError(
                f"Rows of both views must be equally far apart, not {rows.stride(0)}, {tile.vision.stride(0)}."
            )
        text_scale, text_softcap = teacher_rules or (spec.logit_scale, spec.logit_softcap)
        # What is absent is neither read nor written, but every pointer has to point somewhere
        per_token = [rows if field is None else field.contiguous() for field in tile[3:]]
        with _on_device_of(rows):
            kernel: Any = rows_kernel
            kernel[(n_tokens,)](
                rows if tile.text is None else tile.text,
                rows if tile.vision is None else tile.vision,
                tile.labels.contiguous(),
                *per_token,
                *(rows if own is None else own for own in stats[:8]),
                rows.stride(0),
                vocab_size,
                0 if tile.top_ids is None else tile.top_ids.shape[1],
                spec.logit_scale,
                spec.logit_softcap or 1.0,
                float(text_scale),
                float(text_softcap or 1.0),
                1.0 / spec.temperature,
                spec.beta,
                float(spec.kl_clip or 1.0),
                float(spec.confidence),
                float(spec.importance_clip or 1.0),
                **_flags(tile, stats, spec),
                HAS_TEXT_RULES=teacher_rules is not None,
                TEXT_SOFTCAP=text_softcap is not None,
                **(self.launch if text_softcap is None else self.capped_launch),
            )


def _flags(tile: TileRows, stats: TokenStats, spec: LossSpec) -> dict[str, bool | int]:
    """What is compiled into the kernel of a tile: what its tokens have, and what is wanted of them."""
    n_top = 0 if tile.top_ids is None else tile.top_ids.shape[1]
    knows_teacher = tile.text is not None or tile.top_ids is not None or tile.label_log_p is not None
    has_divergence = tile.vision is not None and knows_teacher
    has_share = has_divergence and stats.kl_share is not None
    mask = "given" if tile.teacher_share is not None else spec.kl_mask
    if has_share and tile.text is None and mask not in ("all", "given"):
        raise ValueError(f"`kl_mask={mask!r}` is of a teacher's logits: without them, give `teacher_share`.")
    return {
        "HAS_TEXT": tile.text is not None,
        "HAS_VISION": tile.vision is not None,
        "DIVERGENCE": 1 + DIVERGENCES.index(spec.divergence) if has_divergence else 0,
        "HAS_CLIP": has_divergence and spec.kl_clip is not None,
        "TOP": max(MIN_TOP_PLACES, triton.next_power_of_2(n_top)) if has_divergence and n_top else 0,
        "HAS_SHARE": has_share,
        "MASK": MASKS.index(mask) if has_share else 0,
        "HAS_BLIND": has_share and mask == "visual_advantage" and tile.blind_nll is not None,
        "IS_IMPORTANCE_WEIGHTED": has_share and spec.importance_clip is not None and tile.sampled_nll is not None,
        "TEXT_STATS": tile.text is not None and stats.text_nll is not None,
        "VISION_STATS": tile.vision is not None and stats.vision_nll is not None,
        "TEXT_GRADIENT": tile.text_weight is not None,
        "VISION_GRADIENT": tile.vision_weight is not None,
        "KL_GRADIENT": has_divergence and tile.kl_weight is not None,
        "IS_TEMPERED": has_divergence and spec.temperature != 1.0,
        "HAS_SOFTCAP": spec.logit_softcap is not None,
    }


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
