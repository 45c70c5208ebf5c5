"""`lora_parts`: the target modules of an adapter, by the parts of the model that it is to go to."""

import copy
from typing import Any

from torch import nn
from transformers import AutoConfig, PreTrainedModel

from .._compat import check_target_module_exists
from .structure import ModelParts, model_parts, without_weights


def adapter_for_parts(words: list[str], model: Any, peft_config: Any, **loading: Any) -> Any:
    """A copy of an adapter's config that targets the linear layers of some parts of a model.

    Where the config names modules itself (`target_modules` other than "all-linear"), it is those of them that are in
    the parts. The head is never targeted.

    Args:
        words: As `parts_of_option` gives them.
        model: A model, or the name of one, which is then built without weights.
        peft_config: Of the adapter: LoRA, also with DoRA or rsLoRA, or another kind with `target_modules`.
        **loading: For the config of a model that is named.

    Raises:
        ValueError: without an adapter that can be placed; a part without linear layers; no layer that is left.
    """
    if peft_config is None:
        raise ValueError(
            "`lora_parts` says where an adapter goes, and there is none: give a `peft_config` (`LoraConfig()` is "
            "enough), or choose what trains without one by `train_parts`."
        )
    if not hasattr(peft_config, "target_modules"):
        raise ValueError(
            f"`lora_parts` is for adapters inside of layers, and {type(peft_config).__name__} puts none there. Leave "
            "it out, or give a `LoraConfig`."
        )
    if hasattr(model, "peft_config"):
        raise ValueError(
            "`lora_parts`: the model has an adapter already, and it stays where it is. Give the model without one and "
            "a `peft_config`, or leave `lora_parts` out."
        )
    model = _of_name(model, loading) if isinstance(model, str) else model
    parts = model_parts(model)
    linear = _linear_layers(model)
    for word in words:
        _check(word, parts, linear, type(model).__name__)
    wanted = {name for word in words for name in parts.of(word)}
    found = [module for module, weight in linear.items() if weight in wanted]
    placed = copy.deepcopy(peft_config)
    layers = getattr(placed, "layers_to_transform", None)
    if names_modules := placed.target_modules not in (None, "all-linear"):
        found = [module for module in found if check_target_module_exists(placed, module)]
    elif layers is not None:
        by_end = copy.copy(placed)  # which PEFT looks at for modules that are named by their ends
        by_end.target_modules = {module.rpartition(".")[2] for module in found}
        found = [module for module in found if check_target_module_exists(by_end, module)]
    if not found:
        asked = f"target_modules={placed.target_modules!r}" if names_modules else f"layers_to_transform={layers!r}"
        raise ValueError(
            f"`lora_parts={words}`: none of `{asked}` is a linear layer in these parts. Leave it out to take all of "
            "their linear layers."
        )
    placed.target_modules = found
    if getattr(placed, "layers_to_transform", None) is not None:
        placed.layers_to_transform = placed.layers_pattern = None  # which the names say by now
    return placed


def _check(word: str, parts: ModelParts, linear: dict[str, str], model_name: str) -> None:
    names = set(parts.of(word))
    if not names:
        raise ValueError(f"`lora_parts` names {word!r}, which {model_name} does not have. It has {parts.listed()}.")
    if not names & set(linear.values()):
        raise ValueError(
            f"`lora_parts` names {word!r}, which has no linear layers that an adapter could stand beside. Train it as "
            "it is: name its modules in `modules_to_save` of the `peft_config`."
        )


def _linear_layers(model: PreTrainedModel) -> dict[str, str]:
    """The names of the linear layers of a model but its head, with those of their weights."""
    # torch's attention multiplies by the weights of its layers itself, so that an adapter there would never train
    of_torch = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    inside = [child for module in of_torch for child in module.children()]
    left_out = {id(module) for module in (model.get_output_embeddings(), *inside)}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        name: names[id(module.weight)]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) not in left_out and not _is_router(module)
    }


def _of_name(name: str, loading: dict[str, Any]) -> PreTrainedModel:
    """The model of a name as `SFTTrainer` would load it, on the device "meta"."""
    given = {key: value for key, value in loading.items() if key in ("revision", "trust_remote_code", "subfolder")}
    return without_weights(AutoConfig.from_pretrained(name, **given), given.get("trust_remote_code", False))


def _is_router(module: nn.Module) -> bool:
    """Whether a linear layer is of a model's own class, and gives more than a product (the router of Llama 4)."""
    return type(module).__module__.startswith("transformers.models.")
