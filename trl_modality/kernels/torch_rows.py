"""The elementwise work on one tile, in torch: rows of logits become rows of gradients, in place.

On a CPU a few rows are processed at a time, so that they stay in the core's cache through all the passes, and every
result is written into existing memory: page faults and memory traffic cost more than the arithmetic. On other devices
the whole tile is one block.

A logit of −inf is an impossible token: its probability of 0 times its logarithm of −inf counts as 0, not as NaN. On a
CPU such blocks, which are rare, are found by the NaN and left to the reference implementation. To look for them would
wait for any other device, so there every such product is cleaned, in one more pass (`_times`).

With e = exp(z − max z) and S = Σ e of a view, the gradient of the logits is e/S − 1[label] of a cross-entropy, before
weights; those of the divergences stand in `torch_divergences`.
"""

import math
from dataclasses import replace
from typing import Any

import torch

from .reference import Target, losses_of_logits, share_by_importance, share_by_mask
from .spec import LossSpec, TileRows, TokenGroup, TokenStats, accumulation_dtype
from .torch_divergences import Divergences, View, all_finite


# `argmax` on a CPU costs ten times as much as a maximum; up to this many columns that does not matter
ARGMAX_COLUMNS = 8192


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
        self._scratch = list(torch.empty(shape, dtype=accumulation_dtype(dtype), device=device))
        self._borrowed = 0
        self._rules = (spec.logit_scale, spec.logit_softcap)
        self._divergence = Divergences(spec, self._times, self._reads_values)

    @staticmethod
    def scratch_rows(spec: LossSpec, dtype: torch.dtype, n_views: int) -> int:
        """Rows in the dtype of the sums that a block needs for each of its tokens, beside the tile's own."""
        per_view = 1  # the exponentials
        per_view += n_views == 2 and spec.temperature != 1.0  # those at the temperature
        per_view += spec.logit_softcap is not None  # the slopes
        per_view += dtype != accumulation_dtype(dtype)  # the logits
        return 1 + n_views * per_view  # and one row for products

    def __call__(
        self,
        tile: TileRows,
        stats: TokenStats,
        teacher_rules: tuple[float, float | None] | None = None,
        keeps_text: bool = False,
    ) -> None:
        """Turn the tile's logits into gradients, and fill `stats`, the `[N]` tensors of the tile's tokens.

        Args:
            tile: The rows.
            stats: What is asked for; `kl_share` wherever the divergence may have less than its weight.
            teacher_rules: Scale and soft-capping of `tile.text`; by default those of the spec.
            keeps_text: Leave `tile.text`, which has no `text_weight`, as it is.
        """
        # Columns `[N, 1]` from here on, split into blocks at once: a block is so little work that overhead would show
        scaled = {
            name: None if (weight := getattr(tile, name)) is None else weight * self.spec.logit_scale
            for name in ("text_weight", "vision_weight", "kl_weight")
        }
        columns = [x if x is None or x.dim() > 1 else x.unsqueeze(1) for x in (*tile._replace(**scaled), *stats)]
        n_blocks = -(-len(tile.labels) // self.block_rows)
        blocks = [[None] * n_blocks if x is None else x.split(self.block_rows) for x in columns]
        for fields in zip(*blocks, strict=True):
            self._borrowed = 0
            block = TileRows(*fields[: len(tile)])
            self._block(block, TokenStats(*fields[len(tile) :]), teacher_rules or self._rules, keeps_text)

    def _borrow(self, n_rows: int) -> torch.Tensor:
        self._borrowed += 1
        if self._borrowed > len(
            self._scratch
        ):  # for the rows of a teacher that have to stay, or have rules of their own
            self._scratch.append(torch.empty_like(self._scratch[0]))
        return self._scratch[self._borrowed - 1][:n_rows]

    def _block(self, tile: TileRows, stats: Any, text_rules, keeps_text: bool) -> None:
        product = self._borrow(len(tile.labels))
        has_teacher = tile.text is not None or tile.top_ids is not None or tile.label_log_p is not None
        is_paired = tile.vision is not None and has_teacher
        text = None if tile.text is None else self._open(tile.text, product, is_paired, text_rules, keeps_text)
        vision = None if tile.vision is None else self._open(tile.vision, product, is_paired, self._rules)
        if self._reads_values and not all_finite(view.moment for view in (text, vision) if view is not None):
            self._block_with_impossible_tokens(text, vision, tile, stats)
            return
        if text is not None:
            _fill(stats.text_nll, stats.text_entropy, stats.text_is_top1, text, tile.labels)
        if vision is not None:
            _fill(stats.vision_nll, stats.vision_entropy, stats.vision_is_top1, vision, tile.labels)
        if vision is not None and is_paired:
            weight = tile.kl_weight
            if stats.kl_share is not None:
                stats.kl_share.copy_(self._share(text, tile, stats))
                weight = None if weight is None else weight * stats.kl_share
            if tile.label_log_p is not None:
                kl = self._divergence.of_label(tile.label_log_p, vision, tile.labels, weight, product)
            elif tile.top_ids is not None:
                kl = self._divergence.of_top(vision, tile.top_ids, tile.top_log_probs, weight, product)
            else:
                teacher: Any = text
                kl = self._divergence(teacher, vision, tile.labels, weight, product)
            stats.kl.copy_(kl)
        if text is not None and tile.text_weight is not None:
            self._close(text, tile.text_weight, tile.labels, None)
        if vision is not None and tile.vision_weight is not None:
            self._close(vision, tile.vision_weight, tile.labels, None if tile.kl_weight is None else product)

    def _share(self, text: View | None, tile: TileRows, stats: Any) -> torch.Tensor:
        """The share of `kl_weight`, by the mask and the importance weight."""
        share: Any = tile.teacher_share
        if share is None and text is not None:
            blind_nll = stats.vision_nll if tile.blind_nll is None else tile.blind_nll
            share = share_by_mask(stats.text_nll, stats.text_is_top1, 1 / text.total, blind_nll, self.spec)
        share = share_by_importance(share, tile.sampled_nll, stats.vision_nll, self.spec)
        return torch.ones_like(stats.vision_nll) if share is None else share

    def _open(
        self,
        rows: torch.Tensor,
        product: torch.Tensor,
        is_paired: bool,
        rules: tuple[float, float | None],
        keeps: bool = False,
    ) -> View:
        (scale, softcap), n_rows = rules, len(rows)
        z = rows if rows.dtype == product.dtype and not keeps else self._borrow(n_rows).copy_(rows)
        if scale != 1.0:
            z.mul_(scale)
        slope = None
        if softcap is not None:
            z.div_(softcap).tanh_()
            slope = torch.mul(z, z, out=self._borrow(n_rows)).neg_().add_(1.0)
            z.mul_(softcap)
        z.sub_(z.amax(1, keepdim=True))
        e = torch.exp(z, out=self._borrow(n_rows))
        total = e.sum(1, keepdim=True)
        moment = self._times(e, z, product).sum(1, keepdim=True)
        tempered, tempered_total = e, total
        if is_paired and self.spec.temperature != 1.0:
            tempered = torch.mul(z, 1.0 / self.spec.temperature, out=self._borrow(n_rows)).exp_()
            tempered_total = tempered.sum(1, keepdim=True)
        return View(rows, z, slope, e, total, moment, tempered, tempered_total)

    def _times(self, probability: torch.Tensor, value: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """probability·value, where 0 times an infinity counts as 0; on a CPU, NaN."""
        torch.mul(probability, value, out=out)
        return out if self._reads_values else out.nan_to_num_(0.0, math.inf, -math.inf)

    def _close(self, view: View, weight, labels, of_divergence: torch.Tensor | None) -> None:
        """Write the gradient of a view's rows: weight × that of the cross-entropy, plus that of the divergence."""
        if of_divergence is None:
            gradient = torch.mul(view.exponentials, weight / view.total, out=view.logits)
        else:
            gradient = torch.addcmul(of_divergence, view.exponentials, weight / view.total, out=view.logits)
        # In the dtype of the sums: next to a likely label, 1 − p is lost to rounding in half precision
        gradient.scatter_add_(1, labels, -weight)
        _store(view, gradient)

    def _block_with_impossible_tokens(
        self, text: View | None, vision: View | None, tile: TileRows, stats: Any
    ) -> None:
        text_weight, vision_weight, kl_weight = (0.0 if each is None else each.squeeze(1) for each in tile[3:6])
        nlls = [None if nll is None else nll.squeeze(1) for nll in (tile.blind_nll, tile.sampled_nll)]
        labels = tile.labels.squeeze(1)
        group = TokenGroup(None, None, labels, text_weight, vision_weight, kl_weight)
        group = group._replace(blind_nll=nlls[0], sampled_nll=nlls[1])
        # Of an anchor neither the mask nor importance weights are asked for
        spec = self.spec if stats.kl_share is not None else replace(self.spec, kl_mask="all", importance_clip=None)
        target, share = None, None if tile.teacher_share is None else tile.teacher_share.squeeze(1)
        if tile.top_ids is not None:  # what else there is to know of it is in the share
            log_p: Any = tile.top_log_probs
            target = Target(log_p, tile.top_ids, *[stats.vision_nll.squeeze(1)] * 5)
        elif tile.label_log_p is not None:
            label_log_p = tile.label_log_p.squeeze(1)
            target = Target(label_log_p, None, label_log_p, *[stats.vision_nll.squeeze(1)] * 4)
        with torch.enable_grad():
            leaves = [
                None if view is None else view.logits.clone().requires_grad_(weight is not None)
                for view, weight in ((text, tile.text_weight), (vision, tile.vision_weight))
            ]
            text_logits, vision_logits = leaves
            loss, found = losses_of_logits(text_logits, vision_logits, group, spec, target, share)
        for own, values in zip(stats, found, strict=True):
            if own is not None and values is not None:
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


def _fill(nll, entropy, is_top1, view: View, labels) -> None:
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


def _store(view: View, gradient: torch.Tensor) -> None:
    if view.slope is not None:
        gradient.mul_(view.slope)
    if gradient is not view.rows:
        view.rows.copy_(gradient)
