"""Implementations that `bench_loss.py` compares: ours, its peers, and the matrix products alone as a lower bound.

Every peer computes, for M tokens in both views under one head,

    Σ_t [ CE_r(t) + CE_v(t) + KL( stopgrad p_r(t) ‖ p_v(t) ) ] / 2M

If a peer has several configurations, each is a setting, and the fastest one for the shape is used. Ours and TRL also
compute the entropy and the top-1 hits that `SFTTrainer` logs; other peers do not.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version

import torch
import torch.nn.functional as F

from trl_modality.kernels import paired_linear_loss


MIB = 2**20
# The loss, to be differentiated; of the products alone, what they have computed
Run = Callable[[], torch.Tensor | tuple]


class LeftOut(Exception):
    """Why a peer cannot be part of a comparison."""


@dataclass(frozen=True)
class Shape:
    n_tokens: int
    """M: tokens, each in both views."""
    hidden_size: int
    vocab_size: int
    dtype: torch.dtype = torch.float32
    trains_head: bool = True
    autocast: torch.dtype | None = None
    """Autocast's dtype, in which products then are; the tensors are in `dtype`."""

    def with_tokens(self, n_tokens: int) -> "Shape":
        return replace(self, n_tokens=n_tokens)

    def __str__(self) -> str:
        head = "trained" if self.trains_head else "frozen"
        dtype = str(self.dtype).removeprefix("torch.")
        if self.autocast is not None:
            dtype += f" under {str(self.autocast).removeprefix('torch.')} autocast"
        return f"M={self.n_tokens:,} H={self.hidden_size:,} V={self.vocab_size:,} {dtype}, head {head}"


@dataclass
class Inputs:
    text: torch.Tensor
    """`[M, H]`, text_rich view."""
    vision: torch.Tensor
    """`[M, H]`, vision_centric view."""
    head: torch.Tensor
    """`[V, H]`."""
    labels: torch.Tensor
    """`[M]`."""
    autocast: torch.dtype | None = None

    @property
    def product_dtype(self) -> torch.dtype:
        return self.autocast or self.head.dtype

    @property
    def leaves(self) -> dict[str, torch.Tensor]:
        """The tensors that get a gradient."""
        tensors = {"text_hidden": self.text, "vision_hidden": self.vision, "head": self.head}
        return {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}

    def clear_gradients(self) -> None:
        for leaf in self.leaves.values():
            leaf.grad = None

    def clone_gradients(self) -> dict[str, torch.Tensor]:
        return {name: leaf.grad.clone() for name, leaf in self.leaves.items()}


def make_inputs(shape: Shape, device: torch.device | str) -> Inputs:
    """Random hidden states and a random head; the two views of a token are about as similar as in a model.

    The time of the dense peers does not depend on the values.
    """
    generator = torch.Generator(device).manual_seed(0)
    normal = partial(torch.randn, generator=generator, device=device, dtype=shape.dtype)
    head = normal(shape.vocab_size, shape.hidden_size).mul_(0.02).requires_grad_(shape.trains_head)
    text = normal(shape.n_tokens, shape.hidden_size)
    vision = text + 0.5 * normal(shape.n_tokens, shape.hidden_size)
    labels = torch.randint(shape.vocab_size, (shape.n_tokens,), generator=generator, device=device)
    return Inputs(text.requires_grad_(), vision.requires_grad_(), head, labels, shape.autocast)


def _ours(inputs: Inputs, **options: float) -> dict[str, Run]:
    tensors = inputs.text, inputs.vision, inputs.head, inputs.labels
    return {"backend auto": lambda: paired_linear_loss(*tensors, **options).loss}


