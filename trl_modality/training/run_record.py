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
from transformers.utils import logging

from .._version import __version__
from ..resumable.records import write_json
from .datasets import named_datasets


logger = logging.get_logger(__name__)

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

    A run that goes on from a checkpoint keeps the record of its start, but for `config`, which says what is so now. It
    notes the step under `resumed_from_steps`, and under `overrides` each thing in which it is not the run that saved
    the checkpoint: `step`, `name`, `old`, `new`.

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
        now = run_record(self._trainer, self._parameters, self._schedule)
        record = now
        if step and (of_start := _readable_record(path)) is not None:
            record = {**of_start, "config": now["config"]}
        identity = self._trainer._identity
        record["run_id"] = identity.run_id
        if step:
            record["resumed_from_steps"] = [*record.get("resumed_from_steps", []), step]
            overrides = [{"step": step, "name": name, "old": old, "new": new} for name, old, new in identity.overrides]
            if overrides:
                record["overrides"] = [*record.get("overrides", []), *overrides]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, json.loads(json.dumps(record, default=str)))


def add_to_run_record(output_dir: Any, name: str, entry: dict[str, Any]) -> None:
    """Add an entry to a list in the `run.json` of a folder, once, if there is such a file; the main process does."""
    path = Path(str(output_dir), "run.json")
    record = _readable_record(path)
    if record is not None and entry not in (entries := record.get(name, [])):
        write_json(path, {**record, name: [*entries, entry]})


def _readable_record(path: Path) -> dict[str, Any] | None:
    """The record in a folder; one that cannot be read is set aside, with a warning, and does not hold up the run."""
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict) and record.get("kind") == "run":
            return record
    except (OSError, ValueError):
        pass
    aside = path.with_name(f"{path.stem}.damaged{path.suffix}")
    path.replace(aside)
    logger.warning(f"{path} cannot be read as the record of a run. It is kept as {aside.name}, and written anew.")
    return None


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
        "versions": versions(),
    }
    if (parts := getattr(trainer, "parts_table", None)) is not None:
        record["parts"] = parts
    if schedule is not None:
        record["schedule"] = getattr(schedule, "__qualname__", repr(schedule))
    if is_peft_model(model):
        record["adapter"] = without_secrets(_changed(model.active_peft_config))
    if (quantization := getattr(base_model.config, "quantization_config", None)) is not None:
        record["quantization"] = quantization if isinstance(quantization, dict) else quantization.to_diff_dict()
    return record


def versions() -> dict[str, str]:
    """The versions of the package, of its hosts and of Python."""
    hosts = {name: version(name) for name in PACKAGES}
    return {"trl_modality": __version__, **hosts, "python": platform.python_version()}


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
    return without_secrets(shown)


def _changed(config: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from its defaults."""
    defaults = {
        field.name: field.default_factory() if field.default_factory is not MISSING else field.default
        for field in fields(config)
        if field.init
    }
    values = {name: getattr(config, name) for name in defaults}
    return {name: value for name, value in values.items() if value != defaults[name]}


def without_secrets(value: Any) -> Any:
    """A value of a config without what is named like a secret, at any depth; a number is none."""
    if isinstance(value, dict):
        kept = {key: each for key, each in value.items() if not _is_secret(key, each)}
        return {key: without_secrets(each) for key, each in kept.items()}
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, list | tuple):
        return [without_secrets(each) for each in value]
    return value


def _is_secret(name: Any, value: Any) -> bool:
    # Numbers are counts of tokens: `gap_eval_max_new_tokens`
    return name not in NOT_SECRET and not isinstance(value, int | float) and bool(SECRET.search(str(name)))


def _rows(dataset: Any) -> int | None:
    return None if dataset is None or isinstance(dataset, IterableDataset) else len(dataset)
