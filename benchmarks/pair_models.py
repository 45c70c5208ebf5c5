"""Models of random weights that `pair_steps.py` makes steps on, pairs for them, and their multiplications."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLProcessor,
)


PATCH = 14


@dataclass(frozen=True)
class Layout:
    """Tokens of a pair: those of the image, then those of each view, which end with the same completion."""

    n_image: int = 576
    n_text: int = 320
    n_vision: int = 180
    n_completion: int = 120
    n_pairs: int = 4

    @property
    def image_side(self) -> int:
        """Of the square that the image's tokens are, in tokens."""
        return round(self.n_image**0.5)

    def __str__(self) -> str:
        return f"{self.n_image}+{self.n_text}/{self.n_vision}, {self.n_completion} learnt, {self.n_pairs} pairs"


@dataclass(frozen=True)
class Size:
    """Sizes of a LLaVA.

    With the defaults, 46 % of the weights in matrix products are in the decoder's layers, 23 % in its head, 31 % in
    the tower. In SmolVLM-256M they are 47, 12 and 41 %, in Qwen2.5-0.5B with CLIP-L 45, 17 and 38 %.
    """

    image: ClassVar[str] = "<image>"
    """What stands for an image in a prompt."""
    pixels_of_token: ClassVar[int] = PATCH
    """Pixels of a side of what one token of an image shows."""

    hidden_size: int = 512
    n_layers: int = 10
    n_heads: int = 8
    vocab_size: int = 32_000
    tower_hidden_size: int = 384
    n_tower_layers: int = 12

    @property
    def intermediate_size(self) -> int:
        return 11 * self.hidden_size // 4

    def __str__(self) -> str:
        decoder = f"{self.n_layers} layers of {self.hidden_size}, V={self.vocab_size:,}"
        return f"decoder {decoder}; tower {self.n_tower_layers} layers of {self.tower_hidden_size}"

    def build(self, layout: Layout) -> tuple[Any, Any]:
        """Model and processor. Words are numbers, so that texts have as many tokens as wanted."""
        side = layout.image_side * PATCH
        processor = LlavaProcessor(
            CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=side),
            words_tokenizer(self.vocab_size, self.image),
            patch_size=PATCH,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=self.tower_hidden_size,
                intermediate_size=4 * self.tower_hidden_size,
                num_hidden_layers=self.n_tower_layers,
                num_attention_heads=self.tower_hidden_size // 64,
                image_size=side,
                patch_size=PATCH,
            ),
            text_config=LlamaConfig(
                vocab_size=self.vocab_size,
                hidden_size=self.hidden_size,
                intermediate_size=self.intermediate_size,
                num_hidden_layers=self.n_layers,
                num_attention_heads=self.n_heads,
                num_key_value_heads=self.n_heads,
                max_position_embeddings=65_536,
                pad_token_id=self.vocab_size - 1,
            ),
            image_token_index=self.vocab_size - 2,
            vision_feature_layer=-1,
        )
        torch.manual_seed(0)
        return LlavaForConditionalGeneration(config).train(), processor

    def per_token(self) -> float:
        """Multiplications of the layers with one token, but for those of attention."""
        return self.n_layers * (4 * self.hidden_size**2 + 3 * self.hidden_size * self.intermediate_size)

    def per_pair_of_tokens(self) -> float:
        """Multiplications of all attention for one query and one key."""
        return self.n_layers * 2 * self.hidden_size

    def per_image(self, layout: Layout) -> float:
        """Multiplications of tower and projector with one image."""
        h, n_patches = self.tower_hidden_size, layout.n_image + 1
        layers = self.n_tower_layers * (12 * h**2 * n_patches + 2 * h * n_patches**2)
        return layers + layout.n_image * (3 * PATCH**2 * h + h * self.hidden_size + self.hidden_size**2)


_SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_MERGE, _CHUNK = 2, 64


