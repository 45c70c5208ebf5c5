"""A training step by what trains: all, not the tower, the language model alone, and that with features from disk.

    python benchmarks/bench_frozen.py [--rounds 7] [--shape main|small]

The model is a LLaVA whose tower has a realistic share of a step: by default half the width and half the layers of
ViT-B (196 tokens of a picture), beside a decoder of eight layers of width 512. Each way has its own
trainer, with its optimizer; they take turns in one process, and the ratio is the median over the rounds of a way's
time by that of all parts training in the same round. Features are written in the rounds that warm up. Memory is the
peak of a step beside what lies in memory before it, each way in a process of its own.
"""

import os


os.environ.setdefault("OMP_NUM_THREADS", "1")  # on a busy machine threads that wait for one another take seconds

import argparse
import gc
import multiprocessing
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch
from peak_memory import peak_bytes, restart_peak
from rows import Origin, append, device_name, origin_of_cpu_run, percentiles_ms
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)
from transformers.utils import logging

from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer


sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in (".", "examples")]
from tests.testing.tiny import pair_dataset, tiny_llava  # noqa: E402


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
}
# Sizes of the tower and of the decoder
SHAPES = {
    "main": (
        {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 6},
        {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8},
        224,
    ),
    "small": (
        {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
        {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
        64,
    ),
}
PAIRS = 4


@dataclass(frozen=True, kw_only=True)
class FrozenRow(Origin):
    """One way; the case is the shape."""

    tower_parameters: int
    decoder_parameters: int
    image_tokens: int
    samples: int
    p20_ms: float
    p50_ms: float
    p80_ms: float
    ratio_to_all: float
    """Its time by that of all parts training, median over the rounds: below 1 is faster."""
    peak_extra_mib: float


class Steps:
    """Training steps of one way, on the same batch each time."""

    def __init__(self, way: str, shape: str, folder: str):
        tower, decoder, size = SHAPES[shape]
        _, processor = tiny_llava()
        processor.image_processor = CLIPImageProcessorPil(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        )
        vocabulary = len(processor.tokenizer)
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(**tower, image_size=size, patch_size=16),
            text_config=LlamaConfig(**decoder, vocab_size=vocabulary, max_position_embeddings=1024),
            image_token_index=processor.tokenizer.convert_tokens_to_ids(processor.image_token),
            image_seq_length=(size // 16) ** 2,
        )
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
        args = ModalityBalancedSFTConfig(
            f"{folder}/{way}",
            per_device_train_batch_size=PAIRS,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
            max_steps=10_000,
            **WAYS[way],
        )
        self.trainer = ModalityBalancedSFTTrainer(
            model, args, train_dataset=pair_dataset(PAIRS), processing_class=processor
        )
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


def _measure_peak(way: str, shape: str, folder: str, answer: Any) -> None:
    logging.set_verbosity_error()
    steps = Steps(way, shape, folder)
    for _ in range(2):
        steps()
    gc.collect()
    before = restart_peak("cpu")
    steps()
    answer.put((peak_bytes("cpu") - before) / 2**20)


def peak_extra_mib(way: str, shape: str, folder: str) -> float:
    """Peak memory of a step in MiB beside weights and the optimizer's state, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    process = context.Process(target=_measure_peak, args=(way, shape, folder, answer))
    process.start()
    found = answer.get()
    process.join()
    return round(found, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shape", choices=SHAPES, default="main")
    options = parser.parse_args()
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        ways = {way: Steps(way, options.shape, folder) for way in WAYS}
        for _ in range(2):
            for steps in ways.values():
                steps()
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        shuffled = Random(0)
        for _ in range(options.rounds):
            for way in shuffled.sample(list(ways), len(ways)):
                seconds[way].append(ways[way]())
        peaks = {way: peak_extra_mib(way, options.shape, folder) for way in WAYS}
    parts = {row["part"]: row["parameters"] for row in ways["language_model"].trainer.parts_table or []}
    rows, origin = [], origin_of_cpu_run("frozen")
    print(f"{device_name('cpu')}; {parts}\n{'trains':<40}{'ms a step':>12}{'ratio':>8}{'peak MiB':>10}")
    for way, own in seconds.items():
        ratio = median(a / b for a, b in zip(own, seconds[ALL], strict=True))
        sizes = {
            "tower_parameters": parts["vision_tower"],
            "decoder_parameters": parts["language_model"],
            "image_tokens": (SHAPES[options.shape][2] // 16) ** 2,
        }
        row = FrozenRow(
            **origin,
            case=options.shape,
            implementation=way,
            samples=len(own),
            **sizes,
            **percentiles_ms(own),
            ratio_to_all=round(ratio, 4),
            peak_extra_mib=peaks[way],
        )
        rows.append(row)
        print(f"{way:<40}{row.p50_ms:>12.1f}{ratio:>8.3f}{peaks[way]:>10.1f}", flush=True)
    print(f"appended to {append(rows, 'frozen')}")


if __name__ == "__main__":
    main()
