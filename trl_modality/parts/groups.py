"""Learning rates of parts in an optimizer: its groups are split, so that each has parameters of one part."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from .choice import Choice


WRAPPED = re.compile(r"(_fsdp_wrapped_module|_orig_mod|_checkpoint_wrapped_module)\.")
"""What FSDP, `torch.compile` and activation checkpointing put into the names of parameters."""
# They step one parameter at a time inside the backward, with one learning rate
WITHOUT_GROUPS = ("lomo", "adalomo")


def split_groups(optimizer: Any, model: nn.Module, choice: Choice, optim: str, prefix: str = "") -> list[str]:
    """Split the groups of a fresh optimizer by part, and set the learning rate of each.

    What else a group has (weight decay, betas, ranks of GaLore) its parts keep. Each says under "part" what it is of:
    optimizers load groups by their place, so `check_groups` compares afterwards.

    Args:
        optimizer: That the host has made.
        model: Whose parameters it has, wrapped or not.
        choice: With a learning rate for each part.
        optim: The option that chose the optimizer, for the message.
        prefix: Of PEFT before the names of the base model.

    Returns:
        The part of each group.

    Raises:
        ValueError: an optimizer whose groups are not those of the parameters.
    """
    named = {id(p): WRAPPED.sub("", name).removeprefix(prefix) for name, p in model.named_parameters()}
    rates, groups, words, seen = choice.rate_of_group, [], [], 0
    for group in getattr(optimizer, "param_groups", ()):
        by_word: dict[str, list[Any]] = {word: [] for word in rates}
        for parameter in group["params"]:
            word = choice.word_of.get(named.get(id(parameter), ""))
            if word is None:
                raise ValueError(_refusal(optim))
            by_word[word].append(parameter)
            seen += 1
        for word, parameters in by_word.items():
            if parameters:
                groups.append({**group, "params": parameters, "lr": rates[word], "part": word})
                words.append(word)
    if seen != sum(p.requires_grad for p in model.parameters()) or optim in WITHOUT_GROUPS:
        raise ValueError(_refusal(optim))
    optimizer.param_groups = groups
    return words


def check_groups(optimizer: Any, words: Sequence[str]) -> None:
    """Raise where a checkpoint gave the groups of an optimizer the rates and moments of other parts.

    Raises:
        ValueError: with the parts of both.
    """
    found = [group.get("part") for group in optimizer.param_groups] if words else []
    if found != list(words):
        raise ValueError(
            f"the checkpoint has the optimizer's groups of {found}, and this run those of {list(words)}: each would "
            "go on with another's learning rate and moments. Begin a new run from the weights of the checkpoint in "
            "another `output_dir`."
        )


def rates_now(optimizer: Any, words: list[str]) -> Mapping[str, float]:
    """The learning rate of each part as the schedule has it now; those of weight decay and of none are the same."""
    return {word: float(group["lr"]) for word, group in zip(words, optimizer.param_groups, strict=True)}


def _refusal(optim: str) -> str:
    return (
        f"`train_parts` with learning rates needs an optimizer with a group for each of them, and that of "
        f"`optim={optim!r}` has other groups (LOMO, layer-wise optimizers, flat parameters of FSDP1). Give "
        "`train_parts` as a list, which all of them follow, or choose another `optim` (with FSDP1, "
        "`fsdp_use_orig_params: true`, or FSDP2)."
    )
