"""What the generic ways of making configs and processors tiny do not find, family by family."""

from typing import Any


MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
"""For heads of 16."""

# Of configs. "token:…" is the id of a special token
BY_HAND: dict[str, dict[str, Any]] = {
    "chameleon": {"vocabulary_map": {"<image>": "token:<image>", "IMGIMGAZ": "token:IMGIMGAZ"}},
    "cohere_compass": {"text_config": {"layer_types": ["sliding_attention", "full_attention"]}},
    "cosmos3_edge": {"text_config": {"rope_parameters": MROPE}},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", "sparse"]}},
    "ernie4_5_vl_moe": {"text_config": {"rope_parameters": MROPE}},
    "gemma3n": {"text_config": {"intermediate_size": 32}},
    "glm5_next": {"text_config": {"num_key_value_heads": 2}},
    "granite4_vision": {"deepstack_layer_map": [[0, 0]], "spatial_target_layers": [1], "downsample_rate": "1/2"},
    "hunyuan_vl": {"text_config": {"head_dim": 16}},
    "hy_v4_vl": {"text_config": {"rope_parameters": MROPE}},
    "janus": {"vq_config": {"num_embeddings": 16}},
    "molmo2": {"adapter_config": {"vision_feature_layer": [1, 0]}},
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
LITERAL_TOKENS = """<image> <video> <|image_pad|> <|video_pad|> <|vision_start|> <|vision_end|> <|image|> <|video|>
<|begin_of_image|> <|end_of_image|> <|begin_of_video|> <|end_of_video|> <img> </img> <imgpad> <|imgpad|>
<|audio_comp_pad|> <IMG_CONTEXT> <racm3:break> <eoss> IMGIMGAZ <|extra_200|> <|extra_201|> <|START_OF_IMG|>
<|END_OF_IMG|> <|IMG_LINE_BREAK|> <|IMG_PATCH|> TILE_GLOBAL TILE_ <|IMAGE_PAD|> <|VIDEO_PAD|> <|VISION_START|>
<|VISION_END|> <fake_token_around_image> <global-img> <end_of_utterance> <|python_tag|> <|media_pad|>
<|kimi_k25_video_placeholder|> <|content_image|> <|content_audio_input|> <|unused_200053|> <|unused_200054|>
<|image_start|> <|image_end|> <|img_thumbnail|> <|patch|> <|tile_x_separator|> <|tile_y_separator|> [IMG]
[IMG_BREAK] [IMG_END] <frame_end> <frame_start> <im_col> <im_end> <im_low> <im_patch> <im_start>
<low_res_im_start> <|vid_end|> <|vid_frame_separator|> <|vid_start|> <|audio|> <|soft_audio_end|>
<|soft_audio_start|> <so_embedding> <so_end> <so_start> <IMG_ATOM> <IMG_COL> <IMG_END> <IMG_ROW> <IMG_START>
<IMG_GRID> <patch_newline> <patch_start> <patch_end> <|reserved_special_token_0|> <|im_end|> <|im_start|>
]<]image[>[ ]<]video[>[ ]<]start of image[>[ ]<]end of image[>[ ]<]vision_start[>[ ]<]vision_end[>[""".split()

QWEN = "<|vision_start|><|image_pad|><|vision_end|>"
GLM = "<|begin_of_image|><|image|><|end_of_image|>"
# Of processors: arguments of the processor, of its image processor (`images`), named tokens (`tokens`), and what a
# chat template writes for an image (`image`), which is `image_token` where nothing is said
PROCESSORS: dict[str, dict[str, Any]] = {
    "cosmos3_omni": {"class": "Qwen3VLProcessor", "image": QWEN},
    "qwen3_5": {"image": QWEN},
    "glm46v": {"image": GLM},
    "glm4v": {"image": GLM},
    "glm4v_moe": {"images": {"class": "Glm4vImageProcessor"}, "videos": {"class": "Glm4vVideoProcessor"}, "image": GLM},
    "glm_ocr": {
        "class": "Glm46VProcessor",
        "images": {"class": "Glm46VImageProcessor"},
        "videos": {"class": "Glm46VVideoProcessor"},
        "image": GLM,
    },
    "glmga": {"class": "Glm46VProcessor", "videos": {"class": "Glm46VVideoProcessor"}, "image": GLM},
    "glm5_next": {"image": GLM},
}
