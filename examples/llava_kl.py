# /// script
# dependencies = ["trl-modality[examples,plot,quant]"]
# ///
"""
Train a LLaVA on pairs: supervised fine-tuning on both views, and a KL term that pulls the vision_centric view towards
the text_rich one. The gap between the views is measured before and after.

Without arguments, the script takes a LLaVA of 1.4 million parameters that answers questions about facts in words, but
not about pictures (`examples/make_base_model.py`). It asks the model about charts and tables that are drawn from real
tables (see `trl_modality/problems/real_tables.py`), trains it, and asks again; a minute and a half on two CPU cores:

```bash
accelerate launch examples/llava_kl.py
accelerate launch examples/llava_kl.py --kl_weight 0 --output_dir outputs/llava_sft  # plain SFT
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

It prints accuracy per view and control before and after, with intervals, and writes the trained model, both
evaluations (`evals/`) and a report (`report.html`) to `--output_dir`. A dataset needs the pair columns
(`trl_modality/views.py`). If all test rows have an `answer`, answers are graded; else the loss is measured.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer
from trl_modality.evaluation import Grader, ModalityGapEvaluator, Question, Request, TransformersGenerator, ask
from trl_modality.evaluation.formatting import PLAIN
from trl_modality.evaluation.intervals import Interval
from trl_modality.evaluation.text.run import write_text_result
from trl_modality.problems.demo.pairs import make_demo_pairs
from trl_modality.problems.demo.text_skill import make_text_skill
from trl_modality.report import write_report
from trl_modality.training import measure_gap


BASE_MODEL = os.path.relpath(Path(__file__).parent / "base_model")

# Defaults of every run of this script; a --config file and the command line override them.
DEFAULTS = {
    "output_dir": "outputs/llava_kl",
    "max_length": None,
    "report_to": "none",
    # TRL's own default, True, is an error on a machine without a GPU.
    "bf16": torch.cuda.is_available(),
}

# Further defaults for the small base on a CPU.
SMALL_DEFAULTS = {
    "model_name_or_path": BASE_MODEL,
    "max_steps": 200,
    "per_device_train_batch_size": 32,  # pairs
    "per_device_eval_batch_size": 100,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 10,
    "adam_beta2": 0.98,
    "replay_ratio": 0.2,
    "eval_strategy": "steps",
    "eval_steps": 40,
    "gap_eval_rows": -1,
    "gap_eval_max_new_tokens": 32,
    "max_new_tokens": 32,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "logging_steps": 5,
    "save_strategy": "no",
}


@dataclass
class Arguments(ScriptArguments):
    train_pairs: int = field(default=6400, metadata={"help": "Number of training pairs of the embedded data."})
    test_pairs: int = field(default=400, metadata={"help": "Number of test pairs that are asked before and after."})
    max_new_tokens: int = field(default=256, metadata={"help": "Longest answer that is graded, in tokens."})


def parse_arguments(argv: list[str] | None = None) -> tuple[Arguments, ModalityBalancedSFTConfig, ModelConfig]:
    """Parse the command line, which overrides a --config file, which overrides the defaults above.

    The defaults of the small base apply only if no model is named.
    """
    only_model = TrlParser((ModelConfig,), add_help=False, allow_abbrev=False)
    named_model = only_model.parse_args_and_config(argv, return_remaining_strings=True)[0].model_name_or_path
    parser = TrlParser((Arguments, ModalityBalancedSFTConfig, ModelConfig))
    parser.set_defaults_with_config(**(DEFAULTS if named_model else DEFAULTS | SMALL_DEFAULTS))
    return parser.parse_args_and_config(argv)


def load_pairs(script_args: Arguments, seed: int) -> tuple[Dataset, Dataset]:
    """(train, test) splits of the named dataset, or of the demo's own."""
    if script_args.dataset_name is None:
        return make_demo_pairs(script_args.train_pairs, script_args.test_pairs, seed)
    pairs = load_dataset(
        script_args.dataset_name, name=script_args.dataset_config, streaming=script_args.dataset_streaming
    )
    return pairs[script_args.dataset_train_split], pairs[script_args.dataset_test_split]


def make_trainer(
    script_args: Arguments, training_args: ModalityBalancedSFTConfig, model_args: ModelConfig, replay: Dataset | None
) -> ModalityBalancedSFTTrainer:
    train, test = load_pairs(script_args, training_args.seed)
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "trust_remote_code": training_args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(training_args.model_init_kwargs or {}),
    }
    return ModalityBalancedSFTTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=train,
        eval_dataset=test,
        replay_dataset=replay if training_args.replay_ratio else None,
        peft_config=get_peft_config(model_args),
        quantization_config=get_quantization_config(model_args),
    )


def describe(trainer: ModalityBalancedSFTTrainer) -> str:
    """One line about the sizes of the datasets and of the model."""
    counts = [
        f"{d.num_rows:,}" if isinstance(d, Dataset) else "?" for d in (trainer.train_dataset, trainer.eval_dataset)
    ]
    parameters = sum(p.numel() for p in trainer.model.parameters())
    return f"{counts[0]} training pairs, {counts[1]} held-out pairs, a model of {parameters / 1e6:.2f} M parameters"


