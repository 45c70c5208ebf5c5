"""Families of vision-language models: whether the views of a pair may share their prefix, and if not, why.

A model shares a prefix exactly if every token sees what is before it and nothing else, but for the tokens of an image,
which may see one another, through an attention function of transformers. That cannot be read off a model, so this is
a list of the models for which the tests prove it.
"""

from typing import Any, NamedTuple

from transformers import PreTrainedModel
from transformers.utils import logging

from .recurrence import why_not_borrowed


logger = logging.get_logger(__name__)


class Family(NamedTuple):
    """A family by the `model_type` of its config."""

    name: str
    why_not_shared: str | None = None
    """Why rows cannot be laid into one sequence; `None` where they can."""
    encodes_once: bool = True
    """Whether the model makes one feature for each image token, in order, so that rows can read features of others."""
    token_types: str | None = None
    """The input that marks image tokens where these see one another; `None` where every token sees what is before it.
    """
    blocks_in_windows: bool = False
    """Whether they do so in layers with a sliding window alone."""
    cross_attends: bool = False
    """Whether images are read through cross-attention, not as tokens."""
    head_is_inside: bool = False
    """Whether the decoder is a causal language model with the head inside, so that there is no backbone beside it."""


FAMILIES = {
    "llava": Family("LLaVA"),
    "llava_next": Family("LLaVA-NeXT"),
    "llava_onevision": Family("LLaVA-OneVision"),
    "idefics3": Family("Idefics3"),
    "smolvlm": Family("SmolVLM"),
    "qwen2_vl": Family("Qwen2-VL"),
    "qwen2_5_vl": Family("Qwen2.5-VL"),
    "qwen3_vl": Family("Qwen3-VL"),
    "qwen3_vl_moe": Family("Qwen3-VL-MoE"),
    "qwen3_5": Family("Qwen3.5"),
    "qwen3_5_moe": Family("Qwen3.5-MoE"),
    "lfm2_vl": Family("LFM2-VL"),
    "internvl": Family("InternVL"),
    "mistral3": Family("Mistral3"),
    "chameleon": Family("Chameleon"),
    "aria": Family("Aria"),
    "aya_vision": Family("Aya Vision"),
    "cohere2_vision": Family("Command A Vision"),
    "cohere_compass": Family("Cohere Compass"),
    "cosmos3_omni": Family("Cosmos 3 Omni"),
    "deepseek_vl": Family("DeepSeek-VL"),
    "deepseek_vl_hybrid": Family("DeepSeek-VL, two towers"),
    "exaone4_5": Family("EXAONE 4.5"),
    "glm46v": Family("GLM-4.6V"),
    "glm4v": Family("GLM-4.1V"),
    "glm4v_moe": Family("GLM-4.5V"),
    "glm_ocr": Family("GLM-OCR"),
    "glmga": Family("GLM-GA"),
    "granite_docling": Family("Granite Docling"),
    "hyperclovax_vision_v2": Family("HyperCLOVA X Vision"),
    "idefics2": Family("Idefics2"),
    "janus": Family("Janus"),
    "kimi_k25": Family("Kimi K2.5"),
    "lighton_ocr": Family("LightOn OCR"),
    "llava_next_video": Family("LLaVA-NeXT-Video"),
    "muse_glimmer": Family("Muse Glimmer"),
    "ovis2": Family("Ovis2"),
    "paddleocr_vl": Family("PaddleOCR-VL"),
    "qianfan_ocr": Family("Qianfan-OCR"),
    "qwen2_5_omni_thinker": Family("Qwen2.5-Omni thinker"),
    "qwen3_omni_moe_thinker": Family("Qwen3-Omni thinker"),
    "video_llama_3": Family("VideoLLaMA 3"),
    "vipllava": Family("ViP-LLaVA"),
    "gemma3": Family("Gemma3", token_types="token_type_ids"),
    "gemma4": Family("Gemma4", token_types="mm_token_type_ids", blocks_in_windows=True),
    "gemma4_unified": Family("Gemma 4 unified", token_types="mm_token_type_ids", blocks_in_windows=True),
    "emu3": Family("Emu3"),
    "lfm3_vl": Family("LFM3-VL"),
    "muse_spark": Family("Muse Spark"),
    "step3p7": Family("Step 3.7"),
    "video_llava": Family("Video-LLaVA"),
    "paligemma": Family("PaliGemma", "the tokens of a prompt see those after them"),
    "molmo2": Family("Molmo 2", "the tokens of an image see those after them"),
    "minimax_m3_vl": Family("MiniMax M3", "attention chooses blocks of keys by their place"),
    "glm5_next": Family("GLM-5 Next", "attention chooses blocks of keys by their place"),
    "qwen4_exp": Family("Qwen4, experimental", "attention chooses blocks of keys by their place"),
    "dots3_note": Family("Dots 3 Note", "keys are chosen under the mask of the rows"),
    "inkling_mm_model": Family("Inkling", "attention adds a bias by distance, which segments do not know"),
    "inkling2": Family("Inkling 2", "attention adds a bias by distance, which segments do not know"),
    "inkling2_loop": Family("Inkling 2 loop", "attention adds a bias by distance, which segments do not know"),
    "mistral_large4": Family("Mistral Large 4", "keys are chosen under the mask of the rows"),
    "hy_v4_vl": Family("Hunyuan V4", "keys are chosen under the mask of the rows"),
    "hunyuan_vl": Family("HunyuanVL", "an image is placed by its number in the batch, not in the row"),
    "granite4_vision": Family("Granite 4 Vision", "features of images are added inside of the decoder", False),
    "llama4": Family("Llama 4", head_is_inside=True),
    "blip-2": Family("BLIP-2", "the language model counts positions by its mask", head_is_inside=True),
    "instructblip": Family(
        "InstructBLIP", "the Q-Former reads the question with the image", False, head_is_inside=True
    ),
    "mllama": Family("Mllama", cross_attends=True),
}

