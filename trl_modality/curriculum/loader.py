"""The data loader of a run: its plan from the options of the config, and the rows for it."""

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader
from transformers.trainer_utils import seed_worker
from transformers.utils import logging

from ..data.rows import PairRows
from ..views import PAIR_PROMPTS, PROMPT_COLUMN, lent_view, text_of
from .adaptive import Adaptive
from .deadline import with_deadline
from .options import RunSchedule
from .order import Order
from .plan import Plan, Size, size_of_epoch
from .resume import curriculum_signature, resume_signature
from .rows import PlannedRows
from .sampler import BatchCut, PlanSampler, StoredRows
from .schedule import Schedule
from .stream import FILLER_ROWS, StreamRows


logger = logging.get_logger(__name__)

AnyDataset = Dataset | IterableDataset


class PlannedRun(NamedTuple):
    """The parts of a run's data loader."""

    schedule: Schedule | Adaptive
    plan: Plan
    rows: PlannedRows
    sampler: PlanSampler
    signature: dict[str, Any]
    """What a run that goes on from a checkpoint must agree with; see `resume_signature`."""


def plan_run(
    args: Any,
    train: AnyDataset,
    replay: AnyDataset | None,
    lengths: np.ndarray | None,
    run_schedule: RunSchedule,
    cut: BatchCut,
) -> PlannedRun:
    """The plan of one training, and the rows for it.

    Args:
        args: The config.
        train, replay: The datasets, with the columns that are used.
        lengths: Of the rows of `train`, where rows of like length are to share a step.
        run_schedule: Of the run.
        cut: How a global batch is divided.

    Raises:
        ValueError: replay that changes over a run of unknown length; a data loader that reads too far ahead.
    """
    replay_ratio = args.replay_ratio if replay is not None else 0.0
    schedule = run_schedule.begin()
    if isinstance(schedule, Adaptive):
        _check_reads_ahead(args, schedule)
    n_rows = len(train) if isinstance(train, Dataset) else None
    size = _size_of_epoch(args, n_rows, replay_ratio, run_schedule, cut)
    max_steps = _max_steps(args, n_rows, size, cut)
    mix_at = run_schedule.mix_by_step(schedule, max(max_steps, 1))
    plan = Plan(mix_at, batch=cut.batch, replay_ratio=replay_ratio, size=size)
    seed = args.seed if args.data_seed is None else args.data_seed
    named = ((train, "train_dataset"), (replay, "replay_dataset"))
    keeps_errors = args.bad_rows == "skip"
    stored, stored_replay = (
        PairRows(data, name, keeps_errors=keeps_errors) if isinstance(data, Dataset) else None for data, name in named
    )
    rows, replayed = _in_order(args, (train, stored), (replay, stored_replay), seed, plan, lengths)
    sampler = PlanSampler(
        plan,
        rows,
        replayed,
        cut,
        used=frozenset(view for view in PROMPT_COLUMN if getattr(args, f"{view}_weight")),
        distils=args.kl_weight > 0,
        steps_per_epoch=plan.steps_per_epoch or max(max_steps, 1),
        skips=not args.ignore_data_skip,
    )
    signature = resume_signature(
        args,
        n_rows=n_rows,
        n_replay_rows=None if replay is None else "stream" if stored_replay is None else len(stored_replay),
        batch=cut.batch,
        seed=seed,
        replay_ratio=replay_ratio,
        curriculum=curriculum_signature(run_schedule, schedule, max_steps),
    )
    n_slots = None if size is None else size.slots
    planned = PlannedRows(stored, stored_replay, n_slots, keeps_errors=keeps_errors)
    return PlannedRun(schedule, plan, planned, sampler, signature)


def _in_order(
    args: Any,
    train: tuple[AnyDataset, PairRows | None],
    replay: tuple[AnyDataset | None, PairRows | None],
    seed: int,
    plan: Plan,
    lengths: np.ndarray | None,
) -> tuple[Any, Any]:
    """The rows and the replay rows in the order of training; of each, the dataset and its stored rows are given."""
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
    """Position of the first row with an image, among the first 1,000, as of a stream."""
    n_rows = min(len(rows), FILLER_ROWS)
    return next((i for i in range(n_rows) if lent_view(rows[i])), None)


def _size_of_epoch(
    args: Any, n_rows: int | None, replay_ratio: float, run_schedule: RunSchedule, cut: BatchCut
) -> Size | None:
    """`None` where an epoch has no length: of a stream, or with a share of replay that changes."""
    if n_rows is None or not run_schedule.is_replay_constant:
        return None
    size = size_of_epoch(n_rows, replay_ratio)
    _check_share(size, replay_ratio)
    if not args.dataloader_drop_last:
        return size
    slots = size.slots // cut.batch * cut.batch
    if not slots:
        raise ValueError(
            f"`dataloader_drop_last` leaves nothing: the dataset has {n_rows} rows, a global batch {cut.batch}. Set "
            "it to False, or lower the batch."
        )
    return size._replace(slots=slots, replay=slots * size.replay // size.slots)


def _max_steps(args: Any, n_rows: int | None, size: Size | None, cut: BatchCut) -> int:
    """Steps over which the schedule runs."""
    if args.max_steps > 0:
        return args.max_steps
    if size is not None:
        return math.ceil(args.num_train_epochs * -(-size.slots // cut.batch))
    if n_rows is not None:
        raise ValueError("With replay that changes in the course of a run, set `max_steps`: epochs have no length.")
    return args.max_steps


def _check_share(size: Size, replay_ratio: float) -> None:
    """Warn where an epoch, which has whole rows of replay, has another share than `replay_ratio` of them."""
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


def data_loader(args: Any, run: PlannedRun, collate: Any, accelerator: Accelerator) -> DataLoader:
    """The data loader of a run, made and prepared as `Trainer` does, but not sharded: its sampler knows the rank."""
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
    prepared = prepare_data_loader(
        loader,
        accelerator.device,
        num_processes=1,
        process_index=0,
        put_on_device=accelerator.device_placement,
        non_blocking=accelerator.non_blocking,
    )
    return with_deadline(prepared, args.data_timeout)


def grouping_lengths(args: Any, dataset: AnyDataset) -> np.ndarray | None:
    """The lengths by which the rows of a run are grouped (`group_by_length`); `None` where they are not."""
    if args.train_sampling_strategy != "group_by_length" or not isinstance(dataset, Dataset):
        return None
    return lengths_of(dataset, args.length_column_name)


def lengths_of(dataset: Dataset, column: str) -> np.ndarray:
    """The length of each row `[rows]`: its value in `column` if there is one, else the characters of its longest view.

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
    """Raise where workers would ask for steps whose window an adaptive schedule has not decided yet."""
    ahead = 1 + args.dataloader_num_workers * (args.dataloader_prefetch_factor or 2)
    steps = -(-ahead // args.gradient_accumulation_steps) + 1
    if steps > schedule.window:
        raise ValueError(
            f"`curriculum='adaptive'` decides a window of `curriculum_window`={schedule.window} steps one ahead, "
            f"but {args.dataloader_num_workers} data loader workers read {steps} steps ahead. Set it to {steps} "
            "or more."
        )
