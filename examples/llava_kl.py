# /// script
# dependencies = ["trl-modality[examples,quant]"]
# ///
"""
Train a LLaVA on pairs so that it sees as well as it reads: supervised fine-tuning on both views, and a KL term that
pulls the vision_centric view towards the text_rich one.

Without arguments: a LLaVA of 1.3 million random weights learns to answer questions about charts and tables, drawn
from real tables (see `trl_modality/data/tables.py`), from data to both evaluations in under five minutes on two CPU
cores:

```bash
accelerate launch examples/llava_kl.py
accelerate launch examples/llava_kl.py --kl_weight 0 --curriculum none --output_dir outputs/llava_sft  # plain SFT
```

The same script on a real model and a dataset of pairs, with LoRA (one 80 GB GPU) or QLoRA (one 24 GB GPU; untested
there):

```bash
accelerate launch examples/llava_kl.py \
    --model_name_or_path llava-hf/llava-1.5-7b-hf --dtype bfloat16 \
    --dataset_name <owner>/<pairs> \
    --use_peft --lora_target_modules q_proj k_proj v_proj o_proj \
    --load_in_4bit \
    --learning_rate 1e-4 --per_device_train_batch_size 4
```

It prints loss and exact-match accuracy per view before and after, and writes `gap.json` and the trained model to
`--output_dir`. A dataset needs the pair columns (`trl_modality/views.py`); rows with an `answer` are also graded.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer, View
from trl_modality.data.demo import make_demo_pairs
from trl_modality.data.drawing import IMAGE_SIZE
from trl_modality.evaluation.accuracy import exact_match


VIEWS = (View.TEXT_RICH, View.VISION_CENTRIC)

# What any run of this script starts from; a --config file and the command line override it.
DEFAULTS = {
    "output_dir": "outputs/llava_kl",
    "max_length": None,
    "report_to": "none",
    # TRL's own default, True, is an error on a machine without a GPU.
    "bf16": torch.cuda.is_available(),
}

# And what suits a tiny model with random weights, on a CPU.
TINY_DEFAULTS = {
    "max_steps": 500,
    "per_device_train_batch_size": 32,  # pairs
    "per_device_eval_batch_size": 100,
    "learning_rate": 2e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 30,
    "adam_beta2": 0.98,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "logging_steps": 50,
    "save_strategy": "no",
}


@dataclass
class Arguments(ScriptArguments):
    train_pairs: int = field(default=8000, metadata={"help": "Number of training pairs of the embedded data."})
    accuracy_pairs: int = field(default=200, metadata={"help": "Number of test pairs that are answered and graded."})
    max_new_tokens: int = field(default=32, metadata={"help": "Longest graded answer, in tokens."})


def parse_arguments(argv: list[str] | None = None) -> tuple[Arguments, ModalityBalancedSFTConfig, ModelConfig]:
    """Command line over --config file over the defaults above; the tiny ones count only without a named model."""
    only_model = TrlParser((ModelConfig,), add_help=False, allow_abbrev=False)
    named_model = only_model.parse_args_and_config(argv, return_remaining_strings=True)[0].model_name_or_path
    parser = TrlParser((Arguments, ModalityBalancedSFTConfig, ModelConfig))
    parser.set_defaults_with_config(**(DEFAULTS if named_model else DEFAULTS | TINY_DEFAULTS))
    return parser.parse_args_and_config(argv)


def load_pairs(script_args: Arguments, seed: int) -> tuple[Dataset, Dataset]:
    """(train, test): the named dataset, or the embedded one."""
    if script_args.dataset_name is None:
        return make_demo_pairs(script_args.train_pairs, script_args.accuracy_pairs, seed)
    pairs = load_dataset(
        script_args.dataset_name, name=script_args.dataset_config, streaming=script_args.dataset_streaming
    )
    return pairs[script_args.dataset_train_split], pairs[script_args.dataset_test_split]


def texts_of(pairs: Dataset) -> Iterator[str]:
    """What the tokenizer of the tiny model is trained on; the images are not decoded."""
    for row in pairs.select_columns(["text_rich_prompt", "vision_centric_prompt", "completion"]):
        for messages in row.values():
            yield from (message["content"] for message in messages)


def make_trainer(
    script_args: Arguments, training_args: ModalityBalancedSFTConfig, model_args: ModelConfig
) -> ModalityBalancedSFTTrainer:
    train, test = load_pairs(script_args, training_args.seed)
    processor = None
    if model_args.model_name_or_path is None:
        from _tiny_llava import build_tiny_llava

        model, processor = build_tiny_llava(texts_of(train), image_size=IMAGE_SIZE, seed=training_args.seed)
    else:
        model = model_args.model_name_or_path
        training_args.model_init_kwargs = {
            "revision": model_args.model_revision,
            "trust_remote_code": training_args.trust_remote_code,
            "attn_implementation": model_args.attn_implementation,
            "dtype": model_args.dtype,
            **(training_args.model_init_kwargs or {}),
        }
    return ModalityBalancedSFTTrainer(
        model=model,
        args=training_args,
        train_dataset=train,
        eval_dataset=test,
        processing_class=processor,
        peft_config=get_peft_config(model_args),
        quantization_config=get_quantization_config(model_args),
    )


def describe(trainer: ModalityBalancedSFTTrainer) -> str:
    """One line on what is about to happen."""
    counts = [
        f"{d.num_rows:,}" if isinstance(d, Dataset) else "?" for d in (trainer.train_dataset, trainer.eval_dataset)
    ]
    parameters = sum(p.numel() for p in trainer.model.parameters())
    return f"{counts[0]} training pairs, {counts[1]} held-out pairs, a model of {parameters / 1e6:.2f} M parameters"


def measure(trainer: ModalityBalancedSFTTrainer, script_args: Arguments) -> dict[str, Any]:
    """
    Per view the loss (`nll`, nats per completion token) and the exact-match `accuracy` (0-1; `None` if the test rows
    have no `answer`), and the gap between the views (`nats`; accuracy in percentage `points`): positive is bad.
    """
    metrics = trainer.evaluate()
    measured: dict[str, Any] = {
        view: {"nll": metrics[f"eval_{view}_nll"], "accuracy": None, "correct": None, "graded": None} for view in VIEWS
    }
    measured["gap"] = {"nats": metrics["eval_gap_nats"], "points": None}
    pairs = list(trainer.eval_dataset.take(script_args.accuracy_pairs))
    if all(row.get("answer") is not None for row in pairs):
        for view in VIEWS:
            result = exact_match(
                trainer.model,
                trainer.processing_class,
                pairs,
                view,
                batch_size=trainer.args.per_device_eval_batch_size,
                max_new_tokens=script_args.max_new_tokens,
                show_progress=trainer.is_world_process_zero(),
            )
            measured[view] |= {"accuracy": result.accuracy, "correct": result.correct, "graded": result.total}
        accuracies = [measured[view]["accuracy"] for view in VIEWS]
        measured["gap"]["points"] = 100 * (accuracies[0] - accuracies[1])
    return measured


def format_table(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The two measurements side by side, in plain text."""
    rows = dict.fromkeys(VIEWS, ("nll", "accuracy", 100)) | {"gap": ("nats", "points", 1)}
    lines = [
        f"{'':<16}{'loss, nats per token':>24}{'exact match, %':>24}",
        f"{'':<16}{'before':>12}{'after':>12}{'before':>12}{'after':>12}",
    ]
    for name, (loss, accuracy, scale) in rows.items():
        losses = [f"{state[name][loss]:.3f}" for state in (before, after)]
        shares = [state[name][accuracy] for state in (before, after)]
        cells = losses + ["-" if share is None else f"{scale * share:.1f}" for share in shares]
        lines.append(f"{name:<16}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def count_tokens(trainer: ModalityBalancedSFTTrainer) -> dict[str, int]:
    """Tokens of the rows that were trained on, and those of them that a shared prefix spared."""
    log = next(log for log in reversed(trainer.state.log_history) if "train_loss" in log)
    return {"tokens": int(log["num_tokens"]), "tokens_saved": int(log["num_tokens_saved"])}


def main() -> None:
    started = time.perf_counter()
    script_args, training_args, model_args = parse_arguments()
    if model_args.model_name_or_path is None and training_args.world_size == 1:
        # `accelerate launch` leaves one thread to a process; so small a model gains nothing from more than four
        torch.set_num_threads(min(4, os.cpu_count() or 1))
    trainer = make_trainer(script_args, training_args, model_args)
    say = trainer.accelerator.print
    say(describe(trainer))
    say("1/3 measuring both views before training")
    before = measure(trainer, script_args)
    say(f"2/3 training on pairs: kl_weight={training_args.kl_weight:g}, curriculum={training_args.curriculum}")
    training_started = time.perf_counter()
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    training_seconds = time.perf_counter() - training_started
    say("3/3 measuring both views after training")
    after = measure(trainer, script_args)
    trainer.save_model(training_args.output_dir)
    if trainer.is_world_process_zero():
        report = {
            "kl_weight": training_args.kl_weight,
            "curriculum": training_args.curriculum,
            "steps": trainer.state.global_step,
            "training_seconds": round(training_seconds, 1),
            "seconds": round(time.perf_counter() - started, 1),
            **count_tokens(trainer),
            "before": before,
            "after": after,
        }
        path = Path(training_args.output_dir, "gap.json")
        path.write_text(json.dumps(report, indent=2) + "\n")
        print(f"\n{format_table(before, after)}\n")
        tokens, saved = report["tokens"], report["tokens_saved"]
        print(f"{saved:,} of {tokens:,} tokens ({saved / tokens:.0%}) were common to both views, and computed once.")
        print(f"{report['steps']} steps in {training_seconds:.0f} s; wrote {path} and the model beside it.")
    trainer.end()


if __name__ == "__main__":
    main()
