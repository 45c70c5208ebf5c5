"""Checks before the first step: what can be known to fail later fails here, with the row, the field and the remedy."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from ..collation.teacher_view import PROMPT, TeacherView
from ..curriculum.options import RunSchedule
from ..curriculum.rows import at_level
from ..curriculum.stream import unread_stream
from ..data.rows import PairRows
from ..images import PixelLimits
from ..views import (
    BAD_COLUMN,
    DATASET_COLUMN,
    IMAGE_COLUMNS,
    INDEX_COLUMN,
    PAIR_PROMPTS,
    PairError,
    View,
    is_pair,
    load_images,
)
from .bad_rows import report_bad_rows
from .datasets import STREAM_HEAD, AnyDataset, columns_of, has_pairs, named_datasets
from .suspicions import facts_of, say_none_is_a_pair, say_what_is_suspicious


logger = logging.get_logger(__name__)

# Why the views of a pair have no image in common in their prefix
DIFFER_BEFORE, WORDS_ALONE = "differ before their image", "show their image in the vision_centric view alone"


def check_first_image(dataset: AnyDataset) -> None:
    """Decode the images of the first row: `SFTTrainer` reads that row itself, and would fail without naming it.

    Raises:
        PairError: they cannot be read, also where other rows may be left out (`bad_rows='skip'`).
    """
    try:
        _check_first_image(dataset)
    except PairError as error:
        first = f"{error.remedy} It is the first row, which `SFTTrainer` reads itself: it is never left out."
        raise PairError(error.row, error.problem, first) from error


def _check_first_image(dataset: AnyDataset) -> None:
    if isinstance(dataset, Dataset):
        row = PairRows(dataset, "train_dataset")[0]
    else:
        row = next(_numbered(dataset, "train_dataset", range(1)), None)
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
    bad_rows_limit: float = 0.0,
) -> list[str]:
    """Put rows through the collator one by one, so that a bad one is named before the first step.

    Args:
        dataset: The dataset; of a stream, the head is checked.
        collate: The collator.
        count: Number of rows, spread evenly over the dataset; −1 for all.
        name: The name of the dataset in messages.
        rank, world_size: Each rank checks its share.
        levels: Whether the first and the last of the `level_prompts` of a pair are checked too.
        bad_rows_limit: How many rows may be bad where the collator has a quarantine, to which they go.

    Returns:
        For each pair, why its views have no image in common in their prefix; '' where they have.

    Raises:
        PairError: a bad row, where the collator has no quarantine.
        ValueError: all rows are to be dropped (`overlong`), or too many are bad.
    """
    quarantine, bad = collate.quarantine, []
    put_through = collate if quarantine is None else collate.collate_or_raise
    picked, n_picked = _picked_rows(dataset, name, count, rank, world_size, keeps_errors=quarantine is not None)
    progress = tqdm(picked, desc=f"Checking {name}", total=n_picked, disable=rank > 0 or n_picked < 32)
    reasons, facts, n_rows, n_dropped = [], [], 0, 0
    for row in progress:
        try:
            batch = _checked_batch(row, put_through, levels)
        except PairError as error:
            if quarantine is None:
                raise
            quarantine.add(row, error)
            bad.append(error)
            continue
        n_rows += 1
        is_dropped = bool(batch["view_layout"].overlong.get("dropped"))
        n_dropped += is_dropped
        if is_pair(row):
            facts.append(facts_of(row))
        if is_pair(row) and not is_dropped:
            reasons.append(_why_no_shared_image(batch, collate))
    report_bad_rows(bad, n_rows + len(bad), name, bad_rows_limit)
    if rank == 0:
        say_what_is_suspicious(name, facts, changes_prompts=levels)
        if n_rows and not facts and name == "train_dataset" and {*PAIR_PROMPTS} & {*columns_of(dataset, name)}:
            say_none_is_a_pair(name, n_rows)
    _report_dropped(n_dropped, n_rows, name, collate.max_length)
    return reasons


def _report_dropped(n_dropped: int, n_rows: int, name: str, max_length: int | None) -> None:
    """Warn of rows that `overlong='drop'` leaves out; raise if those are all."""
    if n_dropped:
        message = (
            f"`overlong='drop'` leaves out {n_dropped} of the {n_rows} rows of `{name}` that were checked: they have "
            f"more than `max_length`={max_length} tokens."
        )
        if n_dropped == n_rows:
            raise ValueError(f"{message} Set `max_length` higher, or to None.")
        logger.warning(message)


def _picked_rows(
    dataset: AnyDataset, name: str, count: int, rank: int, world_size: int, *, keeps_errors: bool
) -> tuple[Iterator[dict[str, Any]], int]:
    """The rows that a rank checks, spread evenly over a dataset or from the head of a stream, and their number."""
    if isinstance(dataset, Dataset):
        rows = PairRows(dataset, name, keeps_errors=keeps_errors)
        total = len(rows) if count == -1 else min(count, len(rows))
        indices = [position * len(rows) // total for position in range(total)][rank::world_size]
        return (rows[index] for index in indices), len(indices)
    total = STREAM_HEAD if count == -1 else min(count, STREAM_HEAD)
    indices = list(range(rank, total, world_size))
    return _numbered(dataset, name, indices), len(indices)


def _checked_batch(row: Mapping[str, Any], collate: Callable[[Any], dict], levels: bool) -> dict[str, Any]:
    """A row through the collator, with `levels` also with the first and the last of its prompts."""
    if row.get(BAD_COLUMN) is not None:
        raise row[BAD_COLUMN]
    if levels and is_pair(row):
        collate([at_level(row, 0.0)])
        collate([at_level(row, 1.0)])
    return collate([row])


def _numbered(stream: IterableDataset, name: str, places: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The rows of a stream at some places, in order, with their place and the name of the dataset."""
    place = -1
    try:
        for place, row in enumerate(islice(stream, places[-1] + 1 if places else 0)):
            if place in places:
                yield {**row, INDEX_COLUMN: place, DATASET_COLUMN: name}
    except PairError:
        raise
    except Exception as error:
        raise unread_stream(name, place + 1, error) from error


