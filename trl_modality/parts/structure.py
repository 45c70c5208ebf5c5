"""The parts of a model and their parameters, read off its modules: no list of families.

Towers and decoder are where transformers' own `get_encoder` and `get_decoder` find them; the rest follows from what
modules are made of. `docs/parts.md` has the rules in words.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
)

from .layers import inner_parts, is_mixer, unwrapped, width_out
from .words import WORDS, layers_meant


TOP = ("vision_tower", "audio_tower", "projector", "language_model")
"""The parts that a model consists of: every parameter is in one of them."""


@dataclass(frozen=True)
class ModelParts:
    """Which parameters of a model are in which part, by their names in `model.named_parameters()`."""

    names: Mapping[str, tuple[str, ...]]
    """By part: those of `words.WORDS` that the model has."""
    layers: tuple[tuple[str, ...], ...]
    """Of each layer of the language model, in order."""
    sizes: Mapping[str, int]
    """Number of values of each parameter."""
    is_tied: bool
    """Whether the head and the embeddings of the language model are one matrix."""

    def of(self, word: str) -> tuple[str, ...]:
        """The parameters that a word means, in the model's order; none where the model has no such part, or fewer
        layers than are asked for."""
        n_asked = word.partition("=")[2]
        if n_asked and int(n_asked) > len(self.layers):
            return ()
        layers = layers_meant(word, len(self.layers))
        if layers is None:
            return self.names.get(word, ())
        return tuple(name for i in layers for name in self.layers[i])

    def count(self, names: Any) -> int:
        """Number of values in some parameters."""
        return sum(self.sizes[name] for name in names)

    def listed(self) -> str:
        """The parts that there are, each with its parameters, as a message lists them."""
        told = [f"{word} ({self.count(names):,} parameters)" for word, names in self.names.items()]
        return ", ".join(told) + f"; its language model has {len(self.layers)} layers"


def model_parts(model: PreTrainedModel) -> ModelParts:
    """Read the parts off a model. With PEFT, off the base model with its adapters in it (`get_base_model`)."""
    finder = _Finder(model)
    found = {
        "vision_tower": finder.vision,
        "audio_tower": finder.audio,
        "projector": finder.projector,
        "language_model": finder.language,
        **finder.inner,
    }
    names: dict[int, str] = {id(parameter): name for name, parameter in model.named_parameters()}
    order = {number: i for i, number in enumerate(names)}

    def named(ids: set[int]) -> tuple[str, ...]:
        return tuple(names[number] for number in sorted(ids, key=order.__getitem__))

    return ModelParts(
        names={word: named(found[word]) for word in WORDS if found.get(word)},
        layers=tuple(named(_parameters(layer)) for layer in finder.layers),
        sizes={names[id(parameter)]: number_of_values(parameter) for parameter in model.parameters()},
        is_tied=bool(found["lm_head"] & found["embeddings"]),
    )


def without_weights(config: Any, trust_remote_code: bool = False) -> PreTrainedModel:
    """A model on the device "meta": of the class that its checkpoint names, or of the one that it is mapped to, or, of
    code in its repository, of the one that `SFTTrainer` would take.

    Args:
        config: Of the model.
        trust_remote_code: As in transformers.
    """
    architecture: Any = getattr(transformers, (config.architectures or [""])[0], None)
    with torch.device("meta"):
        if architecture is not None:
            return architecture(config)
        is_mapped = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        has_code = AutoModelForImageTextToText.__name__ in (getattr(config, "auto_map", None) or {})
        auto: Any = AutoModelForImageTextToText if is_mapped or has_code else AutoModelForCausalLM
        return auto.from_config(config, trust_remote_code=trust_remote_code)


def number_of_values(parameter: Any) -> int:
    """Of a parameter, of 4-bit weights and of those that ZeRO-3 has sharded too."""
    if type(parameter).__name__ == "Params4bit":  # two to a byte; `quant_storage` says how many bytes to an element
        return parameter.numel() * 2 * parameter.element_size()
    return parameter.numel() or getattr(parameter, "ds_numel", 0)


def _parameters(module: nn.Module | None) -> set[int]:
    return set() if module is None else {id(parameter) for parameter in module.parameters()}


class _Finder:
    """Finds parts in a model, as sets of ids of parameters."""

    def __init__(self, model: PreTrainedModel):
        self._model = model
        decoder = _asked(model, "get_decoder") or model
        embeddings, head = _asked(model, "get_input_embeddings"), _asked(model, "get_output_embeddings")
        text_config = model.config.get_text_config(decoder=True)
        towers = self._towers(decoder, "image", ("pixel_values",))
        ears = self._towers(decoder, "audio", ("input_features", "input_values"))
        self.vision = set().union(*map(_parameters, towers))
        self.audio = set().union(*map(_parameters, ears)) - self.vision
        root = self._language_root(decoder)
        own = [root, *(each for each in (embeddings, head) if each is not None)]
        self.language = set().union(*map(_parameters, own)) - self.vision - self.audio
        width = getattr(text_config, "hidden_size", 0)
        self.projector = _parameters(model) - self.vision - self.audio - self.language
        beside = (p for p in model.parameters() if id(p) in self.projector)
        merger: set[int] = set()
        if not any(len(getattr(p, "ds_shape", p.shape)) > 1 for p in beside):  # no matrix: it stands in the tower
            merger = set().union(*(_merger(tower, width) for tower in towers))
        self.vision -= merger
        self.projector |= merger
        lists = [each for each in _lists_of_layers(root) if not _parameters(each) & (self.vision | merger)]
        self.layers = _main_list(lists, getattr(text_config, "num_hidden_layers", None))
        self.inner = {"lm_head": _parameters(head)}
        outside = self.vision | self.audio | self.projector
        self.inner |= inner_parts(root, embeddings, lists, outside, width)

    def _towers(self, decoder: nn.Module, modality: str, main_inputs: tuple[str, ...]) -> list[nn.Module]:
        """The outermost encoders of a modality: the one that the model names, and others that take its raw input."""
        named = _asked(self._model, "get_encoder", modality=modality)
        found = [] if named is None or _contains(named, decoder) else [named]
        for module in self._model.modules():
            is_encoder = isinstance(module, PreTrainedModel) and module.main_input_name in main_inputs
            if is_encoder and not _contains(module, decoder) and not any(_contains(each, module) for each in found):
                found.append(module)
        if found or modality != "image":
            return found
        # No module takes images by name: the codebook of Chameleon is the one child with convolutions
        children = [child for child in self._model.base_model.children() if not _contains(child, decoder)]
        return [child for child in children if any(isinstance(each, nn.Conv2d) for each in child.modules())][:1]

    def _language_root(self, decoder: nn.Module) -> nn.Module:
        """The decoder, or the outermost language model around it that takes no images and has no tower in it."""
        root = decoder
        for module in self._model.modules():  # from the outside in
            is_model = isinstance(module, PreTrainedModel) and _contains(module, decoder)
            takes_others = {"image", "video", "audio"} & set(getattr(module, "input_modalities", ()) or ())
            if is_model and not takes_others and not _parameters(module) & (self.vision | self.audio):
                return module
        return root


def _asked(model: Any, accessor: str, **options: Any) -> Any:
    """What an accessor of transformers gives; `None` where the model has none or gives itself."""
    try:
        found = getattr(model, accessor)(**options)
    except (NotImplementedError, AttributeError, TypeError):
        return None
    return None if found is model else found


def _contains(outer: nn.Module, inner: nn.Module) -> bool:
    return any(module is inner for module in outer.modules())


def _lists_of_layers(root: nn.Module) -> list[nn.ModuleList]:
    """The outermost lists of modules in which tokens are mixed."""
    found: list[nn.ModuleList] = []

    def visit(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, nn.ModuleList) and any(is_mixer(each) for each in child.modules()):
                found.append(child)
            else:
                visit(child)

    visit(root)
    return found


def _main_list(lists: list[nn.ModuleList], n_layers: int | None) -> list[nn.Module]:
    """The list of a language model's layers: that with the number of layers of its config, and the largest of such."""

    def rank(each: nn.ModuleList) -> tuple[bool, int]:
        return len(each) == n_layers, sum(number_of_values(parameter) for parameter in each.parameters())

    return list(max(lists, key=rank)) if lists else []


