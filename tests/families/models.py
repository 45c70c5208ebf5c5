"""A tiny model and its processor for any family that transformers maps to image-text-to-text."""

import copy
import functools
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

from tests.families.processors import tiny_processor, tokenizer
from tests.families.shrink import shrunk_config
from trl_modality.modeling.families import FAMILIES


# Routers that make their input float32, whatever their weights are in
IN_FLOAT32 = ("Inkling2TopKRouter", "Inkling2LoopTopKRouter")


OF_THE_PAGE = Version("5.24")
"""The transformers that docs/families.md is of: in others a model may be made otherwise, or not yet."""
IS_OLDER = Version(transformers.__version__) < OF_THE_PAGE
of_the_page = pytest.mark.skipif(IS_OLDER, reason=f"docs/families.md is of transformers {OF_THE_PAGE}")
NOT_IN_OLDER = {
    "qwen2_5_omni_thinker": "it has no backbone beside its head there",
    "qwen3_omni_moe_thinker": "it has no backbone beside its head there",
    "vipllava": "its config does not shrink there",
}
"""Families of an older transformers that are refused, or not made small."""


def sharing() -> list[str]:
    """The families that share their prefix and that the installed transformers has."""
    known = [name for name, family in FAMILIES.items() if family.why_not_shared is None]
    return [name for name in known if name in CONFIG_MAPPING and not (IS_OLDER and name in NOT_IN_OLDER)]


def build_any(model_type: str) -> tuple[Any, Any]:
    """A model in float64 with every weight random, and its processor; copies of what is made once."""
    return copy.deepcopy(_build_any(model_type))


@functools.cache
def _build_any(model_type: str) -> tuple[Any, Any]:
    processor = tiny_processor(model_type)
    tokens = tokenizer(model_type) if processor is None else processor.tokenizer
    config = shrunk_config(model_type, tokens, processor)
    for part in (config.get_text_config(), getattr(config, "vision_config", None)):
        if part is not None:
            part._experts_implementation = "eager"  # the grouped products know no float64
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.double()
    for module in model.modules():
        if type(module).__name__ in IN_FLOAT32:
            module.float()
    return model, processor
