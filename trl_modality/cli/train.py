"""`trl-modality train`: train a model on pairs by a YAML recipe or by options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from ..data.importers.read import AUTO, ReadOptions
from ..data.sources import open_dataset, select_split
from ..data.test_split import split_by_content
from ..trainer import ModalityBalancedSFTTrainer
from .reading import COLUMNS_HELP, FORMAT_HELP, ROOT_HELP, SKIP_BAD_HELP, SKIP_HELP, TURNS_HELP, parse_columns, say


@dataclass
class TrainArguments(ScriptArguments):
    """The script arguments of `trl sft`, how a dataset that is a file is read, and the dataset of replayed rows."""

    file_format: str = field(default=AUTO, metadata={"help": FORMAT_HELP})
    image_root: list[str] | None = field(default=None, metadata={"help": ROOT_HELP})
    turns: str = field(default="each", metadata={"help": TURNS_HELP})
    columns: list[str] | None = field(default=None, metadata={"help": COLUMNS_HELP})
    skip_missing: bool = field(default=False, metadata={"help": SKIP_HELP})
    skip_bad: bool = field(default=False, metadata={"help": SKIP_BAD_HELP})
    test_share: float | None = field(
        default=None,
        metadata={
            "help": "Share of the training split that is held out as `test`, with no question and no image of it."
        },
    )

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
        dataset = open_dataset(
            script_args.dataset_name,
            streaming=script_args.dataset_streaming,
            reading=_reading(script_args),
            say=say,
            **config,
        )
    dataset = dataset if isinstance(dataset, Mapping) else {_split_of(script_args.dataset_train_split): dataset}
    dataset = _with_test_split(dataset, script_args)
    splits = [script_args.dataset_train_split]
    if training_args.eval_strategy != "no":
        splits.append(script_args.dataset_test_split)
    try:
        chosen = [select_split(dataset, split, str(script_args.dataset_name)) for split in splits]
    except ValueError as error:
        raise ValueError(
            f"{error} Set `dataset_train_split` and `dataset_test_split`, or `test_share`, or `eval_strategy: 'no'`."
        ) from error
    _check_something_is_learnt(chosen[0], script_args.dataset_name, training_args.dataset_text_field)
    return chosen[0], chosen[1] if len(chosen) > 1 else None


def _reading(script_args: Any) -> ReadOptions:
    return ReadOptions(
        script_args.file_format,
        script_args.image_root,
        script_args.turns,
        parse_columns(script_args.columns or ()),
        script_args.skip_missing,
        script_args.skip_bad,
    )


def _split_of(spec: str) -> str:
    """The split that a slice is of: `train` of `train[:800]`."""
    return spec.partition("[")[0]


def _with_test_split(dataset: Mapping[str, Any], script_args: Any) -> Mapping[str, Any]:
    """The splits, with a test split held out of the training split if `test_share` asks for one."""
    name, test = script_args.dataset_train_split, _split_of(script_args.dataset_test_split)
    if script_args.test_share is None:
        return dataset
    if test in dataset:
        raise ValueError(f"`test_share`: {script_args.dataset_name} has a split {test!r} already.")
    halves = split_by_content(select_split(dataset, name, str(script_args.dataset_name)), script_args.test_share)
    say(f"held out: {len(halves['test']):,} rows as {test!r}; {len(halves['train']):,} are trained on")
    return {**dataset, name: halves["train"], test: halves["test"]}


def _check_something_is_learnt(dataset: Any, name: Any, text_field: str) -> None:
    columns = dataset.column_names or ()
    if "prompt" in columns and not {"completion", "messages", text_field} & {*columns}:
        raise ValueError(
            f"{name} has questions (`prompt`) without answers, so there is nothing to learn. `trl-modality data "
            "transcribe` and `data trace` make pairs of them, or name the field of the answers: `--columns "
            "completion=FIELD`."
        )


def _replay(script_args: Any) -> Any:
    if script_args.replay_dataset_name is None:
        return None
    config = {} if script_args.replay_dataset_config is None else {"name": script_args.replay_dataset_config}
    return open_dataset(
        script_args.replay_dataset_name,
        script_args.replay_dataset_split,
        streaming=script_args.dataset_streaming,
        reading=ReadOptions(),
        say=say,
        **config,
    )