# `model_type` of the text configs whose decoders are tested inside a family
DECODERS = frozenset(
    {
        "aria_text",
        "chameleon",
        "cohere",
        "cohere2",
        "cohere_compass_text",
        "deepseek_v3",
        "emu3_text_model",
        "exaone4",
        "gemma",
        "gemma3_text",
        "gemma4_text",
        "gemma4_unified_text",
        "glm4v_moe_text",
        "glm4v_text",
        "glm_ocr_text",
        "granite",
        "granite_docling_text",
        "hyperclovax",
        "lfm2",
        "lfm3",
        "llama",
        "llama4_text",
        "mistral",
        "mllama_text_model",
        "muse_glimmer_text",
        "muse_spark_text",
        "olmo2",
        "paddleocr_vl_text",
        "phi3",
        "qwen2",
        "qwen2_5_omni_text",
        "qwen2_5_vl_text",
        "qwen2_vl_text",
        "qwen3",
        "qwen3_5_moe_text",
        "qwen3_5_text",
        "qwen3_omni_moe_text",
        "qwen3_vl_moe_text",
        "qwen3_vl_text",
        "smollm3",
        "starcoder2",
        "step3p5",
    }
)


def why_not_shared(model: PreTrainedModel) -> str | None:
    """Why the rows of a batch cannot share a prefix or a sequence in this model; `None` where they can."""
    return why_config_not_shared(model.config)


def why_config_not_shared(config: Any) -> str | None:
    """`why_not_shared` for a model of this config, whose weights are not needed."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        return f"models of type {config.model_type!r} are not known to read a shared prefix exactly"
    if family.why_not_shared:
        return f"in {family.name} {family.why_not_shared}"
    text_config = config.get_text_config()
    if getattr(text_config, "use_bidirectional_attention", None) in (True, "all"):
        return "every token sees those after it (`use_bidirectional_attention` of its text config)"
    decoder = text_config.model_type
    if decoder not in DECODERS:
        return f"decoders of type {decoder!r} are not known to read a shared prefix exactly"
    return None


def head_is_inside(model: PreTrainedModel) -> bool:
    """Whether the hidden states of a model without a backbone are what its own forward gives to its head."""
    family = FAMILIES.get(model.config.model_type)
    return family is not None and family.head_is_inside


def longest_sequence(config: Any) -> int | None:
    """The most tokens that rows may have together in one sequence; `None` where there is no limit.

    Llama 4 sees chunks, and scales queries, by places in the sequence: only where all are in the first chunk, and
    before the first step of the scale, are they what they are in rows of their own.
    """
    text = config.get_text_config()
    limits = [getattr(text, "attention_chunk_size", None)]
    if getattr(text, "attn_temperature_tuning", False):
        limits.append(int(text.floor_scale) - 1)
    return min((limit for limit in limits if limit), default=None)


def encodes_once(model: PreTrainedModel) -> bool:
    """Whether the features of an image may be made once and read by several rows."""
    family = FAMILIES.get(model.config.model_type)
    return family is not None and family.encodes_once


def cross_attends(model: PreTrainedModel) -> bool:
    """Whether a model reads its images through cross-attention, not as tokens of its rows."""
    family = FAMILIES.get(model.config.model_type)
    return family is not None and family.cross_attends


def blocks_input(config: Any) -> tuple[str | None, bool]:
    """The input that marks the image tokens which see one another, if any do in a model of this config, and whether
    they do so in layers with a sliding window alone."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        return None, False
    # The smaller ones of Gemma 4 are causal throughout
    if family.blocks_in_windows and config.get_text_config().use_bidirectional_attention != "vision":
        return None, False
    return family.token_types, family.blocks_in_windows


def shares_prefix(args: Any, model: PreTrainedModel, has_virtual_tokens: bool) -> bool:
    """Whether the views of a pair share their prefix: what `share_prefix` of the config asks, if the model allows it.

    Args:
        args: The config.
        model: The model, without PEFT's wrapper.
        has_virtual_tokens: Whether an adapter puts tokens of its own before those of every row.

    Raises:
        ValueError: `share_prefix=True` or `padding_free=True` with a model that cannot.
    """
    reason = why_not_shared(model) or why_not_borrowed(model.get_decoder())
    if has_virtual_tokens:
        reason = reason or "its adapter puts tokens of its own before those of every row"
    if reason is None:
        return args.share_prefix is not False
    if args.share_prefix is True:
        raise ValueError(f"`share_prefix=True`: {reason}. Set it to 'auto' or False.")
    if args.padding_free:
        raise ValueError(f"`padding_free=True` on rows with images: {reason}. Set it to False.")
    if args.share_prefix == "auto":
        logger.warning(
            f"`share_prefix='auto'`: the views of a pair are rows of their own, since {reason}. The losses are the "
            "same; what the views have in common is computed twice. Set it to False to silence this."
        )
    return False
