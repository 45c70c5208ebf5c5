"""The weights of teachers that are the model itself: without its adapter, as it was at the start, or averaged."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


class AdapterOff:
    """The base model of one with an adapter: no copy of any weight, but of those that train beside the adapter."""

    def __init__(self, model: Any):
        self._model = model
        marks = (getattr(model.base_model, "prefix", ""), "modules_to_save", "trainable_tokens", "prompt_encoder")
        adapters = tuple(mark for mark in marks if mark)
        beside = [name for name, _ in model.named_parameters() if not any(mark in name for mark in adapters)]
        self.beside = KeptWeights(model, names=beside)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """A context in which the model has these weights."""
        # PEFT lets all of the active adapter train again afterwards, also what `train_parts` has frozen
        trains = [(parameter, parameter.requires_grad) for parameter in self._model.parameters()]
        try:
            with self._model.disable_adapter(), self.beside.in_place():
                yield
        finally:
            for parameter, is_trained in trains:
                parameter.requires_grad_(is_trained)


class KeptWeights:
    """Values of the parameters that train, of another time: those at the start, or a moving average of them.

    What does not train has the same value at any time, and no copy.

    Args:
        model: Whose parameters they are, asked anew each time: FSDP2 replaces them.
        decay: Of the moving average in each step; `None` for values that stay.
        names: Those to keep, of the parameters that train; all by default.
    """

    def __init__(self, model: Any, decay: float | None = None, names: Collection[str] | None = None):
        self._model, self._decay = model, decay
        # An average in half precision would not move by what a step changes
        widens = decay is not None
        trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
        if names is not None:
            kept = set(names)
            trained = {name: each for name, each in trained.items() if name in kept}
        self.values = {name: _own_copy(parameter, widens) for name, parameter in trained.items()}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """A context in which the model has these weights; nothing may be computed in it that has a gradient."""
        whole: list[tuple[torch.Tensor, torch.Tensor]] = []
        shards: list[tuple[torch.Tensor, torch.Tensor]] = []
        try:
            for parameter, value in self._with_values():
                if isinstance(parameter, DTensor):  # FSDP2 puts parameters together from the memory of their shards
                    shard = parameter.detach().to_local()
                    shards.append((shard, shard.clone()))
                    shard.copy_(value)
                else:
                    whole.append((parameter, parameter.data))
                    parameter.data = value.to(parameter.dtype)
            _forget_whole_parameters(self._model, bool(shards))
            yield
        finally:
            for parameter, own in whole:
                parameter.data = own
            for shard, own in shards:
                shard.copy_(own)
            _forget_whole_parameters(self._model, bool(shards))

    @torch.no_grad()
    def update(self) -> None:
        """Move the average by one step."""
        if self._decay is None:
            return
        for parameter, value in self._with_values():
            local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            value.lerp_(local.detach().to(value.dtype), 1.0 - self._decay)

    def load(self, values: Mapping[str, torch.Tensor]) -> None:
        """Go on from the values of another run."""
        for name, value in self.values.items():
            value.copy_(values[name])

    def _with_values(self) -> Iterator[tuple[Any, torch.Tensor]]:
        """Each parameter with its value, or that of this rank's shard."""
        parameters = dict(self._model.named_parameters())
        for name, value in self.values.items():
            parameter = parameters[name]
            if isinstance(parameter, DTensor) and value.shape != parameter.to_local().shape:
                whole = distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
                value = self.values[name] = whole.to_local().clone()
            elif value.device != parameter.device:
                value = self.values[name] = value.to(parameter.device)
            yield parameter, value


def _forget_whole_parameters(model: Any, is_sharded: bool) -> None:
    """Let FSDP2 put parameters together anew: those of its outermost module it keeps whole between forwards."""
    for module in model.modules() if is_sharded else ():
        if isinstance(module, FSDPModule):
            module.reshard()


def weights_at_start(model: Any) -> AdapterOff | KeptWeights:
    """The weights that a model has before training: those below its adapter, or a copy of what trains."""
    return AdapterOff(model) if is_peft_model(model) else KeptWeights(model)


def _own_copy(parameter: torch.Tensor, widens: bool) -> torch.Tensor:
    dtype = torch.promote_types(parameter.dtype, torch.float32) if widens else parameter.dtype
    return parameter.detach().to(dtype, copy=True)
