"""Why a family does not do something: in words for the table, each with the error by which the tests find it."""

# Rows of these show one image each
ONE_IMAGE = frozenset({"blip-2", "instructblip"})

# The model's own logits leave out the factor of its language model's head; TRL's loss, and so ours, does not
SCALED_BY_TRL = frozenset({"aya_vision", "cohere2_vision"})

# Where `all-linear` of peft takes a layer that is none (a router, a layer of an audio tower)
LORA_TARGETS = dict.fromkeys(("llama4", "qwen3_omni_moe_thinker"), r".*self_attn\.(q|v)_proj")

# In whose tower the dtype of pixels is read off a linear layer, which in 4 bits is none
KEPT_WHOLE = {"muse_glimmer": "patch_embedding"}

TIMM = "its tower is one of `timm`, which the tests do not install"
ENCODER_DECODER = "an encoder and a decoder: its prompt is not in the sequence of its answer"
# No tiny model of these, or no row for it, is made
NOT_BUILT: dict[str, str] = {
    "evolla": "reads proteins, not images",
    "fast_vlm": TIMM,
    "gemma3n": TIMM,
    "perception_lm": TIMM,
    "pi0": "makes actions of a robot, not text",
    "diffusion_gemma": "makes its text by diffusion, not token by token",
    "pix2struct": ENCODER_DECODER,
    "florence2": ENCODER_DECODER,
    "udop": ENCODER_DECODER,
    "vision-encoder-decoder": ENCODER_DECODER,
    "t5gemma2": ENCODER_DECODER,
    "pp_formulanet": ENCODER_DECODER,
    "instructblipvideo": "reads videos, not images",
    "shieldgemma2": "a classifier of images; its model is Gemma 3",
    "mistral4": "a text model; its images are read by `mistral3`",
    **dict.fromkeys(
        (
            "apertus1p5",
            "dots3_note",
            "muse_spark",
            "nemotron_h_omni",
            "gemma4_unified",
            "glm5_next",
            "qwen4_exp",
        ),
        "no tiny model of it is made yet",
    ),
    **dict.fromkeys(
        ("emu3", "ernie4_5_vl_moe", "deepseek_ocr2", "fuyu", "idefics", "inkling2", "inkling2_loop"),
        "no tiny processor of it is made yet",
    ),
    **dict.fromkeys(
        ("inkling_mm_model", "step3p7", "video_llava", "kosmos-2", "kosmos-2.5", "git"),
        "no tiny processor of it is made yet",
    ),
    **dict.fromkeys(
        ("minicpm_ocr", "minicpmv4_6", "minicpmv4_7"), "its processor makes hundreds of tokens of the smallest image"
    ),
}
# (error, reason), where nothing is trained or, by column, where one thing is not done
NOT_DONE: dict[str | tuple[str, str], tuple[str, str]] = {
    "blip": ("has no decoder backbone", "its decoder reads images through cross-attention"),
    "got_ocr2": ("Nested images are only supported", "its processor refuses the images as TRL's collator gives them"),
    "pp_chart2table": ("Both `images` and `text`", "its processor refuses the completion, which has no image"),
    "cosmos3_edge": ("`mm_token_type_ids` is missing", "its processor leaves out a tensor that the model asks for"),
    "unlimited_ocr": ("has no attribute 'shape'", "its processor gives a list where others give a tensor"),
    "mllama": ("cross-attention", "TRL's collator makes the mask of its images for the prompt alone"),
}
