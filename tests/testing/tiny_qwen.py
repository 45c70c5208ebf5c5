"""The Qwen-VL families, tiny: towers with patches in one row, and positions in three dimensions (M-RoPE)."""

from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLMoeConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from tests.testing.tiny_parts import template, text_sizes, tokenizer_of


def qwen(config_cls, processor_cls, video_cls, vision: dict, text: dict | None = None, **rope):
    """Config and processor of a family, by what differs of its tower, its decoder and its positions."""
    tokenizer = tokenizer_of("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    images = {"patch_size": 4, "merge_size": 2, "size": {"shortest_edge": 64, "longest_edge": 1024}}
    processor = processor_cls(
        Qwen2VLImageProcessor(**images),
        tokenizer,
        video_cls(**images),
        chat_template=template("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    tower = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 4,
        "out_hidden_size": 32,
        **vision,
    }
    config = config_cls(
        vision_config={key: value for key, value in tower.items() if value is not None},
        text_config=text_sizes(
            tokenizer, rope_parameters={"rope_type": "default", "rope_theta": 1e4, **rope}, **(text or {})
        ),
        image_token_id=processor.image_token_id,
        video_token_id=processor.video_token_id,
        **{f"{name}_token_id": token for name, token in ids.items()},
    )
    return config, processor


def qwen2_vl():
    tower = {"embed_dim": 32, "mlp_ratio": 1, "intermediate_size": None, "out_hidden_size": None}
    return qwen(Qwen2VLConfig, Qwen2VLProcessor, Qwen2VLVideoProcessor, tower, mrope_section=[4, 2, 2])


def qwen2_5_vl():
    vision = {"window_size": 16, "fullatt_block_indexes": [1]}
    return qwen(Qwen2_5_VLConfig, Qwen2_5_VLProcessor, Qwen2VLVideoProcessor, vision, mrope_section=[4, 2, 2])


def qwen3_vl():
    vision = {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    config, processor = qwen(
        Qwen3VLConfig, Qwen3VLProcessor, Qwen3VLVideoProcessor, vision, mrope_section=[4, 2, 2], mrope_interleaved=True
    )
    config.text_config.head_dim = 16
    return config, processor


def qwen3_vl_moe():
    vision = {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    config, processor = qwen(
        Qwen3VLMoeConfig,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
        vision,
        mrope_section=[4, 2, 2],
        mrope_interleaved=True,
    )
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "router_aux_loss_coef": 0.5}
    for name, value in {"head_dim": 16, **experts}.items():
        setattr(config.text_config, name, value)
    config.text_config._experts_implementation = "eager"  # the grouped products know no float64
    return config, processor
