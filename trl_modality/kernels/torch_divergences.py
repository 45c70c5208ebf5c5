"""The divergences of `torch_rows`: their values, and the gradients of the student's logits, on a block of rows.

With p the teacher's distribution, q the student's, both at the temperature τ, and D = Σ_c d(p_c, q_c) over entries or
classes c of the vocabulary, the gradient of a logit j of class c is

    (q_j / q_c) · (q_c·d'_c − q_c·Σ_k q_k·d'_k) / τ,     d' = ∂d/∂q

where `kl_clip` leaves out of D, but for a constant, and of the sum the entries whose d is above it. With full
vocabularies and without a clip that is

    forward KL       q − p
    reverse KL       q·(log q − log p − KL)
    JSD              (1 − β)·q·(log q − log m − KL(q ‖ m)),    m = (1 − β)·q + β·p

An estimate from the label y has the gradient c·(q − 1[y]) / τ, with a coefficient c of its own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .spec import K3_BOUND, K3_LOG_RATIO, LossSpec


@dataclass
class View:
    """One view of a block while it is processed: tensors `[R, V]`, or `[R, 1]` with one value per row."""

    rows: torch.Tensor
    """Rows of the tile: at first the raw products of the head, in the end the gradients of these."""
    logits: torch.Tensor
    """Scaled, soft-capped, and shifted to a maximum of 0; overwritten by the divergence, then by the gradient.
    The tile's own rows where their dtype is that of the sums, unless these have to stay."""
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

    def label_log_p(self, labels: torch.Tensor, tau: float) -> torch.Tensor:
        """`[R, 1]` log-probability of the labels at the temperature; of logits that are not overwritten yet."""
        return self.logits.gather(1, labels) / tau - self.tempered_total.log()


