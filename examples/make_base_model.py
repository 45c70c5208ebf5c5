"""
Train the demo's base: a small LLaVA that answers from words and transcribes pictures, but does not combine both.

```bash
python examples/make_base_model.py        # about 25 minutes on one CPU core
```

It is trained in two stages, as large models are: on text alone, then on pictures with text. In the second stage it
transcribes pictures and answers from facts in words beside a picture, but never answers from a picture. All tables are
made up; none has the facts of a record that the demo trains or tests on. The weights, the processor and a record of
the run are written to `examples/base_model/`, where `llava_kl.py` finds them.
"""

from __future__ import annotations

import json
import os
import time
from importlib.metadata import version
from pathlib import Path

import torch
from _base_rows import looking_rows, reading_rows
from _tiny_llava import build_tiny_llava
from datasets import Dataset

from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer
from trl_modality.problems.demo.draw import IMAGE_SIZE


FOLDER = Path(__file__).parent / "base_model"
SEED = 0
READING_ROWS = 100_000  # two and a half epochs
STAGES = {
    "reading": {"max_steps": 2000, "per_device_train_batch_size": 128, "learning_rate": 2e-3, "warmup_steps": 50},
    # Pictures and words as one sequence without padding
    "looking": {
        "max_steps": 160,
        "per_device_train_batch_size": 64,
        "learning_rate": 1e-3,
        "warmup_steps": 20,
        "padding_free": True,
    },
}


def main() -> None:
    torch.set_num_threads(min(4, os.cpu_count() or 1))
    words = reading_rows(READING_ROWS, SEED)
    texts = [turn["content"] for row in words.take(8000) for turn in row["prompt"] + row["completion"]]
    model, processor = build_tiny_llava([*texts, "list"], image_size=IMAGE_SIZE, seed=SEED)
    seconds = {"reading": train(model, processor, words, "reading")}
    n_looking = STAGES["looking"]["max_steps"] * STAGES["looking"]["per_device_train_batch_size"]
    seconds["looking"] = train(model, processor, looking_rows(n_looking, SEED + 1), "looking")
    # Float16 has half the size and more digits than bfloat16; the config makes it load as float32
    model.half().save_pretrained(FOLDER)
    config = json.loads((FOLDER / "config.json").read_text())
    (FOLDER / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n")
    processor.save_pretrained(FOLDER)
    packages = ("torch", "transformers", "trl")
    record = {
        "seed": SEED,
        "stages": STAGES,
        "seconds": {stage: round(value) for stage, value in seconds.items()},
        "threads": torch.get_num_threads(),
        "versions": {package: version(package) for package in packages},
    }
    (FOLDER / "training.json").write_text(json.dumps(record, indent=2) + "\n")


def train(model, processor, rows: Dataset, stage: str) -> float:
    """Train on the rows for `max_steps` of the stage; returns the seconds that it took."""
    args = ModalityBalancedSFTConfig(
        f"outputs/base_model/{stage}",
        lr_scheduler_type="cosine",
        adam_beta2=0.98,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        max_length=None,
        logging_steps=50,
        save_strategy="no",
        report_to="none",
        seed=SEED,
        **STAGES[stage],
    )
    trainer = ModalityBalancedSFTTrainer(model=model, args=args, train_dataset=rows, processing_class=processor)
    started = time.perf_counter()
    trainer.train()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
