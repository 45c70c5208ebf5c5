"""The forward of a backbone over a batch of views: each image encoded once, rows laid into one sequence if asked."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..collation.layout import TOKEN_FILL, ViewLayout, with_images_repeated
from ..views import View
from .attention import check_follows_segments, without_masks
from .families import encodes_once
from .packing import Packing, pack_views


def run_backbone(
    model: Any, batch: dict[str, Any], layout: ViewLayout, *, packs: bool, shares_prefix: bool
) -> tuple[Any, Packing | None]:
    """The backbone's output over all rows of a batch.

    Args:
        model: The model with its language head. Its `base_model` is run; FSDP and PEFT replace that, so it is looked
            up on each call.
        batch: Padded rows, as `PairedCollator` makes them, without labels.
        layout: Of the batch.
        packs: Whether the rows become one sequence without padding; the decoder must have `shared_prefix` attention.
        shares_prefix: Whether, with `packs`, the prefix that a vision_centric row shares with its partner is left out.

    Returns:
        The output, and the packing of its rows; `None` where they are padded rows.

    Raises:
        ValueError: packing for a decoder that follows no segments, for a model that reads images or prompts in both
            directions (Gemma3, PaliGemma), or for tokens that something else stands before (PEFT's virtual tokens).
    """
    backbone = model.base_model
    has_own_tokens = "input_ids" in batch and batch.get("past_key_values") is None
    is_once = has_own_tokens and encodes_once(model) and bool(layout.shared_entries.keys() & batch.keys())
    if not packs:
        if not is_once:
            return backbone(**with_images_repeated(batch, layout)), None
        positions = _own_positions(backbone, batch, layout)
        inputs = batch if positions is None else {**batch, "position_ids": positions}
        with _features_picked(backbone, _image_sources(backbone, batch, layout)):
            return backbone(**inputs), None
    check_follows_segments(model.get_decoder())
    if "token_type_ids" in batch or not has_own_tokens:
        reason = "takes `token_type_ids`, by which tokens see others that come after them"
        reason = reason if has_own_tokens else "is given embeddings or a cache, and what stands in them is not known"
        raise ValueError(
            f"{type(backbone).__name__} {reason}: in one sequence a row would not be what it is by itself. Run it "
            "without `share_prefix` and `padding_free`."
        )
    packing = pack_views(layout, batch["input_ids"].shape[1], shares_prefix)
    inputs = {key: packing.packed(value) if key in TOKEN_FILL else value for key, value in batch.items()}
    del inputs["attention_mask"]
    positions = _own_positions(backbone, batch, layout)
    counted = packing.positions.unsqueeze(0).to(batch["input_ids"].device)
    inputs["position_ids"] = counted if positions is None else packing.packed(positions)
    inputs["segment_layout"] = packing.layout
    sources = packing.packed(_image_sources(backbone, batch, layout)) if is_once else None
    with without_masks(), _features_picked(backbone, sources):
        return backbone(**inputs), packing


def _own_positions(backbone: Any, batch: dict[str, Any], layout: ViewLayout) -> torch.Tensor | None:
    """M-RoPE position ids `[3, R, L]`, or `None` where the model numbers tokens one by one."""
    if not hasattr(backbone, "get_rope_index") or "image_grid_thw" not in batch:
        return None
    wanted = inspect.signature(backbone.get_rope_index).parameters
    sizes = with_images_repeated({key: value for key, value in batch.items() if key in wanted}, layout)
    return backbone.get_rope_index(**sizes)[0]


def _image_sources(backbone: Any, batch: dict[str, Any], layout: ViewLayout) -> torch.Tensor:
    """For each image token, the index of its feature among the features of all images, `[R, L]`; −1 for other tokens.

    A vision_centric row that shows the images of its partner reads the features of its partner's images.
    """
    is_image = batch["input_ids"] == backbone.config.image_token_id
    sharing, n_text_rich = layout.sharing_pairs, layout.rows.get(View.TEXT_RICH, 0)
    counts = is_image.sum(1)
    counts[n_text_rich : n_text_rich + sharing] = 0
    begins = counts.cumsum(0) - counts
    begins[n_text_rich : n_text_rich + sharing] = begins[:sharing]
    return torch.where(is_image, begins.unsqueeze(1) + is_image.cumsum(1) - 1, -1)


@contextmanager
def _features_picked(backbone: Any, sources: torch.Tensor | None) -> Iterator[None]:
    """A context in which image token i of a backbone reads feature `sources[i]`; with `None`, feature i as usual.

    The backbone still encodes its images itself, inside of its own forward, where the hooks of FSDP and DeepSpeed are.
    """
    sources = None if sources is None else sources[sources >= 0]
    if sources is None or torch.equal(sources, torch.arange(len(sources), device=sources.device)):
        yield
        return
    original = backbone.get_image_features
    owner = getattr(original, "__self__", backbone)  # the backbone itself, or what a wrapper hands on to

    def get_picked_features(*args, **kwargs):
        features = original(*args, **kwargs)
        features.pooler_output = _picked(features.pooler_output, sources)
        if getattr(features, "deepstack_features", None) is not None:
            features.deepstack_features = [_picked(layer, sources) for layer in features.deepstack_features]
        return features

    owner.get_image_features = get_picked_features
    try:
        yield
    finally:
        del owner.get_image_features


def _picked(features: Any, sources: torch.Tensor) -> Any:
    """The features at `sources`, of features `[images, tokens, H]` or of a list of `[tokens, H]`, in the same form."""
    if isinstance(features, list | tuple):
        features = torch.cat(list(features))
        return (features.index_select(0, sources.to(features.device)),)
    picked = features.flatten(0, -2).index_select(0, sources.to(features.device))
    return picked.unflatten(0, (-1, *features.shape[1:-1]))
