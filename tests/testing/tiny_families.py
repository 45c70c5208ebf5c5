"""A tiny model and its processor for each family of vision-language models: from configs, random weights, no download.

Images are 16 to 64 pixels wide, patches 4; every family reads 4 image tokens for a tile of 16 × 16.
"""

import copy
import functools

import torch
from transformers import (
    AutoModelForImageTextToText,
    ChameleonConfig,
    ChameleonImageProcessor,
    ChameleonProcessor,
    CLIPVisionConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ImageProcessor,
    Gemma4Processor,
    Gemma4VideoProcessor,
    GotOcr2ImageProcessor,
    Idefics3Config,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLConfig,
    InternVLProcessor,
    InternVLVideoProcessor,
    Llama4Config,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Mistral3Config,
    MistralConfig,
    MllamaConfig,
    MllamaImageProcessor,
    MllamaProcessor,
    PaliGemmaConfig,
    PaliGemmaProcessor,
    PixtralImageProcessor,
    PixtralProcessor,
    Qwen2Config,
    SiglipImageProcessor,
    SmolVLMConfig,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)
from transformers.models.gemma4 import image_processing_gemma4
from transformers.models.smolvlm import processing_smolvlm

from tests.testing import tiny_hybrids, tiny_qwen
from tests.testing.tiny import pair_row, picture, tiny_llava
from tests.testing.tiny_parts import IMAGE, PATCHES, SQUARE, VISION, template, text_sizes, tokenizer_of


# Width and height of the images; this LLaVA takes one size only
SIZES = {"llava": [(32, 32)] * 4}
DEFAULT_SIZES = [(32, 32), (32, 16), (16, 48), (48, 16)]


def llava_next(text_config=LlamaConfig, **text):
    tokenizer = tokenizer_of(IMAGE)
    grid = [[16, 32], [32, 16], [32, 32]]
    processor = LlavaNextProcessor(
        LlavaNextImageProcessor(size={"shortest_edge": 16}, crop_size=SQUARE, image_grid_pinpoints=grid),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template(),
    )
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=16, patch_size=8, projection_dim=32),
        text_config=text_config(**text_sizes(tokenizer), **text),
        image_token_index=processor.image_token_id,
        image_grid_pinpoints=grid,
        vision_feature_layer=-1,
        image_seq_length=4,
    )
    return config, processor


def llava_onevision():
    tokenizer = tokenizer_of(IMAGE, "<video>")
    grid = [[16, 32], [32, 16], [32, 32]]
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=grid),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=SQUARE),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=template(),
    )
    config = LlavaOnevisionConfig(
        vision_config={**VISION, "image_size": 16, "patch_size": 8, "model_type": "siglip_vision_model"},
        text_config=Qwen2Config(**text_sizes(tokenizer)),
        image_token_index=processor.image_token_id,
        video_token_index=processor.video_token_id,
        image_grid_pinpoints=grid,
    )
    return config, processor


def chameleon():
    """Images become tokens of the vocabulary: early fusion, without a tower of their own."""
    codes = [f"IMGIMG{letter}Z" for letter in "ABCDEFGH"]
    tokenizer = tokenizer_of(IMAGE, "<racm3:break>", "<eoss>", *codes)
    processor = ChameleonProcessor(
        ChameleonImageProcessor(size={"shortest_edge": 16}, crop_size=SQUARE), tokenizer, image_seq_length=16
    )
    processor.chat_template = template()
    vocabulary = {token: tokenizer.convert_tokens_to_ids(token) for token in (IMAGE, *codes)}
    config = ChameleonConfig(
        **text_sizes(tokenizer),
        vq_config={
            "embed_dim": 16,
            "num_embeddings": len(codes),
            "latent_channels": 16,
            "resolution": 16,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1],
            "num_res_blocks": 1,
        },
        vocabulary_map=vocabulary,
    )
    return config, processor


