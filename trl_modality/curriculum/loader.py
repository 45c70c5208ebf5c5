"""From the options of a run to the rows of its steps: the schedule, the plan, and where the rows come from."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader
from transformers.trainer_utils import seed_worker
from transformers.utils import logging

from ..data.rows import PairRows, PlannedRows
from ..views import PAIR_PROMPTS, PROMPT_COLUMN, View, images_of, text_of
from . import (
    FACTORS,
    Adaptive,
    BatchCut,
    Mix,
    Order,
    Plan,
    PlanSampler,
    Schedule,
    Size,
    StoredRows,
    get_schedule,
    size_of_epoch,
)
from .stream import FILLER_ROWS, StreamRows


logger = logging.get_logger(__name__)

AnyDataset = Dataset | IterableDataset

POINTS = 101  # of its progress, at which a schedule is tried out before training
# What a checkpoint's plan and this run's must agree on for its steps to have the same rows
PLANNED = {
    "rows": "a dataset whose number of rows is",
    "replay_rows": "a replay dataset whose number of rows is",
    "batch": "a global batch (micro-batch × accumulation × ranks) of",
    "seed": "the seed",
    "order": "`train_sampling_strategy`",
    "replay_ratio": "`replay_ratio`",
    "drop_last": "`dataloader_drop_last`",
    "curriculum": "curriculum",
}


class PlannedRun(NamedTuple):
    """What a run's data loader is made of."""

    schedule: Schedule | Adaptive
    plan: Plan
    rows: PlannedRows
    sampler: PlanSampler
    described: dict[str, Any]
    """What has to be the same in a run that goes on from a checkpoint; see `PLANNED`."""


def schedule_of(args: Any, given: Schedule | None) -> Schedule | Adaptive:
    """The curriculum that the options ask for, or the one given in their place.

    Raises:
        ValueError: a schedule that returns no `Mix`, or that trains pairs in a view without a weight.
    """
    if given is None and args.curriculum == "adaptive":
        schedule = Adaptive(args.curriculum_target_gap, args.curriculum_window)
    else:
        schedule = given or get_schedule(args.curriculum, switch=args.curriculum_switch, period=args.curriculum_period)
    for progress, mix in tried(args, schedule):
        _check_trained(args, mix, progress)
    return schedule


def tried(args: Any, schedule: Schedule | Adaptive) -> list[tuple[float, Mix]]:
    """The mixes of a schedule over its course, each with its progress."""
    points = [point / (POINTS - 1) for point in range(POINTS)]
    raw = [schedule.mix_at(0) if isinstance(schedule, Adaptive) else schedule(progress) for progress in points]
    for progress, mix in zip(points, raw, strict=True):
        if not isinstance(mix, Mix):
            raise ValueError(
                f"the schedule returns {type(mix).__name__} at progress {progress:g}; it must return a "
                "`trl_modality.curriculum.Mix`."
            )
    return [(progress, _with_factors(args, mix, progress)) for progress, mix in zip(points, raw, strict=True)]


def _with_factors(args: Any, mix: Mix, progress: float) -> Mix:
    """The mix with what the options make of the KL and of replay at that progress."""
    return replace(
        mix,
        kl=mix.kl * FACTORS[args.kl_schedule](progress, args.kl_schedule_at),
        replay=mix.replay * FACTORS[args.replay_schedule](progress, args.replay_schedule_at),
    )


def _check_trained(args: Any, mix: Mix, progress: float) -> None:
    if args.kl_weight * mix.kl > 0:
        return
    alone = {
        "text_rich": (1.0 - mix.vision_centric, args.text_rich_weight),
        "vision_centric": (1.0 - mix.text_rich, args.vision_centric_weight),
    }
    for view, (share, weight) in alone.items():
        if share > 0 and not weight:
            raise ValueError(
                f"at progress {progress:g} the curriculum trains pairs in the {view} view alone, and "
                f"`{view}_weight` is 0 there without a KL: they would train nothing. Give the view a weight."
            )


