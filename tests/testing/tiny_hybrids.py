"""Hybrid families, tiny: decoders in which most layers carry a state along the row, and the others are attention."""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import (
    Lfm2Config,
    Lfm2VlConfig,
    Lfm2VlImageProcessor,
    Lfm2VlProcessor,
    Qwen3_5Config,
    Qwen3_5MoeConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.models.qwen3_5 import modeling_qwen3_5
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe

from tests.testing.tiny_parts import IMAGE, PATCHES, VISION, template, text_sizes, tokenizer_of
from tests.testing.tiny_qwen import qwen


RULES = ("torch_chunk_gated_delta_rule", "chunk_kimi_delta_attention")
DELTA = {
    "head_dim": 16,
    "num_hidden_layers": 3,
    # A layer with a state after one with attention too
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
}
ROPE = {"mrope_section": [2, 1, 1], "mrope_interleaved": True, "partial_rotary_factor": 0.5}


def qwen3_5():
    return _qwen3_5(Qwen3_5Config, modeling_qwen3_5)


def qwen3_5_moe():
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    shared = {"shared_expert_intermediate_size": 16}
    config, processor = _qwen3_5(Qwen3_5MoeConfig, modeling_qwen3_5_moe, **experts, **shared)
    config.text_config._experts_implementation = "eager"  # the grouped products know no float64
    return config, processor


def _qwen3_5(config_cls, modeling, **text):
    exact_for_float64(modeling)
    vision = {"num_position_embeddings": 16}
    config, processor = qwen(config_cls, Qwen3VLProcessor, Qwen3VLVideoProcessor, vision, {**DELTA, **text}, **ROPE)
    return config, processor


def lfm2_vl():
    places = [f"<|img_row_{i + 1}_col_{j + 1}|>" for i in range(4) for j in range(4)]
    tokenizer = tokenizer_of(IMAGE, "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>", *places)
    sizes = {"encoder_patch_size": 4, "tile_size": 16, "min_image_tokens": 1, "max_image_tokens": 4}
    processor = Lfm2VlProcessor(
        Lfm2VlImageProcessor(**sizes, max_tiles=4, max_pixels_tolerance=1.0), tokenizer, chat_template=template()
    )
    config = Lfm2VlConfig(
        vision_config={**VISION, "patch_size": PATCHES["patch_size"], "num_patches": 16},
        text_config=Lfm2Config(
            **text_sizes(tokenizer, num_hidden_layers=3),
            layer_types=["conv", "full_attention", "conv"],
            block_auto_adjust_ff_dim=False,
            conv_bias=True,
        ),
        image_token_id=processor.image_token_id,
        projector_hidden_size=32,
    )
    return config, processor


def remember(model: torch.nn.Module) -> None:
    """Let the states of a model fade over some tens of tokens: as they begin, most have forgotten the last one."""
    for name, parameter in model.named_parameters():
        if name.endswith("A_log"):
            parameter.copy_(torch.linspace(-5.0, 0.0, parameter.numel()).view_as(parameter))


# The host's reference works in float32 inside, whatever it is given

_AS_THEY_COME: dict[str, dict] = {}


def exact_for_float64(modeling) -> None:
    """Let the recurrent functions of a module of transformers work in float64 where they are given float64.

    Where they are given less they compute what they did before. Calling it again does nothing.
    """
    if modeling.__name__ in _AS_THEY_COME:
        return
    functions = vars(modeling)
    _AS_THEY_COME[modeling.__name__] = {name: functions[name] for name in RULES if name in functions}
    for name, function in _AS_THEY_COME[modeling.__name__].items():
        source = inspect.getsource(inspect.unwrap(function))
        lifted = "torch.promote_types(value.dtype, torch.float32)"
        made = dict(functions)
        source = source[source.index("def ") :].replace(".float()", ".to(torch.float32)")
        exec(source.replace("torch.float32", lifted), made)
        functions[name] = made[name]


@contextmanager
def as_it_comes(model: torch.nn.Module) -> Iterator[None]:
    """A context in which the recurrent functions of a model's module are those of transformers again."""
    functions = vars(sys.modules[type(model).__module__])
    lifted = {name: functions[name] for name in RULES if name in functions}
    functions.update(_AS_THEY_COME[type(model).__module__])
    try:
        yield
    finally:
        functions.update(lifted)