def _idefics(config_cls, processor_cls, images_cls, *others):
    places = [f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6)]
    tokenizer = tokenizer_of(IMAGE, "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *places)
    processor = processor_cls(
        images_cls(size={"longest_edge": 32}, max_image_size={"longest_edge": 16}),
        tokenizer,
        *others,
        image_seq_len=4,
        chat_template=template(),
    )
    config = config_cls(
        vision_config={**VISION, **PATCHES},
        text_config=LlamaConfig(**text_sizes(tokenizer)),
        image_token_id=processor.image_token_id,
        pad_token_id=tokenizer.pad_token_id,
        scale_factor=2,
    )
    return config, processor


def idefics3():
    return _idefics(Idefics3Config, Idefics3Processor, Idefics3ImageProcessor)


def smolvlm():
    # Spells out the number of frames of a video, and asks for the package even if there is none
    processing_smolvlm.num2words = processing_smolvlm.num2words or str
    return _idefics(SmolVLMConfig, SmolVLMProcessor, SmolVLMImageProcessor, SmolVLMVideoProcessor())


def mistral3():
    tokenizer = tokenizer_of("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    processor = PixtralProcessor(
        PixtralImageProcessor(size={"longest_edge": 32}, patch_size={"height": 4, "width": 4}),
        tokenizer,
        patch_size=4,
        spatial_merge_size=2,
        chat_template=template("[IMG]"),
    )
    config = Mistral3Config(
        vision_config={**VISION, "image_size": 64, "patch_size": 4, "head_dim": 16, "model_type": "pixtral"},
        text_config=MistralConfig(**text_sizes(tokenizer), head_dim=16),
        image_token_index=processor.image_token_id,
        spatial_merge_size=2,
        vision_feature_layer=-1,
    )
    return config, processor


def gemma3():
    tokenizer = tokenizer_of(
        boi_token="<start_of_image>", image_token="<image_soft_token>", eoi_token="<end_of_image>"
    )
    processor = Gemma3Processor(
        Gemma3ImageProcessor(size=SQUARE),
        tokenizer,
        chat_template=template("<start_of_image>", start="<s>"),
        image_seq_length=4,
    )
    config = Gemma3Config(
        vision_config={**VISION, **PATCHES},
        # One layer of each kind: the window is shorter than the rows
        text_config=text_sizes(
            tokenizer, head_dim=16, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
        ),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )
    return config, processor


def gemma4(**text):
    """A larger one, whose images see themselves; with embeddings for each layer and keys that layers share, too."""
    # The smallest of the sizes that it takes would be 70 tokens for every image
    if 4 not in image_processing_gemma4._SUPPORTED_SOFT_TOKENS:
        image_processing_gemma4._SUPPORTED_SOFT_TOKENS += (4,)
    tokenizer = tokenizer_of(
        boi_token="<|image>",
        image_token="<|image|>",
        eoi_token="<image|>",
        boa_token="<|audio>",
        audio_token="<|audio|>",
        eoa_token="<audio|>",
    )
    processor = Gemma4Processor(
        Gemma4AudioFeatureExtractor(),
        Gemma4ImageProcessor(patch_size=4, max_soft_tokens=4, pooling_kernel_size=2),
        tokenizer,
        Gemma4VideoProcessor(),
        chat_template=template("<|image|>", start="<s>"),
    )
    sizes = text_sizes(tokenizer, num_hidden_layers=4, head_dim=16, global_head_dim=32, sliding_window=8)
    sizes |= {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": len(tokenizer),
        "use_bidirectional_attention": "vision",
    }
    config = Gemma4Config(
        vision_config={
            **VISION,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "pooling_kernel_size": 2,
            "patch_size": 4,
            "position_embedding_size": 64,
        },
        text_config={**sizes, **text},
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
        image_token_id=tokenizer.image_token_id,
        audio_token_id=tokenizer.audio_token_id,
        video_token_id=processor.video_token_id,
    )
    return config, processor


def internvl():
    tokenizer = tokenizer_of(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True, max_patches=4),
        tokenizer,
        InternVLVideoProcessor(size=SQUARE),
        image_seq_length=4,
        chat_template=template("<IMG_CONTEXT>"),
    )
    config = InternVLConfig(
        vision_config={**VISION, "image_size": [16, 16], "patch_size": [4, 4]},
        text_config=Qwen2Config(**text_sizes(tokenizer)),
        image_token_id=processor.image_token_id,
        image_seq_length=4,
    )
    return config, processor