class Measurement:
    """Measures the gap of a trainer's model, and its text skill on the demo's exercises; writes both to `evals/`."""

    def __init__(self, trainer: ModalityBalancedSFTTrainer, script_args: Arguments, exercises: Dataset | None):
        self.trainer, self.max_new_tokens, self.exercises = trainer, script_args.max_new_tokens, exercises
        self.folder = Path(trainer.args.output_dir, "evals")
        pairs = list(islice(trainer.eval_dataset, script_args.test_pairs))
        has_answers = all(row.get("answer") is not None for row in pairs)
        self.evaluator = ModalityGapEvaluator(
            pairs,
            batch_size=trainer.args.per_device_eval_batch_size,
            dataset_name=script_args.dataset_name or "held-out charts and tables",
            generate=has_answers,
            nats=not has_answers,
        )

    def __call__(self, name: str) -> dict[str, Any]:
        folder, before = self.folder / name, self.folder / "before"
        measure_gap(
            self.trainer,
            self.evaluator,
            max_new_tokens=self.max_new_tokens,
            folder=folder,
            # A baseline on the same rows gives the change an interval of its own
            baseline=before if folder != before and self.evaluator.generate else None,
        )
        if self.exercises is not None:
            self._measure_text(folder)
        files = [folder / "gap.json", folder / "text.json"]
        return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()}

    def _measure_text(self, folder: Path) -> None:
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        generator = TransformersGenerator(model, self.trainer.processing_class, max_new_tokens=self.max_new_tokens)
        questions = [Question(row["id"], Request(row["prompt"]), row["answer"]) for row in self.exercises]
        answers, before = folder / "text" / "exercises.jsonl", self.folder / "before"
        if self.trainer.is_world_process_zero():
            answers.unlink(missing_ok=True)  # answers of an older model, if a run that had ended is continued
        self.trainer.accelerator.wait_for_everyone()
        ask(generator, questions, Grader(), answers, self.trainer.args.per_device_eval_batch_size)
        write_text_result(folder, baseline=before if folder != before else None)


def format_table(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Both measurements side by side: in percent and points with intervals or, without answers, in nats."""
    lines = [f"{'':<20}{'before':>24}{'after':>24}"]
    for name, first, second in _rows(before, after):
        lines.append(f"{name:<20}{first:>24}{second:>24}")
    return "\n".join(lines)


def _rows(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str, str]]:
    gaps = before["gap"], after["gap"]
    if "gap" not in gaps[0]:
        nats = [gap["nats"] for gap in gaps]
        views = [
            (f"{view}, nats", *(f"{each[view]['mean']:.3f}" for each in nats))
            for view in nats[0]
            if "mean" in nats[0][view]
        ]
        return [*views, ("gap, nats", *(_in_units(each["gap"], 1, 3, signed=True) for each in nats))]
    conditions = [(name, *(_in_units(gap["conditions"][name], 100) for gap in gaps)) for name in gaps[0]["conditions"]]
    rows = [("accuracy, %", "", ""), *conditions]
    rows += [("gap, points", *(_in_units(gap["gap"], 100, signed=True) for gap in gaps))]
    if "text" in before:
        skills = [_in_units(each["text"]["tasks"]["exercises"], 100) for each in (before, after)]
        rows += [("text exercises, %", *skills)]
    return rows


def _in_units(found: dict[str, float], scale: float, digits: int = 1, signed: bool = False) -> str:
    value = found["accuracy"] if "accuracy" in found else found["estimate"]
    number = PLAIN.decimal(scale * value, digits, signed=signed)
    if "low" not in found:  # too few rows for an interval
        return number
    return f"{number} {PLAIN.interval(Interval.from_dict(found), scale, digits, signed=signed)}"


def main() -> None:
    started = time.perf_counter()
    script_args, training_args, model_args = parse_arguments()
    is_small = model_args.model_name_or_path == BASE_MODEL
    if is_small and training_args.world_size == 1:
        # `accelerate launch` gives a process one thread; so small a model gains nothing from more than four
        torch.set_num_threads(min(4, os.cpu_count() or 1))
    replay, exercises = make_text_skill(3000, 200, training_args.seed) if is_small else (None, None)
    trainer = make_trainer(script_args, training_args, model_args, replay)
    say = trainer.accelerator.print
    say(describe(trainer))
    if training_args.resume_from_checkpoint is None and trainer.is_world_process_zero():
        shutil.rmtree(Path(training_args.output_dir, "evals"), ignore_errors=True)  # of an earlier run
    trainer.accelerator.wait_for_everyone()
    measure = Measurement(trainer, script_args, exercises)
    say("1/3 measuring before training")
    before = measure("before")
    say(f"2/3 training on pairs: kl_weight={training_args.kl_weight:g}, curriculum={training_args.curriculum}")
    training_started = time.perf_counter()
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    training_seconds = time.perf_counter() - training_started
    trainer.save_model(training_args.output_dir)
    say("3/3 measuring after training")
    after = measure("after")
    if trainer.is_world_process_zero():
        files = write_report([training_args.output_dir], Path(training_args.output_dir, "report.html"))
        print(f"\n{format_table(before, after)}\n")
        log = next(log for log in reversed(trainer.state.log_history) if "train_loss" in log)
        tokens, saved = int(log["num_tokens"]), int(log["num_tokens_saved"])
        print(f"{saved:,} of {tokens:,} tokens ({saved / tokens:.0%}) were common to both views, and computed once.")
        seconds = time.perf_counter() - started
        print(f"{trainer.state.global_step} steps in {training_seconds:.0f} s, all in {seconds:.0f} s.")
        print(f"Look at {files.html}.")
    trainer.end()


if __name__ == "__main__":
    main()