def _why_no_shared_image(batch: Mapping[str, Any], collate: PairedCollator) -> str:
    layout: ViewLayout = batch["view_layout"]
    ids = batch["input_ids"][0]
    places = torch.isin(ids, ids.new_tensor(collate.image_token_ids)).nonzero().flatten()
    if not layout.sharing_pairs:
        return "show different images" if len(places) else WORDS_ALONE
    return DIFFER_BEFORE if len(places) and layout.prefixes[0] <= places[0] else ""


def say_what_is_not_shared(reasons: Sequence[str]) -> None:
    """Warn where the views of no checked pair share an image: sharing their prefix then saves next to nothing."""
    if reasons and all(reasons) and set(reasons) != {WORDS_ALONE}:  # which is no accident
        why = " or ".join(sorted(set(reasons)))
        is_late = DIFFER_BEFORE in reasons
        remedy = " Put the image before the text where the model's template allows it." if is_late else ""
        logger.warning(
            f"`share_prefix`: the views of every checked pair {why}, so they share next to nothing. The losses are "
            f"the same; the step is not faster.{remedy}"
        )


def check_schedule(schedule: Any, args: TrainingArguments | None, uses_views: bool) -> None:
    """Refuse a curriculum that is asked for twice, or in a run without pairs.

    Raises:
        ValueError: a `schedule` beside the `curriculum` of the config, or in a run without pairs.
    """
    named = getattr(args, "curriculum", "none")
    if schedule is not None and named != "none":
        raise ValueError(f"`schedule` is given beside `curriculum={named!r}`: leave one of them out.")
    if not uses_views and (schedule is not None or named != "none"):
        what = "`schedule`" if schedule is not None else f"`curriculum={named!r}`"
        raise ValueError(f"{what} is for datasets with pairs, and none has any: there are no views to choose from.")


def check_teacher(teacher_model: Any, args: TrainingArguments | None, uses_views: bool) -> None:
    """Refuse a teacher that is asked for twice, or in a run without pairs.

    Raises:
        ValueError: a `teacher_model` beside the `teacher` of the config, or either in a run without pairs.
    """
    named = getattr(args, "teacher", "live")
    if teacher_model is not None and named != "live":
        raise ValueError(f"`teacher_model` is given beside `teacher={named!r}`: leave one of them out.")
    if not uses_views and (teacher_model is not None or named != "live"):
        what = "`teacher_model`" if teacher_model is not None else f"`teacher={named!r}`"
        raise ValueError(f"{what} is for datasets with pairs, and none has any: there is no view to teach.")


