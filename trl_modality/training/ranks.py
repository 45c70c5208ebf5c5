"""Decisions that all processes of a run take alike: an error on one is an error on each, and none waits for it."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from .._compat import set_group_timeout
from .fingerprint import ABSENT, flat


# What gloo and NCCL say when another process does not answer, or has ended
LOST = re.compile(r"time.?out|timed out|connection (closed|reset|refused)|NCCL|broken pipe", re.IGNORECASE)


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


@contextmanager
def waiting_for_others(args: Any) -> Iterator[None]:
    """A context in which processes on CPUs wait for one another as long as `ddp_timeout` says, and errors name it.

    The host passes it on to groups of GPUs alone: a process that is stopped would keep the others waiting for half an
    hour, whatever the option.
    """
    if args.world_size == 1 or not torch.distributed.is_initialized():
        yield
        return
    if "gloo" in torch.distributed.get_backend():
        set_group_timeout(args.ddp_timeout)
    try:
        yield
    except RuntimeError as error:
        if LOST.search(str(error)):
            error.add_note(
                f"Process {args.process_index} of {args.world_size} waited for the others: one of them has ended (its "
                f"own output says why), or did not answer for {args.ddp_timeout} s (`ddp_timeout`). Go on from the "
                "last checkpoint with `resume_from_checkpoint=True`."
            )
        raise