def _merger(tower: nn.Module, width: int) -> set[int]:
    """Parameters of the projector that stands inside a tower, as in Qwen-VL: what comes after its layers, mixes no
    tokens, and writes vectors of the language model's width (or of that which the tower's config says it gives out);
    and what is of the same classes and comes before them (`merger_list` of Qwen3-Omni).
    """
    given_out = {width, getattr(getattr(tower, "config", None), "out_hidden_size", width)}
    lists = _lists_of_layers(tower)
    if not lists:
        return set()
    layers = max(lists, key=lambda each: sum(number_of_values(parameter) for parameter in each.parameters()))
    before, after = [], []
    for module in _ancestors(tower, layers):
        children = list(module.children())
        place = next(i for i, child in enumerate(children) if _contains(child, layers))
        before += children[:place]
        after += [child for child in children[place + 1 :] if _projects(child, given_out)]
    # Classes of the family: a patch embedding may be one of torch's that a merger is made of too
    classes = {type(each) for child in after for each in _items(child)}
    classes = {each for each in classes if not each.__module__.startswith("torch")}
    after += [child for child in before if {type(each) for each in _items(child)} <= classes]
    return set().union(*map(_parameters, after))


def _items(module: nn.Module) -> list[nn.Module]:
    return list(module) if isinstance(module, nn.ModuleList) else [module]


def _projects(module: nn.Module, given_out: set[int]) -> bool:
    writes = [out for each in module.modules() if (out := width_out(each)) is not None]
    return bool(writes) and writes[-1] in given_out and not any(is_mixer(unwrapped(each)) for each in module.modules())


def _ancestors(root: nn.Module, inner: nn.Module) -> Iterator[nn.Module]:
    while root is not inner:
        yield root
        root = next(child for child in root.children() if _contains(child, inner))
