"""What the health gate and the manifest of a checkpoint cost: of a step, of a save of 1 GB, and of its verification.

    python benchmarks/bench_trust.py [--steps 200] [--saves 6]

The gate's work is timed inside of the steps of a run, so that its share is of the same steps: steps of tiny models on
two sizes of batches, where its share is as large as it can be. A checkpoint has the weights, the optimizer's state and
all else of a model with 83 million parameters (1 GB); the host's own writing and the manifest are timed in each save.
"""

import os


os.environ.setdefault("OMP_NUM_THREADS", "2")

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from rows import append, measured
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging
from trl import SFTTrainer

from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer
from trl_modality.training import health, saving
from trl_modality.training.checkpoints import whole_checkpoint
from trl_modality.training.resume import RunIdentity


sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in (".", "examples")]
from tests.testing.tiny import pair_dataset, tiny_llava  # noqa: E402


WARM_UP_STEPS = 10
# Width of the model and pairs of a batch
STEPS = {"tiny": (32, 1), "small": (128, 8)}
GATE = (
    *((health.HealthGate, name) for name in ("show", "add", "passes")),
    (saving.RandomNumbers, "__init__"),
)


class Timed:
    """A context in which the seconds that some methods take are written down, in order."""

    def __init__(self, *methods: tuple[type, str]):
        self.methods, self.seconds = methods, []
        self._own: list[Callable] = []

    def __enter__(self) -> "Timed":
        for cls, name in self.methods:
            self._own.append(getattr(cls, name))
            setattr(cls, name, self._timed(self._own[-1]))
        return self

    def __exit__(self, *error: Any) -> None:
        for (cls, name), own in zip(self.methods, self._own, strict=True):
            setattr(cls, name, own)

    def _timed(self, method: Callable) -> Callable:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = method(*args, **kwargs)
            self.seconds.append(time.perf_counter() - started)
            return result

        return timed


def config(folder: str, **options: Any) -> ModalityBalancedSFTConfig:
    own = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True}
    return ModalityBalancedSFTConfig(folder, **own, logging_strategy="no", check_rows=0, **options)


def gate(width: int, batch: int, steps: int) -> tuple[list[float], list[float]]:
    """Seconds of each step, and of the gate in it."""
    model, processor = tiny_llava(width)
    with tempfile.TemporaryDirectory() as folder, Timed(*GATE) as gate:
        ends = []

        class Trainer(ModalityBalancedSFTTrainer):
            def training_step(self, *args, **kwargs):
                ends.append((time.perf_counter(), sum(gate.seconds)))
                return super().training_step(*args, **kwargs)

        args = config(folder, per_device_train_batch_size=batch, max_steps=steps + WARM_UP_STEPS, save_strategy="no")
        Trainer(model, args, train_dataset=pair_dataset(64), processing_class=processor).train()
    ends = ends[WARM_UP_STEPS:]
    pairs = list(zip(ends, ends[1:], strict=False))
    return [b[0] - a[0] for a, b in pairs], [b[1] - a[1] for a, b in pairs]


def checkpoint(saves: int) -> dict[str, list[float]]:
    """Seconds of the host's writing of a checkpoint of 1 GB, of the manifest, and of the verification."""
    tokenizer = tiny_llava()[1].tokenizer
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 5}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer) + 10, **sizes, **heads))
    rows = Dataset.from_list([{"text": f"{i} + {i}"} for i in range(8)])
    with tempfile.TemporaryDirectory() as folder:
        args = config(
            folder,
            per_device_train_batch_size=1,
            max_steps=saves + 1,
            save_strategy="steps",
            save_steps=1,
            save_total_limit=1,
        )
        host, manifest = Timed((SFTTrainer, "_save_checkpoint")), Timed((RunIdentity, "checkpoint_saved"))
        with host, manifest:
            ModalityBalancedSFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer).train()
        newest = Path(folder) / f"checkpoint-{saves + 1}"
        size = sum(path.stat().st_size for path in newest.iterdir())
        print(f"a checkpoint of {size / 1e9:.2f} GB")
        verification = []
        for _ in range(saves):
            started = time.perf_counter()
            whole_checkpoint(newest)
            verification.append(time.perf_counter() - started)
    return {"host": host.seconds[1:], "manifest": manifest.seconds[1:], "verification": verification}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--saves", type=int, default=6)
    options = parser.parse_args()
    logging.set_verbosity_error()
    rows = []
    torch.set_num_threads(1)
    for name, (width, batch) in STEPS.items():
        steps, own = gate(width, batch, options.steps)
        share = median(a / b for a, b in zip(own, steps, strict=True))
        for what, seconds, ratio in (("step", steps, 1.0), ("gate", own, share)):
            rows.append(measured("trust", f"step, {name}", what, seconds, ratio))
        print(f"{name:<8}step {1e3 * median(steps):.2f} ms, gate {1e6 * median(own):.0f} µs: {100 * share:.2f} %")
    torch.set_num_threads(2)
    saved = checkpoint(options.saves)
    for name, own in saved.items():
        share = median(a / b for a, b in zip(own, saved["host"], strict=True))
        rows.append(measured("trust", "checkpoint of 1 GB", name, own, share))
        print(f"{name:<14}{median(own):.3f} s: {100 * share:.1f} % of the host's writing")
    print(f"appended to {append(rows, 'trust')}")


if __name__ == "__main__":
    main()
