"""A Qwen2.5-VL of random weights for `gpu_step.py`, its pairs, the ways to a step, and their multiplications."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from gpu_run import Machine
from pair_models import Layout, words_tokenizer
from pair_steps import Run, host_rows, trl_losses
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from trl_modality import PairedCollator
from trl_modality.modeling.attention import use_shared_prefix
from trl_modality.modeling.forward import LossSettings, add_paired_loss
from trl_modality.modeling.token_layout import CollatorWithTokenLayout, TokenLayouts


IMAGE = "<|image_pad|>"
SPECIAL = ("<|vision_start|>", "<|vision_end|>", IMAGE, "<|video_pad|>")
LORA_RANK = 16
OURS, ROWS = "ours", "ours, rows of their own"
TRL, TRL_TUNED = "padded rows, TRL", "padded rows, TRL, chunk tuned"


@dataclass(frozen=True)
class VLSize:
    """Sizes of a Qwen2.5-VL; the defaults are those of the 3B."""

    hidden_size: int = 2048
    intermediate_size: int = 11_008
    n_layers: int = 36
    n_heads: int = 16
    n_key_heads: int = 2
    vocab_size: int = 151_936
    mrope: tuple[int, int, int] = (16, 24, 24)
    tower_hidden_size: int = 1280
    tower_intermediate_size: int = 3420
    n_tower_layers: int = 32
    n_tower_heads: int = 16
    full_attention_layers: tuple[int, ...] = (7, 15, 23, 31)
    window: int = 112
    """Pixels of a side of the tower's windows."""
    patch: int = 14

    def config(self) -> Qwen2_5_VLConfig:
        ids = {
            name: self.vocab_size - 5 + i for i, name in enumerate(("vision_start", "vision_end", "image", "video"))
        }
        return Qwen2_5_VLConfig(
            vision_config={
                "depth": self.n_tower_layers,
                "hidden_size": self.tower_hidden_size,
                "intermediate_size": self.tower_intermediate_size,
                "num_heads": self.n_tower_heads,
                "patch_size": self.patch,
                "out_hidden_size": self.hidden_size,
                "window_size": self.window,
                "fullatt_block_indexes": list(self.full_attention_layers),
            },
            text_config={
                "vocab_size": self.vocab_size,
                "hidden_size": self.hidden_size,
                "intermediate_size": self.intermediate_size,
                "num_hidden_layers": self.n_layers,
                "num_attention_heads": self.n_heads,
                "num_key_value_heads": self.n_key_heads,
                "max_position_embeddings": 32_768,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": list(self.mrope)},
                "pad_token_id": self.vocab_size - 1,
            },
            tie_word_embeddings=True,
            **{f"{name}_token_id": token for name, token in ids.items()},
        )

    def __str__(self) -> str:
        return f"Qwen2.5-VL, {self.n_layers} layers of {self.hidden_size}, V={self.vocab_size:,}, random weights"


TINY = VLSize(
    hidden_size=64,
    intermediate_size=64,
    n_layers=2,
    n_heads=2,
    n_key_heads=1,
    vocab_size=200,
    mrope=(8, 4, 4),
    tower_hidden_size=32,
    tower_intermediate_size=32,
    n_tower_layers=2,
    n_tower_heads=2,
    full_attention_layers=(1,),
    window=56,
)
TINY_LAYOUT = Layout(n_image=4, n_text=12, n_vision=8, n_completion=4)


def build(size: VLSize, machine: Machine, trains: str) -> Any:
    """The model on its device, in bfloat16, with activation checkpointing as in TRL's defaults.

    Args:
        size: of the model.
        machine: its device; weights are made there, unless it is a fake one.
        trains: `full`, or `lora`: rank 16 in all layers of decoder and tower but no embedding and no head.
    """
    torch.manual_seed(0)
    with nullcontext() if machine.is_dry else torch.device(machine.device):
        model = AutoModelForImageTextToText.from_config(size.config(), dtype=torch.bfloat16)
    add_paired_loss(model)
    use_shared_prefix(model.get_decoder())  # without a layout it is what it was
    model.gradient_checkpointing_enable({"use_reentrant": False})
    if trains == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(
            model, LoraConfig(r=LORA_RANK, target_modules="all-linear", exclude_modules=["lm_head"])
        )
    return machine.moved(model).train()


def processor_of(size: VLSize, layout: Layout) -> Qwen2_5_VLProcessor:
    """A processor whose words are numbers and whose images have as many tokens as the layout says."""
    pixels = (2 * size.patch) ** 2 * layout.n_image
    images = {"patch_size": size.patch, "merge_size": 2, "size": {"shortest_edge": pixels, "longest_edge": pixels}}
    return Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**images), words_tokenizer(size.vocab_size, *SPECIAL), Qwen2VLVideoProcessor(**images)
    )


