"""A config of any family, its sizes made tiny: every known field of the tree, and a few lines of a family's own."""

from typing import Any

from transformers import CONFIG_MAPPING

from tests.families.by_hand import BY_HAND


# Fields that say how large something is, whatever config they are in
SIZES: dict[str, Any] = {
    **dict.fromkeys(
        (
            "hidden_size",
            "intermediate_size",
            "embed_dim",
            "out_hidden_size",
            "output_dim",
            "projection_dim",
            "projection_hidden_size",
            "projector_hidden_size",
            "d_model",
            "encoder_hidden_size",
            "decoder_hidden_size",
            "text_hidden_size",
            "mlp_dim",
            "ffn_dim",
            "alignment_intermediate_size",
            "projection_intermediate_size",
            "dense_intermediate_size",
            "shared_intermediate_size",
            "intermediate_size_mlp",
            "merged_hidden_size",
            "vision_output_dim",
            "projector_input_dim",
            "projector_output_dim",
            "image_text_hidden_size",
            "output_channels",
            "adapter_in_dim",
            "adapter_out_dim",
            "adapter_input_size",
            "word_embed_proj_dim",
            "image_token_embed_dim",
            "projection_hidden_dim",
            "vision_hidden_size",
            "base_channels",
            "moe_hidden_size",
        ),
        32,
    ),
    **dict.fromkeys(
        (
            "moe_intermediate_size",
            "shared_expert_intermediate_size",
            "moe_shared_expert_intermediate_size",
            "shared_experts_intermediate_size",
            "share_expert_dim",
            "head_dim",
            "linear_key_head_dim",
            "linear_value_head_dim",
            "linear_head_dim",
            "v_head_dim",
            "kv_lora_rank",
            "q_lora_rank",
            "qk_nope_head_dim",
            "qk_rope_head_dim",
            "swa_head_dim",
            "index_head_dim",
            "resampler_head_dim",
            "rotary_dim",
            "mamba_head_dim",
            "ssm_state_size",
            "hidden_size_per_layer_input",
            "latent_channels",
        ),
        16,
    ),
    **dict.fromkeys(
        (
            "num_hidden_layers",
            "depth",
            "encoder_layers",
            "decoder_layers",
            "layers",
            "num_layers",
            "n_layers",
            "num_attention_heads",
            "num_heads",
            "attention_heads",
            "encoder_attention_heads",
            "decoder_attention_heads",
            "swa_num_attention_heads",
            "linear_num_value_heads",
            "linear_num_key_heads",
            "linear_num_heads",
            "index_n_heads",
            "resampler_n_heads",
            "num_experts_per_tok",
            "moe_k",
            "moe_topk",
            "mamba_num_heads",
            "resampler_depth",
        ),
        2,
    ),
    **dict.fromkeys(
        ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_query_tokens", "index_topk"),
        4,
    ),
    **dict.fromkeys(("num_key_value_heads", "swa_num_key_value_heads", "n_group", "topk_group", "mlp_ratio"), 1),
    "num_global_layers": 1,
    "image_size": 16,
    "patch_size": 4,
    "image_seq_length": 4,
    "num_image_tokens": 4,
    "mm_tokens_per_image": 4,
    "num_position_embeddings": 16,
    "max_position_embeddings": 512,
    "num_kv_shared_layers": 0,
    "num_nextn_predict_layers": 0,
    "first_k_dense_replace": 1,
    "deepstack_visual_indexes": [0],
    "fullatt_block_indexes": [1],
    "window_size": 16,
    "sliding_window": 8,
    "sliding_window_size": 8,
}
# Made from the sizes by the config itself, or of one entry a layer
DERIVED = (
    "no_rope_layers",
    "moe_layers",
    "kv_source_layers",
    "full_attn_idxs",
    "layer_rope_theta",
    "rope_scaling_layers",
    "activation_sparsity_pattern",
    "transformers_version",
    "architectures",
    "dtype",
    "_attn_implementation_autoset",
    "qk_head_dim",
    "per_layer_config",
)
# What each layer is: a tiny model has one of every kind that the family has
KINDS = ("layer_types", "mlp_layer_types", "indexer_types")


def shrunk_config(model_type: str, tokenizer: Any, processor: Any = None) -> Any:
    """The family's own default config with tiny sizes, whose special tokens are those of a processor."""
    config_cls = CONFIG_MAPPING[model_type]
    tree = config_cls().to_dict()
    for name, sub in config_cls.sub_configs.items():
        if tree.get(name) is None and "vision" in name:
            tree[name] = sub().to_dict()
    tree = _shrunk(tree, tokenizer, processor)
    _update(tree, BY_HAND.get(model_type, {}), tokenizer)
    return config_cls(**tree)


def _shrunk(tree: dict[str, Any], tokenizer: Any, processor: Any) -> dict[str, Any]:
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id}
    ids["eos_token_id"] = tokenizer.eos_token_id
    kinds = {name: list(dict.fromkeys(tree[name])) for name in KINDS if tree.get(name)}
    n_layers = max([SIZES["num_hidden_layers"], *map(len, kinds.values())])
    found = {}
    for name, value in tree.items():
        if name in DERIVED:
            continue
        if name in kinds:
            found[name] = (kinds[name] * n_layers)[:n_layers]
            continue
        if name.startswith("mtp"):
            continue
        if isinstance(value, dict) and (name.endswith("config") or name in ("encoder", "decoder")):
            found[name] = _shrunk(value, tokenizer, processor)
        elif name == "rope_parameters" and value and "mrope_section" in value:
            half = int(SIZES["head_dim"] * value.get("partial_rotary_factor", 1) / 2)
            found[name] = {**value, "mrope_section": [half - 2 * (half // 4), half // 4, half // 4]}
        elif "drop" in name and isinstance(value, float | int) and not isinstance(value, bool):
            found[name] = 0.0
        elif name == "vocab_size" or name.startswith("vocab_size"):
            found[name] = len(tokenizer)
        elif name in ids:
            found[name] = ids[name]
        elif value is not None and name.endswith(("_token_id", "_token_index")) and not name.startswith("decoder"):
            found[name] = _token_id(name, tokenizer, processor)
        elif name in SIZES and value is not None and isinstance(value, int | list | tuple):
            size = SIZES[name]
            found[name] = [size] * len(value) if isinstance(value, list | tuple) and isinstance(size, int) else size
        else:
            found[name] = value
    return {**found, "num_hidden_layers": n_layers} if kinds else found


def _token_id(name: str, tokenizer: Any, processor: Any) -> int:
    """Of a special token that processor or tokenizer know by the name of the field; of `<unk>` if they know none."""
    asked = name.removesuffix("_index").removesuffix("_id")
    if isinstance(getattr(processor, f"{asked}_id", None), int):
        return getattr(processor, f"{asked}_id")
    token = getattr(processor, asked, None) or getattr(tokenizer, asked, None)
    return tokenizer.convert_tokens_to_ids(token if isinstance(token, str) else "<unk>")


def _update(tree: dict[str, Any], changes: dict[str, Any], tokenizer: Any) -> None:
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(tree.get(name), dict) and not name.startswith("rope"):
            _update(tree[name], value, tokenizer)
        else:
            tree[name] = _with_ids(value, tokenizer)


def _with_ids(value: Any, tokenizer: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_ids(each, tokenizer) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_ids(each, tokenizer) for each in value]
    if isinstance(value, str) and value.startswith("token:"):
        return tokenizer.convert_tokens_to_ids(value.removeprefix("token:"))
    return value
