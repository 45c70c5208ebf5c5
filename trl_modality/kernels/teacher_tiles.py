"""The logits of teachers with a head of their own, for one tile at a time."""

import math
from typing import Any

import torch

from .head import HeadProducts
from .reference import Target, target_of_logits
from .spec import LossSpec, Teacher, accumulation_dtype
from .tiles import MIB, TilePlan, padded_columns


# Logits of tokens that a teacher does not know: a probability of 0, without infinities, which would be looked after
UNKNOWN, UNKNOWN_HALF = -1e30, -3e4
# Memory for logits in the dtype of the sums, of which the likeliest are sought
TOP_MIB = 64
Rules = tuple[float, float | None]


class TeacherTiles:
    """The logits of teachers, in a buffer that is used again for every tile.

    Args:
        head: The student's, which may be a teacher's too.
        student_weight, student_bias: Its weight `[V, H]`, and its bias `[V]` or `None`.
        plan: Sizes of the tiles.
        is_needed: Whether any group has a teacher with a head.
    """

    def __init__(
        self,
        head: HeadProducts,
        student_weight: torch.Tensor,
        student_bias: torch.Tensor | None,
        plan: TilePlan,
        is_needed: bool,
    ):
        self._student, self._dtype, self._plan = head, head.dtype, plan
        self._student_weight, self._student_bias = student_weight, student_bias
        self._products: dict[int, HeadProducts] = {}
        self._made: tuple[Any, ...] = ()
        device, self._vocab_size = student_weight.device, len(student_weight)
        shape = (plan.tokens if is_needed else 0, padded_columns(self._vocab_size, device))
        self._logits = torch.empty(shape, dtype=head.dtype, device=device)[:, : self._vocab_size]

    def logits(self, teacher: Teacher, source: Any, n_tokens: int) -> tuple[torch.Tensor, Rules]:
        """The products `[N, V]` of a teacher's head for some of its hidden states, and what makes logits of them.

        Asked for the same once more, they are still there, if they have been left as they were.
        """
        tile, (hidden, head) = self._logits[:n_tokens], teacher
        if self._made and self._made[0] is teacher and self._made[1] is source:
            return tile, (head.logit_scale, head.logit_softcap)
        self._made = teacher, source
        n_known = min(len(head.weight), self._vocab_size)
        self._head_of(teacher).logits(hidden[source].to(self._dtype), tile[:, :n_known])
        if n_known < self._vocab_size:
            tile[:, n_known:] = UNKNOWN_HALF if self._dtype == torch.float16 else UNKNOWN
        return tile, (head.logit_scale, head.logit_softcap)

    def know_no_others(self, teacher: Teacher, nll_N: torch.Tensor, labels_N: torch.Tensor) -> None:
        """Make the NLL of labels that a teacher does not know infinite, as it is."""
        if len(teacher.head.weight) < self._vocab_size:
            nll_N.masked_fill_(labels_N >= len(teacher.head.weight), math.inf)

    def target(self, tile_NV: torch.Tensor, rules: Rules | None, labels_N: torch.Tensor, spec: LossSpec) -> Target:
        """The likeliest tokens of each row of a tile, which is left as it is."""
        scale, softcap = rules or (spec.logit_scale, spec.logit_softcap)
        dtype = accumulation_dtype(tile_NV.dtype)
        at_a_time = max(1, int(TOP_MIB * MIB / (self._vocab_size * dtype.itemsize)))
        parts = []
        for rows, labels in zip(tile_NV.split(at_a_time), labels_N.split(at_a_time), strict=True):
            z = rows.to(dtype) * scale
            z = z if softcap is None else softcap * torch.tanh(z / softcap)
            parts.append(target_of_logits(z, labels, spec))
        return Target(*(torch.cat(fields) for fields in zip(*parts, strict=True)))

    def _head_of(self, teacher: Teacher) -> HeadProducts:
        weight, bias = teacher.head.weight.detach(), teacher.head.bias
        if teacher.head.weight is self._student_weight and bias is self._student_bias:
            return self._student
        if id(teacher.head.weight) not in self._products:
            is_small = weight.numel() <= self._student_weight.numel()
            self._products[id(teacher.head.weight)] = HeadProducts(
                weight[: self._vocab_size],
                None if bias is None else bias.detach()[: self._vocab_size],
                self._dtype,
                self._plan.head_rows,
                needs_weight=False,
                needs_bias=False,
                copies=self._plan.copies_head and weight.dtype != self._dtype and is_small,
            )
        return self._products[id(teacher.head.weight)]
