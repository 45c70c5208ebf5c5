"""Whom the tokens of a batch learn from, beside the live text_rich view: hidden states of a teacher, and its head."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..kernels import Teacher, TeacherHead
from ..views import View
from .token_layout import PAIRS, TokenLayout


@dataclass
class PairedStates:
    """What a model called with `paired_states=True` returns: no loss, and nothing with a gradient."""

    states: dict[str, torch.Tensor]
    """For each group of the token layout, the hidden states `[M, H]` at the places that predict its labels."""
    head: TeacherHead


@dataclass(frozen=True)
class Teachings:
    """Whom the groups of a token layout learn from, by their names; a group that is not listed has no teacher."""

    teachers: dict[str, Teacher] = field(default_factory=dict)
    """Of the vision_centric view of `pairs`."""
    anchors: dict[str, Teacher] = field(default_factory=dict)
    """What holds the text_rich view of `pairs`, and rows of the text_rich view and of replay."""
    blind_nll: dict[str, torch.Tensor] = field(default_factory=dict)
    """`[M]`, what the teacher of `pairs` says of the labels where it sees no more than the student."""


def states_by_group(states: PairedStates | None, tokens: TokenLayout) -> dict[str, Teacher]:
    """A teacher's states over the text_rich and the replay rows of a batch, as its groups have them.

    Args:
        states: Of the teacher, over rows without partners; `None` where it has read nothing.
        tokens: Of the student's batch, in which the first text_rich rows have partners.
    """
    teachers: dict[str, Teacher] = {}
    if states is None:
        return teachers
    paired = tokens.groups.get(PAIRS)
    n_paired = 0 if paired is None else len(paired["labels"])
    for name, hidden in states.states.items():
        if name == View.TEXT_RICH:
            if n_paired:
                teachers[PAIRS] = Teacher(hidden[:n_paired], states.head)
            if len(hidden) > n_paired:
                teachers[name] = Teacher(hidden[n_paired:], states.head)
        else:
            teachers[name] = Teacher(hidden, states.head)
    return teachers


def states_of(
    hidden: torch.Tensor, tokens: TokenLayout, weight: Any, bias: Any, rules: Any, whole: Callable[[Any], Any]
) -> PairedStates:
    """The states of all supervised tokens, from the hidden states `[T, H]` of a forward without gradient."""
    found = {}
    for name, tensors in tokens.groups.items():
        if name == PAIRS:
            found[View.TEXT_RICH.value] = hidden.index_select(0, tensors["text_places"].to(hidden.device))
            name = View.VISION_CENTRIC.value
        places = tensors["places"].to(hidden.device)
        own = hidden.index_select(0, places)
        found[name] = torch.cat([found[name], own]) if name in found else own
    weight, bias = whole(weight), whole(bias)
    bias = rules.bias_without_excluded(weight, bias)
    head = TeacherHead(_as_it_is(weight), _as_it_is(bias), rules.logit_scale, rules.logit_softcap)
    return PairedStates(found, head)


def _as_it_is(parameter: Any) -> Any:
    """What trains, detached while the teacher's weights are in place: it has the student's again afterwards. So has
    what ZeRO-3 has put together, which is in parts again.

    What does not train is the student's too, by which the loss knows that it needs no copy of its own.
    """
    if parameter is None or not (parameter.requires_grad or hasattr(parameter, "ds_id")):
        return parameter
    return parameter.detach()
