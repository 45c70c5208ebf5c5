"""The parts inside a language model: embeddings, attention, mlp, gate_up and norms, by what modules are made of."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn


WIDENING = ("gate_up_proj", "gate_proj", "up_proj")
"""The names by which transformers' products of experts know the projections that widen."""


def unwrapped(module: Any) -> Any:
    """The module that an adapter of PEFT stands around; any other module is itself."""
    while True:
        inner = getattr(module, "base_layer", None)
        if not isinstance(inner, nn.Module):
            inner = getattr(module, "original_module", None)
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def is_mixer(module: nn.Module) -> bool:
    """Whether a module mixes tokens: attention, or what keeps a state in the cache and so knows its layer's number."""
    if hasattr(module, "gradient_checkpointing"):
        return False
    is_attention = isinstance(module, nn.MultiheadAttention) or "attention" in type(module).__name__.lower()
    # HunyuanVL tells its feed-forward modules their number too
    widens, narrows = (any(hasattr(module, name) for name in names) for names in (WIDENING, ("down_proj",)))
    return is_attention or (hasattr(module, "layer_idx") and not (widens and narrows))


def is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and not any(True for _ in module.children())


def widths(module: nn.Module) -> tuple[int, int] | None:
    """How wide the vectors are that a linear layer reads and writes; `None` for other modules."""
    inner = unwrapped(module)
    n_in, n_out = getattr(inner, "in_features", None), getattr(inner, "out_features", None)
    return (n_in, n_out) if isinstance(n_in, int) and isinstance(n_out, int) else None


def width_out(module: nn.Module) -> int | None:
    """How wide the vectors are that a linear layer or a convolution writes."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        return module.out_channels
    found = widths(module)
    return None if found is None else found[1]


def inner_parts(
    root: nn.Module, embeddings: nn.Module | None, lists: Iterable[nn.ModuleList], outside: set[int], width: int
) -> dict[str, set[int]]:
    """The parts inside a language model, as ids of parameters; but for tied heads none has a parameter of another.

    Args:
        root: The language model.
        embeddings: Of its tokens.
        lists: Its lists of layers.
        outside: Parameters inside of `root` that are no language model's (the tower of Idefics).
        width: Of its hidden states.
    """
    layers = [layer for each in lists for layer in each]
    norms = {id(p) for module in _outermost(root, is_norm) for p in module.parameters()} - outside
    tables = [] if embeddings is None else [embeddings]
    tables += _outermost(root, lambda module: isinstance(module, nn.Embedding))
    in_layers = {id(p) for layer in layers for p in layer.parameters()}
    found = {"embeddings": {id(p) for table in tables for p in table.parameters()} - outside - in_layers - norms}
    mixing: set[int] = set()
    for layer in layers:
        for mixer in _outermost(layer, is_mixer):
            mixing |= {id(p) for p in mixer.parameters()}
    own = {id(p) for layer in layers for p in layer.parameters(recurse=False)}  # gates of whole branches
    widening = {id(p) for layer in layers for p in _widening_of_layer(layer, width)}
    found["norms"] = norms
    found["attention"] = mixing - norms
    found["mlp"] = in_layers - mixing - norms - own
    found["gate_up"] = widening & found["mlp"]
    return found


def _outermost(root: nn.Module, is_such: Any) -> Iterator[nn.Module]:
    """The modules in a module that are such and stand in no other one that is, adapters with what they are around."""
    for child in root.children():
        if is_such(unwrapped(child)):
            yield child
        else:
            yield from _outermost(child, is_such)


def _widening_of_layer(layer: nn.Module, width: int) -> list[nn.Parameter]:
    beside = [child for child in layer.children() if not is_mixer(unwrapped(child))]
    found = [p for child in beside for module in child.modules() for p in _widening(module, width)]
    return found or list(_widening(layer, width))  # OPT has both projections in the layer itself


def _widening(module: nn.Module, width: int) -> Iterator[nn.Parameter]:
    """The parameters of the projections in a feed-forward module that widen: gate, up, or both in one.

    Of linear layers those that read vectors of the model's width and write what another one reads, or the double of
    it. Where both widths are the same, the last layer is taken for the one that narrows. Experts in one tensor have it
    under the name by which transformers' products of experts know it.
    """
    for name, parameter in unwrapped(module).named_parameters(recurse=False):
        if name.startswith(WIDENING):
            yield parameter
    linear = [(child, *found) for child in module.children() if (found := widths(child)) is not None]

    def pairs(up: Any, down: Any) -> bool:
        return up is not down and up[1] == down[2] == width and up[2] in (down[1], 2 * down[1])

    narrowing = [down for down in linear if any(pairs(up, down) for up in linear)]
    for up in linear:
        if narrowing and pairs(up, narrowing[-1]):
            yield from up[0].parameters()
