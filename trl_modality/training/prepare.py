"""From the arguments of a trainer to a run: which loss serves it, and the checks before its first step, in order."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from typing import Any, NamedTuple

from accelerate.utils import is_peft_model
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedModel, TrainingArguments
from transformers.utils import logging

from .._compat import keep_4bit_trainable
from .._extras import require
from ..collation.collator import PairedCollator
from ..collation.prompt_processors import is_ours_to_call
from ..config import ModalityBalancedSFTConfig
from ..config_checks import LESS_IS_BETTER
from ..curriculum.options import RunSchedule
from ..images import PixelLimits
from ..modeling.families import shares_prefix
from ..modeling.forward import add_paired_loss
from ..modeling.loss_settings import LossSettings
from ..modeling.token_layout import TokenLayouts
from ..views import View
from . import checks
from .bad_rows import quarantine_of
from .datasets import (
    AnyDataset,
    checked_replay,
    copy_without_waiting,
    disable_batch_dispatch,
    has_images,
    has_pairs,
    map_datasets,
    named_datasets,
    watch_for_late_pairs,
    without_decoding,
)
from .suspicions import say_there_are_no_pairs, say_where_slots_are_words


logger = logging.get_logger(__name__)


class PreparedRun(NamedTuple):
    """What is known of a run before `SFTTrainer` sets it up."""

    arguments: dict[str, Any]
    """For `SFTTrainer.__init__`; with views, `args` is a `ModalityBalancedSFTConfig` of its own."""
    uses_views: bool
    """Whether the loss of pairs serves the run: it has pairs, or rows with images that are scaled or not padded, or
    that TRL's collator cannot collate."""
    replay_dataset: AnyDataset | None
    padding_free: bool
    """Whether rows of a batch become one sequence. `SFTTrainer` refuses that with images, so it is not told."""


def _is_ours_to_collate(arguments: Mapping[str, Any]) -> bool:
    """Whether TRL's collator fails on images with the processor of a run."""
    model, processor = arguments.get("model"), arguments.get("processing_class")
    if processor is None and isinstance(model, str):
        with suppress(OSError, ValueError):  # the host says what is wrong with it
            args = arguments.get("args")
            given = getattr(args, "model_init_kwargs", None) or {}
            loading = {key: given[key] for key in ("revision", "subfolder") if key in given}
            trusted = bool(getattr(args, "trust_remote_code", False))  # said, so that nobody is asked
            config = AutoConfig.from_pretrained(model, trust_remote_code=trusted, **loading)
            return is_ours_to_call(None, config.model_type)
    return is_ours_to_call(processor, getattr(getattr(model, "config", None), "model_type", None))


def prepare_run(given: Mapping[str, Any], replay_dataset: Any, schedule: Any, teacher_model: Any) -> PreparedRun:
    """Check the arguments of a trainer, and give those that `SFTTrainer` is to be made with.

    Args:
        given: Those of `SFTTrainer.__init__`, by name.
        replay_dataset, schedule, teacher_model: Those of `ModalityBalancedSFTTrainer`.

    Raises:
        PairError, ValueError: rows or options that cannot be trained on as they are.
        ImportError: a model in 4 or 8 bits without bitsandbytes.
    """
    arguments = {name: value for name, value in given.items() if name != "self"}
    if isinstance(arguments.get("quantization_config"), BitsAndBytesConfig):
        require("bitsandbytes", extra="quant", purpose="A model in 4 or 8 bits needs")
    args, train, evaluation = (arguments.get(name) for name in ("args", "train_dataset", "eval_dataset"))
    datasets = named_datasets(train, evaluation)
    text_field, padding_free = getattr(args, "dataset_text_field", "text"), getattr(args, "padding_free", False)
    with_pairs = [name for name, dataset in datasets.items() if has_pairs(dataset, name, text_field)]
    changes_images = bool(PixelLimits.of(args).set_ones)
    uses_views = bool(with_pairs)
    if not uses_views and has_images(datasets):
        uses_views = padding_free or changes_images or _is_ours_to_collate(arguments)
    replay = checked_replay(replay_dataset, args, datasets, uses_views)
    checks.check_schedule(schedule, args, uses_views)
    checks.check_teacher(teacher_model, args, uses_views)
    if uses_views:
        arguments["args"] = copy.copy(paired_config(args, arguments.get("model")))
        arguments["args"].padding_free = False
        if teacher_model is not None:  # so that it is known by name: no live view is the teacher
            name = getattr(getattr(teacher_model, "config", None), "_name_or_path", "")
            arguments["args"].teacher = name or type(teacher_model).__name__
        arguments["args"].accelerator_config = copy.copy(arguments["args"].accelerator_config)
        checks.reject_unsupported(arguments)
        checks.reject_text_run(datasets)
        disable_batch_dispatch(arguments["args"], datasets)
        copy_without_waiting(arguments["args"])
    if datasets and not with_pairs:
        say_there_are_no_pairs(datasets, is_expected=not isinstance(args, ModalityBalancedSFTConfig))
    for name, dataset in datasets.items():
        say_where_slots_are_words(name, dataset)
    read = without_decoding if uses_views else watch_for_late_pairs
    arguments["train_dataset"], arguments["eval_dataset"] = (map_datasets(read, each) for each in (train, evaluation))
    if uses_views and train is not None:
        checks.check_first_image(arguments["train_dataset"])
    return PreparedRun(arguments, uses_views, replay, padding_free)


