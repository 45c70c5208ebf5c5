"""Decisions that all processes of a run take alike: an error on one is an error on each, and none waits for it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from .fingerprint import ABSENT, flat


def on_main(accelerator: Accelerator, decide: Callable[[], Any]) -> Any:
    """What the main process decides, on every process; an error there is raised on every process."""
    if accelerator.num_processes == 1:
        return decide()
    answer: list[Any] = [None, None]
    own_error: Exception | None = None
    if accelerator.is_main_process:
        try:
            answer[0] = decide()
        except Exception as error:
            own_error, answer[1] = error, f"{error}"
    broadcast_object_list(answer)
    if own_error is not None:
        raise own_error
    if answer[1] is not None:
        raise ValueError(answer[1])
    return answer[0]


def agreed(accelerator: Accelerator, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The fingerprint that every process makes; an error where they are not one.

    Raises:
        ValueError: it differs over the ranks, which lists what and how; or it could not be made on one of them.
    """
    if accelerator.num_processes == 1:
        return make()
    own, error = {}, None
    try:
        own = make()
    except Exception as raised:
        error = raised
    told = gather_object([(own, None if error is None else f"{type(error).__name__}: {error}")])
    if error is not None:
        raise error
    failed = {rank: text for rank, (_, text) in enumerate(told) if text is not None}
    if failed:
        rank, text = next(iter(failed.items()))
        raise ValueError(f"rank {rank} cannot say what it trains on: {text}")
    by_rank = [dict(flat(each)) for each, _ in told]
    names = dict.fromkeys(name for each in by_rank for name in each)
    lines = [line for name in names if (line := _disagreement(name, by_rank))]
    if lines:
        raise ValueError(
            "the processes of this run do not agree on what they train, so that their gradients would be of different "
            f"runs: {'; '.join(lines)}. Start every process with the same script, options and data."
        )
    return own


def _disagreement(name: str, by_rank: Sequence[Mapping[str, Any]]) -> str | None:
    values = [each.get(name, ABSENT) for each in by_rank]
    # Weights that are sharded, or loaded on one rank alone, cannot be told
    if None in values and name == "model.base_weights" or all(value == values[0] for value in values):
        return None
    return f"`{name}` is " + ", ".join(f"{value!r} on rank {rank}" for rank, value in enumerate(values))
