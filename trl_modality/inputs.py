"""A batch of views as the inputs of a backbone: each image encoded once, and rows in one sequence where asked for."""

import inspect
from typing import Any

import torch

from .batch import TOKEN_FILL, ViewLayout, with_images_repeated
from .packing import Packing, pack_views
from .views import View


def backbone_inputs(
    backbone: Any, batch: dict[str, Any], layout: ViewLayout, *, encodes_once: bool, packs: bool, shares_prefix: bool
) -> tuple[dict[str, Any], Packing | None]:
    """What a backbone is called with.

    Args:
        backbone: Of the model; asked for image features, and for positions if it has rules of its own (M-RoPE).
        batch: Padded rows, as `PairedCollator` makes them, without labels.
        layout: Of the batch.
        encodes_once: Images that two rows show go through the vision tower once; else they are repeated.
        packs: The rows become one sequence without padding, for a decoder with `shared_prefix` attention.
        shares_prefix: With `packs`, what a vision_centric row has in common with its partner is left out.

    Returns:
        The inputs, and where the rows are in them (`None`: where they were).

    Raises:
        ValueError: packing for a model that reads images or prompts in both directions (Gemma3, PaliGemma).
    """
    repeated = with_images_repeated(batch, layout)
    if not packs:
        if not (encodes_once and layout.shared_entries.keys() & batch.keys()):
            return repeated, None
        positions = _own_positions(backbone, repeated)
        inputs = batch if positions is None else {**batch, "position_ids": positions}
        return _encoded_once(backbone, inputs, _image_sources(backbone, batch, layout)), None
    if "token_type_ids" in batch:
        raise ValueError(
            f"{type(backbone).__name__} takes `token_type_ids`, by which tokens see others that come after them: in "
            "one sequence a row would not be what it is by itself. Run it without `share_prefix` and `padding_free`."
        )
    packing = pack_views(layout, batch["input_ids"].shape[1], shares_prefix)
    inputs = {key: packing.packed(value) if key in TOKEN_FILL else value for key, value in batch.items()}
    del inputs["attention_mask"]
    positions = _own_positions(backbone, repeated)
    if positions is None:
        inputs["position_ids"] = packing.positions.unsqueeze(0).to(batch["input_ids"].device)
    else:
        inputs["position_ids"] = packing.packed(positions)
    inputs["segment_layout"] = packing.layout
    return _encoded_once(backbone, inputs, packing.packed(_image_sources(backbone, batch, layout))), packing


def _own_positions(backbone: Any, repeated: dict[str, Any]) -> torch.Tensor | None:
    """`[3, R, L]` where the model places the tokens of images by rules of its own; `None` where it counts."""
    if not hasattr(backbone, "get_rope_index") or "image_grid_thw" not in repeated:
        return None
    wanted = inspect.signature(backbone.get_rope_index).parameters
    return backbone.get_rope_index(**{key: value for key, value in repeated.items() if key in wanted})[0]


def _image_sources(backbone: Any, batch: dict[str, Any], layout: ViewLayout) -> torch.Tensor:
    """`[R, L]`: for each image token the place of its feature among those of the images in the batch; −1 elsewhere.

    A vision_centric row that shows its partner's images reads the features of its partner's.
    """
    is_image = batch["input_ids"] == backbone.config.image_token_id
    sharing, n_pairs = layout.sharing_pairs, layout.rows.get(View.TEXT_RICH, 0)
    counts = is_image.sum(1)
    counts[n_pairs : n_pairs + sharing] = 0
    begins = counts.cumsum(0) - counts
    begins[n_pairs : n_pairs + sharing] = begins[:sharing]
    return torch.where(is_image, begins.unsqueeze(1) + is_image.cumsum(1) - 1, -1)


def _encoded_once(backbone: Any, inputs: dict[str, Any], sources: torch.Tensor) -> dict[str, Any]:
    """The inputs with features in the place of images, each where its tokens are.

    As transformers' `generate` encodes images ahead; where every image is read once and in order, the model does it.
    """
    sources = sources[sources >= 0]
    wanted = inspect.signature(backbone.get_image_features).parameters
    images = {key: value for key, value in inputs.items() if key in wanted}
    if not images or torch.equal(sources, torch.arange(len(sources), device=sources.device)):
        return inputs
    features = backbone.get_image_features(**images, return_dict=True)
    features.pooler_output = _picked(features.pooler_output, sources)
    if getattr(features, "deepstack_features", None) is not None:
        features.deepstack_features = [_picked(layer, sources) for layer in features.deepstack_features]
    rest = {key: value for key, value in inputs.items() if key not in images}
    return {**rest, "mm_encoder_outputs": {"image": features}}


def _picked(features: Any, sources: torch.Tensor) -> Any:
    """Features `[…, H]`, or a list of them by image, as one row `[H]` for each source, in the same form."""
    if isinstance(features, list | tuple):
        return (torch.cat(list(features)).index_select(0, sources),)
    return features.flatten(0, -2).index_select(0, sources.to(features.device))