def paired_config(args: TrainingArguments | None, model: Any) -> ModalityBalancedSFTConfig:
    """The config as ours, as the host turns any `TrainingArguments` into its own."""
    if isinstance(args, ModalityBalancedSFTConfig):
        return args
    if args is None:
        name = model if isinstance(model, str) else model.config._name_or_path
        return ModalityBalancedSFTConfig(f"{name.split('/')[-1] or 'model'}-ModalityBalancedSFT")
    known = {field.name for field in fields(ModalityBalancedSFTConfig) if field.init}
    given = args.to_dict()
    if unknown := sorted(given.keys() - known):
        logger.warning(
            f"`{type(args).__name__}` has fields that {ModalityBalancedSFTConfig.__name__} does not: "
            f"{', '.join(unknown)}. They are ignored; derive your config from ours to keep them."
        )
    if args.greater_is_better and f"_{args.metric_for_best_model}".endswith(LESS_IS_BETTER):
        # The host's own default, or the user's word: the two look alike
        logger.warning(
            f"The best checkpoint will be that of the largest `{args.metric_for_best_model}`, of which less is "
            f"better: set `greater_is_better=False`, as {ModalityBalancedSFTConfig.__name__} does by itself."
        )
    values = {key: value for key, value in given.items() if key in known}
    # `to_dict` hides the value of whatever ends in `_token`: secrets, and with them `eos_token`
    values |= {key: getattr(args, key) for key in values if key.endswith("_token")}
    return ModalityBalancedSFTConfig(**values)


def collator_options(args: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What `PairedCollator.from_host` is given beside the host's collator, by place and by name."""
    given = (args.completion_only_loss is not False, args.overlong, quarantine_of(args), PixelLimits.of(args))
    view = args.used_teacher_view  # not named where it is none of its own: a `from_host` may not know it
    return given, {} if view == View.TEXT_RICH else {"teacher_view": view}


class PreparedModel(NamedTuple):
    """What a run needs to know of its model."""

    decoder: PreTrainedModel
    """The language model inside, whose layers follow segments."""
    shares_prefix: bool
    """Whether the views of a pair share their prefix."""
    token_layouts: TokenLayouts


def prepare_model(model: Any, processor: Any, args: Any) -> PreparedModel:
    """Let the model of a run, or with PEFT the model inside, take the keyword `paired_loss`.

    Args:
        model, processor: Of the trainer.
        args: The config.

    Raises:
        ValueError: a model that takes no images, or that has no backbone beside its head; `share_prefix=True` or
            `padding_free=True` with a model that cannot.
    """
    base_model = model.get_base_model() if is_peft_model(model) else model
    checks.reject_text_model(base_model, processor)
    keep_4bit_trainable(base_model)
    add_paired_loss(base_model)
    adapter = getattr(model, "active_peft_config", None)
    has_virtual_tokens = getattr(adapter, "is_prompt_learning", False)
    shares = shares_prefix(args, base_model, has_virtual_tokens)
    return PreparedModel(base_model.get_decoder(), shares, TokenLayouts(base_model))


def check_run(
    args: Any,
    datasets: Mapping[str, AnyDataset],
    collate: PairedCollator,
    schedule: RunSchedule,
    *,
    shares_prefix: bool,
) -> None:
    """Check the rows of a run before its first step: `check_rows` of each dataset, this rank its share of them.

    Args:
        args: The config.
        datasets: As `named_datasets` gives them.
        collate: The collator that the rows are put through.
        schedule: Of the run.
        shares_prefix: Whether views share their prefix: it is said where sharing saves nothing on the checked pairs.

    Raises:
        PairError: a bad row.
        ValueError: all rows are to be dropped (`overlong`), or a level is asked for that the rows do not have.
    """
    checks.check_levels(schedule, datasets.get("train_dataset"))
    not_shared = []
    for name, dataset in datasets.items() if args.check_rows else ():
        not_shared += checks.check_rows(
            dataset,
            collate,
            args.check_rows,
            name=name,
            rank=args.process_index,
            world_size=args.world_size,
            levels=schedule.moves_level,
            bad_rows_limit=args.bad_rows_limit,
        )
    if args.process_index == 0:
        checks.say_what_no_teacher_reads(datasets, args.used_teacher_view)
        if shares_prefix:
            checks.say_what_is_not_shared(not_shared)


@contextmanager
def collating_with(trainer: Any, settings: LossSettings | None) -> Iterator[None]:
    """A context in which a trainer makes data loaders whose batches have all that the loss of a run with pairs needs;
    with `None`, as usual."""
    own = trainer.data_collator
    if settings is not None:
        trainer.data_collator = trainer._collating(own, settings)
    try:
        yield
    finally:
        trainer.data_collator = own
