"""The elementwise work on one tile, in torch: rows of logits become rows of gradients, in place.

On a CPU a few rows are processed at a time, so that they stay in the core's cache through all the passes, and every
result is written into existing memory: page faults and memory traffic cost more than the arithmetic. On other devices
the whole tile is one block.

A logit of −inf is an impossible token: its probability of 0 times its logarithm of −inf counts as 0, not as NaN. On a
CPU such blocks, which are rare, are found by the NaN and left to the reference implementation. To look for them would
wait for any other device, so there every such product is cleaned, in one more pass (`_times`).

With e = exp(z − max z) and S = Σ e of a view, the gradients of the logits are, before weights:

    cross-entropy    e/S − 1[label]
    forward KL       q_v − q_r
    reverse KL       q_v·(log q_v − log q_r − KL)
    JSD              (1 − β)·q_v·(log q_v − log m − KL(q_v ‖ m)),    m = (1 − β)·q_v + β·q_r

where q is the distribution at the temperature τ, whose gradient brings a factor 1/τ.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from .reference import losses_of_logits
from .spec import LossSpec, TileRows, TokenGroup, TokenStats, accumulation_dtype


# `argmax` on a CPU costs ten times as much as a maximum; up to this many columns that does not matter
ARGMAX_COLUMNS = 8192


@dataclass
class _View:
    """One view of a block while it is processed: tensors `[R, V]`, or `[R, 1]` with one value per row."""

    rows: torch.Tensor
    """Rows of the tile: at first the raw products of the head, in the end the gradients of these."""
    logits: torch.Tensor
    """Scaled, soft-capped, and shifted to a maximum of 0; overwritten by the divergence, then by the gradient.
    The tile's own rows where their dtype is that of the sums."""
    slope: torch.Tensor | None
    """Derivative of the soft-capping; `None` without it."""
    exponentials: torch.Tensor
    """e = exp(z) of the shifted logits z."""
    total: torch.Tensor
    """Σ e."""
    moment: torch.Tensor
    """Σ e·z."""
    tempered: torch.Tensor
    """exp(z/τ), which is `exponentials` where τ is 1 or there is no divergence."""
    tempered_total: torch.Tensor


