"""Pairs a second of our collator, which processes the images of a pair once, and of TRL's, called for both views.

    python benchmarks/bench_collator.py [--rounds 15]

Both get the same pairs of realistic size (pictures of 800 × 600 pixels, prompts of 300 and 160 words) on one thread,
as in a worker of a data loader, and take turns. `decoded` pictures are in memory. `stored` pictures are PNG files in
the rows, as `datasets` keeps them; for TRL's collator `datasets` decodes them row by row.
"""

import argparse
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from random import Random
from statistics import median
from typing import Any

import numpy as np
import torch
from datasets import Image as StoredImage
from pair_models import PATCH, words_tokenizer
from PIL import Image, ImageDraw
from rows import Origin, append, device_name, origin_of_cpu_run, percentiles_ms
from transformers import (
    CLIPImageProcessor,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from trl_modality import PairedCollator
from trl_modality.collation.layout import with_images_repeated


N_PAIRS = 8
OURS, TRL = "ours", f"TRL {'.'.join(version('trl').split('.')[:2])}, twice"


@dataclass(frozen=True, kw_only=True)
class CollatorRow(Origin):
    """One collator on one kind of batch."""

    samples: int
    p20_ms: float
    p50_ms: float
    p80_ms: float
    pairs_per_second: float
    ratio_to_ours: float
    """Its time by ours of the same round, median over the rounds."""


def llava() -> LlavaProcessor:
    return LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 24 * PATCH}, crop_size=24 * PATCH),
        words_tokenizer(32_000, "<image>"),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def qwen() -> Qwen2_5_VLProcessor:
    special = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    return Qwen2_5_VLProcessor(Qwen2VLImageProcessor(), words_tokenizer(32_000, *special), Qwen2VLVideoProcessor())


def llava_next() -> LlavaNextProcessor:
    """Up to five tiles of 336 pixels."""
    grid = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    images = LlavaNextImageProcessor(
        size={"shortest_edge": 24 * PATCH}, crop_size=24 * PATCH, image_grid_pinpoints=grid
    )
    return LlavaNextProcessor(
        images,
        words_tokenizer(32_000, "<image>"),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def idefics3() -> Idefics3Processor:
    """Tiles of 364 pixels, and the whole picture as one more tile."""
    places = [f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6)]
    special = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *places]
    return Idefics3Processor(Idefics3ImageProcessor(), words_tokenizer(32_000, *special))


PROCESSORS = {
    "LLaVA-1.5": (llava, "<image>"),
    "LLaVA-NeXT": (llava_next, "<image>"),
    "Idefics3": (idefics3, "<image>"),
    "Qwen2.5-VL": (qwen, "<|vision_start|><|image_pad|><|vision_end|>"),
}


def picture(rng: np.random.Generator) -> Image.Image:
    """A picture of bars on white, like a chart; noise would be slow to decode."""
    image = Image.new("RGB", (800, 600), "white")
    draw = ImageDraw.Draw(image)
    for i, height in enumerate(rng.integers(50, 550, 12)):
        draw.rectangle((20 + 64 * i, 600 - height, 64 + 64 * i, 600), fill=tuple(rng.integers(0, 255, 3).tolist()))
    return image


def make_pairs(slot: str, stored: bool) -> list[dict]:
    rng = np.random.default_rng(0)

    def words(count: int) -> str:
        return "".join(f" {word}" for word in rng.integers(1, 30_000, count))

    rows = []
    for _ in range(N_PAIRS):
        image: Any = picture(rng)
        if stored:
            file = io.BytesIO()
            image.save(file, "png")
            image = {"bytes": file.getvalue(), "path": None}
        prompts = {"text_rich_prompt": slot + words(300), "vision_centric_prompt": slot + words(160)}
        rows.append({"images": [image], **prompts, "completion": words(40)})
    return rows


def by_trl(processor: Any, pairs: list[dict]) -> list[dict[str, torch.Tensor]]:
    """Collate both views with TRL's collator, from rows as a dataset of such rows would give them."""
    decode = StoredImage().decode_example
    collate = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)
    batches = []
    for view in ("text_rich", "vision_centric"):
        rows = []
        for row in pairs:
            images = [decode(image) if isinstance(image, dict) else image for image in row["images"]]
            rows.append({"images": images, "prompt": row[f"{view}_prompt"], "completion": row["completion"]})
        batches.append(dict(collate(rows)))
    return batches


def check(processor: Any, pairs: list[dict]) -> None:
    """Check that our batch has the pixels and the tokens of TRL's."""
    batch, host = PairedCollator(processor)(pairs), by_trl(processor, pairs)
    pixels = with_images_repeated(batch, batch["view_layout"])["pixel_values"]
    assert torch.equal(pixels, torch.cat([each["pixel_values"] for each in host]))
    assert int(batch["attention_mask"].sum()) == sum(int(each["attention_mask"].sum()) for each in host)


def take_turns(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    shuffled = Random(0)
    for _ in range(rounds):
        for name in shuffled.sample(list(runs), len(runs)):
            started = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    same = origin_of_cpu_run("collator")
    rows = []
    print(f"{device_name('cpu')}\n{'pairs a second':<24}{OURS:>10}{TRL:>20}{'ratio':>8}")
    for name, (make_processor, slot) in PROCESSORS.items():
        for stored in (False, True):
            processor, pairs = make_processor(), make_pairs(slot, stored)
            check(processor, pairs)
            collate = PairedCollator(processor)
            seconds = take_turns(
                {OURS: lambda c=collate, p=pairs: c(p), TRL: lambda c=processor, p=pairs: by_trl(c, p)}, options.rounds
            )
            case = f"{name}, {'stored' if stored else 'decoded'}"
            ratios = {
                way: median(a / b for a, b in zip(own, seconds[OURS], strict=True)) for way, own in seconds.items()
            }
            speeds = {way: N_PAIRS / median(own) for way, own in seconds.items()}
            print(f"{case:<24}{speeds[OURS]:>10.1f}{speeds[TRL]:>20.1f}{ratios[TRL]:>8.2f}", flush=True)
            rows += [
                CollatorRow(
                    case=case,
                    implementation=way,
                    samples=options.rounds,
                    **percentiles_ms(own),
                    pairs_per_second=round(speeds[way], 2),
                    ratio_to_ours=round(ratios[way], 4),
                    **same,
                )
                for way, own in seconds.items()
            ]
    print(f"appended to {append(rows, 'collator')}")


if __name__ == "__main__":
    main()
