"""Why a family does not do something: in words for the table, each with the error by which the tests find it."""

# Rows of these show one image each: Mllama's own batches let a row see the padding of rows with more
ONE_IMAGE = frozenset({"blip-2", "instructblip", "mllama"})

# The model's own logits leave out the factor of its language model's head; TRL's loss, and so ours, does not
SCALED_BY_TRL = frozenset({"aya_vision", "cohere2_vision"})

# Where `all-linear` of peft takes a layer that is none (a router, a layer of an audio tower)
LORA_TARGETS = dict.fromkeys(("llama4", "qwen3_omni_moe_thinker"), r".*self_attn\.(q|v)_proj")

# In whose tower the dtype of pixels is read off a linear layer, which in 4 bits is none
KEPT_WHOLE = dict.fromkeys(("muse_glimmer", "muse_spark", "inkling2", "inkling2_loop"), "patch_embedding")

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
    "apertus1p5": "its vocabulary holds the codes of its images and sounds (266,440 tokens); no smaller one is made",
    "fuyu": "with the tests' tokenizer its processor finds one image token less than it wrote",
    "dots3_note": "heads and experts are set layer by layer: the smallest one made has 42 million parameters",
    "deepseek_ocr2": "its tower makes 144 tokens of its smallest image, which has 768 pixels a side",
    **dict.fromkeys(
        ("minicpm_ocr", "minicpmv4_6", "minicpmv4_7"),
        "its processor packs the pixels of a call into one row, and its model reads one row alone, so that each view "
        "would need a call of its own",
    ),
}
# (error, reason), where nothing is trained or, by column, where one thing is not done
NOT_DONE: dict[str | tuple[str, str], tuple[str, str]] = {
    "blip": ("has no decoder backbone", "its decoder reads images through cross-attention"),
    "ernie4_5_vl_moe": (
        "The shape of the mask",
        "its `moe_mm_token_type_ids` are those of the prompt alone, as TRL's collator leaves them",
    ),
    "git": ("Sizes of tensors must match", "its images stand before all tokens, and no token stands for them"),
    "idefics": ("dictionary update sequence", "its processor takes prompts as lists of texts and images alone"),
    "kosmos-2": ("has no decoder backbone", "it has no backbone beside its head"),
    "kosmos-2.5": ("requires images to be passed", "its processor refuses the completion, which has no image"),
    "nemotron_h_omni": ("has no decoder backbone", "it has no backbone beside its head"),
    "got_ocr2": ("Nested images are only supported", "its processor refuses the images as TRL's collator gives them"),
    "pp_chart2table": ("Both `images` and `text`", "its processor refuses the completion, which has no image"),
    "cosmos3_edge": ("`mm_token_type_ids` is missing", "its processor leaves out a tensor that the model asks for"),
    "unlimited_ocr": ("has no attribute 'shape'", "its processor gives a list where others give a tensor"),
    ("emu3", "QLoRA"): (
        "num_batches_tracked",
        "a step changes the running means in its tokenizer of images, which no adapter saves",
    ),
    ("hy_v4_vl", "generates"): (
        "tokens are others than those of a whole forward",
        "after a step some greedy tokens are others than those of a whole forward; why is not known",
    ),
}
