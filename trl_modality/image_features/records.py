"""The output of `get_image_features` or of a tower, cut into what belongs to each image, and put together again."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling


Record = dict[str, torch.Tensor]
"""What is kept of an image, by name: `pooler_output` where all images have one tensor, `pooler_output/0` and so on
where each has one of its own. The names of what there is of several layers have the layer and the number of layers:
`hidden_states:3:24`."""

BY_LAYER = ("hidden_states", "deepstack_features")
OF_ALL = ("visual_indicator_features",)
"""Rows of frozen weights, the same for all images (Ovis2)."""
NOT_KEPT = ("qformer_outputs", "vision_outputs")
"""What some models hand on to their own output, and nobody computes with (BLIP-2)."""


def fields_of(output: Any, names: Sequence[str]) -> dict[str, Any]:
    """What an output has under some names, layer by layer: a tensor of all images, or a list of one for each."""
    found: dict[str, Any] = {}
    for name in names:
        value = getattr(output, name, None)
        if value is None:
            continue
        if name in BY_LAYER:
            found |= {f"{name}:{i}:{len(value)}": layer for i, layer in enumerate(value) if layer is not None}
        else:
            found[name] = value
    return found


def split(fields: dict[str, Any], sizes: Sequence[int]) -> list[Record] | None:
    """The record of each image; `None` where a field has not one entry for each.

    Args:
        fields: Of `fields_of`.
        sizes: How many entries of the pixels each image has.
    """
    records: list[Record] = [{} for _ in sizes]
    lists = (value for value in fields.values() if isinstance(value, list | tuple))
    n_tokens = next((list(map(len, value)) for value in lists), [])
    for name, value in fields.items():
        if name in OF_ALL:
            pieces: Sequence[Any] = [value] * len(sizes)
        elif len(value) == len(sizes):
            pieces = value.split(1) if isinstance(value, torch.Tensor) else [[each] for each in value]
        elif len(value) == sum(sizes):
            pieces = value.split(list(sizes)) if isinstance(value, torch.Tensor) else _in_turn(value, sizes)
        elif isinstance(value, torch.Tensor) and len(n_tokens) == len(sizes) and sum(n_tokens) == len(value):
            pieces = value.split(n_tokens)  # tokens of all images in one dimension
        else:
            return None
        for record, piece in zip(records, pieces, strict=True):
            record |= whole({name: piece})
    return records


def whole(fields: dict[str, Any]) -> Record:
    """The record of the only image of a call, however it comes."""
    record: Record = {}
    for name, value in fields.items():
        if isinstance(value, torch.Tensor):
            record[name] = value
        else:
            record |= {f"{name}/{i}": each for i, each in enumerate(value)}
    return record


def merged(records: Sequence[Record]) -> BaseModelOutputWithPooling:
    """The output over some images, from the records of each."""
    fields: dict[str, Any] = {}
    for name in dict.fromkeys(key.partition("/")[0] for record in records for key in record):
        if name in OF_ALL:
            fields[name] = records[0][name]
        elif all(name in record for record in records):
            fields[name] = torch.cat([record[name] for record in records])
        else:
            fields[name] = [each for record in records for each in _listed(record, name)]
    values: dict[str, Any] = {}
    for key, value in fields.items():
        name, _, place = key.partition(":")
        if place:
            layer, _, n_layers = place.partition(":")
            values.setdefault(name, [None] * int(n_layers))[int(layer)] = value
        else:
            values[name] = value
    if "hidden_states" in values:
        values["hidden_states"] = tuple(values["hidden_states"])
    known = ("last_hidden_state", "pooler_output", "hidden_states")
    output = BaseModelOutputWithPooling(**{name: values.pop(name) for name in known if name in values})
    for name, value in {**dict.fromkeys(NOT_KEPT), **values}.items():
        setattr(output, name, value)
    return output


def _listed(record: Record, name: str) -> list[torch.Tensor]:
    """`name/0`, `name/1` and so on: a file gives them back in any order."""
    count = sum(key.partition("/")[0] == name for key in record)
    return [record[f"{name}/{i}"] for i in range(count)]


def _in_turn(values: Sequence[Any], sizes: Sequence[int]) -> list[list[Any]]:
    """A list as a list of lists of these lengths."""
    rest = iter(values)
    return [list(itertools.islice(rest, size)) for size in sizes]