class Divergences:
    """Divergences by the options of a loss.

    Each returns the divergence `[R, 1]` and, if there is a weight, leaves weight × its gradient in `product`. They
    overwrite the logits of both views.

    Args:
        spec: options of the loss.
        times: probability·value into a tensor, where 0 times an infinity counts as 0; on a CPU, NaN.
        reads_values: whether values may be looked at, which waits for any device but a CPU.
    """

    def __init__(self, spec: LossSpec, times: Callable[..., torch.Tensor], reads_values: bool):
        self.spec, self._times, self._reads_values = spec, times, reads_values
        full = {"forward_kl": self._forward_kl, "reverse_kl": self._reverse_kl, "jsd": self._jsd}
        clipped = dict.fromkeys(full, self._clipped) if spec.kl_clip is not None else full
        self._of_views = clipped.get(spec.divergence)

    def __call__(self, teacher: View, student: View, labels: torch.Tensor, weight, product) -> torch.Tensor:
        """Of two views of the same tokens."""
        if self._of_views is None:
            log_p = teacher.label_log_p(labels, self.spec.temperature)
            return self.of_label(log_p, student, labels, weight, product)
        return self._of_views(teacher, student, weight, product)

    def of_top(self, student: View, ids_RK, log_p_RC, weight, product) -> torch.Tensor:
        """Of the student from the K tokens of a teacher, and from all others as one class."""
        tau = self.spec.temperature
        log_total = student.tempered_total.log()
        others = torch.mul(student.tempered, 1.0, out=product).scatter_(1, ids_RK, 0.0).sum(1, keepdim=True)
        log_q_RC = torch.cat([student.logits.gather(1, ids_RK) / tau, others.log()], 1) - log_total
        kl, slopes_RC = class_divergence(log_p_RC.to(log_q_RC.dtype), log_q_RC, self.spec)
        if weight is not None:
            q_RC, scale = log_q_RC.exp(), weight / tau
            total = slopes_RC.sum(1, keepdim=True)
            of_others = torch.where(q_RC[:, -1:] > 0, slopes_RC[:, -1:] / q_RC[:, -1:], 0.0) - total
            product.copy_(student.tempered).mul_(_finite(scale * of_others / student.tempered_total, scale))
            product.scatter_(1, ids_RK, _finite(scale * (slopes_RC - q_RC * total)[:, :-1], scale))
        return kl

    def _forward_kl(self, teacher: View, student: View, weight, product) -> torch.Tensor:
        gap = teacher.logits.sub_(student.logits)
        expected_gap = self._times(teacher.tempered, gap, product).sum(1, keepdim=True).div_(teacher.tempered_total)
        if weight is not None:
            weight = weight / self.spec.temperature
            torch.mul(student.tempered, weight / student.tempered_total, out=product)
            product.addcmul_(teacher.tempered, weight / teacher.tempered_total, value=-1.0)
        return expected_gap / self.spec.temperature + (student.tempered_total / teacher.tempered_total).log_()

    def _reverse_kl(self, teacher: View, student: View, weight, product) -> torch.Tensor:
        gap = student.logits.sub_(teacher.logits)
        expected_gap = self._times(student.tempered, gap, product).sum(1, keepdim=True).div_(student.tempered_total)
        if weight is not None:
            self._times(student.tempered, gap.sub_(expected_gap), product)
            product.mul_(weight / (self.spec.temperature**2 * student.tempered_total))
            # Not finite: likely for the student, (next to) impossible for the teacher
            if not (self._reads_values and all_finite([expected_gap])):
                product.masked_fill_(weight == 0, 0.0)
        return expected_gap / self.spec.temperature + (teacher.tempered_total / student.tempered_total).log_()

    def _jsd(self, teacher: View, student: View, weight, product) -> torch.Tensor:
        beta, log_student_share = self.spec.beta, math.log(1 - self.spec.beta)
        shift = math.log(beta) - log_student_share
        ratio_r, ratio_v = self._log_by_mixture(teacher, student, shift, product)
        kl_r = self._times(teacher.tempered, ratio_r, product).sum(1, keepdim=True).div_(teacher.tempered_total)
        kl_v = self._times(student.tempered, ratio_v, product).sum(1, keepdim=True).div_(student.tempered_total)
        if weight is not None:
            self._times(student.tempered, ratio_v.sub_(kl_v), product)
            product.mul_((1 - beta) * weight / (self.spec.temperature * student.tempered_total))
        return beta * (kl_r - shift) + (1 - beta) * kl_v - log_student_share

    def _log_by_mixture(self, teacher: View, student: View, shift: float, product) -> tuple[torch.Tensor, ...]:
        """log p − log m + `shift` and log q − log m, both without log(1 − β), in place of the logits."""
        tau = self.spec.temperature
        if tau < 1:  # the lowest of all floats, as masks use it, would become −inf in both views, and their gap a NaN
            for view in (teacher, student):
                view.logits.clamp_(min=tau / 4 * torch.finfo(view.logits.dtype).min)
        log_q_r = teacher.logits.div_(tau).sub_(teacher.tempered_total.log() - shift)  # raised by `shift`
        log_q_v = student.logits.div_(tau).sub_(student.tempered_total.log())
        # log m − log(1 − β), in logarithms: both probabilities may be too small for a float
        torch.logaddexp(log_q_v, log_q_r, out=product)
        return log_q_r.sub_(product), log_q_v.sub_(product)

    def _clipped(self, teacher: View, student: View, weight, product) -> torch.Tensor:
        """Any of the three with `kl_clip`: what an entry adds, and q·d', in place of the logits."""
        spec, tau, clip = self.spec, self.spec.temperature, self.spec.kl_clip or math.inf
        if spec.divergence == "jsd":
            log_student_share = math.log(1 - spec.beta)
            shift = math.log(spec.beta) - log_student_share
            ratio_r, ratio_v = self._log_by_mixture(teacher, student, shift, product)
            parts = self._times(teacher.tempered, ratio_r.sub_(shift + log_student_share), product)
            parts.mul_(spec.beta / teacher.tempered_total)
            self._times(student.tempered, ratio_v.sub_(log_student_share), teacher.logits)
            slopes = teacher.logits.mul_((1 - spec.beta) / student.tempered_total)
            parts.add_(slopes)
        else:
            log_ratio = (student.tempered_total / teacher.tempered_total).log_()
            gap = teacher.logits.sub_(student.logits).div_(tau).add_(log_ratio)  # log p − log q
            if spec.divergence == "forward_kl":
                parts = self._times(teacher.tempered, gap, product).div_(teacher.tempered_total)
                slopes = torch.mul(teacher.tempered, -1.0 / teacher.tempered_total, out=gap)
            else:
                parts = self._times(student.tempered, gap.neg_(), product).div_(student.tempered_total)
                slopes = gap.copy_(parts).addcmul_(student.tempered, 1.0 / student.tempered_total)
        is_kept = parts <= clip
        kl = parts.clamp_(max=clip).sum(1, keepdim=True)
        if weight is not None:
            slopes.masked_fill_(~is_kept, 0.0)
            total = slopes.sum(1, keepdim=True)
            product.copy_(slopes).addcmul_(student.tempered, total / student.tempered_total, value=-1.0)
            product.mul_(weight / tau)
        return kl

    def of_label(self, log_p, student: View, labels: torch.Tensor, weight, product) -> torch.Tensor:
        """The estimate of a divergence from what the teacher says of the labels `[R, 1]`, at the temperature."""
        tau = self.spec.temperature
        kl, coefficient = sampled(log_p, student.label_log_p(labels, tau), self.spec.divergence)
        if weight is not None:
            coefficient = _finite(coefficient * weight / tau, weight)
            torch.mul(student.tempered, coefficient / student.tempered_total, out=product)
            product.scatter_add_(1, labels, -coefficient)
        return kl


