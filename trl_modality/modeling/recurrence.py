"""Recurrent and convolution layers of hybrid decoders, made to follow a segment layout as the attention does.

The layers of transformers call functions of their module: a causal convolution and a gated delta rule. These are
borrowed: in their place stand functions that follow a layout where a layer hands them one, and else are the originals.
"""

import functools
import inspect
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from .._compat_kernels import kernel_behind
from .pieces import Group, StateTensors, WindowTensors, continue_states, convolve, cut_into_pieces


_ORIGINAL = "_borrowed_original"
# The decoders whose layers follow layouts, by the module that their layers are of
_BORROWERS: dict[str, "weakref.WeakSet[Any]"] = {}
# What was found in a decoder: a walk through all modules of a large model with adapters takes tens of milliseconds
_FOUND: "weakref.WeakKeyDictionary[Any, _Found]" = weakref.WeakKeyDictionary()


class Needs(NamedTuple):
    """What the layers of a decoder need to know of a layout."""

    window: int | None = None
    """Number of earlier tokens that a convolution sees; `None` without convolutions."""
    in_runs: bool | None = None
    """Whether the recurrent function takes pieces one after the other; `None` without recurrences."""


class PieceTensors:
    """A layout for layers that carry a state, on one device: made once for all layers, at best with the batch.

    Args:
        segments: Of the layout.
        given: `host_tensors` of the segments, moved to the device; what is not among them is made here.
        device: Where the layers are.
    """

    def __init__(self, segments: Any, given: Mapping[str, torch.Tensor], device: torch.device):
        self._segments, self._given, self._device = segments, given, device
        self._windows: dict[int, WindowTensors] = {}
        self._states: dict[bool, StateTensors] = {}

    def window(self, window: int) -> WindowTensors:
        """For a convolution that sees `window` earlier tokens."""
        if window not in self._windows:
            tensors = self._with(_window_name(window), Needs(window=window))
            self._windows[window] = WindowTensors(
                *(tensors[f"{_window_name(window)}.{field}"] for field in WindowTensors._fields)
            )
        return self._windows[window]

    def states(self, in_runs: bool) -> StateTensors:
        """For a recurrent function, which takes pieces one after the other or as rows."""
        if in_runs not in self._states:
            name, groups = _states_name(in_runs), []
            tensors = self._with(name, Needs(in_runs=in_runs))
            while f"{name}.{len(groups)}.places" in tensors:
                fields = {field: tensors.get(f"{name}.{len(groups)}.{field}") for field in Group._fields}
                groups.append(Group(**fields))  # pyright: ignore[reportArgumentType]
            self._states[in_runs] = StateTensors(tuple(groups), tensors[f"{name}.order"])
        return self._states[in_runs]

    def _with(self, name: str, needs: Needs) -> Mapping[str, torch.Tensor]:
        if any(key.startswith(name) for key in self._given):
            return self._given
        return {key: tensor.to(self._device) for key, tensor in host_tensors(self._segments, needs).items()}


def _window_name(window: int) -> str:
    return f"window_{window}"


def _states_name(in_runs: bool) -> str:
    return "states_in_runs" if in_runs else "states_in_rows"


def host_tensors(segments: Any, needs: Needs) -> dict[str, torch.Tensor]:
    """What layers with these needs take of a layout's segments, by name, on the CPU."""
    pieces, found = cut_into_pieces(segments), {}
    if needs.window is not None:
        found[_window_name(needs.window)] = WindowTensors.of(pieces, needs.window)._asdict()
    if needs.in_runs is not None:
        name, states = _states_name(needs.in_runs), StateTensors.of(pieces, needs.in_runs)
        found[name] = {"order": states.order}
        found |= {f"{name}.{n}": group._asdict() for n, group in enumerate(states.groups)}
    return {
        f"{name}.{field}": tensor
        for name, fields in found.items()
        for field, tensor in fields.items()
        if tensor is not None
    }


def _following_convolution(original: Callable[..., Any]) -> Callable[..., Any]:
    """A causal convolution of transformers, and over the pieces of a layout where it is handed one."""

    @functools.wraps(original)
    def causal_convolution(hidden_states, weight, *args, **kwargs):
        layout, kwargs = _layout_in(kwargs)
        if layout is None:
            return original(hidden_states, weight, *args, **kwargs)
        tensors = layout.on(hidden_states.device).pieces.window(weight.shape[-1] - 1)
        return convolve(original, hidden_states, tensors, weight, *args, **kwargs)

    return causal_convolution


def _following_rule(original: Callable[..., Any]) -> Callable[..., Any]:
    """A gated delta rule of transformers, and over the pieces of a layout where it is handed one."""

    @functools.wraps(original)
    def gated_delta_rule(query, key, value, g, beta, **kwargs):
        layout, kwargs = _layout_in(kwargs)
        if layout is None:
            return original(query, key, value, g=g, beta=beta, **kwargs)
        if kwargs.pop("initial_state", None) is not None or kwargs.pop("output_final_state", False):
            raise ValueError("A cache cannot be filled over segments: call the model with `use_cache=False`.")
        tensors = layout.on(query.device).pieces.states(_takes_runs(original))
        return continue_states(original, (query, key, value, g, beta), tensors, **kwargs), None

    return gated_delta_rule


