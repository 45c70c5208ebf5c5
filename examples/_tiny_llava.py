"""A LLaVA small enough to train on a CPU: random weights, and a tokenizer trained on the data it will read."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)


PAD, IMAGE, USER, ASSISTANT, END = "<pad>", "<image>", "<|user|>", "<|assistant|>", "<|end|>"

# The usual 0.02 is meant for widths in the thousands; at 128 the first hundred steps would go into growing weights.
INITIALIZER_RANGE = 0.05

# The image comes first; a content is a string or a list of image and text parts. END, the eos token, ends a turn.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '" + IMAGE + "' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}{{ '" + END + "' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + ASSISTANT + "' }}{% endif %}"
)


def build_tiny_llava(
    texts: Iterable[str], *, image_size: int, patch_size: int = 16, hidden_size: int = 128, seed: int = 0
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """
    A LLaVA of about one million parameters, and its processor.

    Args:
        texts: texts to train the tokenizer on; every digit is a token of its own.
        image_size: width and height of every image, pixels; images are not resized.
        patch_size: pixels; the model sees (image_size / patch_size)² image tokens.
        hidden_size: width of the decoder.
        seed: seed of the weights; the global random state is not changed.
    """
    tokenizer = _train_tokenizer(texts)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            do_resize=False,
            do_center_crop=False,
            size={"shortest_edge": image_size},
            crop_size=image_size,
            # White paper becomes zeros, so that a random patch embedding sees ink only: it learns far faster.
            image_mean=[1.0] * 3,
            image_std=[0.5] * 3,
        ),
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        # CLIP's class token: counted here, dropped again by the "default" strategy.
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )
    config = _tiny_config(tokenizer, image_size, patch_size, hidden_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, do_sample=False
    )
    return model, processor


def _tiny_config(
    tokenizer: PreTrainedTokenizerFast, image_size: int, patch_size: int, hidden_size: int
) -> LlavaConfig:
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            image_size=image_size,
            patch_size=patch_size,
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=hidden_size,
            initializer_range=INITIALIZER_RANGE,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=3 * hidden_size,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=False,
            initializer_range=INITIALIZER_RANGE,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(image_size // patch_size) ** 2,
    )


def _train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    # "mon=" is one token wherever it stands, so that copying its value means looking for the same token further left.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[A-Za-z/]+=?|\d|\s|."), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    special = [PAD, IMAGE, USER, ASSISTANT, END]
    # Every byte is in the vocabulary, so that any text can be encoded.
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[IMAGE, USER, ASSISTANT],
        # A template that renders END itself must not get a second one.
        add_eos_token=False,
        padding_side="left",
    )