def plan_run(
    args: Any,
    train: AnyDataset,
    replay: AnyDataset | None,
    lengths: np.ndarray | None,
    schedule: Schedule | Adaptive,
    cut: BatchCut,
    steps_done: Callable[[], int],
    saved: Callable[[], Mapping[str, Any] | None],
) -> PlannedRun:
    """The plan of a run, and the rows for it.

    Args:
        args: The config.
        train, replay: The datasets, with the columns that are used.
        lengths: Of the rows, where rows of like length are to share a step.
        schedule: Of the run.
        cut: How a global batch is cut.
        steps_done, saved: See `PlanSampler`.

    Raises:
        ValueError: replay that changes over a run of unknown length; a data loader that reads too far ahead.
    """
    replay_ratio = args.replay_ratio if replay is not None else 0.0
    plan, max_steps = _plan(args, train, replay_ratio, schedule, cut)
    seed = args.seed if args.data_seed is None else args.data_seed
    stored, stored_replay = (PairRows(data) if isinstance(data, Dataset) else None for data in (train, replay))
    rows, replayed = _in_order(args, (train, stored), (replay, stored_replay), seed, plan, lengths)
    sampler = PlanSampler(
        plan,
        rows,
        replayed,
        cut,
        used=frozenset(view for view in PROMPT_COLUMN if getattr(args, f"{view}_weight")),
        distils=args.kl_weight > 0,
        steps_done=steps_done,
        steps_per_epoch=plan.steps_per_epoch or max(max_steps, 1),
        skips=not args.ignore_data_skip,
        saved=saved,
    )
    n_rows = "stream" if stored is None else len(stored)
    n_replay_rows = None if replay is None else "stream" if stored_replay is None else len(stored_replay)
    described = {
        "rows": n_rows,
        "replay_rows": n_replay_rows,
        "batch": cut.batch,
        # A stream has an order of its own
        "seed": None if stored is None or args.train_sampling_strategy == "sequential" else seed,
        "order": None if stored is None else args.train_sampling_strategy,
        "replay_ratio": replay_ratio,
        "drop_last": args.dataloader_drop_last,
        "curriculum": _described(args, schedule, max_steps),
    }
    n_slots = None if plan.size is None else plan.size.slots
    return PlannedRun(schedule, plan, PlannedRows(stored, stored_replay, n_slots), sampler, described)


def _in_order(
    args: Any,
    train: tuple[AnyDataset, PairRows | None],
    replay: tuple[AnyDataset | None, PairRows | None],
    seed: int,
    plan: Plan,
    lengths: np.ndarray | None,
) -> tuple[Any, Any]:
    """The rows and the replay rows, each a stream or stored, in the order in which they are taken."""
    (stream, stored), (replay_stream, stored_replay) = train, replay
    shuffles = args.train_sampling_strategy != "sequential"
    if stored is None:
        rows = StreamRows(stream, "train_dataset")  # pyright: ignore[reportArgumentType]
    else:
        order = Order(len(stored), seed if shuffles else None, lengths=lengths, rows_before=plan.rows_before)
        rows = StoredRows(order, _filler(stored))
    if stored_replay is not None:
        return rows, StoredRows(Order(len(stored_replay), seed + 1 if shuffles else None))
    return rows, None if replay_stream is None else StreamRows(replay_stream, "replay_dataset")  # pyright: ignore


def _filler(rows: PairRows) -> int | None:
    """The first row with an image, among as many as are looked at in a stream."""
    n_rows = min(len(rows), FILLER_ROWS)
    return next((i for i in range(n_rows) if images_of(rows[i], View.TEXT_RICH)), None)


