"""An image processor that processes the images of a pair once for both of its views."""

import copy
from collections.abc import Iterator
from typing import Any

from transformers import BatchFeature, ProcessorMixin


class CachedImageProcessor:
    """An image processor that returns its last result again when it is called with the same images.

    Image objects are compared, not pixels: a caller with the same images passes the same objects.
    """

    def __init__(self, image_processor: Any):
        self._image_processor = image_processor
        self._asked: tuple[list[Any], str] | None = None
        self._answer: Any = None

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        asked = list(_flat(images)), f"{_nesting(images)} {args} {sorted(kwargs.items())}"
        if self._answer is None or not _is_same(asked, self._asked):
            self._answer = self._image_processor(images, *args, **kwargs)
            self._asked = asked
        # Its own dict, since processors take out what they do not pass on
        return BatchFeature(dict(self._answer))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_image_processor":  # while it is copied or unpickled, it has nothing yet
            raise AttributeError(name)
        return getattr(self._image_processor, name)


def with_cached_images(processor: ProcessorMixin) -> ProcessorMixin:
    """A shallow copy of a processor with a `CachedImageProcessor`; the processor itself where it takes no images."""
    image_processor = getattr(processor, "image_processor", None)
    if image_processor is None:
        return processor
    copied = copy.copy(processor)
    copied.image_processor = CachedImageProcessor(image_processor)
    return copied


def _flat(images: Any) -> Iterator[Any]:
    if isinstance(images, list | tuple):
        for each in images:
            yield from _flat(each)
    else:
        yield images


def _nesting(images: Any) -> Any:
    """How many images each row has, as nested lists: some processors treat a row with several images differently."""
    return [_nesting(each) for each in images] if isinstance(images, list | tuple) else 0


def _is_same(asked: tuple[list, str], before: tuple[list, str] | None) -> bool:
    return (
        before is not None
        and asked[1] == before[1]
        and len(asked[0]) == len(before[0])
        and all(a is b for a, b in zip(asked[0], before[0], strict=True))
    )