def sampled(log_p: torch.Tensor, log_q: torch.Tensor, divergence: str) -> tuple[torch.Tensor, torch.Tensor]:
    """An estimate of a divergence from what teacher and student say of the label, and minus its slope by log q."""
    if divergence == "sampled_reverse_kl":
        return log_q - log_p, log_p - log_q
    ratio = log_p - log_q
    bounded = ratio.clamp(-K3_LOG_RATIO, K3_LOG_RATIO)
    growth = bounded.expm1()
    estimate = growth - bounded
    is_within = (ratio == bounded) & (estimate <= K3_BOUND)
    return estimate.clamp(-K3_BOUND, K3_BOUND), torch.where(is_within, growth, 0.0)


def class_divergence(log_p_RC, log_q_RC, spec: LossSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """The divergence `[R, 1]` over classes of tokens, and q·d' of each class `[R, C]`."""
    p, q = log_p_RC.exp(), log_q_RC.exp()
    if spec.divergence == "forward_kl":
        parts, slopes = _guarded(p, log_p_RC - log_q_RC), -p
    elif spec.divergence == "reverse_kl":
        parts = _guarded(q, log_q_RC - log_p_RC)
        slopes = parts + q
    else:
        beta = spec.beta
        impossible = (log_p_RC == -math.inf) & (log_q_RC == -math.inf)
        log_p, log_q = log_p_RC.masked_fill(impossible, 0.0), log_q_RC.masked_fill(impossible, 0.0)
        log_m = torch.logaddexp(log_q + math.log(1 - beta), log_p + math.log(beta))
        slopes = (1 - beta) * _guarded(q, log_q - log_m)
        parts = beta * _guarded(p, log_p - log_m) + slopes
    if spec.kl_clip is not None:
        slopes = torch.where(parts <= spec.kl_clip, slopes, 0.0)
        parts = parts.clamp(max=spec.kl_clip)
    return parts.sum(1, keepdim=True), slopes


def all_finite(columns) -> bool:
    """Whether all values of some columns are finite; it waits for their device."""
    return math.isfinite(sum(column.sum().item() for column in columns))


def _guarded(probability: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """probability·value; 0 where the probability is 0, whatever the value."""
    return torch.where(probability > 0, probability * value, 0.0)


def _finite(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Values of weight 0 as 0: an infinite divergence that nobody asked for."""
    return torch.where(weight != 0, values, 0.0)