class TorchRows:
    """Elementwise work on tiles. One instance serves all the tiles of a call, with scratch rows allocated once.

    Args:
        spec: options of the loss.
        dtype: dtype of the tiles.
        vocab_size: V.
        block_rows: rows of one view taken at a time.
        n_views: 2 if any tile has both views, else 1.
        device: device of the tiles.
    """

    def __init__(
        self, spec: LossSpec, dtype: torch.dtype, vocab_size: int, block_rows: int, n_views: int, device: torch.device
    ):
        self.spec, self.block_rows = spec, block_rows
        self._reads_values = reads_values(device)
        shape = (self.scratch_rows(spec, dtype, n_views), block_rows, vocab_size)
        self._scratch = torch.empty(shape, dtype=accumulation_dtype(dtype), device=device)
        self._borrowed = 0
        self._divergence = {"forward_kl": self._forward_kl, "reverse_kl": self._reverse_kl, "jsd": self._jsd}[
            spec.divergence
        ]

    @staticmethod
    def scratch_rows(spec: LossSpec, dtype: torch.dtype, n_views: int) -> int:
        """Rows in the dtype of the sums that a block needs for each of its tokens, beside the tile's own."""
        per_view = 1  # the exponentials
        per_view += n_views == 2 and spec.temperature != 1.0  # those at the temperature
        per_view += spec.logit_softcap is not None  # the slopes
        per_view += dtype != accumulation_dtype(dtype)  # the logits
        return 1 + n_views * per_view  # and one row for products

    def __call__(self, tile: TileRows, stats: TokenStats) -> None:
        """Turn the tile's logits into gradients, and fill `stats`, the `[N]` tensors of the tile's tokens."""
        # Columns `[N, 1]` from here on, split into blocks at once: a block is so little work that overhead would show
        weights = (None if weight is None else weight * self.spec.logit_scale for weight in tile[3:])
        columns = [x if x is None else x.unsqueeze(1) for x in (tile.labels, *weights, *stats)]
        n_blocks = -(-len(tile.labels) // self.block_rows)
        blocks = [
            [None] * n_blocks if x is None else x.split(self.block_rows) for x in (tile.text, tile.vision, *columns)
        ]
        for fields in zip(*blocks, strict=True):
            self._borrowed = 0
            self._block(TileRows(*fields[: len(tile)]), TokenStats(*fields[len(tile) :]))

    def _borrow(self, n_rows: int) -> torch.Tensor:
        self._borrowed += 1
        return self._scratch[self._borrowed - 1, :n_rows]

    def _block(self, tile: TileRows, stats: TokenStats) -> None:
        product = self._borrow(len(tile.labels))
        is_paired = tile.text is not None and tile.vision is not None
        text = None if tile.text is None else self._open(tile.text, product, is_paired)
        vision = None if tile.vision is None else self._open(tile.vision, product, is_paired)
        if self._reads_values and not _all_finite(view.moment for view in (text, vision) if view is not None):
            self._block_with_impossible_tokens(text, vision, tile, stats)
            return
        if text is not None:
            _fill(stats.text_nll, stats.text_entropy, stats.text_is_top1, text, tile.labels)
        if vision is not None:
            _fill(stats.vision_nll, stats.vision_entropy, stats.vision_is_top1, vision, tile.labels)
        if text is not None and vision is not None:
            stats.kl.copy_(self._divergence(text, vision, tile.kl_weight, product))
        if text is not None and tile.text_weight is not None:
            self._close(text, tile.text_weight, tile.labels, None)
        if vision is not None and tile.vision_weight is not None:
            self._close(vision, tile.vision_weight, tile.labels, None if tile.kl_weight is None else product)

    def _open(self, rows: torch.Tensor, product: torch.Tensor, is_paired: bool) -> _View:
        spec, n_rows = self.spec, len(rows)
        z = rows if rows.dtype == product.dtype else self._borrow(n_rows).copy_(rows)
        if spec.logit_scale != 1.0:
            z.mul_(spec.logit_scale)
        slope = None
        if spec.logit_softcap is not None:
            z.div_(spec.logit_softcap).tanh_()
            slope = torch.mul(z, z, out=self._borrow(n_rows)).neg_().add_(1.0)
            z.mul_(spec.logit_softcap)
        z.sub_(z.amax(1, keepdim=True))
        e = torch.exp(z, out=self._borrow(n_rows))
        total = e.sum(1, keepdim=True)
        moment = self._times(e, z, product).sum(1, keepdim=True)
        tempered, tempered_total = e, total
        if is_paired and spec.temperature != 1.0:
            tempered = torch.mul(z, 1.0 / spec.temperature, out=self._borrow(n_rows)).exp_()
            tempered_total = tempered.sum(1, keepdim=True)
        return _View(rows, z, slope, e, total, moment, tempered, tempered_total)

    def _times(self, probability: torch.Tensor, value: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """probability·value, where 0 times an infinity counts as 0; on a CPU, NaN."""
        torch.mul(probability, value, out=out)
        return out if self._reads_values else out.nan_to_num_(0.0, math.inf, -math.inf)

    # Each of these returns the divergence `[R, 1]` and, if there is a weight, leaves weight × its gradient in
    # `product`. They overwrite the logits of both views.

    def _forward_kl(self, text: _View, vision: _View, weight, product) -> torch.Tensor:
        gap = text.logits.sub_(vision.logits)
        expected_gap = self._times(text.tempered, gap, product).sum(1, keepdim=True).div_(text.tempered_total)
        if weight is not None:
            weight = weight / self.spec.temperature
            torch.mul(vision.tempered, weight / vision.tempered_total, out=product)
            product.addcmul_(text.tempered, weight / text.tempered_total, value=-1.0)
        return expected_gap / self.spec.temperature + (vision.tempered_total / text.tempered_total).log_()

    def _reverse_kl(self, text: _View, vision: _View, weight, product) -> torch.Tensor:
        gap = vision.logits.sub_(text.logits)
        expected_gap = self._times(vision.tempered, gap, product).sum(1, keepdim=True).div_(vision.tempered_total)
        if weight is not None:
            self._times(vision.tempered, gap.sub_(expected_gap), product)
            product.mul_(weight / (self.spec.temperature**2 * vision.tempered_total))
            # Not finite: likely in the vision_centric view, (next to) impossible in the other
            if not (self._reads_values and _all_finite([expected_gap])):
                product.masked_fill_(weight == 0, 0.0)
        return expected_gap / self.spec.temperature + (text.tempered_total / vision.tempered_total).log_()

    def _jsd(self, text: _View, vision: _View, weight, product) -> torch.Tensor:
        beta, tau, log_student_share = self.spec.beta, self.spec.temperature, math.log(1 - self.spec.beta)
        shift = math.log(self.spec.beta) - log_student_share
        if tau < 1:  # the lowest of all floats, as masks use it, would become −inf in both views, and their gap a NaN
            for view in (text, vision):
                view.logits.clamp_(min=tau / 4 * torch.finfo(view.logits.dtype).min)
        log_q_r = text.logits.div_(tau).sub_(text.tempered_total.log() - shift)  # raised by `shift`
        log_q_v = vision.logits.div_(tau).sub_(vision.tempered_total.log())
        # log m − log(1 − β), in logarithms: both probabilities may be too small for a float
        torch.logaddexp(log_q_v, log_q_r, out=product)
        ratio_r, ratio_v = log_q_r.sub_(product), log_q_v.sub_(product)
        kl_r = self._times(text.tempered, ratio_r, product).sum(1, keepdim=True).div_(text.tempered_total)
        kl_v = self._times(vision.tempered, ratio_v, product).sum(1, keepdim=True).div_(vision.tempered_total)
        if weight is not None:
            self._times(vision.tempered, ratio_v.sub_(kl_v), product)
            product.mul_((1 - beta) * weight / (tau * vision.tempered_total))
        return beta * (kl_r - shift) + (1 - beta) * kl_v - log_student_share

    def _close(self, view: _View, weight, labels, of_divergence: torch.Tensor | None) -> None:
        """Write the gradient of a view's rows: weight × that of the cross-entropy, plus that of the divergence."""
        if of_divergence is None:
            gradient = torch.mul(view.exponentials, weight / view.total, out=view.logits)
        else:
            gradient = torch.addcmul(of_divergence, view.exponentials, weight / view.total, out=view.logits)
        # In the dtype of the sums: next to a likely label, 1 − p is lost to rounding in half precision
        gradient.scatter_add_(1, labels, -weight)
        _store(view, gradient)

    def _block_with_impossible_tokens(
        self, text: _View | None, vision: _View | None, tile: TileRows, stats: TokenStats
    ) -> None:
        weights = (0.0 if weight is None else weight.squeeze(1) for weight in tile[3:])
        group = TokenGroup(None, None, tile.labels.squeeze(1), *weights)
        with torch.enable_grad():
            leaves = [
                None if view is None else view.logits.clone().requires_grad_(weight is not None)
                for view, weight in ((text, tile.text_weight), (vision, tile.vision_weight))
            ]
            text_logits, vision_logits = leaves
            loss, found = losses_of_logits(text_logits, vision_logits, group, self.spec)
        for own, values in zip(stats, found, strict=True):
            if own is not None:
                own.copy_(values.unsqueeze(1))
        wanted = [
            (view, leaf)
            for view, leaf in zip((text, vision), leaves, strict=True)
            if view is not None and leaf is not None and leaf.requires_grad
        ]
        if wanted:
            gradients = torch.autograd.grad(loss, [leaf for _, leaf in wanted])
            for (view, _), gradient in zip(wanted, gradients, strict=True):
                _store(view, gradient)


def reads_values(device: torch.device) -> bool:
    """Whether values decide what is done next: to read one waits for any device but a CPU."""
    return device.type == "cpu"


def _all_finite(columns: Iterable[torch.Tensor]) -> bool:
    return math.isfinite(sum(column.sum().item() for column in columns))


def _fill(nll, entropy, is_top1, view: _View, labels) -> None:
    target = view.logits.gather(1, labels)
    log_total = view.total.log()
    torch.sub(log_total, target, out=nll)
    torch.sub(log_total, view.moment / view.total, out=entropy)
    is_top1.copy_(_is_first_maximum(view.logits, labels, target))


def _is_first_maximum(z_RV: torch.Tensor, labels: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Whether the label is the first of the most likely tokens, as `argmax` counts them; the maximum of a row is 0."""
    if z_RV.device.type != "cpu" or z_RV.shape[1] <= ARGMAX_COLUMNS:
        return z_RV.argmax(1, keepdim=True) == labels
    is_top1 = target == 0
    for row, is_maximum in enumerate(is_top1.flatten().tolist()):
        if is_maximum and (label := int(labels[row])) and z_RV[row, :label].amax() == 0:
            is_top1[row] = False
    return is_top1


def _store(view: _View, gradient: torch.Tensor) -> None:
    if view.slope is not None:
        gradient.mul_(view.slope)
    if gradient is not view.rows:
        view.rows.copy_(gradient)
