"""Where in a model features of images can be cached: what is frozen, and makes of an image the same each time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..modeling.families import FAMILIES, encodes_once
from ..parts.structure import ModelParts, model_parts
from .records import OF_ALL


REMEDY = "Freeze it (`train_parts`), or leave `cache_image_features` out."


@dataclass(frozen=True)
class Place:
    """A function whose results are cached."""

    owner: nn.Module
    function: str
    """Its name in the owner."""
    fields: tuple[str, ...]
    """What of its result is kept."""
    modules: tuple[nn.Module, ...]
    """What it runs."""
    told: str
    """What is cached, for messages."""

    @property
    def is_tower(self) -> bool:
        """Whether the projector comes after it."""
        return self.function == "forward"


def place_of(model: Any) -> Place:
    """Where features of images are cached in a model, without PEFT's wrapper.

    With a frozen projector what the language model reads of an image; with one that trains, what the tower gives it.

    Raises:
        ValueError: nothing that could be cached is the same each time: says what trains, or what else it depends on.
    """
    if not encodes_once(model) or not hasattr(model.base_model, "get_image_features"):
        family = FAMILIES.get(model.config.model_type)
        name = type(model).__name__ if family is None else family.name
        raise ValueError(
            f"`cache_image_features`: {name} is not known to make features of an image, by a function of their own, "
            "that depend on nothing else (`docs/families.md`, 'image once'). Leave it out."
        )
    parts, parameters = model_parts(model), dict(model.named_parameters())
    trains = {
        word: [name for name in parts.of(word) if parameters[name].requires_grad]
        for word in ("vision_tower", "projector")
    }
    if trains["vision_tower"]:
        raise ValueError(
            f"`cache_image_features`: {parts.count(trains['vision_tower']):,} parameters of the vision tower train "
            f"({trains['vision_tower'][0]} among them), so that what it makes of an image changes. {REMEDY}"
        )
    place = _tower(model, parts, parameters) if trains["projector"] else _features(model, parts, parameters)
    for name in _random(place.modules):
        raise ValueError(
            f"`cache_image_features`: {name} of {place.told} makes something else of an image each time in training. "
            "Set it to 0 in the model's config, or leave `cache_image_features` out."
        )
    return place


def _features(model: Any, parts: ModelParts, parameters: dict[str, Any]) -> Place:
    function = model.base_model.get_image_features
    owner = getattr(function, "__self__", model.base_model)
    decoder, language = (
        set(model.get_decoder().modules()),
        {id(parameters[name]) for name in parts.of("language_model")},
    )
    modules = tuple(
        module
        for module in model.modules()
        if module not in decoder and not language & {id(each) for each in module.parameters(recurse=False)}
    )
    fields = ("pooler_output", "last_hidden_state", "deepstack_features", *OF_ALL)
    return Place(owner, "get_image_features", fields, modules, "the tower with the projector")


def _tower(model: Any, parts: ModelParts, parameters: dict[str, Any]) -> Place:
    wanted = {id(parameters[name]) for name in parts.of("vision_tower")}
    for module in model.modules():  # from the outside in
        if wanted == {id(parameter) for parameter in module.parameters()}:
            fields = ("last_hidden_state", "pooler_output", "hidden_states", "deepstack_features")
            return Place(module, "forward", fields, tuple(module.modules()), "the tower")
    raise ValueError(
        "`cache_image_features`: the projector trains, and in this model it is a part of the vision tower, or there "
        f"are several towers, so that nothing is frozen that could be cached by itself. {REMEDY}"
    )


def _random(modules: tuple[nn.Module, ...]) -> Iterator[str]:
    """Dropout and the like that is not 0."""
    for module in modules:
        name = type(module).__name__
        if isinstance(module, _BatchNorm):
            yield f"the running mean of a {name}"
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            yield f"{name}(p={module.p})"
        for key, value in vars(module).items():
            if "drop" in key and isinstance(value, float) and value > 0:
                yield f"`{key}` = {value} ({name})"
