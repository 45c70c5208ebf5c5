"""Checks before the first step: what can be known to fail later fails here, with the row, the field and the remedy."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin, TrainingArguments
from transformers.utils import logging

from ..collation.collator import PairedCollator
from ..collation.layout import ViewLayout
from ..curriculum import Mix
from ..data.rows import PairRows, at_level
from ..modeling.families import why_not_shared
from ..views import (
    IMAGE_COLUMNS,
    INDEX_COLUMN,
    PAIR_COLUMNS,
    PAIR_PROMPTS,
    PLAIN_COLUMNS,
    PairError,
    View,
    describe_row,
    is_pair,
    load_images,
)


logger = logging.get_logger(__name__)

AnyDataset = Dataset | IterableDataset
# A stream is read again from its start when training begins, so only its head is checked
STREAM_HEAD = 16


def named_datasets(train_dataset: Any, eval_dataset: Any, replay_dataset: Any = None) -> dict[str, AnyDataset]:
    """The datasets of a run by what messages call them; `eval_dataset` may be a dict, or missing as any may be."""
    named = {"train_dataset": train_dataset}
    if isinstance(eval_dataset, Mapping):
        named |= {f"eval_dataset[{key!r}]": dataset for key, dataset in eval_dataset.items()}
    else:
        named["eval_dataset"] = eval_dataset
    named["replay_dataset"] = replay_dataset
    # Anything else is the host's to refuse
    return {name: dataset for name, dataset in named.items() if isinstance(dataset, Dataset | IterableDataset)}


def each(change: Callable[[AnyDataset], AnyDataset], datasets: Any) -> Any:
    """`change` applied to a dataset, to each of a dict of datasets, or to none."""
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
    """Whether the dataset has a column of pairs. Decided by its columns, not by whether its first row is a pair."""
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
    """Map function for a stream that does not declare its columns and begins with a plain row: a later pair would be
    trained on as if it were not one."""
    if is_pair(row):
        raise PairError(
            describe_row({**row, INDEX_COLUMN: index}),
            "a pair in a stream whose first row is not one, so that the run was set up without pairs.",
            "Declare the columns (`IterableDataset.cast(features)`), or put a pair first.",
        )
    return row


def guard(dataset: AnyDataset) -> AnyDataset:
    """A dataset without pairs as it is, but for a stream of unknown columns, which is watched for a late pair."""
    if isinstance(dataset, IterableDataset) and dataset.column_names is None:
        for index, row in enumerate(islice(dataset, STREAM_HEAD)):
            reject_late_pair(row, index)
        return dataset.map(reject_late_pair, with_indices=True)
    return dataset


def as_stored(dataset: AnyDataset) -> AnyDataset:
    """A stream with its images left undecoded, so that the collator decodes them and can name the row."""
    if isinstance(dataset, IterableDataset) and dataset.features is not None:
        return dataset.decode(enable=False)
    return dataset


def check_first_image(dataset: AnyDataset) -> None:
    """Decode the images of the first row: the host reads that row itself, and would fail without naming it."""
    row = PairRows(dataset)[0] if isinstance(dataset, Dataset) else next(iter(dataset), None)
    if row is None:
        raise ValueError(
            "`train_dataset` is empty: its stream ends before the first row. Check its split and filters."
        )
    for view in (View.TEXT_RICH, View.VISION_CENTRIC) if is_pair(row) else (View.PLAIN,):
        load_images(row, view)


def check_rows(
    dataset: AnyDataset,
    collate: PairedCollator,
    count: int,
    *,
    name: str,
    rank: int = 0,
    world_size: int = 1,
    levels: bool = False,
) -> list[str]:
    """Put rows through the collator one by one, so that a bad one is named before the first step.

    Args:
        dataset: The dataset; of a stream, the head is checked.
        collate: The collator.
        count: How many rows, spread evenly over the dataset; −1 for all.
        name: What to call the dataset in messages.
        rank, world_size: Each rank checks its share.
        levels: Whether the first and the last of the `level_prompts` of a pair are checked too.

    Returns:
        For each pair, why its views have no image in common in their prefix; '' where they have.

    Raises:
        PairError: a bad row.
        ValueError: all rows are to be dropped (`overlong`).
    """
    if isinstance(dataset, Dataset):
        rows = PairRows(dataset)
        total = len(rows) if count == -1 else min(count, len(rows))
        indices = [position * len(rows) // total for position in range(total)][rank::world_size]
        picked = (rows[index] for index in indices)
    else:
        total = STREAM_HEAD if count == -1 else min(count, STREAM_HEAD)
        indices = list(range(rank, total, world_size))
        picked = islice(dataset, rank, total, world_size)
    progress = tqdm(picked, desc=f"Checking {name}", total=len(indices), disable=rank > 0 or len(indices) < 32)
    reasons, n_rows, n_dropped = [], 0, 0
    for row in progress:
        if levels and is_pair(row):
            collate([at_level(row, 0.0)])
            collate([at_level(row, 1.0)])
        batch = collate([row])
        n_rows += 1
        is_dropped = bool(batch["view_layout"].overlong.get("dropped"))
        n_dropped += is_dropped
        if is_pair(row) and not is_dropped:
            reasons.append(_why_no_shared_image(batch, collate))
    if n_dropped:
        message = (
            f"`overlong='drop'` leaves out {n_dropped} of the {n_rows} rows of `{name}` that were checked: they have "
            f"more than `max_length`={collate.max_length} tokens."
        )
        if n_dropped == n_rows:
            raise ValueError(f"{message} Set `max_length` higher, or to None.")
        logger.warning(message)
    return reasons


def _why_no_shared_image(batch: Mapping[str, Any], collate: PairedCollator) -> str:
    layout: ViewLayout = batch["view_layout"]
    if not layout.sharing_pairs:
        return "show different images"
    ids = batch["input_ids"][0]
    places = torch.isin(ids, ids.new_tensor(collate.image_token_ids)).nonzero().flatten()
    return "differ before their image" if len(places) and layout.prefixes[0] <= places[0] else ""


def say_what_is_not_shared(reasons: Sequence[str]) -> None:
    """That sharing saves next to nothing on this data, where that is so of every checked pair."""
    if reasons and all(reasons):
        why = " or ".join(sorted(set(reasons)))
        logger.warning(
            f"`share_prefix`: the views of every checked pair {why}, so they share next to nothing. The losses are "
            "the same; the step is not faster. Put the image before the text where the model's template allows it."
        )


def has_images(datasets: Mapping[str, AnyDataset]) -> bool:
    """Whether the host would set up the run for images: by the columns of the training set, else of the first."""
    name = "train_dataset" if "train_dataset" in datasets else next(iter(datasets), None)
    return name is not None and bool(set(IMAGE_COLUMNS[:2]) & set(columns_of(datasets[name], name)))


def shares_prefix(args: Any, model: PreTrainedModel, balances_experts: bool, has_virtual_tokens: bool) -> bool:
    """Whether the views of a pair share their prefix, as `share_prefix` asks and the model allows.

    Raises:
        ValueError: `share_prefix=True` or `padding_free=True` with a model that cannot.
    """
    reason = why_not_shared(model)
    if balances_experts:
        reason = reason or "the load of its experts is balanced over the tokens of separate rows"
    if has_virtual_tokens:
        reason = reason or "its adapter puts tokens of its own before those of every row"
    if reason is None:
        return args.share_prefix is not False
    if args.share_prefix is True:
        raise ValueError(f"`share_prefix=True`: {reason}. Set it to 'auto' or False.")
    if args.padding_free:
        raise ValueError(f"`padding_free=True` on rows with images: {reason}. Set it to False.")
    if args.share_prefix == "auto":
        logger.warning(
            f"`share_prefix='auto'`: the views of a pair are rows of their own, since {reason}. The losses are the "
            "same; what the views have in common is computed twice. Set it to False to silence this."
        )
    return False


def replay_of(
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
    return as_stored(replay)


def check_schedule(schedule: Any, args: TrainingArguments | None, uses_views: bool) -> None:
    """That a curriculum is asked for once, and of a run with pairs.

    Raises:
        ValueError: a `schedule` beside the `curriculum` of the config, or in a run without pairs.
    """
    named = getattr(args, "curriculum", "none")
    if schedule is not None and named != "none":
        raise ValueError(f"`schedule` is given beside `curriculum={named!r}`: leave one of them out.")
    if not uses_views and (schedule is not None or named != "none"):
        what = "`schedule`" if schedule is not None else f"`curriculum={named!r}`"
        raise ValueError(f"{what} is for datasets with pairs, and none has any: there are no views to choose from.")


def check_levels(mixes: Sequence[Mix], dataset: AnyDataset | None) -> None:
    """That a schedule which moves the level of the vision_centric view finds levels in the dataset."""
    if dataset is None or all(mix.vision_ratio is None for mix in mixes):
        return
    if "level_prompts" not in columns_of(dataset, "train_dataset"):
        raise ValueError(
            "the curriculum moves the level of the vision_centric view; `train_dataset` has no `level_prompts`, a "
            "list of prompts for each pair, from all facts in words to none. Add it (`Problem.to_pair` makes it), or "
            "choose another curriculum."
        )


def reject_text_run(datasets: Mapping[str, AnyDataset]) -> None:
    """The host decides by the columns of the training set whether the run is one with images."""
    train = datasets.get("train_dataset")
    if train is not None and not set(IMAGE_COLUMNS[:2]) & set(columns_of(train, "train_dataset")):
        raise ValueError(
            "`eval_dataset` has pairs, but `train_dataset` has no `images` or `image` column, so the run would be set "
            "up for text. Give both datasets an image column (an empty list where a row has no image)."
        )


def reject_text_model(model: PreTrainedModel, processor: ProcessorMixin) -> None:
    """A text-only model would fail deep inside its forward, or train on the words around the images alone."""
    image_inputs = getattr(getattr(processor, "image_processor", None), "model_input_names", ["pixel_values"])
    if not set(image_inputs) & set(inspect.signature(model.forward).parameters):
        raise ValueError(
            f"The dataset has pairs, but {type(model).__name__} takes no images (none of {', '.join(image_inputs)}). "
            "Load an image-text-to-text model, or train on plain text rows."
        )


def reject_unsupported(given: Mapping[str, Any]) -> None:
    """Arguments of the host that would silently change the loss of the pairs, or get the wrong rows."""
    args = given["args"]
    replaces_loss, two_rows = "it would replace the loss of the views", "a pair is two rows of logits, not one"
    by_length = "rows of a step would depend on the number of ranks; use 'group_by_length'"
    unsupported = {
        "dataloader_in_order=False": (not args.dataloader_in_order, "a step would have the rows of another"),
        "train_sampling_strategy='batch_rebalance'": (args.train_sampling_strategy == "batch_rebalance", by_length),
        "loss_type='dft'": (args.loss_type == "dft", replaces_loss),
        "label_smoothing_factor": (args.label_smoothing_factor > 0, replaces_loss),
        "compute_loss_func": (given.get("compute_loss_func") is not None, replaces_loss),
        "compute_metrics": (given.get("compute_metrics") is not None, two_rows),
        "preprocess_logits_for_metrics": (given.get("preprocess_logits_for_metrics") is not None, two_rows),
    }
    for option, (is_set, reason) in unsupported.items():
        if is_set:
            raise ValueError(
                f"`{option}` is not supported on datasets with pairs, nor with `padding_free=True` on images: "
                f"{reason}. Unset it, or train on plain rows with padding."
            )


def keep_ranks_apart(args: TrainingArguments, datasets: Mapping[str, AnyDataset]) -> None:
    """Let each rank read a stream for itself: the host does so for a streamed training set only, and batches of one
    rank cannot be dispatched to others (their rows differ in length)."""
    streams = [name for name, dataset in datasets.items() if isinstance(dataset, IterableDataset)]
    if streams:
        args.accelerator_config.dispatch_batches = False
    if args.world_size > 1 and any(name.startswith("eval_dataset") for name in streams):
        logger.warning(
            "A streamed `eval_dataset` on several ranks repeats rows to fill the last batch, and its metrics count "
            "them. Give a map-style dataset for exact figures."
        )


def reject_parallelism(accelerator: Accelerator, loss_backend: str) -> None:
    """Ways to spread a model over devices that pairs, or this back end of their loss, cannot go."""
    parallelism = accelerator.parallelism_config
    if parallelism is not None and (parallelism.cp_enabled or parallelism.sp_enabled):
        raise ValueError(
            "Context and sequence parallelism are not supported on datasets with pairs: they cut the rows, and "
            "the two views of a pair with them. Set `cp_size` and `sp_size` to 1."
        )
    deepspeed = accelerator.state.deepspeed_plugin
    if deepspeed is not None and deepspeed.zero_stage == 3 and loss_backend == "reference":
        raise ValueError(
            "`loss_backend='reference'` needs the whole head in its backward, where DeepSpeed ZeRO-3 has sharded "
            "it again. Leave it at 'auto'."
        )
