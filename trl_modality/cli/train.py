"""`trl-modality train`: train a model on pairs by a YAML recipe or by options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from trl import (
    DatasetMixtureConfig,
    ModelConfig,
    ScriptArguments,
    TrlParser,
    get_dataset,
    get_peft_config,
    get_quantization_config,
)

from ..config import ModalityBalancedSFTConfig
from ..data.sources import open_dataset
from ..trainer import ModalityBalancedSFTTrainer


@dataclass
class TrainArguments(ScriptArguments):
    """The script arguments of `trl sft`, and the dataset of replayed rows."""

    replay_dataset_name: str | None = field(
        default=None, metadata={"help": "Folder, or id on the hub, of the rows that `replay_ratio` mixes in."}
    )
    replay_dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the replay dataset."})
    replay_dataset_split: str = field(default="train", metadata={"help": "Split of the replay dataset."})


def main(argv: Sequence[str]) -> int:
    """Train a model and save it; evaluation, resuming and the upload to the hub follow the config."""
    script_args, training_args, model_args, mixture = _parser().parse_args_and_config(list(argv))
    if model_args.model_name_or_path is None:
        raise ValueError("`model_name_or_path` is missing: name a model on the hub, or a folder.")
    train_dataset, eval_dataset = _datasets(script_args, training_args, mixture)
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "trust_remote_code": training_args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(training_args.model_init_kwargs or {}),
    }
    trainer = ModalityBalancedSFTTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        replay_dataset=_replay(script_args),
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    # On the command line `--resume_from_checkpoint true` is text, and stands for the last checkpoint
    checkpoint = training_args.resume_from_checkpoint
    trainer.train({"true": True, "false": None}.get(str(checkpoint).lower(), checkpoint))
    trainer.save_model(training_args.output_dir)
    trainer.accelerator.print(f"wrote the model to {training_args.output_dir}")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
    trainer.end()
    return 0


def _parser() -> TrlParser:
    options: Any = (TrainArguments, ModalityBalancedSFTConfig, ModelConfig, DatasetMixtureConfig)
    parser = TrlParser(options, prog="trl-modality train")
    # TRL's own default, True, is an error on a machine without a GPU
    parser.set_defaults_with_config(bf16=torch.cuda.is_available())
    return parser


def _datasets(script_args: Any, training_args: Any, mixture: Any) -> tuple[Any, Any]:
    """The training split, and the test split or, without evaluation, `None`."""
    if (script_args.dataset_name is None) == (not mixture.datasets):
        raise ValueError("give one of `dataset_name` (a folder, or an id on the hub) and `datasets` (a mixture).")
    if mixture.datasets:
        dataset = get_dataset(mixture)
    else:
        config = {} if script_args.dataset_config is None else {"name": script_args.dataset_config}
        dataset = open_dataset(script_args.dataset_name, streaming=script_args.dataset_streaming, **config)
    splits = [script_args.dataset_train_split]
    if training_args.eval_strategy != "no":
        splits.append(script_args.dataset_test_split)
    if missing := [split for split in splits if split not in dataset]:
        raise ValueError(
            f"no split {missing[0]!r} in {script_args.dataset_name}; it has {', '.join(map(str, dataset))}. Set "
            "`dataset_train_split` and `dataset_test_split`, or `eval_strategy: 'no'`."
        )
    return dataset[splits[0]], dataset[splits[1]] if len(splits) > 1 else None


def _replay(script_args: Any) -> Any:
    if script_args.replay_dataset_name is None:
        return None
    config = {} if script_args.replay_dataset_config is None else {"name": script_args.replay_dataset_config}
    return open_dataset(
        script_args.replay_dataset_name,
        script_args.replay_dataset_split,
        streaming=script_args.dataset_streaming,
        **config,
    )