def _plan(
    args: Any, train: AnyDataset, replay_ratio: float, schedule: Schedule | Adaptive, cut: BatchCut
) -> tuple[Plan, int]:
    """The plan, and over how many steps its schedule runs."""
    n_rows = len(train) if isinstance(train, Dataset) else None
    is_constant = all(mix.replay == 1.0 for _, mix in tried(args, schedule))
    size = None if n_rows is None or not is_constant else size_of_epoch(n_rows, replay_ratio)
    if size is not None:
        _check_share(size, replay_ratio)
    if size is not None and args.dataloader_drop_last:
        slots = size.slots // cut.batch * cut.batch
        size = size._replace(slots=slots, replay=slots * size.replay // size.slots)
        if not slots:
            raise ValueError(
                f"`dataloader_drop_last` leaves nothing: the dataset has {n_rows} rows, a global batch "
                f"{cut.batch}. Set it to False, or lower the batch."
            )
    max_steps = args.max_steps
    if max_steps <= 0 and size is not None:
        max_steps = math.ceil(args.num_train_epochs * -(-size.slots // cut.batch))
    if max_steps <= 0 and n_rows is not None:
        raise ValueError("With replay that changes in the course of a run, set `max_steps`: epochs have no length.")
    if isinstance(schedule, Adaptive):
        _check_reads_ahead(args, schedule)
    mix_at = _by_step(args, schedule, max(max_steps, 1))
    return Plan(mix_at, batch=cut.batch, replay_ratio=replay_ratio, size=size), max_steps


def _check_share(size: Size, replay_ratio: float) -> None:
    """An epoch has whole rows of replay: in a small dataset that may be another share than the one asked for."""
    if replay_ratio and not size.replay:
        raise ValueError(
            f"`replay_ratio`={replay_ratio:g} is less than a row of replay in an epoch of {size.rows} rows: raise it, "
            "or leave it out."
        )
    share = size.replay / size.slots
    if abs(share - replay_ratio) > 5e-4:
        logger.warning(
            f"`replay_ratio`={replay_ratio:g}: an epoch of {size.rows} rows has {size.replay} rows of replay, a share "
            f"of {share:.4f}."
        )


def _described(args: Any, schedule: Schedule | Adaptive, max_steps: int) -> str:
    """The shares of a schedule over its course, as far as rows and views follow from them, in a few words."""
    if isinstance(schedule, Adaptive):
        return f"adaptive in windows of {schedule.window} steps"
    shares = [(mix.text_rich, mix.vision_centric, mix.replay, mix.vision_ratio) for _, mix in tried(args, schedule)]
    if len(set(shares)) == 1:
        return "constant {:g}, {:g}, {:g}".format(*shares[0][:3])
    return f"{hashlib.sha256(repr(shares).encode()).hexdigest()[:8]} over {max_steps} steps"


def check_same_plan(described: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """That a checkpoint was made by the same plan, so that going on from it trains on every row as if uninterrupted.

    Raises:
        ValueError: it was not; names what differs.
    """
    for name, what in PLANNED.items():
        if name in saved and saved[name] != described[name]:
            raise ValueError(
                f"the checkpoint was made with {what} {saved[name]}, this run has {described[name]}: its steps would "
                "have other rows, some of them twice and others never. Go on with what the checkpoint was made with; "
                "or set `ignore_data_skip=True` to go on in the new order; or start a new run from its weights."
            )


def _by_step(args: Any, schedule: Schedule | Adaptive, max_steps: int) -> Callable[[int], Mix]:
    def mix_at(step: int) -> Mix:
        progress = min(step / max_steps, 1.0)
        mix = schedule.mix_at(step) if isinstance(schedule, Adaptive) else schedule(progress)
        return _with_factors(args, mix, progress)

    return mix_at


def data_loader(args: Any, run: PlannedRun, collate: Any, accelerator: Accelerator) -> DataLoader:
    """The data loader of a run, as `Trainer` makes and prepares one, but for the sampler, which knows its rank."""
    loader = DataLoader(
        run.rows,  # pyright: ignore[reportArgumentType]
        batch_sampler=run.sampler,
        collate_fn=collate,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers,
        multiprocessing_context=args.dataloader_multiprocessing_context,
        prefetch_factor=args.dataloader_prefetch_factor,
        in_order=args.dataloader_in_order,
        worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
    )
    return prepare_data_loader(
        loader,
        accelerator.device,
        num_processes=1,
        process_index=0,
        put_on_device=accelerator.device_placement,
        non_blocking=accelerator.non_blocking,
    )


def lengths_of(dataset: Dataset, column: str) -> np.ndarray:
    """The length of each row: from its column if there is one, else the characters of its longest view.

    Images are not counted; where they differ much in tokens, give the column.
    """
    if column in dataset.column_names:
        return np.asarray(dataset.with_format("numpy")[column])
    columns = [c for c in (*PAIR_PROMPTS, "prompt", "messages", "text", "completion") if c in dataset.column_names]
    texts = dataset.select_columns(columns).with_format(None)

    def length(row: Any) -> int:
        characters = {name: len(text_of(value)) for name, value in row.items() if value is not None}
        views = [characters.pop(name, 0) for name in PAIR_PROMPTS]
        return max(views) + sum(characters.values())

    return np.fromiter((length(row) for row in texts), dtype=np.int64, count=len(dataset))


def _check_reads_ahead(args: Any, schedule: Adaptive) -> None:
    ahead = 1 + args.dataloader_num_workers * (args.dataloader_prefetch_factor or 2)
    steps = -(-ahead // args.gradient_accumulation_steps) + 1
    if steps > schedule.window:
        raise ValueError(
            f"`curriculum='adaptive'` decides a window of `curriculum_window`={schedule.window} steps one ahead, "
            f"but {args.dataloader_num_workers} data loader workers read {steps} steps ahead. Set it to {steps} "
            "or more."
        )
