"""The record of a training run, `run.json`: its model, data, settings and versions."""

import json
import platform
import re
from dataclasses import MISSING, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from datasets import IterableDataset
from peft import PeftModel
from transformers import TrainerCallback

from .._version import __version__
from ..evaluation.asking.records import write_json
from .datasets import named_datasets


FORMAT = 1
PACKAGES = ("trl", "transformers", "torch", "accelerate", "datasets", "peft")
# Fields that are recorded even where they have their default: those in which runs usually differ
ALWAYS = (
    "seed",
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "text_rich_weight",
    "vision_centric_weight",
    "kl_weight",
    "divergence",
    "kl_schedule",
    "curriculum",
    "replay_ratio",
)
# Named like secrets, but tokens of the tokenizer
NOT_SECRET = ("eos_token", "pad_token")
SECRET = re.compile(r"(^|_)(token|password|secret|auth|key)s?$", re.IGNORECASE)


class RunRecord(TrainerCallback):
    """Writes `run.json` into the output folder of a trainer when training begins; the main process does.

    A run that goes on from a checkpoint keeps the record of its start, and notes the step under `resumed_from_steps`.

    Args:
        trainer: The trainer, complete; its parameters are counted here, before FSDP shards them.
        schedule: The user's own, where there is one in place of the curriculum.
    """

    def __init__(self, trainer: Any, schedule: Any = None):
        self._trainer, self._schedule = trainer, schedule
        self._parameters = count_parameters(trainer.model)

    def on_train_begin(self, args, state, control, **kwargs):
        if not self._trainer.is_world_process_zero():
            return
        path, step = Path(str(args.output_dir), "run.json"), state.global_step
        if step and path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
        else:
            record = run_record(self._trainer, self._parameters, self._schedule)
        if step:
            record["resumed_from_steps"] = [*record.get("resumed_from_steps", []), step]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, json.loads(json.dumps(record, default=str)))


def run_record(trainer: Any, parameters: tuple[int, int], schedule: Any = None) -> dict[str, Any]:
    """What `run.json` holds: plain JSON values, and no secret. The number of rows of a stream is `None`.

    Args:
        trainer: The trainer.
        parameters: Numbers of (trainable, all) parameters.
        schedule: See `RunRecord`.
    """
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    base_model = model.get_base_model() if is_peft_model(model) else model
    trainable, total = parameters
    record = {
        "format": FORMAT,
        "kind": "run",
        "name": args.run_name or Path(args.output_dir).resolve().name,
        "model": getattr(base_model.config, "_name_or_path", "") or type(base_model).__name__,
        "parameters": total,
        "trainable_parameters": trainable,
        "seed": args.seed,
        "world_size": args.world_size,
        "train_rows": _rows(trainer.train_dataset),
        "eval_rows": {name: _rows(rows) for name, rows in named_datasets(None, trainer.eval_dataset).items()},
        "replay_rows": _rows(trainer.replay_dataset),
        "config": config_of(args),
        "versions": {
            "trl_modality": __version__,
            **{name: version(name) for name in PACKAGES},
            "python": platform.python_version(),
        },
    }
    if schedule is not None:
        record["schedule"] = getattr(schedule, "__qualname__", repr(schedule))
    if is_peft_model(model):
        record["adapter"] = _without_secrets(_changed(model.active_peft_config))
    if (quantization := getattr(base_model.config, "quantization_config", None)) is not None:
        record["quantization"] = quantization if isinstance(quantization, dict) else quantization.to_diff_dict()
    return record


def count_parameters(model: Any) -> tuple[int, int]:
    """(trainable, all) parameters, those of 4-bit layers and of weights sharded by ZeRO-3 among them."""
    # Of any module: it asks for nothing but `named_parameters`
    return PeftModel.get_nb_trainable_parameters(model)


def config_of(args: Any) -> dict[str, Any]:
    """The fields of a config that differ from its class's defaults, and a few always; without secrets."""
    changed = _changed(args)
    values = args.to_dict()
    # `to_dict` hides the value of whatever ends in `_token`
    values |= {name: getattr(args, name) for name in NOT_SECRET if name in values}
    shown = {name: value for name, value in values.items() if name in changed or name in ALWAYS}
    return _without_secrets(shown)


def _changed(config: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from its defaults."""
    defaults = {
        field.name: field.default_factory() if field.default_factory is not MISSING else field.default
        for field in fields(config)
        if field.init
    }
    values = {name: getattr(config, name) for name in defaults}
    return {name: value for name, value in values.items() if value != defaults[name]}


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: each for key, each in value.items() if key in NOT_SECRET or not SECRET.search(str(key))}
        return {key: _without_secrets(each) for key, each in kept.items()}
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, list | tuple):
        return [_without_secrets(each) for each in value]
    return value


def _rows(dataset: Any) -> int | None:
    return None if dataset is None or isinstance(dataset, IterableDataset) else len(dataset)