@dataclass(frozen=True)
class HybridSize:
    """Sizes of a Qwen3.5: of four layers three have a gated delta rule, and one attention.

    With the defaults, layers, head, and tower are to one another about what they are in the model of 0.8B.
    """

    image: ClassVar[str] = "<|vision_start|><|image_pad|><|vision_end|>"
    pixels_of_token: ClassVar[int] = 16 * _MERGE

    hidden_size: int = 512
    n_layers: int = 12
    n_heads: int = 4
    n_key_heads: int = 2
    head_dim: int = 128
    n_linear_heads: int = 8
    linear_head_dim: int = 64
    vocab_size: int = 32_000
    tower_hidden_size: int = 256
    n_tower_layers: int = 4
    full_attention: tuple[bool, ...] = field(default=(False, False, False, True) * 3, repr=False)

    @property
    def intermediate_size(self) -> int:
        return 7 * self.hidden_size // 2

    def __str__(self) -> str:
        decoder = f"hybrid decoder {self.n_layers} layers of {self.hidden_size}, V={self.vocab_size:,}"
        return f"{decoder}; tower {self.n_tower_layers} layers of {self.tower_hidden_size}"

    def build(self, layout: Layout) -> tuple[Any, Any]:
        """Model and processor. Words are numbers, so that texts have as many tokens as wanted."""
        side = layout.image_side * self.pixels_of_token
        sizes = {"patch_size": 16, "merge_size": _MERGE, "size": {"shortest_edge": side**2, "longest_edge": side**2}}
        tokenizer = words_tokenizer(self.vocab_size, *_SPECIAL)
        processor = Qwen3VLProcessor(Qwen2VLImageProcessor(**sizes), tokenizer, Qwen2VLVideoProcessor(**sizes))
        ids = {word: tokenizer.convert_tokens_to_ids(word) for word in _SPECIAL}
        config = Qwen3_5Config(
            vision_config={
                "depth": self.n_tower_layers,
                "hidden_size": self.tower_hidden_size,
                "intermediate_size": 4 * self.tower_hidden_size,
                "num_heads": self.tower_hidden_size // 64,
                "out_hidden_size": self.hidden_size,
            },
            text_config={
                "vocab_size": self.vocab_size,
                "hidden_size": self.hidden_size,
                "intermediate_size": self.intermediate_size,
                "num_hidden_layers": self.n_layers,
                "num_attention_heads": self.n_heads,
                "num_key_value_heads": self.n_key_heads,
                "head_dim": self.head_dim,
                "layer_types": ["full_attention" if full else "linear_attention" for full in self.full_attention],
                "linear_num_key_heads": self.n_linear_heads,
                "linear_num_value_heads": self.n_linear_heads,
                "linear_key_head_dim": self.linear_head_dim,
                "linear_value_head_dim": self.linear_head_dim,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1e6,
                    "mrope_section": [6, 5, 5],
                    "mrope_interleaved": True,
                    "partial_rotary_factor": 0.25,
                },
                "pad_token_id": self.vocab_size - 1,
            },
            image_token_id=ids["<|image_pad|>"],
            video_token_id=ids["<|video_pad|>"],
            vision_start_token_id=ids["<|vision_start|>"],
            vision_end_token_id=ids["<|vision_end|>"],
        )
        torch.manual_seed(0)
        return Qwen3_5ForConditionalGeneration(config).train(), processor

    def per_token(self) -> float:
        """Multiplications of the layers with one token, but for those of attention: those of the delta rule, which are
        as many for every token, included."""
        h, n_full = self.hidden_size, sum(self.full_attention)
        n_linear = self.n_layers - n_full
        # Queries with their gates, the output, keys and values
        attention = h * self.head_dim * (3 * self.n_heads + 2 * self.n_key_heads)
        width, d = self.n_linear_heads * self.linear_head_dim, self.linear_head_dim
        # In a chunk: keys by keys, queries by keys, what they give by values and keys, twice; then the state, thrice
        rule = self.n_linear_heads * (_CHUNK * 5 * d + 3 * d * d)
        linear = 5 * h * width + 2 * h * self.n_linear_heads + rule
        return n_full * attention + n_linear * linear + self.n_layers * 3 * h * self.intermediate_size

    def per_pair_of_tokens(self) -> float:
        """Multiplications of all attention for one query and one key."""
        return sum(self.full_attention) * 2 * self.n_heads * self.head_dim

    def per_image(self, layout: Layout) -> float:
        """Multiplications of tower and projector with one image."""
        h, n_patches = self.tower_hidden_size, layout.n_image * _MERGE**2
        layers = self.n_tower_layers * (12 * h**2 * n_patches + 2 * h * n_patches**2)
        merged = h * _MERGE**2
        return layers + n_patches * 3 * 2 * 16**2 * h + layout.n_image * (merged**2 + merged * self.hidden_size)


def words_tokenizer(vocab_size: int, *special: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are numbers; special tokens and padding are its last tokens."""
    words = [*map(str, range(vocab_size - len(special) - 1)), *special, "<pad>"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([*special, "<pad>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")


def make_pairs(size: Size | HybridSize, layout: Layout) -> list[dict]:
    """Pairs with random pictures and words."""
    rng = np.random.default_rng(0)
    side = layout.image_side * size.pixels_of_token

    def words(count: int) -> str:
        return "".join(f" {word}" for word in rng.integers(1, size.vocab_size - 10, count))

    rows = []
    for _ in range(layout.n_pairs):
        pixels = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
        rows.append(
            {
                "images": [Image.fromarray(pixels)],
                # The first words differ: a suffix is as long as it says
                "text_rich_prompt": f"{size.image} 1" + words(layout.n_text - layout.n_completion - 1),
                "vision_centric_prompt": f"{size.image} 2" + words(layout.n_vision - layout.n_completion - 1),
                "completion": words(layout.n_completion),
            }
        )
    return rows
