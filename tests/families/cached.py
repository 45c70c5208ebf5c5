"""Features of images from disk, in every family that encodes an image once: those that its tower makes."""

import inspect
import tempfile
from pathlib import Path
from typing import Any

import torch

from trl_modality.image_features.cache import ImageFeatureCache
from trl_modality.image_features.units import images_of
from trl_modality.parts.structure import model_parts


NOT_CACHED = ("chameleon", "molmo2")
"""Families that are refused when they are run."""


def check_cached_features(model: Any, batch: dict[str, Any]) -> None:
    """Those of the first image by itself, and then of all: it is found again, and the others are made."""
    parameters = dict(model.named_parameters())
    frozen = [parameters[name] for word in ("vision_tower", "projector") for name in model_parts(model).of(word)]
    get_features = model.base_model.get_image_features
    wanted = inspect.signature(get_features).parameters
    given = {key: value for key, value in batch.items() if key in wanted}
    images, _ = images_of(get_features, (), {**given, "return_dict": True})
    expected = _tensors(get_features(**given, return_dict=True))
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            cache = ImageFeatureCache(model, Path(folder))
            with cache.attached():
                model.base_model.get_image_features(**images.of([0]), return_dict=True)
                assert cache.found == 0
                for _ in range(2):
                    made = _tensors(model.base_model.get_image_features(**given, return_dict=True))
                    for own, other in zip(made, expected, strict=True):
                        torch.testing.assert_close(own, other, rtol=1e-8, atol=1e-10)
            assert cache.found >= 1 + images.count
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def _tensors(output: Any) -> list[torch.Tensor]:
    """What a backbone reads of the output, image by image."""
    name = "last_hidden_state" if output.pooler_output is None else "pooler_output"
    found = [output[name], *(getattr(output, "deepstack_features", None) or [])]
    return [each for value in found for each in value]
