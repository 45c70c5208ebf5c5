"""Whether a run that goes on from a checkpoint trains on the rows that the checkpoint's run would have trained on."""

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

from .adaptive import Adaptive
from .options import RunSchedule
from .schedule import Schedule


# What two runs must agree on for their steps to have the same rows, and how a message calls it
SIGNATURE = {
    "rows": "a dataset whose number of rows is",
    "replay_rows": "a replay dataset whose number of rows is",
    "batch": "a global batch (micro-batch × accumulation × ranks) of",
    "seed": "the seed",
    "order": "`train_sampling_strategy`",
    "replay_ratio": "`replay_ratio`",
    "drop_last": "`dataloader_drop_last`",
    "curriculum": "curriculum",
}
# By which names of `resume_overrides` each may be another one
OVERRIDES = {
    "rows": ("train_dataset",),
    "replay_rows": ("replay_dataset",),
    "batch": ("global_batch",),
    "seed": ("seed", "data_seed"),
    "order": ("train_sampling_strategy",),
    "replay_ratio": ("replay_ratio", "replay_dataset"),
    "drop_last": ("dataloader_drop_last",),
    "curriculum": (
        *("curriculum", "curriculum_switch", "curriculum_period", "curriculum_window", "schedule"),
        *("replay_schedule", "replay_schedule_at", "max_steps", "num_train_epochs", "train_dataset", "global_batch"),
    ),
}


def resume_signature(
    args: Any,
    *,
    n_rows: int | None,
    n_replay_rows: int | str | None,
    batch: int,
    seed: int,
    replay_ratio: float,
    curriculum: str,
) -> dict[str, Any]:
    """What a checkpoint keeps of the plan of its run, to be compared with `check_same_plan`.

    Args:
        args: The config.
        n_rows: Of the training dataset; `None` of a stream, which has an order of its own.
        n_replay_rows: Of the replay dataset: a number, "stream", or `None` without one.
        batch: Rows of a global batch.
        seed: Of the order of the rows.
        replay_ratio: Share of replay.
        curriculum: As `curriculum_signature` tells it.
    """
    is_stream = n_rows is None
    signature = {
        "rows": "stream" if is_stream else n_rows,
        "replay_rows": n_replay_rows,
        "batch": batch,
        "seed": None if is_stream or args.train_sampling_strategy == "sequential" else seed,
        "order": None if is_stream else args.train_sampling_strategy,
        "replay_ratio": replay_ratio,
        "drop_last": args.dataloader_drop_last,
        "curriculum": curriculum,
    }
    assert signature.keys() == SIGNATURE.keys()
    return signature


def curriculum_signature(schedule: RunSchedule, begun: Schedule | Adaptive, max_steps: int) -> str:
    """A schedule in a few words, the same for two schedules that show the same rows in the same views."""
    if isinstance(begun, Adaptive):
        return f"adaptive in windows of {begun.window} steps"
    shares = [(mix.text_rich, mix.vision_centric, mix.replay, mix.vision_ratio) for mix in schedule.mixes]
    if len(set(shares)) == 1:
        return "constant {:g}, {:g}, {:g}".format(*shares[0][:3])
    return f"{hashlib.sha256(repr(shares).encode()).hexdigest()[:8]} over {max_steps} steps"


def check_same_plan(signature: Mapping[str, Any], saved: Mapping[str, Any], accepted: Collection[str] = ()) -> None:
    """Raise unless a checkpoint was made by the same plan, so that a resumed run trains on every row as if it had not
    been interrupted.

    Args:
        signature: `resume_signature` of this run.
        saved: That of the checkpoint.
        accepted: The `resume_overrides` of the config; see `OVERRIDES`.

    Raises:
        ValueError: they differ; the message names the first difference.
    """
    for name, what in SIGNATURE.items():
        is_accepted = any(each.partition(".")[0] in OVERRIDES[name] for each in accepted)
        if name in saved and saved[name] != signature[name] and not is_accepted:
            raise ValueError(
                f"the checkpoint was made with {what} {saved[name]}, this run has {signature[name]}: its steps would "
                "have other rows, some of them twice and others never. Go on with what the checkpoint was made with; "
                "or set `ignore_data_skip=True` to go on in the new order; or start a new run from its weights."
            )
