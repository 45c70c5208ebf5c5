"""Features of images from disk, in every family that encodes an image once: those that its tower makes."""

import inspect
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from trl_modality.image_features.cache import ImageFeatureCache
from trl_modality.image_features.units import images_of
from trl_modality.parts.structure import model_parts


NOT_CACHED = ("chameleon", "emu3", "mllama", "molmo2", "step3p7", "video_llava")
"""Families that encode an image once and are refused, some of them when they are run."""


def check_cached_features(model: Any, batch: dict[str, Any]) -> None:
    """Those of the first image by itself, and then of all: it is found again, and the others are made."""
    given = _given(model, batch)
    images, _ = images_of(model.base_model.get_image_features, (), {**given, "return_dict": True})
    expected = _tensors(model.base_model.get_image_features(**given, return_dict=True))
    with _frozen(model), tempfile.TemporaryDirectory() as folder:
        cache = ImageFeatureCache(model, Path(folder))
        with cache.attached():
            model.base_model.get_image_features(**images.of([0]), return_dict=True)
            assert cache.found == 0
            for _ in range(2):
                made = _tensors(model.base_model.get_image_features(**given, return_dict=True))
                for own, other in zip(made, expected, strict=True):
                    torch.testing.assert_close(own, other, rtol=1e-8, atol=1e-10)
        assert cache.found >= 1 + images.count


def check_refusal(model: Any, batch: dict[str, Any]) -> None:
    """They are refused when the trainer is made, or at the first batch."""
    with (
        pytest.raises(ValueError, match=r"^`cache_image_features`: "),
        _frozen(model),
        tempfile.TemporaryDirectory() as folder,
        ImageFeatureCache(model, Path(folder)).attached(),
    ):
        model.base_model.get_image_features(**_given(model, batch), return_dict=True)


def _given(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    wanted = inspect.signature(model.base_model.get_image_features).parameters
    return {key: value for key, value in batch.items() if key in wanted}


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    parameters = dict(model.named_parameters())
    frozen = [parameters[name] for word in ("vision_tower", "projector") for name in model_parts(model).of(word)]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def _tensors(output: Any) -> list[torch.Tensor]:
    """What a backbone reads of the output, image by image."""
    name = "last_hidden_state" if output.pooler_output is None else "pooler_output"
    found = [output[name], *(getattr(output, "deepstack_features", None) or [])]
    return [each for value in found for each in value]
