"""The datasets of a run: their names in messages, what is in them, and how they are read."""

from collections.abc import Callable, Mapping
from copy import copy
from itertools import islice
from typing import Any

from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from transformers import TrainingArguments
from transformers.utils import logging

from ..collation.layout import without_examples_from
from ..views import (
    IMAGE_COLUMNS,
    INDEX_COLUMN,
    PAIR_COLUMNS,
    PAIR_PROMPTS,
    PLAIN_COLUMNS,
    PairError,
    describe_row,
    is_pair,
)


logger = logging.get_logger(__name__)

AnyDataset = Dataset | IterableDataset
# A stream is read again from its start when training begins, so only its first rows are checked
STREAM_HEAD = 16


def named_datasets(train_dataset: Any, eval_dataset: Any, replay_dataset: Any = None) -> dict[str, AnyDataset]:
    """The datasets of a run by their names in messages; `eval_dataset` may be a dict, and each may be `None`."""
    named = {"train_dataset": train_dataset}
    if isinstance(eval_dataset, Mapping):
        named |= {f"eval_dataset[{key!r}]": dataset for key, dataset in eval_dataset.items()}
    else:
        named["eval_dataset"] = eval_dataset
    named["replay_dataset"] = replay_dataset
    # Anything else is the host's to refuse
    return {name: dataset for name, dataset in named.items() if isinstance(dataset, Dataset | IterableDataset)}


def map_datasets(change: Callable[[AnyDataset], AnyDataset], datasets: Any) -> Any:
    """Apply a function to a dataset, or to each dataset of a dict; `None` stays `None`."""
    if isinstance(datasets, dict):
        changed = copy(datasets)  # a dict or a DatasetDict, and it stays one
        changed.update({key: change(dataset) for key, dataset in datasets.items()})
        return changed
    return None if datasets is None else change(datasets)


def columns_of(dataset: AnyDataset, name: str) -> list[str]:
    """The columns of a dataset; those of its first row where a stream does not declare them.

    Raises:
        ValueError: the dataset is empty.
    """
    if isinstance(dataset, Dataset):
        if not len(dataset):
            raise ValueError(f"`{name}` is empty: it has no row. Check its split and its filters.")
        return dataset.column_names
    if dataset.column_names is not None:
        return dataset.column_names
    first = next(iter(dataset), None)
    if first is None:
        raise ValueError(f"`{name}` is empty: its stream ends before the first row. Check its split and its filters.")
    return list(first)


def has_pairs(dataset: AnyDataset, name: str, text_field: str = "text") -> bool:
    """Whether a dataset has a column of pairs; its rows are not looked at.

    Raises:
        ValueError: it has prompts of pairs and no column of images.
    """
    columns = columns_of(dataset, name)
    if not any(column in columns for column in PAIR_PROMPTS):
        return False
    known = {*PAIR_COLUMNS, *PLAIN_COLUMNS, text_field, "length"}
    if ignored := sorted(set(columns) - known):
        logger.warning(f"`{name}` has columns that are not part of a pair and are ignored: {', '.join(ignored)}.")
    if not any(column in columns for column in IMAGE_COLUMNS[:2]):
        raise ValueError(
            f"`{name}` has pairs but no `images` or `image` column. Both views of a pair show its image: add the "
            "column (a list of images, or one image)."
        )
    return True


def reject_late_pair(row: Mapping[str, Any], index: int) -> Mapping[str, Any]:
    """The row itself; raises if it is a pair.

    For a stream that does not declare its columns and begins with a plain row: its run was set up without pairs, and
    a later pair would be trained on as a plain row.
    """
    if is_pair(row):
        raise PairError(
            describe_row({**row, INDEX_COLUMN: index}),
            "a pair in a stream whose first row is not one, so that the run was set up without pairs.",
            "Declare the columns (`IterableDataset.cast(features)`), or put a pair first.",
        )
    return row


def watch_for_late_pairs(dataset: AnyDataset) -> AnyDataset:
    """A dataset without pairs; reading a stream that does not declare its columns raises at the first pair."""
    if isinstance(dataset, IterableDataset) and dataset.column_names is None:
        for index, row in enumerate(islice(dataset, STREAM_HEAD)):
            reject_late_pair(row, index)
        return dataset.map(reject_late_pair, with_indices=True)
    return dataset