def mllama():
    tokenizer = tokenizer_of("<|image|>", "<|python_tag|>")
    processor = MllamaProcessor(
        MllamaImageProcessor(size=SQUARE, max_image_tiles=4),
        tokenizer,
        chat_template=template("<|image|>", start="<s>"),
    )
    config = MllamaConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "vision_output_dim": 64,
            "intermediate_layers_indices": [0],
            **PATCHES,
        },
        text_config=text_sizes(tokenizer, num_hidden_layers=4, cross_attention_layers=[1, 3]),
        image_token_index=processor.image_token_id,
    )
    return config, processor


def paligemma():
    tokenizer = tokenizer_of(image_token=IMAGE)
    images = SiglipImageProcessor(size=SQUARE)
    images.image_seq_length = 16
    processor = PaliGemmaProcessor(images, tokenizer, chat_template=template())
    config = PaliGemmaConfig(
        vision_config={**VISION, **PATCHES, "model_type": "siglip_vision_model"},
        text_config=Gemma2Config(**text_sizes(tokenizer, head_dim=16, final_logit_softcapping=1.0)),
        image_token_index=processor.image_token_id,
        projection_dim=32,
    )
    return config, processor


def llama4():
    """The odd one out: its backbone is a whole causal language model. A config alone, as no processor is needed."""
    vision = {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32}
    text = {**VISION, "vocab_size": 64, "num_key_value_heads": 1, "head_dim": 16, "intermediate_size_mlp": 32}
    return Llama4Config(
        vision_config={**VISION, **PATCHES, **vision, "intermediate_size": 128},
        text_config={**text, "num_local_experts": 2, "pad_token_id": 0},
    ), None


def is_built(name: str) -> bool:
    """Whether a family has a tiny model here; `tests/families` makes those of the others."""
    return name == "llava" or (name != "llama4" and name in {*globals(), *vars(tiny_qwen), *vars(tiny_hybrids)})


def build(name: str, **text):
    """The family's model, in float64 and with every weight random (some start at zero), and its processor.

    `text` changes the text config of the families that take it. Both are copies of what is made once.
    """
    return copy.deepcopy(_build(name, **text))


@functools.cache
def _build(name: str, **text):
    if name == "llava":
        model, processor = tiny_llava()
        return model.double(), processor
    module = next((module for module in (tiny_qwen, tiny_hybrids) if hasattr(module, name)), None)
    config, processor = (globals()[name] if module is None else getattr(module, name))(**text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
            tiny_hybrids.remember(model)
            if name == "gemma4":  # does not divide its scores: with weights at random one token would have them all
                for key, parameter in model.named_parameters():
                    parameter.mul_(0.1 if "q_norm" in key else 1.0)
    return model.double(), processor


def pairs_of(name: str, first: int = 0) -> list[dict]:
    """Three pairs with images of different sizes; in the last, the vision_centric view has two images of its own."""
    sizes = SIZES.get(name, DEFAULT_SIZES)
    rows = [pair_row(seed) for seed in range(first, first + 3)]
    for row, size in zip(rows, sizes, strict=False):
        row["images"] = [image.resize(size) for image in row["images"]]
        row["vision_centric_images"] = None
    rows[2]["vision_centric_images"] = [picture(90).resize(sizes[3]), picture(91).resize(sizes[0])]
    return rows


def exact(batch) -> dict:
    return {
        key: value.double() if getattr(value, "dtype", None) == torch.float32 else value
        for key, value in batch.items()
    }
