"""Parts of a model by name: which parameters train, at which learning rates, and which layers LoRA goes to."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from .structure import ModelParts, model_parts

__all__ = ["ModelParts", "model_parts"]

__getattr__, __dir__ = lazy_names(__name__, {"ModelParts": "structure", "model_parts": "structure"})
