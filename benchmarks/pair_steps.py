"""Models, batches of pairs and implementations of a training step on them, which `bench_pair_step.py` compares.

Every way computes, for the N completion tokens of all pairs in both views,

    Σ_t [ CE_r(t) + CE_v(t) + KL( stopgrad p_r(t) ‖ p_v(t) ) ] / 2N

and its gradients for every weight of the model, vision tower included.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
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
)
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from trl_modality import PairedCollator
from trl_modality.modeling.attention import use_shared_prefix
from trl_modality.modeling.forward import LossSettings, add_paired_loss


PATCH = 14
Run = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Size:
    """Sizes of a LLaVA.

    With the defaults, 46 % of the weights in matrix products are in the decoder's layers, 23 % in its head, 31 % in
    the tower. In SmolVLM-256M they are 47, 12 and 41 %, in Qwen2.5-0.5B with CLIP-L 45, 17 and 38 %.
    """

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


@dataclass(frozen=True)
class Layout:
    """Tokens of a pair: those of the image, then those of each view, which end with the same completion."""

    n_image: int = 576
    n_text: int = 320
    n_vision: int = 180
    n_completion: int = 120
    n_pairs: int = 4

    def __str__(self) -> str:
        return f"{self.n_image}+{self.n_text}/{self.n_vision}, {self.n_completion} learnt, {self.n_pairs} pairs"


def words_tokenizer(vocab_size: int, *special: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are numbers; special tokens and padding are its last tokens."""
    words = [*map(str, range(vocab_size - len(special) - 1)), *special, "<pad>"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([*special, "<pad>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")


def build(size: Size, layout: Layout) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A LLaVA of random weights whose words are numbers, so that texts have as many tokens as wanted."""
    side = round(layout.n_image**0.5)
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": side * PATCH}, crop_size=side * PATCH),
        words_tokenizer(size.vocab_size, "<image>"),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=size.tower_hidden_size,
            intermediate_size=4 * size.tower_hidden_size,
            num_hidden_layers=size.n_tower_layers,
            num_attention_heads=size.tower_hidden_size // 64,
            image_size=side * PATCH,
            patch_size=PATCH,
        ),
        text_config=LlamaConfig(
            vocab_size=size.vocab_size,
            hidden_size=size.hidden_size,
            intermediate_size=size.intermediate_size,
            num_hidden_layers=size.n_layers,
            num_attention_heads=size.n_heads,
            num_key_value_heads=size.n_heads,
            max_position_embeddings=65_536,
            pad_token_id=size.vocab_size - 1,
        ),
        image_token_index=size.vocab_size - 2,
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    return model.train(), processor


def make_pairs(layout: Layout, vocab_size: int) -> list[dict]:
    """Pairs with random pictures and words."""
    rng = np.random.default_rng(0)
    side = round(layout.n_image**0.5) * PATCH

    def words(count: int) -> str:
        return "".join(f" {word}" for word in rng.integers(1, vocab_size - 2, count))

    rows = []
    for _ in range(layout.n_pairs):
        pixels = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
        rows.append(
            {
                "images": [Image.fromarray(pixels)],
                # The first words differ: a suffix is as long as it says
                "text_rich_prompt": "<image> 1" + words(layout.n_text - layout.n_completion - 1),
                "vision_centric_prompt": "<image> 2" + words(layout.n_vision - layout.n_completion - 1),
                "completion": words(layout.n_completion),
            }
        )
    return rows


def host_rows(pairs: list[dict]) -> list[dict]:
    """The pairs as rows of TRL: all in one view, then all in the other."""
    return [
        {"images": row["images"], "prompt": row[f"{view}_prompt"], "completion": row["completion"]}
        for view in ("text_rich", "vision_centric")
        for row in pairs
    ]


def ours(model: Any, processor: Any, pairs: list[dict], **settings: bool) -> Run:
    """A training step of this package; options that `settings` leave out are off."""
    batch = PairedCollator(processor)(pairs)
    return lambda: model(**batch, paired_loss=LossSettings(**settings)).loss


def stock(model: Any, processor: Any, pairs: list[dict], losses: Callable[..., torch.Tensor]) -> Run:
    """A step composed without this package: TRL's collator on both views, the backbone on padded rows, and `losses` of
    the hidden states that predict supervised tokens."""
    batch = dict(DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)(host_rows(pairs)))
    labels = batch.pop("labels")[:, 1:]
    kept = labels != -100

    def run() -> torch.Tensor:
        hidden = model.model(**batch, use_cache=False).last_hidden_state[:, :-1][kept]
        return losses(hidden, model.lm_head.weight, labels[kept])

    return run


def trl_losses(hidden, head, labels, chunk: int) -> torch.Tensor:
    """TRL's fused ops for the cross-entropies of both views, with what `SFTTrainer` logs, and for the divergence."""
    from trl.kernels import chunked_divergence
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    # A constant of the module, read in the forward and in the backward that follows it
    chunked_divergence.VOCAB_CHUNK_SIZE = chunk = min(chunk, len(head))
    log_probs, *_ = ChunkedLogProbFunction.apply(
        hidden, head, None, labels, 1.0, chunk, None, 1.0, ("entropy", "is_top1")
    )
    text, vision = hidden.chunk(2)
    teacher = text.detach(), head.detach(), None
    kl, _ = chunked_divergence.ChunkedDivergenceFunction.apply(vision, head, None, *teacher, 0.0, 1.0)
    return (kl.sum() - log_probs.sum()) / len(labels)


def _plain_losses(hidden, head, labels) -> torch.Tensor:
    """Losses by autograd on the logits of supervised tokens, in one product for both views."""
    text, vision = F.linear(hidden, head).log_softmax(-1).chunk(2)
    of_text, of_vision = labels.chunk(2)
    nll = F.nll_loss(text, of_text, reduction="sum") + F.nll_loss(vision, of_vision, reduction="sum")
    return (nll + F.kl_div(vision, text.detach(), reduction="sum", log_target=True)) / len(labels)


OURS, ROWS, PLAIN = "ours", "ours, rows of their own", "padded rows, full logits"
STOCK = f"padded rows, TRL {'.'.join(version('trl').split('.')[:2])}"
TUNED = f"{STOCK}, chunk tuned"
WAYS: dict[str, Callable[..., Run]] = {
    OURS: partial(ours, share_prefix=True),
    ROWS: ours,
    PLAIN: partial(stock, losses=_plain_losses),
    STOCK: partial(stock, losses=partial(trl_losses, chunk=32_768)),  # as `SFTTrainer` has it
    TUNED: partial(stock, losses=partial(trl_losses, chunk=2_048)),  # the fastest of those tried on a CPU
}


def prepare(size: Size, layout: Layout) -> dict[str, tuple[Any, Run]]:
    """The model, and each way to a step on it."""
    model, processor = build(size, layout)
    add_paired_loss(model)
    use_shared_prefix(model.get_decoder())  # without a layout it is what it was
    pairs = make_pairs(layout, size.vocab_size)
    return {name: (model, way(model, processor, pairs)) for name, way in WAYS.items()}


def products(size: Size, layout: Layout) -> dict[str, float]:
    """Multiplications in the matrix products of a step, forward and backward, for each way.

    Attention counts as it is called: half of the square where it is causal, all of it where there is a mask, as
    transformers makes for padded rows.

    A backward has two products for each of the forward. TRL's fused ops make the logits of both views, of the student
    and of the teacher anew in their backwards: 14 products of M tokens of one view with the head where ours has 6
    (trained head).
    """
    h, wide, v = size.hidden_size, size.intermediate_size, size.vocab_size
    tower_h, n_patches = size.tower_hidden_size, layout.n_image + 1
    per_token = size.n_layers * (4 * h * h + 3 * h * wide)
    tower = size.n_tower_layers * (12 * tower_h**2 * n_patches + 2 * tower_h * n_patches**2)
    tower += layout.n_image * (3 * PATCH**2 * tower_h + tower_h * h + h * h)
    head = layout.n_completion * h * v
    rows = [layout.n_image + layout.n_text, layout.n_image + layout.n_vision]
    padded = max(rows)

    attention = size.n_layers * 2 * h
    shared = 3 * (sum(rows) - layout.n_image) * per_token
    shared += 3 * attention * (rows[0] ** 2 / 2 + layout.n_vision * rows[1])
    apart = 3 * 2 * (padded * per_token + attention * padded**2)
    of_pair = {
        OURS: shared + 3 * tower + 6 * head,
        ROWS: apart + 3 * tower + 6 * head,
        PLAIN: apart + 6 * tower + 6 * head,
        STOCK: apart + 6 * tower + 14 * head,
    }
    return {name: layout.n_pairs * count for name, count in (of_pair | {TUNED: of_pair[STOCK]}).items()}
