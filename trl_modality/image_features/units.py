"""The images of one call of `get_image_features`: the slice of each tensor that belongs to each of them, and a key.

An image here is an entry of the tensors as the processor makes them: where it cuts images into tiles without saying
which belong together (InternVL), a tile; where it stacks the images of a row (Idefics3), or they depend on one another
(LLaVA-OneVision), those of a row.
"""

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import xxhash


PIXELS = "pixel_values"
IMAGES_OF_ROWS = "batch_num_images"
"""How many images each row has, where the model asks (LLaVA-OneVision)."""


@dataclass(frozen=True)
class Images:
    """The images that a call is about."""

    tensors: Mapping[str, torch.Tensor]
    """Arguments of the call that have something for each image."""
    starts: Mapping[str, Sequence[int]]
    """For each of them where the entries of each image begin along the first dimension, and where the last ends."""
    settings: Mapping[str, Any]
    """The other arguments of the call."""

    @property
    def sizes(self) -> list[int]:
        """How many entries of the pixels each image has."""
        starts = self.starts[PIXELS]
        return [last - first for first, last in itertools.pairwise(starts)]

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.starts[PIXELS]) - 1

    def of(self, chosen: Sequence[int]) -> dict[str, Any]:
        """The arguments of a call about some of the images alone."""
        if list(chosen) == list(range(self.count)):
            return {**self.tensors, **self.settings}
        pieces = {name: [self._piece(name, i) for i in chosen] for name in self.tensors}
        return {**{name: torch.cat(each) for name, each in pieces.items()}, **self.settings}

    def _piece(self, name: str, image: int) -> torch.Tensor:
        first, last = self.starts[name][image : image + 2]
        return self.tensors[name][first:last]

    def keys(self, salt: str = "", *, padding_counts: bool = False) -> list[str]:
        """A key for each image: a hash of its pixels, of all that comes with them, and of the other arguments.

        It waits for the device of the pixels.

        Args:
            salt: Hashed with each.
            padding_counts: Whether the same image is another one with more padding. If not, zeros at the end of a
                dimension do not count where sizes or masks come with the pixels, which say what is padding.
        """
        on_host = Images({name: tensor.detach().cpu() for name, tensor in self.tensors.items()}, self.starts, {})
        keeps = padding_counts or len(self.tensors) == 1
        keys = []
        for i in range(self.count):
            digest = xxhash.xxh3_128(repr((salt, sorted(self.settings.items()))).encode())
            for name in self.tensors:
                piece = on_host._piece(name, i)
                piece = piece if keeps else without_padding(piece)
                digest.update(f"\0{name} {tuple(piece.shape)} {piece.dtype}\0".encode())
                digest.update(bytes_of(piece))
            keys.append(digest.hexdigest())
        return keys


def images_of(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Images, dict[str, Any]] | None:
    """The images of a call of `get_image_features`, and what is handed on to the tower with them.

    `None` where it cannot be told what belongs to which image.
    """
    signature = inspect.signature(function)
    given = signature.bind(*args, **kwargs)
    more = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            more = given.arguments.pop(name, {})
    tensors = {name: value for name, value in given.arguments.items() if isinstance(value, torch.Tensor)}
    settings = {name: value for name, value in given.arguments.items() if name not in tensors}
    if any(isinstance(value, torch.Tensor) for value in more.values()) or PIXELS not in tensors:
        return None
    starts = _starts(tensors)
    return None if starts is None else (Images(tensors, starts, settings), more)


def _starts(tensors: Mapping[str, torch.Tensor]) -> dict[str, list[int]] | None:
    """Where the entries of each image begin; `None` where they do not add up."""
    rows = len(tensors[PIXELS])
    others = {name: tensor for name, tensor in tensors.items() if name != PIXELS}
    whole = {name: tensor for name, tensor in others.items() if not tensor.is_floating_point()}
    grid = next((each for each in whole.values() if each.ndim == 2 and each.shape[1] == 3), None)
    counts = next((each for name, each in whole.items() if each.ndim == 1 and name == IMAGES_OF_ROWS), None)
    if grid is not None and int(grid.prod(-1).sum()) == rows:  # patches of all images in one dimension, as in Qwen-VL
        sizes = grid.prod(-1).tolist()
    elif counts is not None and int(counts.sum()) == rows:  # what becomes of an image depends on those beside it
        sizes = counts.tolist()
    else:
        sizes = [1] * rows
    in_all, by_image = _ends(sizes), list(range(len(sizes) + 1))
    starts = {name: by_image if len(tensor) == len(sizes) else in_all for name, tensor in others.items()}
    starts[PIXELS] = in_all
    return starts if rows and all(len(tensor) == starts[name][-1] for name, tensor in tensors.items()) else None


def _ends(sizes: Sequence[int]) -> list[int]:
    return [0, *itertools.accumulate(sizes)]


def without_padding(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor without zeros at the end of each dimension but the first."""
    for dim in range(1, tensor.ndim):
        others = [each for each in range(tensor.ndim) if each != dim]
        used = (tensor != 0).amax(dim=others).nonzero()
        tensor = tensor.narrow(dim, 0, int(used[-1]) + 1 if len(used) else 0)
    return tensor


def bytes_of(tensor: torch.Tensor) -> Any:
    """The bytes of a tensor of any dtype, as a buffer."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
