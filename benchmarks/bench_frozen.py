"""A training step by what trains: all, not the tower, the language model alone, and that with features from disk.

    python benchmarks/bench_frozen.py [--rounds 7]

Each way has its own trainer, with its optimizer, on the same LLaVA and the same batch of pairs (`pair_models.Size`: of
the weights in matrix products 31 % are in the tower; 196 tokens of a picture). They take turns in one process, and the
ratio is the median over the rounds of a way's time by that of all parts training in the same round. Features are
written in the rounds that warm up. Memory is the peak of a step beside what lies in memory before it (weights, the
optimizer's state), each way in a process of its own; the state is what the optimizer keeps.
"""

import argparse
import gc
import tempfile
import time
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import Any

import torch
from bench_pair_step import apart
from datasets import Dataset, Features, Image, List, Value
from pair_models import Layout, Size, make_pairs
from peak_memory import peak_bytes, restart_peak
from rows import Origin, append, device_name, origin_of_cpu_run, percentiles_ms
from transformers.utils import logging

from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer


ALL = "all parts"
WAYS: dict[str, dict[str, Any]] = {
    ALL: {},
    "language_model and projector": {"train_parts": ["language_model", "projector"]},
    "language_model and projector, cached": {
        "train_parts": ["language_model", "projector"],
        "cache_image_features": True,
    },
    "language_model": {"train_parts": ["language_model"]},
    "language_model, cached": {"train_parts": ["language_model"], "cache_image_features": True},
    "attention, cached": {"train_parts": ["attention"], "cache_image_features": True},
}
SIZE, LAYOUT = Size(), Layout(n_image=196, n_text=120, n_vision=60, n_completion=30)
COLUMNS = ("text_rich_prompt", "vision_centric_prompt", "completion")
FEATURES = Features({"images": List(Image()), **dict.fromkeys(COLUMNS, Value("string"))})


@dataclass(frozen=True, kw_only=True)
class FrozenRow(Origin):
    """One way."""

    model: str
    n_image: int
    n_text: int
    n_vision: int
    n_completion: int
    n_pairs: int
    samples: int
    p20_ms: float
    p50_ms: float
    p80_ms: float
    ratio_to_all: float
    """Its time by that of all parts training, median over the rounds: below 1 is faster."""
    peak_extra_mib: float
    optimizer_mib: float


class Steps:
    """Training steps of one way, on the same batch each time."""

    def __init__(self, way: str, folder: str):
        logging.set_verbosity_error()
        model, processor = SIZE.build(LAYOUT)
        args = ModalityBalancedSFTConfig(
            f"{folder}/{way}",
            per_device_train_batch_size=LAYOUT.n_pairs,
            max_length=None,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
            max_steps=10_000,
            **WAYS[way],
        )
        rows = Dataset.from_list(make_pairs(SIZE, LAYOUT), features=FEATURES)
        self.trainer: Any = ModalityBalancedSFTTrainer(model, args, train_dataset=rows, processing_class=processor)
        self.trainer.create_optimizer_and_scheduler(10_000)
        self.batch = next(iter(self.trainer.get_train_dataloader()))
        self.model = self.trainer.model.train()

    def __call__(self) -> float:
        """Seconds of a step: forward, backward, optimizer."""
        started = time.perf_counter()
        with self.trainer._cached_images.in_use(), self.trainer._attention():
            self.trainer.compute_loss(self.model, dict(self.batch)).backward()
        self.trainer.optimizer.step()
        self.trainer.optimizer.zero_grad()
        return time.perf_counter() - started


def memory_mib(way: str, folder: str, n_threads: int) -> tuple[float, float]:
    """The peak of a step beside weights and the optimizer's state, and that state, in a process of its own."""
    torch.set_num_threads(n_threads)
    steps = Steps(way, folder)
    for _ in range(2):
        steps()
    gc.collect()
    before = restart_peak("cpu")
    steps()
    peak = peak_bytes("cpu") - before
    kept = [value for state in steps.trainer.optimizer.state.values() for value in state.values()]
    state = sum(value.nbytes for value in kept if isinstance(value, torch.Tensor))
    return round(peak / 2**20, 1), round(state / 2**20, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        memory = {way: apart(memory_mib, way, folder, torch.get_num_threads()) for way in WAYS}
        ways = {way: Steps(way, folder) for way in WAYS}
        for _ in range(2):
            for steps in ways.values():
                steps()
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        shuffled = Random(0)
        for _ in range(options.rounds):
            for way in shuffled.sample(list(ways), len(ways)):
                seconds[way].append(ways[way]())
    rows, origin = [], origin_of_cpu_run("frozen")
    print(f"{SIZE}; {LAYOUT}; {device_name('cpu')}")
    print(f"{'trains':<40}{'ms a step':>12}{'ratio':>8}{'peak MiB':>10}{'state MiB':>11}")
    for way, own in seconds.items():
        ratio, (peak, state) = median(a / b for a, b in zip(own, seconds[ALL], strict=True)), memory[way]
        row = FrozenRow(
            **origin,
            case="main",
            implementation=way,
            model=str(SIZE),
            **vars(LAYOUT),
            samples=len(own),
            **percentiles_ms(own),
            ratio_to_all=round(ratio, 4),
            peak_extra_mib=peak,
            optimizer_mib=state,
        )
        rows.append(row)
        print(f"{way:<40}{row.p50_ms:>12.1f}{ratio:>8.3f}{peak:>10.1f}{state:>11.1f}", flush=True)
    print(f"appended to {append(rows, 'frozen')}")


if __name__ == "__main__":
    main()