def _layout_in(kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The segment layout among the arguments that a layer hands on, and the others.

    It comes as `segment_layout` too, or, from layers that hand nothing else on to a convolution, as `seq_idx`.
    """
    named = kwargs.pop("segment_layout", None)
    layout = named if named is not None else kwargs.get("seq_idx")
    if not hasattr(layout, "segments"):
        return None, kwargs
    return layout, {name: value for name, value in kwargs.items() if name not in ("seq_idx", "cu_seqlens")}


_FOLLOWING = {
    "causal_conv1d_fn": _following_convolution,
    "torch_chunk_gated_delta_rule": _following_rule,
    "chunk_kimi_delta_attention": _following_rule,
}


def _takes_runs(function: Callable[..., Any]) -> bool:
    """Whether a recurrent function takes rows one after the other (`cu_seqlens`), which transformers' own does not."""
    return "cu_seqlens" in inspect.signature(kernel_behind(function)).parameters


def _borrowed_names(forward: Any) -> frozenset[str]:
    """The functions that a forward calls and that can follow layouts."""
    code = getattr(inspect.unwrap(forward), "__code__", None)
    return frozenset(_FOLLOWING.keys() & set(code.co_names)) if code is not None else frozenset()


@functools.cache
def _names_of(layer_cls: type) -> frozenset[str]:
    return _borrowed_names(layer_cls.forward)


def _layers(decoder: torch.nn.Module) -> list[torch.nn.Module]:
    return [module for module in decoder.modules() if _names_of(type(module))]


class _Found(NamedTuple):
    modules: Mapping[str, frozenset[str]]
    """The modules of transformers that a decoder's layers are of, with the functions that they call there."""
    window: int | None
    """As in `Needs`."""


def module_of(layer: torch.nn.Module) -> str:
    """The module whose functions a layer's forward calls. Classes that FSDP2 makes elsewhere inherit it."""
    return next(each for each in type(layer).__mro__ if "forward" in vars(each)).__module__


def _found(decoder: torch.nn.Module) -> _Found:
    """Kept until `borrow` looks again: adapters and FSDP change neither which layers there are nor what they call."""
    return _FOUND[decoder] if decoder in _FOUND else _look(decoder)


def _look(decoder: torch.nn.Module) -> _Found:
    layers, modules = _layers(decoder), {}
    for layer in layers:
        name = module_of(layer)
        modules[name] = modules.get(name, frozenset()) | _names_of(type(layer))
    kernels = {m.kernel_size[0] for layer in layers for m in layer.modules() if isinstance(m, torch.nn.Conv1d)}
    _FOUND[decoder] = found = _Found(modules, max(kernels) - 1 if kernels else None)
    return found


def needs_of(decoder: torch.nn.Module) -> Needs | None:
    """What a decoder's layers need to know of a layout; `None` where all of them are attention."""
    modules, window = _found(decoder)
    if not modules:
        return None
    rules = [vars(sys.modules[module])[name] for module, names in modules.items() for name in names if "delta" in name]
    in_runs = [_takes_runs(getattr(rule, _ORIGINAL, rule)) for rule in rules]
    return Needs(window, in_runs[0] if in_runs else None)


def why_not_borrowed(decoder: torch.nn.Module) -> str | None:
    """Why a decoder's layers cannot be made to follow layouts; `None` where they can, or need not."""
    for layer in _layers(decoder):
        if _borrowed_names(layer.forward) != _names_of(type(layer)):
            return f"the forward of its {type(layer).__name__} layers has been replaced (by a kernel of the hub?)"
    return None


def borrow(decoder: torch.nn.Module) -> None:
    """Let the recurrent and convolution layers of a decoder follow layouts. Calling it again does nothing.

    Raises:
        ValueError: the forward of a layer has been replaced, so that nothing is known of what it calls.
    """
    if (reason := why_not_borrowed(decoder)) is not None:
        raise ValueError(f"Rows cannot share a sequence, since {reason}. Load the model without `use_kernels`.")
    for module, names in _look(decoder).modules.items():
        functions = vars(sys.modules[module])
        for name in names:
            if not hasattr(functions[name], _ORIGINAL):
                following = _FOLLOWING[name](functions[name])
                setattr(following, _ORIGINAL, functions[name])
                functions[name] = following
        _BORROWERS.setdefault(module, weakref.WeakSet()).add(decoder)


def is_borrowed(decoder: torch.nn.Module) -> bool:
    """Whether a decoder's layers follow layouts, as all do that are attention."""
    return all(
        hasattr(vars(sys.modules[module])[name], _ORIGINAL)
        for module, names in _found(decoder).modules.items()
        for name in names
    )


def give_back(decoder: torch.nn.Module) -> None:
    """Give the functions back that `borrow` took, unless another decoder of their module follows layouts."""
    for module, borrowers in _BORROWERS.items():
        borrowers.discard(decoder)
        functions = vars(sys.modules[module])
        for name in _FOLLOWING.keys() & functions.keys():
            if not borrowers and hasattr(functions[name], _ORIGINAL):
                functions[name] = getattr(functions[name], _ORIGINAL)