def _losses_of_logits(text_MV: torch.Tensor, vision_MV: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The losses of logits, upcast as transformers does before a loss: half precision would leave little of the KL."""
    text_MV = F.log_softmax(text_MV, -1, dtype=torch.float32)
    vision_MV = F.log_softmax(vision_MV, -1, dtype=torch.float32)
    nll = F.nll_loss(text_MV, labels, reduction="sum") + F.nll_loss(vision_MV, labels, reduction="sum")
    kl = F.kl_div(vision_MV, text_MV.detach(), reduction="sum", log_target=True)
    return (nll + kl) / (2 * len(labels))


def _view_by_view(text, vision, head, labels) -> torch.Tensor:
    return _losses_of_logits(F.linear(text, head), F.linear(vision, head), labels)


def _both_views_at_once(text, vision, head, labels) -> torch.Tensor:
    """Logits of both views in one product, so that the head's gradient is one product too, and no sum of two."""
    return _losses_of_logits(*F.linear(torch.cat([text, vision]), head).chunk(2), labels)


FULL_LOGITS = {"view by view": _view_by_view, "both views at once": _both_views_at_once}


def _full_logits(inputs: Inputs) -> dict[str, Run]:
    tensors = inputs.text, inputs.vision, inputs.head, inputs.labels
    return {setting: partial(loss, *tensors) for setting, loss in FULL_LOGITS.items()}


def _full_logits_compiled(inputs: Inputs) -> dict[str, Run]:
    # Or the shapes of the cases before this one would make a later one dynamic, which is slower
    torch.compiler.reset()
    tensors = inputs.text, inputs.vision, inputs.head, inputs.labels
    return {setting: partial(torch.compile(loss, dynamic=False), *tensors) for setting, loss in FULL_LOGITS.items()}


def _trl_composed(inputs: Inputs, chunks: tuple[int, ...] = (32768,)) -> dict[str, Run]:
    """TRL's ops: `SFTTrainer`'s for the cross-entropies, on both views together, and the distillation divergence.

    The divergence has its chunk in a module constant of 32,768 columns, which is also the chunk of `SFTTrainer`.
    """
    from trl.kernels import chunked_divergence
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    def loss(chunk: int) -> torch.Tensor:
        chunked_divergence.VOCAB_CHUNK_SIZE = chunk  # read in the forward and in the backward that follows it
        both, labels = torch.cat([inputs.text, inputs.vision]), inputs.labels.repeat(2)
        log_probs, *_ = ChunkedLogProbFunction.apply(
            both, inputs.head, None, labels, 1.0, chunk, None, 1.0, ("entropy", "is_top1")
        )
        teacher = inputs.text.detach(), inputs.head.detach(), None
        kl, _ = chunked_divergence.ChunkedDivergenceFunction.apply(
            inputs.vision, inputs.head, None, *teacher, 0.0, 1.0
        )
        return (kl.sum() - log_probs.sum()) / len(labels)

    return {f"chunk {chunk}": partial(loss, min(chunk, len(inputs.head))) for chunk in chunks}


def _trl_tuned(inputs: Inputs) -> dict[str, Run]:
    """TRL's ops with the constant rewritten. On a CPU the temporaries of a small chunk stay in the caches."""
    chunks = (256, 512, 1024, 2048, 8192) if inputs.head.device.type == "cpu" else (8192, 32768, 131072)
    return _trl_composed(inputs, chunks)


def _liger(inputs: Inputs) -> dict[str, Run]:
    """Liger's public functions, combined in two ways; in both, the forward computes each chunk's gradients.

    Either the fused cross-entropy on both views beside the fused JSD, or the cross-entropy on the text_rich view alone
    beside the chunked distillation loss, which takes the cross-entropy and the KL of its student together.
    """
    if inputs.head.device.type != "cuda":
        raise LeftOut("needs a CUDA device")
    try:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy, liger_fused_linear_jsd
    except ImportError as error:
        raise LeftOut(f"cannot be imported ({error})") from error
    head, teacher, labels = inputs.head, (inputs.text.detach(), inputs.head.detach()), inputs.labels

    def with_fused_jsd(options: dict) -> torch.Tensor:
        both = torch.cat([inputs.text, inputs.vision])
        ce = liger_fused_linear_cross_entropy(both, head, labels.repeat(2), **options)
        kl = liger_fused_linear_jsd(inputs.vision, head, *teacher, jsd_beta=0.0, accum_dtype=options["accum_dtype"])
        return ce + 0.5 * kl  # a mean over 2M, and one over M

    def with_distillation(options: dict, chunk_size: int, compiled: bool) -> torch.Tensor:
        # Means over M as well
        of_vision = LigerFusedLinearJSDLoss(0.5, 0.5, beta=0.0, compiled=compiled, chunk_size=chunk_size)
        ce = liger_fused_linear_cross_entropy(inputs.text, head, labels, **options)
        return 0.5 * ce + of_vision(inputs.vision, head, *teacher, labels)

    # How much it takes at a time, in newer versions; and in half precision, what the head's gradient is summed in
    has_constant = "chunk_mem_const" in inspect.signature(liger_fused_linear_cross_entropy).parameters
    constants = [{"chunk_mem_const": n} for n in (1, 8, 32)] if has_constant else [{}]
    sums = [{"accum_dtype": None}] + [{"accum_dtype": torch.float32}] * (head.dtype != torch.float32)
    settings: dict[str, Run] = {}
    for options in [constant | dtype for constant in constants for dtype in sums]:
        name = ", ".join(f"{option}={value}" for option, value in options.items())
        settings[f"CE + JSD, {name}"] = partial(with_fused_jsd, options)
    for chunk_size in (1024, 4096):
        for compiled in (False, True):
            name = f"CE + distillation, chunk_size={chunk_size}, compiled={compiled}"
            settings[name] = partial(with_distillation, constants[-1] | sums[0], chunk_size, compiled)
    return settings


def _cut_cross_entropy(inputs: Inputs) -> dict[str, Run]:
    """The cross-entropies of both views by Apple's cut-cross-entropy, which has no divergence.

    Besides its default, which leaves small gradients out, its variant that leaves out none, and the one that sums in
    half precision with Kahan's compensation.
    """
    try:
        from cut_cross_entropy import linear_cross_entropy
    except ImportError as error:
        raise LeftOut(f"cannot be imported ({error})") from error

    def loss(impl: str) -> torch.Tensor:
        return linear_cross_entropy(
            torch.cat([inputs.text, inputs.vision]), inputs.head, inputs.labels.repeat(2), impl=impl
        )

    return {impl: partial(loss, impl) for impl in ("cce", "cce_exact", "cce_kahan_full_c")}


class _Products:
    """The matrix products alone, both views together, with factors converted beforehand: a lower bound for all.

    Args:
        inputs: inputs of the comparison.
        dtype: dtype of the products.
        n_rows: rows of the tile, of both views together; all rows may be one tile.
        allocates: whether the tile and the gradients are allocated each time, as in a training step, or the products
            go into existing memory.
    """

    def __init__(self, inputs: Inputs, dtype: torch.dtype, n_rows: int, allocates: bool):
        self.inputs, self.dtype, self.n_rows, self.allocates = inputs, dtype, n_rows, allocates
        self.hidden = None

    def __call__(self) -> tuple:
        with torch.no_grad():
            if self.hidden is None:
                self._convert()
            if self.allocates or self.tile is None:
                self._allocate()
            for start in range(0, len(self.hidden), self.n_rows):
                hidden_NH = self.hidden[start : start + self.n_rows]
                tile_NV = self.tile[: len(hidden_NH)]
                torch.mm(hidden_NH, self.head.t(), out=tile_NV)
                torch.mm(tile_NV, self.head, out=self.hidden_gradient[start : start + self.n_rows])
                if self.head_gradient is None:
                    continue
                if start:
                    self.head_gradient.addmm_(tile_NV.t(), hidden_NH)
                else:
                    torch.mm(tile_NV.t(), hidden_NH, out=self.head_gradient)
            gradients = self.hidden_gradient, self.head_gradient
            if self.allocates:
                self.hidden_gradient = self.tile = self.head_gradient = None
        return gradients

    def _convert(self) -> None:
        self.hidden = torch.cat([self.inputs.text, self.inputs.vision]).detach().to(self.dtype)
        self.head = self.inputs.head.detach().to(self.dtype)
        self.hidden_gradient = self.tile = self.head_gradient = None

    def _allocate(self) -> None:
        self.hidden_gradient = torch.empty_like(self.hidden)
        self.tile = self.head.new_empty(min(self.n_rows, len(self.hidden)), len(self.head))
        self.head_gradient = torch.empty_like(self.head) if self.inputs.head.requires_grad else None


def _floor(inputs: Inputs, allocates: bool = True) -> dict[str, Run]:
    n_rows, vocab_size, dtype = 2 * len(inputs.labels), len(inputs.head), inputs.product_dtype
    is_cpu = inputs.head.device.type == "cpu"
    settings = {}
    # Half precision is no gain on a CPU without units for it
    for own in dict.fromkeys((dtype, torch.float32)) if is_cpu else (dtype,):
        for tile_mib in (256, 2048) if is_cpu else (512, 2048, 8192):
            n_tiles = -(-n_rows * vocab_size * own.itemsize // (tile_mib * MIB))
            name = f"{str(own).removeprefix('torch.')}, tile {tile_mib} MiB"
            settings[name] = _Products(inputs, own, -(-n_rows // n_tiles), allocates)
            if n_tiles == 1:
                break
    return settings


OURS, PLAIN, COMPILED = "ours", "full logits", "full logits, compiled"
FLOOR, FLOOR_IN_PLACE = "floor", "floor, no allocation"
LIGER = "Liger"
TRL = f"TRL {'.'.join(version('trl').split('.')[:2])} composed"
TRL_TUNED = f"{TRL}, chunk tuned"
PEERS: dict[str, Callable[[Inputs], dict[str, Run]]] = {
    OURS: _ours,
    PLAIN: _full_logits,
    COMPILED: _full_logits_compiled,
    TRL: _trl_composed,
    TRL_TUNED: _trl_tuned,
    LIGER: _liger,
    FLOOR: _floor,
    FLOOR_IN_PLACE: partial(_floor, allocates=False),
}
# Only for GPUs: ours with other tiles, and the cross-entropies alone
TILES = {f"{OURS}, tile {mib} MiB": partial(_ours, tile_mib=mib) for mib in (512, 1024, 2048, 4096)}
OURS_CE, CUT_CE = f"{OURS}, cross-entropy alone", "cut-cross-entropy, cross-entropy alone"
CROSS_ENTROPIES = {OURS_CE: partial(_ours, kl_weight=0.0), CUT_CE: _cut_cross_entropy}


def runs_of(name: str, inputs: Inputs) -> dict[str, Run]:
    """An implementation by its settings, under autocast where the inputs are to be multiplied in another dtype.

    Raises:
        LeftOut: it cannot run here.
    """
    runs = (PEERS | TILES | CROSS_ENTROPIES)[name](inputs)
    if inputs.autocast is None:
        return runs
    return {setting: partial(_under_autocast, run, inputs) for setting, run in runs.items()}


def _under_autocast(run: Run, inputs: Inputs) -> torch.Tensor | tuple:
    with torch.autocast(inputs.head.device.type, inputs.autocast):
        return run()
