"""A processor of any family: its own classes around one tokenizer that has the special tokens of all families."""

import inspect
import sys
from typing import Any

import transformers
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

from tests.families.by_hand import LITERAL_TOKENS, NAMED_TOKENS, PROCESSORS
from tests.testing.tiny_parts import template, tokenizer_of


# Arguments that several processors have
ARGUMENTS = {
    "patch_size": 4,
    "image_seq_length": 4,
    "image_seq_len": 4,
    "num_image_tokens": 16,
    "num_query_tokens": 4,
    "spatial_merge_size": 2,
    "vision_feature_select_strategy": "full",
    "num_additional_image_tokens": 0,
    "img_size": 16,
}
# And image processors
IMAGE_ARGUMENTS = {
    "patch_size": 4,
    "merge_size": 2,
    "spatial_merge_size": 2,
    "merge_kernel_size": 2,
    "image_grid_pinpoints": [[16, 32], [32, 16], [32, 32]],
    "crop_size": {"height": 16, "width": 16},
    "max_patches": 4,
    "min_patches": 1,
}


def tokenizer(model_type: str) -> Any:
    """Bytes, and every special token that a processor of this family may write or ask for."""
    by_hand = PROCESSORS.get(model_type, {})
    named = {**NAMED_TOKENS, **by_hand.get("tokens", {})}
    for name in by_hand.get("without", ()):
        del named[name]
    places = [f"<row_{i + 1}_col_{j + 1}>" for i in range(4) for j in range(4)]
    return tokenizer_of(
        *dict.fromkeys([*LITERAL_TOKENS, *places, *by_hand.get("literals", ()), *NAMED_TOKENS.values()]), **named
    )


def tiny_processor(model_type: str) -> Any:
    """The family's own processor for images of 16 to 64 pixels, or `None` if transformers maps none."""
    by_hand = PROCESSORS.get(model_type, {})
    name = by_hand.get("class", PROCESSOR_MAPPING_NAMES.get(model_type))
    if name is None:
        return None
    cls = getattr(transformers, name)
    wanted = inspect.signature(cls.__init__).parameters
    parts = {"tokenizer": tokenizer(model_type)}
    if "image_processor" in wanted:
        parts["image_processor"] = _image_processor(model_type, by_hand.get("images", {}))
    if "video_processor" in wanted:
        parts["video_processor"] = _made(model_type, VIDEO_PROCESSOR_MAPPING_NAMES, by_hand.get("videos", {}))
    if "qformer_tokenizer" in wanted:
        parts["qformer_tokenizer"] = tokenizer(model_type)
    if "feature_extractor" in wanted:
        parts["feature_extractor"] = _made(model_type, FEATURE_EXTRACTOR_MAPPING_NAMES, by_hand.get("sounds", {}))
    given = {key: value for key, value in {**ARGUMENTS, **by_hand.get("arguments", {})}.items() if key in wanted}
    processor = cls(**parts, **given)
    processor.chat_template = template(
        by_hand.get("image", f"<|vision_start|>{getattr(processor, 'image_token', '<image>')}<|vision_end|>")
    )
    return processor


def _made(model_type: str, names: Any, by_hand: dict[str, Any]) -> Any:
    """A processor of videos or sounds, which no row has."""
    name = by_hand.get("class", _torchvision(names.get(model_type)))
    return None if name is None else getattr(transformers, name)()


def _torchvision(names: Any) -> str | None:
    return names.get("torchvision", next(iter(names.values()))) if isinstance(names, dict) else names


def _image_processor(model_type: str, by_hand: dict[str, Any]) -> Any:
    name = by_hand.get("class", _torchvision(IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type)))
    assert name is not None, f"transformers maps no image processor for {model_type}"
    cls = getattr(transformers, name)
    if model_type == "gemma4_unified":
        module = sys.modules[cls.__module__]
        if 4 not in module._SUPPORTED_SOFT_TOKENS:
            module._SUPPORTED_SOFT_TOKENS += (4,)  # the fewest would be 70 for every image
    given = {key: value for key, value in IMAGE_ARGUMENTS.items() if getattr(cls, key, None) is not None}
    if isinstance(given.get("patch_size"), int) and isinstance(cls.patch_size, dict):
        given["patch_size"] = {"height": 4, "width": 4}
    size = getattr(cls, "size", None)
    if isinstance(size, dict):
        given["size"] = _tiny_size(size)
    return cls(**{**given, **{key: value for key, value in by_hand.items() if key != "class"}})


def _tiny_size(size: dict[str, int]) -> dict[str, int]:
    if size.keys() == {"height", "width"}:
        return {"height": 16, "width": 16}
    if size.keys() == {"shortest_edge", "longest_edge"}:  # numbers of pixels, of which an edge is the root
        return {"shortest_edge": 64, "longest_edge": 1024}
    return {key: 16 if key == "shortest_edge" else 32 for key in size}