def check_levels(schedule: RunSchedule, dataset: AnyDataset | None) -> None:
    """Refuse a schedule that moves the level of the vision_centric view over a dataset without `level_prompts`."""
    if dataset is None or not schedule.moves_level:
        return
    if "level_prompts" not in columns_of(dataset, "train_dataset"):
        raise ValueError(
            "the curriculum moves the level of the vision_centric view; `train_dataset` has no `level_prompts`, a "
            "list of prompts for each pair, from all facts in words to none. Add it (`Problem.to_pair` makes it), or "
            "choose another curriculum."
        )


def reject_text_run(datasets: Mapping[str, AnyDataset]) -> None:
    """Refuse a training set without images beside an evaluation set of pairs: the run would be set up for text."""
    train = datasets.get("train_dataset")
    if train is not None and not set(IMAGE_COLUMNS[:2]) & set(columns_of(train, "train_dataset")):
        raise ValueError(
            "`eval_dataset` has pairs, but `train_dataset` has no `images` or `image` column, so the run would be set "
            "up for text. Give both datasets an image column (an empty list where a row has no image)."
        )


def reject_text_model(model: PreTrainedModel, processor: ProcessorMixin) -> None:
    """Refuse a model that takes no images: it would fail inside of its forward, or train on the words alone."""
    image_inputs = getattr(getattr(processor, "image_processor", None), "model_input_names", ["pixel_values"])
    if not set(image_inputs) & set(inspect.signature(model.forward).parameters):
        raise ValueError(
            f"The dataset has pairs, but {type(model).__name__} takes no images (none of {', '.join(image_inputs)}). "
            "Load an image-text-to-text model, or train on plain text rows."
        )


def reject_unsupported(given: Mapping[str, Any]) -> None:
    """Refuse arguments of `SFTTrainer` that would replace the loss of pairs, or mix up their rows, without a word."""
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


def reject_parallelism(accelerator: Accelerator, loss_backend: str) -> None:
    """Refuse context and sequence parallelism, and the reference loss with DeepSpeed ZeRO-3."""
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


def reject_late_pairs(dataset: Any, text_field: str) -> None:
    """Refuse to evaluate on pairs with a trainer that was set up without."""
    for name, each in named_datasets(None, dataset).items():
        if has_pairs(each, name, text_field):
            raise ValueError(
                f"`{name}` has pairs, but the trainer was set up without. Give it a dataset with pairs at the start "
                "(as `train_dataset` or `eval_dataset`)."
            )


def say_what_no_teacher_reads(datasets: Mapping[str, AnyDataset], view: str) -> None:
    """Warn of columns for a teacher in a run whose teacher sees something else."""
    for name, dataset in datasets.items():
        if view != TeacherView.TEACHER_PROMPT and PROMPT in columns_of(dataset, name):
            logger.warning(
                f"`{name}` has a `{PROMPT}`, which no teacher reads with `teacher_view={view!r}`: set "
                "`teacher_view='teacher_prompt'`, or leave the column out."
            )


def check_collator(collator: Any, args: Any) -> None:
    """Refuse a data collator that does not know the views of a pair; warn of one with another policy for rows."""
    if not isinstance(collator, PairedCollator):
        raise ValueError(
            f"`data_collator` is a {type(collator).__name__}, which does not know the views of a pair. Give a "
            "`PairedCollator` (or a subclass), or leave it out."
        )
    if collator.overlong != args.overlong:
        logger.warning(
            f"`overlong={args.overlong!r}` is not used: the given `data_collator` has {collator.overlong!r}."
        )
    if (pixels := PixelLimits.of(args)) != collator.pixels:
        raise ValueError(
            f"`max_pixels` and `min_pixels` of the config are {pixels[0]} and {pixels[1]}, those of the given "
            f"`data_collator` {collator.pixels[0]} and {collator.pixels[1]}: the model would be evaluated on other "
            "images than it is trained on. Give both the same."
        )
    if collator.teacher_view != args.used_teacher_view:
        raise ValueError(
            f"`teacher_view` of the config is {args.used_teacher_view!r}, that of the given `data_collator` "
            f"{collator.teacher_view!r}: a teacher reads what the collator makes. Give both the same."
        )
    if args.bad_rows == "skip" and collator.quarantine is None:
        logger.warning(
            "`bad_rows='skip'` is not used: the given `data_collator` has no `quarantine`, and stops at bad rows."
        )
