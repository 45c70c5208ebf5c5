"""What the generic ways of making configs and processors tiny do not find, family by family."""

from typing import Any


ROPE = {"rope_type": "default", "rope_theta": 1e4}
MROPE = {**ROPE, "mrope_section": [4, 2, 2]}
"""For heads of 16."""
GRID = [[16, 32], [32, 16], [32, 32]]

OVIS = [f"token:<IMG_{name}>" for name in ("START", "GRID", "COL", "ROW", "END")]
# Of configs. "token:…" is the id of a special token
BY_HAND: dict[str, dict[str, Any]] = {
    "aya_vision": {"image_token_id": "token:<|IMG_PATCH|>"},
    "aria": {"projector_patch_to_query_dict": {"16": 4}, "vision_config": {"image_size": 980, "patch_size": 245}},
    "chameleon": {"vocabulary_map": {"<image>": "token:<image>", "IMGIMGAZ": "token:IMGIMGAZ"}},
    "cohere_compass": {
        "text_config": {
            "rope_parameters": {"sliding_attention": MROPE, "full_attention": MROPE},
        }
    },
    "deepseek_vl_hybrid": {"high_res_vision_config": {"image_size": 64, "patch_size": 4, "global_attn_indexes": [1]}},
    "dots3_note": {"text_config": {"num_key_value_heads": 2}},
    "ernie4_5_vl_moe": {"text_config": {"rope_parameters": {**ROPE, "mrope_section": [3, 3, 2]}}},
    "emu3": {
        "image_token_id": "token:<image>",
        "vocabulary_map": {
            name: f"token:{name}"
            for name in ("<image>", "<|extra_200|>", *(f"<|visual token {i:06}|>" for i in range(4)))
        },
        "vq_config": {"codebook_size": 4, "channel_multiplier": [1] * 4, "num_res_blocks": 1, "attn_resolutions": []},
    },
    **{
        name: {"text_config": {"rope_parameters": MROPE}}
        for name in ("glm46v", "glm4v", "glm_ocr", "glmga", "paddleocr_vl")
    },
    "glm4v_moe": {
        "text_config": {"rope_parameters": {**MROPE, "partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}}
    },
    **{
        name: {"text_config": {"rope_parameters": MROPE}, "vision_start_token_id": "token:<|vision_start|>"}
        for name in ("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker")
    },
    "gemma4_unified": {
        "vision_config": {"patch_size": 4, "pooling_kernel_size": 2, "mm_embed_dim": 32, "output_proj_dims": 32},
    },
    "gemma3n": {"text_config": {"intermediate_size": 32}},
    "glm5_next": {"text_config": {"num_key_value_heads": 2, "index_kpool": 2, "qk_rope_head_dim": 0}},
    "granite4_vision": {
        "deepstack_layer_map": [[0, 0]],
        "spatial_target_layers": [1],
        "downsample_rate": "1/2",
        "image_grid_pinpoints": GRID,
        "vision_config": {"hidden_size": 64},
        "qformer_config": {"hidden_size": 64, "num_attention_heads": 2, "encoder_hidden_size": 64},
    },
    # The head has rows that no token has
    "inkling_mm_model": {
        "vision_config": {"patch_size": 16},
        "text_config": {"vocab_size": 400, "unpadded_vocab_size": 390},
    },
    **{
        name: {"vision_config": {"patch_size": 8}, "text_config": {"unpadded_vocab_size": 390, "vocab_size": 390}}
        for name in ("inkling2", "inkling2_loop")
    },
    "step3p7": {"text_config": {"sliding_window": 8}},
    "hunyuan_vl": {"text_config": {"head_dim": 16, "rope_parameters": MROPE}},
    "janus": {"vq_config": {"num_embeddings": 16}},
    "kimi_k25": {"text_config": {"num_key_value_heads": 2}},
    "llava_next_video": {"image_grid_pinpoints": GRID},
    "blip-2": {"image_token_index": "token:<image>"},
    "instructblip": {"image_token_index": "token:<image>"},
    "llama4": {
        "image_token_index": "token:<|patch|>",
        "vision_config": {"intermediate_size": 128},
        "text_config": {"moe_layers": [1], "no_rope_layers": [1, 0], "attention_chunk_size": 8192},
    },
    "mistral4": {"num_key_value_heads": 2},
    "mistral_large4": {"text_config": {"num_key_value_heads": 2, "no_rope_layers": [1, 0]}},
    "molmo2": {"adapter_config": {"vision_feature_layer": [1, 0]}, "image_patch_id": "token:<im_patch>"},
    "muse_spark": {
        "vision_config": {"out_hidden_size": 128},
        "out_hidden_size": 128,
        "audio_config": {"num_hidden_layers": 2, "hidden_sizes": [32, 32], "depths": [1, 1], "patch_sizes": [4, 2]},
    },
    "muse_glimmer": {"vision_config": {"out_hidden_size": 128}, "out_hidden_size": 128},
    "qwen4_exp": {
        "text_config": {
            "indexer_n_heads": 2,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 16,
            "indexer_budget": 8,
            "indexer_compress_ratio": 2,
            "hc_lowrank": 8,
            "ngram_vocab_size_base": 64,
        }
    },
    "ovis2": {"image_token_id": "token:<IMG_ATOM>", "visual_indicator_token_ids": OVIS},
    "vipllava": {"vision_feature_layer": [-1, -2]},
}

# The names by which processors ask their tokenizer for tokens
NAMED_TOKENS = {
    "image_token": "<image>",
    "video_token": "<video>",
    "audio_token": "<audio>",
    "boi_token": "<boi>",
    "eoi_token": "<eoi>",
    "boa_token": "<boa>",
    "eoa_token": "<eoa>",
    "eol_token": "<eol>",
    "eof_token": "<eof>",
    "sep_token": "<eoss>",
    "unk_token": "<unk>",
    "image_wrapper_token": "<wrap>",
    "img_line_break_token": "<break>",
    "image_start_token": "<image_start>",
    "image_end_token": "<image_end>",
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<image>",
    "image_break_token": "[IMG_BREAK]",
    "image_boundary_token": "<fake_token_around_image>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "video_start_token": "<|begin_of_video|>",
    "video_end_token": "<|end_of_video|>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
}
# Tokens that processors write by themselves
LITERAL_TOKENS = [
    "<image>",
    "<video>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image|>",
    "<|video|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
    "<img>",
    "</img>",
    "<imgpad>",
    "<|imgpad|>",
    "<|audio_comp_pad|>",
    "<IMG_CONTEXT>",
    "<racm3:break>",
    "<eoss>",
    "IMGIMGAZ",
    "<|extra_200|>",
    "<|extra_201|>",
    "<|START_OF_IMG|>",
    "<|END_OF_IMG|>",
    "<|IMG_LINE_BREAK|>",
    "<|IMG_PATCH|>",
    "TILE_GLOBAL",
    "TILE_",
    "<|IMAGE_PAD|>",
    "<|VIDEO_PAD|>",
    "<|VISION_START|>",
    "<|VISION_END|>",
    "<fake_token_around_image>",
    "<global-img>",
    "<end_of_utterance>",
    "<|python_tag|>",
    "<|media_pad|>",
    "<|kimi_k25_video_placeholder|>",
    "<|content_image|>",
    "<|content_audio_input|>",
    "<|unused_200053|>",
    "<|unused_200054|>",
    "<|image_start|>",
    "<|image_end|>",
    "<|img_thumbnail|>",
    "<|patch|>",
    "<|tile_x_separator|>",
    "<|tile_y_separator|>",
    "[IMG]",
    "[IMG_BREAK]",
    "[IMG_END]",
    "<frame_end>",
    "<frame_start>",
    "<im_col>",
    "<im_end>",
    "<im_low>",
    "<im_patch>",
    "<im_start>",
    "<low_res_im_start>",
    "<|vid_end|>",
    "<|vid_frame_separator|>",
    "<|vid_start|>",
    "<|audio|>",
    "<|soft_audio_end|>",
    "<|soft_audio_start|>",
    "<so_embedding>",
    "<so_end>",
    "<so_start>",
    "<IMG_ATOM>",
    "<IMG_COL>",
    "<IMG_END>",
    "<IMG_ROW>",
    "<IMG_START>",
    "<IMG_GRID>",
    "<patch_newline>",
    "<patch_start>",
    "<patch_end>",
    "<|reserved_special_token_0|>",
    "<|im_end|>",
    "<|im_start|>",
    "]<]image[>[",
    "]<]video[>[",
    "]<]start",
    "of",
    "image[>[",
    "]<]end",
    "of",
    "image[>[",
    "]<]vision_start[>[",
    "]<]vision_end[>[",
]

OMNI = {
    "images": {"class": "Qwen2VLImageProcessor"},
    "videos": {"class": "Qwen2VLVideoProcessor"},
    "sounds": {"class": "WhisperFeatureExtractor"},
    "tokens": {f"{kind}_{end}_token": f"<{kind}_{end}>" for kind in ("vision", "audio") for end in ("bos", "eos")},
}
# Of processors: arguments of the processor, of its image processor (`images`), named tokens (`tokens`), and what a
# chat template writes for an image (`image`)
PROCESSORS: dict[str, dict[str, Any]] = {
    "aria": {"arguments": {"size_conversion": {980: 4}}},
    "cohere_compass": {
        "image": "<|VISION_START|><|IMAGE_PAD|><|VISION_END|>",
        "tokens": {"image_token": "<|IMAGE_PAD|>"},
    },
    "aya_vision": {"arguments": {"downsample_factor": 2}},
    "cohere2_vision": {"images": {"patch_size": 2, "size": {"height": 16, "width": 16}}},
    "blip-2": {"image": "", "without": ["image_token"]},
    "instructblip": {"image": "", "without": ["image_token"]},
    "cosmos3_omni": {"class": "Qwen3VLProcessor", "videos": {"class": "Qwen3VLVideoProcessor"}},
    "deepseek_vl_hybrid": {"images": {"high_res_size": {"height": 64, "width": 64}}},
    "dots3_note": {"images": {"temporal_patch_size": 1}},
    "kosmos-2": {"class": "Kosmos2Processor"},
    "kosmos-2.5": {"class": "Kosmos2_5Processor"},
    "nemotron_h_omni": {"sounds": {"class": "ParakeetFeatureExtractor"}},
    "fuyu": {"image": "", "literals": ["|SPEAKER|", "|NEWLINE|"]},
    "gemma4_unified": {"images": {"patch_size": 4, "pooling_kernel_size": 2, "max_soft_tokens": 4}},
    "glm4v_moe": {"images": {"class": "Glm4vImageProcessor"}, "videos": {"class": "Glm4vVideoProcessor"}},
    "glm_ocr": {
        "class": "Glm46VProcessor",
        "images": {"class": "Glm46VImageProcessor"},
        "videos": {"class": "Glm46VVideoProcessor"},
    },
    "glmga": {"class": "Glm46VProcessor", "videos": {"class": "Glm46VVideoProcessor"}},
    "granite4_vision": {"arguments": {"downsample_rate": "1/2"}},
    "emu3": {
        "literals": [f"<|visual token {i:06}|>" for i in range(4)],
        "images": {"min_pixels": 256, "max_pixels": 1024},
    },
    "granite_docling": {"arguments": {"image_seq_len": 1}},
    "hunyuan_vl": {"image": "<image_start><image><image_end>"},
    "lfm2_vl": {"images": {"encoder_patch_size": 4, "downsample_factor": 2, "do_image_splitting": False}},
    "molmo2": {"images": {"overlap_margins": [1, 1]}, "tokens": {"image_token": "<|image|>"}},
    "idefics2": {"images": {"do_image_splitting": False}, "arguments": {"image_seq_len": 64}},
    "ovis2": {"arguments": {"image_seq_length": 16}},
    "qwen2_5_omni_thinker": {**OMNI, "class": "Qwen2_5OmniProcessor"},
    "qwen3_omni_moe_thinker": {**OMNI, "class": "Qwen3OmniMoeProcessor"},
    "step3p7": {"images": {"patch_size": 16, "vision_patch_size": 4}},
    "video_llava": {"images": {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}},
}
