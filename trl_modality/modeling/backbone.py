"""The forward of a backbone over a batch of views: each image encoded once, rows laid into one sequence if asked."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from transformers import PreTrainedModel

from .._compat import name_attention
from ..collation.layout import TOKEN_FILL, ViewLayout, with_images_repeated
from .attention import WITHOUT_MASK, check_follows_segments
from .cross_attention import images_read_by_rows
from .families import blocks_input
from .recurrence import needs_of
from .token_layout import TokenLayout, has_own_tokens


def run_backbone(
    model: Any, batch: dict[str, Any], layout: ViewLayout, tokens: TokenLayout, forward: Callable[..., Any]
) -> Any:
    """The backbone's output over all rows of a batch.

    Args:
        model: The model with its language head. Its `base_model` is run; FSDP and PEFT replace that, so it is looked
            up on each call.
        batch: Padded rows, as `PairedCollator` makes them, without labels.
        layout: Of the batch.
        tokens: Of the batch, on the device of the model's inputs; where it packs rows into one sequence, the decoder
            must have `shared_prefix` attention.
        forward: The model's own. It is run in place of a backbone where the model has none: its decoder is a causal
            language model with the head inside (Llama 4, BLIP-2).

    Raises:
        ValueError: packing for a decoder that follows no segments, for a model that reads prompts in both directions
            (PaliGemma), or for tokens that something else stands before (PEFT's virtual tokens).
    """
    backbone = model.base_model
    run = partial(_without_head, model, forward) if backbone is model else backbone
    inputs = _widened(batch if tokens.encodes_once else with_images_repeated(batch, layout), model.dtype)
    if "position_ids" in tokens.inputs:
        inputs["position_ids"] = tokens.inputs["position_ids"]
    picked = _features_picked(backbone, tokens.inputs.get("image_sources"))
    with picked, images_read_by_rows(model, inputs, tokens.inputs, tokens.tile_groups) as inputs:
        if not tokens.packs:
            return run(**inputs)
        _check_packs(model, batch)
        del inputs["attention_mask"]
        inputs |= {key: tokens.packed(value) for key, value in inputs.items() if key in TOKEN_FILL}
        decoder, segments = model.get_decoder(), tokens.placed_segments()
        if needs_of(decoder) is not None:
            inputs["seq_idx"] = segments  # all that some layers hand on to their convolutions
        with without_masks(decoder):
            return run(**inputs, segment_layout=segments)


def _widened(inputs: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Inputs whose pixels have the precision of a model in float32: some processors make bfloat16 (Llama 4), which
    outside of autocast its tower refuses."""

    def is_too_short(value: Any) -> bool:
        is_half = isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16)
        return is_half and dtype == torch.float32 and not torch.is_autocast_enabled(value.device.type)

    return {name: value.to(dtype) if is_too_short(value) else value for name, value in inputs.items()}


@contextmanager
def without_masks(decoder: PreTrainedModel) -> Iterator[None]:
    """A context in which a decoder with `shared_prefix` attention makes no mask, and looks at no position for one."""
    name: Any = decoder.config._attn_implementation
    name_attention(decoder.config, name + WITHOUT_MASK)
    try:
        yield
    finally:
        name_attention(decoder.config, name)


def _without_head(model: Any, forward: Callable[..., Any], **inputs: Any) -> Any:
    """The hidden states that a model gives to its head, in the output of a backbone; no logits are made."""
    head = model.get_output_embeddings()
    own = vars(head).get("forward")
    head.forward = lambda hidden: hidden
    try:
        output = forward(**inputs)
    finally:
        del head.forward
        if own is not None:
            head.forward = own
    return SimpleNamespace(last_hidden_state=output.logits, router_logits=getattr(output, "router_logits", None))


def _check_packs(model: Any, batch: Mapping[str, Any]) -> None:
    check_follows_segments(model.get_decoder())
    if ("token_type_ids" in batch and blocks_input(model.config)[0] is None) or not has_own_tokens(batch):
        reason = "takes `token_type_ids`, by which tokens see others that come after them"
        if not has_own_tokens(batch):
            reason = "is given embeddings or a cache, and what stands in them is not known"
        raise ValueError(
            f"{type(model.base_model).__name__} {reason}: in one sequence a row would not be what it is by itself. "
            "Run it without `share_prefix` and `padding_free`."
        )


@contextmanager
def _features_picked(backbone: Any, sources: torch.Tensor | None) -> Iterator[None]:
    """A context in which image token i of a backbone reads feature `sources[i]`; with `None`, feature i as usual.

    The backbone still encodes its images itself, inside of its own forward, where the hooks of FSDP and DeepSpeed are.
    """
    if sources is None:
        yield
        return
    original = backbone.get_image_features
    owner = getattr(original, "__self__", backbone)  # the backbone itself, or what a wrapper hands on to
    own = vars(owner).get("get_image_features")  # of a cache of features

    def get_picked_features(*args, **kwargs):
        features = original(*args, **kwargs)
        name = "last_hidden_state" if features.pooler_output is None else "pooler_output"
        features[name] = _picked(features[name], sources)
        if getattr(features, "deepstack_features", None) is not None:
            features.deepstack_features = [_picked(layer, sources) for layer in features.deepstack_features]
        return features

    owner.get_image_features = get_picked_features
    try:
        yield
    finally:
        del owner.get_image_features
        if own is not None:
            owner.get_image_features = own


def _picked(features: Any, sources: torch.Tensor) -> Any:
    """The features at `sources`, of features `[images, tokens, H]` or of a list of `[tokens, H]`, in the same form."""
    if isinstance(features, list | tuple):
        features = torch.cat(list(features))
        return (features.index_select(0, sources.to(features.device)),)
    picked = features.flatten(0, -2).index_select(0, sources.to(features.device))
    return picked.unflatten(0, (-1, *features.shape[1:-1]))