def without_decoding(dataset: AnyDataset) -> AnyDataset:
    """The dataset, a stream with its images left undecoded, so that the collator decodes them and can name the row."""
    if isinstance(dataset, IterableDataset) and dataset.features is not None:
        return dataset.decode(enable=False)
    return dataset


def has_images(datasets: Mapping[str, AnyDataset]) -> bool:
    """Whether `SFTTrainer` would set up the run for images: by the columns of the training set, else of the first."""
    name = "train_dataset" if "train_dataset" in datasets else next(iter(datasets), None)
    return name is not None and bool(set(IMAGE_COLUMNS[:2]) & set(columns_of(datasets[name], name)))


def checked_replay(
    replay: Any, args: TrainingArguments | None, datasets: Mapping[str, AnyDataset], uses_views: bool
) -> AnyDataset | None:
    """The replay dataset, with its images undecoded.

    Raises:
        ValueError: a ratio without a dataset or a dataset without a ratio; replay in a run without pairs; a dataset
            with pairs, or without text.
    """
    ratio, text_field = getattr(args, "replay_ratio", 0.0), getattr(args, "dataset_text_field", "text")
    if (replay is None) != (ratio == 0):
        given, missing = ("replay_ratio", "replay_dataset") if replay is None else ("replay_dataset", "replay_ratio")
        raise ValueError(f"`{given}` is given without `{missing}`. Give both, or neither: nothing would be replayed.")
    if replay is None:
        return None
    if not isinstance(replay, Dataset | IterableDataset):
        raise ValueError(f"`replay_dataset` must be a `Dataset` or an `IterableDataset`, got {type(replay).__name__}.")
    if not uses_views:
        raise ValueError(
            "`replay_dataset` is for runs with pairs, and no dataset has any. Add its rows to the dataset."
        )
    columns = columns_of(replay, "replay_dataset")
    if any(column in columns for column in PAIR_PROMPTS):
        raise ValueError("`replay_dataset` has pairs; replay is of rows without. Put the pairs into `train_dataset`.")
    if not {"messages", "prompt", text_field} & set(columns):
        raise ValueError(
            f"`replay_dataset` has columns {sorted(columns)}; it needs `messages`, or `prompt` and `completion`, or "
            f"`{text_field}`."
        )
    return without_decoding(replay)


def without_repeated_rows(inputs: dict[str, Any], args: TrainingArguments, accelerator: Accelerator) -> dict[str, Any]:
    """The batch of an evaluation without the labels of rows that a sampler repeats to fill the last batch of all
    ranks, so that each row counts once."""
    state = accelerator.gradient_state
    if not (state.end_of_dataloader and state.remainder > 0):
        return inputs
    per_process = args.eval_batch_size // (args.world_size if accelerator.split_batches else 1)
    return without_examples_from(inputs, state.remainder - args.process_index * per_process)


def disable_batch_dispatch(args: TrainingArguments, datasets: Mapping[str, AnyDataset]) -> None:
    """Let each rank read streams for itself (`accelerator_config.dispatch_batches`).

    By default rank 0 reads a streamed evaluation set and cuts its batches for the others, which batches of views,
    whose tensors differ in length, do not survive.
    """
    streams = [name for name, dataset in datasets.items() if isinstance(dataset, IterableDataset)]
    if streams:
        args.accelerator_config.dispatch_batches = False
    if args.world_size > 1 and any(name.startswith("eval_dataset") for name in streams):
        logger.warning(
            "A streamed `eval_dataset` on several ranks repeats rows to fill the last batch, and its metrics count "
            "them. Give a map-style dataset for exact figures."
        )


def copy_without_waiting(args: TrainingArguments) -> None:
    """Let batches be copied to a GPU while it computes (`accelerator_config.non_blocking`), and see to it that there
    is a next one in time.

    That is safe from pinned memory, which torch does not use again before the copy is done.
    """
    if args.device.type != "cuda":
        return
    if args.dataloader_pin_memory:
        args.accelerator_config.non_blocking = True
    if args.dataloader_num_workers == 0 and args.process_index == 0:
        logger.warning(
            "`dataloader_num_workers=0`: the process that trains reads the images too, 20 to 50 pairs a second, and "
            "the GPU waits for it. Set it to 4 to 8 for each GPU."
        )
