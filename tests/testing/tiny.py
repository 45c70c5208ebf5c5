"""Tiny models and pairs for the tests: built from configs, random weights, no download."""

import copy
import functools

import numpy as np
import torch
from _tiny_llava import build_tiny_llava
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from trl_modality.curriculum import Slot
from trl_modality.views import SLOT_COLUMN, View


NAMES = ("red", "green", "blue", "grey")
MESSAGES = List({"role": Value("string"), "content": Value("string")})
PAIR_FEATURES = Features(
    {
        "id": Value("string"),
        "images": List(Image()),
        "text_rich_prompt": MESSAGES,
        "vision_centric_prompt": MESSAGES,
        "completion": MESSAGES,
    }
)


# Options of small float32 runs on a CPU that write nothing but what they are told to
SMALL_RUN = {
    "logging_steps": 1,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
}


def picture(seed: int, size: int = 32) -> PILImage.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    return PILImage.fromarray(pixels)


def pair_row(seed: int) -> dict:
    """One pair in messages; prompts and completions differ in length from row to row."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 10, 4)
    a, b = rng.choice(4, 2, replace=False)
    facts = " ".join(f"{name}={value}" for name, value in zip(NAMES[: 2 + seed % 3], values, strict=False))
    question = f"{NAMES[a]} + {NAMES[b]}?"
    return {
        "id": f"pair-{seed}",
        "images": [picture(seed)],
        "text_rich_prompt": [{"role": "user", "content": f"{facts}. {question}"}],
        "vision_centric_prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": f"{values[a]}+{values[b]};{values[a] + values[b]}"}],
    }


def pair_dataset(count: int, first: int = 0) -> Dataset:
    return Dataset.from_list([pair_row(first + i) for i in range(count)], features=PAIR_FEATURES)


def answered_dataset(count: int, first: int = 0, answer: str = "1") -> Dataset:
    """Pairs with an answer, which is the same for all."""
    rows = [{**pair_row(first + i), "answer": answer} for i in range(count)]
    return Dataset.from_list(rows, features=Features({**PAIR_FEATURES, "answer": Value("string")}))


def written_out(rows: list[dict]) -> list[dict]:
    """The rows as a user of SFTTrainer would write them: each view a row of its own, `prompt` and `completion`."""
    return [
        {"images": row["images"], "prompt": row[f"{view}_prompt"], "completion": row["completion"]}
        for row in rows
        for view in ("text_rich", "vision_centric")
    ]


def shown(row: dict, *views: View, learnt_in: tuple[View, ...] | None = None) -> dict:
    """The row as a plan marks it: in some of its views (none: as a filler), and with a cross-entropy in some."""
    return {**row, SLOT_COLUMN: Slot(0, View.REPLAY in views, views, views if learnt_in is None else learnt_in, None)}


def tiny_llava(hidden_size: int = 32, seed: int = 0):
    """A LLaVA and its processor, of one's own: a copy of one that is made once."""
    return copy.deepcopy(_tiny_llava(hidden_size, seed))


@functools.cache
def _tiny_llava(hidden_size: int, seed: int):
    texts = [message["content"] for seed_ in range(40) for message in pair_row(seed_)["text_rich_prompt"]]
    model, processor = build_tiny_llava(texts, image_size=32, patch_size=16, hidden_size=hidden_size, seed=seed)
    # Larger than the usual 0.02, so that the views differ and a wrong gradient shows
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model, processor
