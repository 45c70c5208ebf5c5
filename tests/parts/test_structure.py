"""The parts of every family: they add up to the model, and are what a reader of three models would name."""

import re

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as MAPPED

from tests.families.measured import build_family
from tests.families.models import IS_OLDER, of_the_page
from tests.families.reasons import NOT_BUILT, NOT_DONE
from tests.testing import tiny_families
from trl_modality.parts.structure import TOP, model_parts
from trl_modality.parts.words import layers_meant


FAMILIES = (
    *("llava", "llava_next", "llava_onevision", "idefics3", "smolvlm", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"),
    *("qwen3_vl_moe", "internvl", "mistral3", "chameleon", "gemma3", "paligemma", "mllama"),
)
INNER = ("embeddings", "lm_head", "attention", "mlp", "norms")
# What a language model has beside these: gates of cross-attention, weights of its streams, a scale of its angles
BESIDE = {
    "mllama": {"cross_attn_attn_gate", "cross_attn_mlp_gate"},
    "hy_v4_vl": {"hc_fn", "hc_base", "hc_scale"},
    "mistral_large4": {"alpha"},
    "gemma4": {"weight"},  # `per_layer_model_projection`
    "inkling2": {"query"},
    "inkling2_loop": {"query"},
    "qwen4_exp": {"weight"},  # those that mix its streams
}
# All that train pairs
EVERY_FAMILY = dict.fromkeys(
    [*FAMILIES, *(name for name in MAPPED if name not in {*NOT_BUILT, *NOT_DONE} and not IS_OLDER)]
)
MISSING = {
    "chameleon": {"projector"},
    "emu3": {"projector"},
    "gemma4_unified": {"vision_tower"},
    "inkling_mm_model": {"projector"},
}


@pytest.mark.parametrize("name", EVERY_FAMILY)
def test_parts_add_up(name):
    """Towers, projector and language model are the model, each parameter once; the inner parts are its last one."""
    model, _ = build_family(name)
    parts = model_parts(model)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert sum(parts.count(parts.of(word)) for word in TOP) == parts.count(parts.sizes) == total
    assert set(TOP) - set(parts.names) - {"audio_tower"} == MISSING.get(name, set())

    language = set(parts.of("language_model"))
    inner = [set(parts.of(word)) for word in INNER]
    tied = parts.count(parts.of("lm_head")) if parts.is_tied else 0
    assert tied == 0 or set(parts.of("lm_head")) <= set(parts.of("embeddings"))
    assert all(inner)
    rest = language - set().union(*inner)
    assert set().union(*inner) <= language
    assert {each.rpartition(".")[2] for each in rest} == BESIDE.get(name, set())
    assert sum(parts.count(each) for each in inner) - tied + parts.count(rest) == parts.count(language)
    assert set(parts.of("gate_up")) < set(parts.of("mlp"))

    n = model.config.get_text_config().num_hidden_layers
    assert len(parts.layers) == n
    half = (n + 1) // 2
    layers = {each for layer in parts.layers for each in layer}
    assert set(parts.of(f"first_n_layers={n}")) == set(parts.of("1.0")) == layers <= language
    halves = parts.of(f"first_n_layers={n - half}"), parts.of("0.5")
    assert halves[1] == parts.of(f"last_n_layers={half}")
    assert parts.count(halves[0]) + parts.count(halves[1]) == parts.count(layers)
    assert not set(halves[0]) & set(halves[1])
    assert set(parts.of("attention")) | set(parts.of("mlp")) <= layers


def short(names) -> set[str]:
    """The names of modules, without the numbers of layers."""
    return {re.sub(r"\.\d+\.", ".N.", name).removesuffix(".weight").removesuffix(".bias") for name in names}


def projections(prefix: str, *names: str) -> set[str]:
    return {f"{prefix}.{name}" for name in names}


ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
EXPECTED = {
    "llava": {
        "projector": projections("model.multi_modal_projector", "linear_1", "linear_2"),
        "embeddings": {"model.language_model.embed_tokens"},
        "lm_head": {"lm_head"},
        "attention": projections("model.language_model.layers.N.self_attn", *ATTENTION),
        "mlp": projections("model.language_model.layers.N.mlp", "gate_proj", "up_proj", "down_proj"),
        "gate_up": projections("model.language_model.layers.N.mlp", "gate_proj", "up_proj"),
        "norms": {
            "model.language_model.norm",
            *projections("model.language_model.layers.N", "input_layernorm", "post_attention_layernorm"),
        },
    },
    "qwen3_vl_moe": {
        "projector": {
            *projections("model.visual.merger", "norm", "linear_fc1", "linear_fc2"),
            *projections("model.visual.deepstack_merger_list.N", "norm", "linear_fc1", "linear_fc2"),
        },
        "embeddings": {"model.language_model.embed_tokens"},
        "lm_head": {"lm_head"},
        "attention": projections("model.language_model.layers.N.self_attn", *ATTENTION),
        "mlp": projections("model.language_model.layers.N.mlp", "gate", "experts.gate_up_proj", "experts.down_proj"),
        "gate_up": {"model.language_model.layers.N.mlp.experts.gate_up_proj"},
        "norms": {
            "model.language_model.norm",
            *projections("model.language_model.layers.N", "input_layernorm", "post_attention_layernorm"),
            *projections("model.language_model.layers.N.self_attn", "q_norm", "k_norm"),
        },
    },
    "chameleon": {
        "projector": set(),
        "embeddings": {"model.embed_tokens"},
        "lm_head": {"lm_head"},
        "attention": projections("model.layers.N.self_attn", *ATTENTION),
        "mlp": projections("model.layers.N.mlp", "gate_proj", "up_proj", "down_proj"),
        "gate_up": projections("model.layers.N.mlp", "gate_proj", "up_proj"),
        "norms": {
            "model.norm",
            *projections("model.layers.N", "input_layernorm", "post_attention_layernorm"),
            *projections("model.layers.N.self_attn", "q_norm", "k_norm"),
        },
    },
}


@pytest.mark.parametrize("name", EXPECTED)
def test_parts_are_what_one_expects(name):
    parts = model_parts(tiny_families.build(name)[0])
    assert {word: short(parts.of(word)) for word in EXPECTED[name]} == EXPECTED[name]
    tower = {"llava": "model.vision_tower.", "qwen3_vl_moe": "model.visual.", "chameleon": "model.vqmodel."}[name]
    assert all(each.startswith(tower) for each in parts.of("vision_tower"))


def test_a_backbone_that_is_a_causal_language_model():
    """Llama 4: its head is inside, and its router is none of the layers that LoRA may go to."""
    from transformers import Llama4ForConditionalGeneration

    with torch.device("meta"):
        model = Llama4ForConditionalGeneration(tiny_families.llama4()[0])
    parts = model_parts(model)
    assert parts.of("lm_head") == ("language_model.lm_head.weight",)
    assert parts.count(parts.of("vision_tower") + parts.of("projector") + parts.of("language_model")) == sum(
        parameter.numel() for parameter in model.parameters()
    )
    assert short(parts.of("projector")) == {"multi_modal_projector.linear_1"}
    assert short(parts.of("gate_up")) == {
        "language_model.model.layers.N.feed_forward.experts.gate_up_proj",
        *projections("language_model.model.layers.N.feed_forward.shared_expert", "gate_proj", "up_proj"),
    }


def test_a_text_model_is_all_language_model():
    with torch.device("meta"):
        model = LlamaForCausalLM(
            LlamaConfig(vocab_size=8, hidden_size=4, intermediate_size=8, num_hidden_layers=3, num_attention_heads=1)
        )
    parts = model_parts(model)
    assert set(parts.names) == {"language_model", *INNER, "gate_up"}
    assert parts.of("language_model") == tuple(name for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("word", "of_ten"),
    [
        ("first_n_layers=3", [0, 1, 2]),
        ("last_n_layers=2", [8, 9]),
        ("0.25", [7, 8, 9]),
        ("0.3", [7, 8, 9]),
        ("0.01", [9]),
        ("1.0", list(range(10))),
        ("attention", None),
    ],
)
def test_layers_by_number(word, of_ten):
    found = layers_meant(word, 10)
    assert found is None if of_ten is None else list(found) == of_ten


@of_the_page
def test_a_merger_that_is_made_before_the_layers():
    """Qwen3-Omni makes its list of mergers first; what else is there at that place stays in the tower."""
    parts = model_parts(build_family("qwen3_omni_moe_thinker")[0])
    assert {name.split(".")[2] for name in parts.of("projector")} == {"merger", "merger_list"}
    assert {name.split(".")[2] for name in parts.of("vision_tower")} == {"patch_embed", "pos_embed", "blocks"}
