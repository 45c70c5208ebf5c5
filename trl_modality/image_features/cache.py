"""`ImageFeatureCache`: a model whose frozen vision tower is run once for each image, its outputs kept on disk."""

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
import xxhash
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers.utils import logging

from .place import Place, place_of
from .records import Record, fields_of, merged, split, whole
from .store import FeatureStore, bytes_in
from .units import Images, bytes_of, images_of


logger = logging.get_logger(__name__)

FORMAT = 1
"""Of files and keys. Features of another one are not found."""


class ImageFeatureCache:
    """Features of images on disk for a model whose vision tower is frozen.

    Within `attached()` the model gets what its tower (and its projector, where that is frozen too) makes of an image
    from disk, if it made it before, with the same weights. Otherwise it is as ever, and is kept.

    Args:
        model: With its language head, without PEFT's wrapper; not sharded.
        folder: The features of each state of the weights have one of their own in it.

    Raises:
        ValueError: nothing in the model could be cached; see `place_of`.
    """

    def __init__(self, model: Any, folder: Path):
        self._model, self._folder = model, folder
        self.place: Place = place_of(model)
        self._stamp: Any = None
        self._store: FeatureStore | None = None
        self._written_before = self.bytes_before = 0
        self._is_attached = self._is_told_apart = False
        self.asked = self.found = 0
        """Images that were asked for in training, and those of them that were not encoded."""

    @property
    def bytes_written(self) -> int:
        """Bytes that this process has written."""
        return self._written_before + (0 if self._store is None else self._store.bytes_written)

    @property
    def folder(self) -> Path:
        """Where features of the weights as they are now lie."""
        return self._current_store().folder

    @property
    def is_full(self) -> bool:
        """Whether there is no room for more on the disk."""
        return self._store is not None and self._store.is_full

    @contextmanager
    def attached(self) -> Iterator[None]:
        """A context in which the model has its features from the cache; within another one it does nothing.

        The weights are read at its beginning, and again when they were written to. What is written to `.data` within
        it is not seen.
        """
        if self._is_attached:
            yield
            return
        owner, name = self.place.owner, self.place.function
        own, original = vars(owner).get(name), getattr(owner, name)

        # No method: who replaces it in turn looks for its owner (`modeling.backbone`)
        @functools.wraps(original)
        def cached(*args: Any, **kwargs: Any) -> Any:
            return self._call(original, args, kwargs)

        setattr(owner, name, cached)
        self._is_attached, self._stamp = True, None
        try:
            yield
        finally:
            self._is_attached = False
            delattr(owner, name)
            if own is not None:
                setattr(owner, name, own)

    def _call(self, original: Any, args: Any, kwargs: Any) -> Any:
        call = images_of(original, args, kwargs)
        if call is None:
            raise ValueError(self._not_apart())
        images, more = call
        if self.place.is_tower and not self._is_told_apart:
            # In a batch of several images, which may be a late one, it would be seen anyhow
            if split(self._run(original, {**images.of([0, 0]), **more}), [images.sizes[0]] * 2) is None:
                raise ValueError(self._not_apart())
            self._is_told_apart = True
        device = images.tensors["pixel_values"].device
        is_autocast = torch.is_autocast_enabled(device.type)
        salt = str(torch.get_autocast_dtype(device.type)) if is_autocast else ""
        keys = images.keys(salt, padding_counts=self.place.is_tower)
        store, records = self._current_store(), {}
        for key in dict.fromkeys(keys):
            if (record := store.read(key, device)) is not None:
                records[key] = record
        missing = [i for i, key in enumerate(keys) if key not in records and key not in keys[:i]]
        if missing:
            for i, record in zip(missing, self._encoded(original, images, missing, more), strict=True):
                records[keys[i]] = record
                store.write(keys[i], record)
        if torch.is_grad_enabled():  # not in evaluations
            self.asked += len(keys)
            self.found += len(keys) - len(missing)
        return merged([records[key] for key in keys])

    def _encoded(self, original: Any, images: Images, missing: list[int], more: dict[str, Any]) -> list[Record]:
        """The records of some of the images."""
        sizes = [images.sizes[i] for i in missing]
        records = split(self._run(original, {**images.of(missing), **more}), sizes)
        if records is None and self.place.is_tower:
            raise ValueError(self._not_apart())
        return records or [whole(self._run(original, {**images.of([i]), **more})) for i in missing]

    def _run(self, original: Any, arguments: dict[str, Any]) -> dict[str, Any]:
        def reject(*_: Any) -> None:
            raise ValueError(
                "`cache_image_features`: this model makes its images of the embeddings of its language model, which "
                "are no part of a frozen tower. Leave `cache_image_features` out."
            )

        guard = self._model.get_input_embeddings().register_forward_pre_hook(reject)
        try:
            with torch.enable_grad():  # so that what trains shows, in evaluations too
                output = original(**arguments)
        finally:
            guard.remove()
        fields = fields_of(output, self.place.fields)
        if "pooler_output" in fields and not self.place.is_tower:
            fields.pop("last_hidden_state", None)  # of the tower: nobody reads it
        for value in fields.values():
            for tensor in [value] if isinstance(value, torch.Tensor) else value:
                if tensor.requires_grad:
                    raise ValueError(
                        f"`cache_image_features`: what {self.place.told} makes of an image has a gradient: "
                        "something in it has been set to train since the trainer was made. Freeze it before."
                    )
        return fields

    def _not_apart(self) -> str:
        remedy = "Freeze the projector too, or leave" if self.place.is_tower else "Leave"
        return (
            f"`cache_image_features`: in what {self.place.told} of {type(self._model).__name__} makes of several "
            f"images it cannot be told what belongs to which. {remedy} `cache_image_features` out."
        )

    def _current_store(self) -> FeatureStore:
        """The store of the weights as they are now; they are read again only if they were written to."""
        tensors = [(t.data_ptr(), t._version, t.dtype) for _, t in _tensors(self.place)]
        stamp = tensors, _adapters(self.place)
        if self._store is None or stamp != self._stamp:
            folder, self._stamp = self._folder / self.fingerprint(), stamp
            if self._store is None or folder != self._store.folder:
                self._written_before = self.bytes_written
                self._store, self.bytes_before = FeatureStore(folder), bytes_in(folder)
        return self._store

    def fingerprint(self) -> str:
        """A hash of all besides the pixels that features depend on: weights, their dtypes, adapters, the config,
        versions.

        The settings of the processor are in the pixels. Those of the machine, which rounds in its own way, do not
        count.
        """
        digest = xxhash.xxh3_128(json.dumps([FORMAT, transformers.__version__, self.place.told]).encode())
        config = {key: value for key, value in self._model.config.to_dict().items() if _shapes_images(key)}
        digest.update(json.dumps([type(self._model).__name__, config], sort_keys=True, default=str).encode())
        digest.update(json.dumps(_adapters(self.place)).encode())
        for name, tensor in _tensors(self.place):
            digest.update(f"\0{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
            digest.update(bytes_of(tensor))
        return digest.hexdigest()


def _tensors(place: Place) -> list[tuple[str, torch.Tensor]]:
    """Weights and buffers of a place, each once, in the order of its modules."""
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for i, module in enumerate(place.modules):
        for kind in (module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
            for name, tensor in kind:
                found.setdefault(id(tensor), (f"{i}.{name}", tensor))
    return list(found.values())


def _adapters(place: Place) -> list[Any]:
    """Which adapters act in a place, and how strongly: what is not in their weights."""
    return [
        [i, module.active_adapters, module.disable_adapters, module.merged_adapters, getattr(module, "scaling", None)]
        for i, module in enumerate(place.modules)
        if isinstance(module, BaseTunerLayer)
    ]


def _shapes_images(key: str) -> bool:
    """Whether a field of a model's config may have to do with what it makes of images."""
    names = ("text_config", "_name_or_path", "transformers_version", "use_cache", "dtype", "tie_word_embeddings")
    return key not in names and not key.endswith("token_id")