def make_pairs(size: VLSize, layout: Layout) -> list[dict]:
    """Pairs with random pictures and words; a pair has `layout.n_image` image tokens and two around them."""
    rng = np.random.default_rng(0)
    side = round(layout.n_image**0.5) * 2 * size.patch

    def words(count: int) -> str:
        return "".join(f" {word}" for word in rng.integers(1, size.vocab_size - 5, count))

    def prompt(first: int, count: int) -> str:
        # The first words differ: a suffix is as long as it says
        return f"<|vision_start|>{IMAGE}<|vision_end|> {first}" + words(count - layout.n_completion - 1)

    return [
        {
            "images": [Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8))],
            "text_rich_prompt": prompt(1, layout.n_text),
            "vision_centric_prompt": prompt(2, layout.n_vision),
            "completion": words(layout.n_completion),
        }
        for _ in range(layout.n_pairs)
    ]


def ways(model: Any, size: VLSize, layout: Layout, machine: Machine) -> dict[str, Callable[[], Run]]:
    """Makers of the steps, each on a batch of its own that is on the device before the step is timed."""
    processor, pairs = processor_of(size, layout), make_pairs(size, layout)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model

    def ours(share_prefix: bool) -> Run:
        settings = LossSettings(share_prefix=share_prefix)
        collate = CollatorWithTokenLayout(PairedCollator(processor), TokenLayouts(base).of(settings))
        batch = on_device(collate(pairs), machine.device)
        return lambda: model(**batch, paired_loss=settings).loss

    def composed(chunk: int) -> Run:
        """TRL's collator on both views, the backbone on padded rows, and TRL's fused ops."""
        collate = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)
        host = dict(collate(host_rows(pairs)))
        labels = host.pop("labels")[:, 1:]
        kept = (labels != -100).flatten().nonzero().squeeze(1).to(machine.device)
        labels, batch = labels.flatten().to(machine.device)[kept], on_device(host, machine.device)

        def run() -> torch.Tensor:
            hidden = base.model(**batch, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
            return trl_losses(hidden.index_select(0, kept), base.lm_head.weight, labels, chunk)

        return run

    return {
        OURS: partial(ours, share_prefix=True),
        TRL: partial(composed, 32_768),  # as `SFTTrainer` has it
        ROWS: partial(ours, share_prefix=False),
        TRL_TUNED: partial(composed, 131_072),
    }


def on_device(batch: Mapping[str, Any], device: str) -> dict[str, Any]:
    """A batch moved as accelerate moves it: whatever has a `to`."""
    return {key: value.to(device) if hasattr(value, "to") else value for key, value in batch.items()}


def products(size: VLSize, layout: Layout, trains_all: bool) -> dict[str, float]:
    """Multiplications in the matrix products of a step of each way, without those that checkpointing does again.

    A backward has two products for each of the forward, one where the weight is frozen. Of the head, ours has 6
    (frozen: 4) products of M tokens of one view, TRL's fused ops 14 (11). Attention counts as it is called: half of
    the square where it is causal, all of it where there is a mask, as transformers makes for padded rows. Those of
    LoRA's own small factors are left out.
    """
    h, v, n = size.hidden_size, size.vocab_size, layout.n_pairs
    key_share = size.n_key_heads / size.n_heads
    per_token = size.n_layers * (2 * h * h * (1 + key_share) + 3 * h * size.intermediate_size)
    tower_h, n_patches = size.tower_hidden_size, 4 * layout.n_image
    tower_attention = 0.0
    for layer in range(size.n_tower_layers):
        is_full = layer in size.full_attention_layers
        tower_attention += 2 * tower_h * n_patches * (n_patches if is_full else (size.window // size.patch) ** 2)
    linear = size.n_tower_layers * (4 * tower_h**2 + 3 * tower_h * size.tower_intermediate_size)
    merger = layout.n_image * ((4 * tower_h) ** 2 + 4 * tower_h * h)
    # Of products with weights, and of attention, whose factors both have gradients
    times = 3 if trains_all else 2
    tower = times * (n_patches * linear + merger) + 3 * tower_attention
    head = layout.n_completion * h * v
    rows = [layout.n_image + 2 + layout.n_text, layout.n_image + 2 + layout.n_vision]
    n_shared = sum(rows) - layout.n_image - 2

    def decoder(n_tokens: int, squares: float) -> float:
        return times * n_tokens * per_token + 3 * size.n_layers * 2 * h * squares

    padded = decoder(2 * max(rows), 2 * max(rows) ** 2)
    shared = decoder(n_shared, rows[0] ** 2 / 2 + layout.n_vision * (rows[1] - layout.n_vision / 2))
    of_ours, of_trl = (6, 14) if trains_all else (4, 11)
    of_pair = {
        OURS: shared + tower + of_ours * head,
        ROWS: padded + tower + of_ours * head,
        TRL: padded + 2 * tower + of_trl * head,
    }
    return {name: n * count for name, count in (of_pair | {TRL_TUNED: of_pair[TRL]}).items()}
