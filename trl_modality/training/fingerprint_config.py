"""Which fields of a config decide what a run trains, and their values as a checkpoint keeps them."""

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from .run_record import without_secrets


# Fields that change neither the loss nor the optimizer nor the trained weights. Whatever is not named here counts, so
# that a new field of a host counts until somebody has looked at it.
WITHOUT_EFFECT = frozenset(
    {
        # What is run, and where it is written
        *("output_dir", "do_train", "do_eval", "do_predict", "run_name", "project", "resume_from_checkpoint"),
        *("resume_overrides", "report_to", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
        # Logging
        *("logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "logging_nan_inf_filter"),
        *("include_num_input_tokens_seen", "log_level", "log_level_replica", "disable_tqdm", "debug"),
        *("skip_memory_metrics",),
        # Saving
        *("save_only_model", "save_strategy", "save_steps", "save_on_each_node", "save_total_limit"),
        *("enable_jit_checkpoint", "restore_callback_states_from_checkpoint", "load_best_model_at_end"),
        *("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push"),
        *("hub_revision", "push_to_hub_token", "push_to_hub_model_id", "push_to_hub_organization"),
        # Evaluating; `PLATEAU` counts where a schedule goes by metrics
        *("eval_strategy", "eval_steps", "eval_delay", "per_device_eval_batch_size", "prediction_loss_only"),
        *("eval_on_start", "eval_do_concat_batches", "eval_use_gather_object", "eval_accumulation_steps"),
        *("include_for_metrics", "batch_eval_metrics", "eval_packing", "bf16_full_eval", "fp16_full_eval"),
        *("metric_for_best_model", "greater_is_better", "gap_eval_rows", "gap_eval_max_new_tokens"),
        *("gap_eval_tolerance", "check_rows"),
        # How a step's rows come to the model, in the same order: `global_batch` says how many they are
        *("per_device_train_batch_size", "gradient_accumulation_steps", "auto_find_batch_size"),
        *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
        *("dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataset_num_proc"),
        # What is done about faults: a run that a fault has stopped may go on with another answer to it
        *("bad_rows", "bad_rows_limit", "data_timeout", "on_nonfinite", "nonfinite_limit"),
        # How the same sums are computed, up to rounding
        *("use_cpu", "local_rank", "gradient_checkpointing", "gradient_checkpointing_kwargs"),
        *("activation_checkpointing", "activation_checkpointing_kwargs", "activation_offloading"),
        *("torch_empty_cache_steps", "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_static_graph"),
        *("ddp_backend", "ddp_timeout", "loss_backend", "loss_tile_mib", "share_prefix"),
        "cache_image_features",
        # Seen in what they make: the model, the tokenizer and the chat template are compared themselves
        *("model_init_kwargs", "trust_remote_code", "chat_template_path", "eos_token", "pad_token"),
    }
)
# Fields of `WITHOUT_EFFECT` that count all the same where the learning rate goes by evaluated metrics
PLATEAU = ("eval_strategy", "eval_steps", "eval_delay", "metric_for_best_model", "greater_is_better")
PLATEAU_SCHEDULES = ("reduce_lr_on_plateau", "greedy")
# Parts of dictionaries: set by the package itself by the device and the kind of dataset, or said by `global_batch`
PARTS_WITHOUT_EFFECT = {
    "accelerator_config": ("non_blocking", "dispatch_batches"),
    "deepspeed": ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"),
}
# What decides which rows a step has; `ignore_data_skip=True` accepts that they are others from here on
ROWS_OF_STEPS = frozenset(
    {
        *("train_dataset", "replay_dataset", "global_batch", "seed", "data_seed", "train_sampling_strategy"),
        *("length_column_name", "dataloader_drop_last", "replay_ratio", "replay_schedule", "replay_schedule_at"),
        *("curriculum", "curriculum_switch", "curriculum_period", "curriculum_target_gap", "curriculum_window"),
        *("schedule", "ignore_data_skip"),
    }
)


def config_fingerprint(args: Any) -> dict[str, Any]:
    """The fields of a config that change the loss, the optimizer or the trained weights, as plain JSON values."""
    by_metrics = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)) in PLATEAU_SCHEDULES
    names = [field.name for field in fields(args) if field.name not in WITHOUT_EFFECT]
    names += [name for name in PLATEAU if by_metrics and hasattr(args, name)]
    return {name: _field_value(name, getattr(args, name)) for name in names}


def config_default(args: Any, name: str) -> Any:
    """The default of a field, as `config_fingerprint` tells values; `None` where there is no such field."""
    for field in fields(args):
        if field.name == name:
            default = field.default if field.default_factory is MISSING else field.default_factory()
            return None if default is MISSING else _field_value(name, default)
    return None


def _field_value(name: str, value: Any) -> Any:
    if name == "deepspeed" and isinstance(value, str) and Path(value).is_file():
        value = json.loads(Path(value).read_text(encoding="utf-8"))
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    value = plain(value)
    if isinstance(value, Mapping):
        value = {key: each for key, each in value.items() if key not in PARTS_WITHOUT_EFFECT.get(name, ())}
    return value


def plain(value: Any) -> Any:
    """A value as plain JSON, without secrets and without the addresses of objects."""
    text = json.dumps(without_secrets(value), default=_described, sort_keys=True)
    return json.loads(re.sub(r" at 0x[0-9a-f]+", "", text))


def _described(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return getattr(value, "__qualname__", None) or str(value)
