"""What is frozen costs nothing: no graph through a tower that does not train."""

from typing import Any

from .._compat import remove_input_gradient_hooks
from .structure import model_parts


def free_frozen_towers(model: Any) -> None:
    """Take hooks off frozen towers by which their inputs get a gradient that nobody asks for.

    With gradient checkpointing transformers puts them on the embeddings of every model within the model, and so on
    those of its tower: all that the tower computes is then kept, and run backwards. No gradient of a parameter
    changes.

    Args:
        model: A model with images, without PEFT's wrapper.
    """
    parts, parameters = model_parts(model), dict(model.named_parameters())
    for word in ("vision_tower", "audio_tower"):
        tower = [parameters[name] for name in parts.of(word)]
        if any(parameter.requires_grad for parameter in tower):
            continue
        ids = set(map(id, tower))
        for module in model.modules():
            own = [id(parameter) for parameter in module.parameters()]
            if own and ids.issuperset(own):
                remove_input_gradient_hooks(module)
