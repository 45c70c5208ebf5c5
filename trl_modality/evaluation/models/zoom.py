"""
Looking twice: the model says which part of an image matters, and answers with a closer look at it.

Crops are cut from the image as given, so detail that the first look lost to the processor's resizing comes back. The
idea is that of V* (arXiv 2312.14135) and ViCrop (arXiv 2502.17422), here with the model's own box.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...views import image_slots
from .requests import Generation, Generator, Request, RequestError


if TYPE_CHECKING:
    from PIL.Image import Image

ASK_FOR_BOX = (
    "Do not answer yet. Which part of the image must be seen from close by to answer? Reply with one box only, as "
    "[x1, y1, x2, y2]: left, top, right and bottom, from 0 to {scale} across the width and the height of the image."
)
ASK_FOR_IMAGE = "There are {count} images. Begin the reply with the one that matters, as in: image 2 [x1, y1, x2, y2]."
CLOSER_LOOK = "The last image is a closer look at a part of {image}."

_NUMBER = r"\s{0,3}([0-9]{1,5}(?:\.[0-9]{1,6})?)\s{0,3}"
# [x1, y1, x2, y2], also within JSON or <box>; or the (x1,y1),(x2,y2) that Qwen2-VL was trained on
_BOX = re.compile(
    rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]|\({_NUMBER},{_NUMBER}\)\s{{0,3}},\s{{0,3}}\({_NUMBER},{_NUMBER}\)"
)
_IMAGE = re.compile(r"\bimage\s{0,3}#?([0-9]{1,3})\b", re.IGNORECASE)
_MAX_REPLY = 2_000  # characters of a reply that are read; a box is thirty


@dataclass(frozen=True)
class Box:
    """
    A part of one image, as shares of its width and height, from the top left.

    Raises:
        ValueError: unless 0 <= left < right <= 1, 0 <= top < bottom <= 1 and `image` >= 0.
    """

    left: float
    top: float
    right: float
    bottom: float
    image: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.left < self.right <= 1 and 0 <= self.top < self.bottom <= 1 and self.image >= 0):
            raise ValueError(
                f"{self} is no part of an image: edges are shares from 0 to 1, left to right, top to bottom."
            )


def parse_box(reply: str, sizes: Sequence[tuple[int, int]], scale: float | None = 1000) -> Box | None:
    """
    The one box in a model's reply; `None` where there is none, more than one, or one outside the image.

    Args:
        reply: what the model wrote.
        sizes: (width, height) of each image in pixels. With several, the reply must name one ("image 2", from 1).
        scale: the coordinate of the right and the bottom edge; `None` if the model counts pixels.
    """
    boxes = {tuple(float(number) for number in groups if number) for groups in _BOX.findall(reply[:_MAX_REPLY])}
    named = {int(number) - 1 for number in _IMAGE.findall(reply[:_MAX_REPLY])} if len(sizes) > 1 else {0}
    if len(boxes) != 1 or len(named) != 1:
        return None
    (left, top, right, bottom), image = boxes.pop(), named.pop()
    if not 0 <= image < len(sizes):
        return None
    width, height = sizes[image] if scale is None else (scale, scale)
    try:
        return Box(left / width, top / height, right / width, bottom / height, image)
    except ValueError:
        return None


def crop(image: Image, box: Box, *, padding: float, min_side: int) -> Image:
    """
    The part of an image in a box, pixel by pixel, with some of what surrounds it.

    Args:
        image: the image at its native resolution.
        box: the part; its `image` is not read.
        padding: share of the box that is added on each side, as far as the image goes.
        min_side: a narrower box takes in more of the image, up to this many pixels. Only an image that is itself
            narrower is enlarged, to just this many, in proportion.
    """
    spans = []
    for low, high, size in ((box.left, box.right, image.width), (box.top, box.bottom, image.height)):
        length = min(max((high - low) * size * (1 + 2 * padding), min_side), size)
        start = min(max((low + high) / 2 * size - length / 2, 0), size - length)
        # Rounding outwards, but for the error of the arithmetic itself
        spans.append((math.floor(start + 1e-6), math.ceil(start + length - 1e-6)))
    (left, right), (top, bottom) = spans
    part = image.crop((left, top, right, bottom))
    shorter = min(part.size)
    if shorter < min_side:
        factor = min_side / shorter
        part = part.resize((round(part.width * factor), round(part.height * factor)))
    return part


class ZoomGenerator:
    """
    A generator that looks twice: it asks for the part that matters, then puts the question with a crop of it added.

    Both passes are batched: one call of `generator` for all boxes, one for all answers. Where the model gives no valid
    box the question is put as it is: such an answer has `is_fallback`, and is counted in `fallbacks`; `total` counts
    all.

    Coordinates from 0 to 1000 are what Qwen-VL, Qwen2-VL, Qwen3-VL and InternVL are trained on. Qwen2.5-VL counts the
    pixels of the image as its processor resizes it: give it images of that size and `scale=None`. Other models follow
    the words of the instruction, or do not: look at `fallbacks`.

    Args:
        generator: any back end.
        choose: chooses the part instead of the model's reply, given the request and the back end; `None` from it is a
            fallback.
        instruction: asks for the box; put behind the question. `{scale}` in it is replaced.
        scale: the coordinate of the right and bottom edges, or `None` for pixels.
        padding: share of the box added on each side.
        min_side: pixels; see `crop`. 28 is the least that the processors of the Qwen2-VL family take.

    Raises:
        ValueError: for a negative `padding` or a `min_side` below 1.
        RequestError: when called: for a request whose prompt is a string (it has no place for a second image) or that
            shows no image.
    """

    def __init__(
        self,
        generator: Generator,
        choose: Callable[[Request, Generator], Box | None] | None = None,
        *,
        instruction: str = ASK_FOR_BOX,
        scale: float | None = 1000,
        padding: float = 0.1,
        min_side: int = 112,
    ) -> None:
        if padding < 0 or min_side < 1:
            raise ValueError(f"`padding` must be >= 0 and `min_side` >= 1, got {padding} and {min_side}.")
        if scale is not None and not scale > 0:
            raise ValueError(f"`scale` must be positive, or None for pixels; got {scale}.")
        self.generator, self.choose = generator, choose
        self.instruction, self.scale, self.padding, self.min_side = instruction, scale, padding, min_side
        self.name = f"{generator.name} (zoom)"
        self.fallbacks = self.total = 0

    @property
    def settings(self) -> dict[str, Any]:
        """What the answers depend on: what those of the back end do, and how the part is cut out."""
        zoom = {"instruction": self.instruction, "scale": self.scale}
        zoom |= {"padding": self.padding, "min_side": self.min_side, "choose": getattr(self.choose, "__name__", None)}
        return {**getattr(self.generator, "settings", {}), "zoom": zoom}

    @property
    def asks_together(self) -> bool:
        """As the back end does."""
        return getattr(self.generator, "asks_together", False)

    def __call__(self, requests: Sequence[Request]) -> list[Generation]:
        for position, request in enumerate(requests):
            _check(request, position)
        boxes = self._boxes(requests)
        seconds = [
            request if box is None else self._closer(request, box)
            for request, box in zip(requests, boxes, strict=True)
        ]
        self.total += len(requests)
        self.fallbacks += sum(box is None for box in boxes)
        return [
            replace(answer, is_fallback=box is None)
            for answer, box in zip(self.generator(seconds), boxes, strict=True)
        ]

    def _boxes(self, requests: Sequence[Request]) -> list[Box | None]:
        if self.choose is not None:
            boxes = [self.choose(request, self.generator) for request in requests]
            for request, box in zip(requests, boxes, strict=True):
                if box is not None and box.image >= len(request.images):
                    raise ValueError(f"`choose` gave {box}, but the request shows {len(request.images)} image(s).")
            return boxes
        replies = self.generator([self._question_of_box(request) for request in requests])
        return [
            parse_box(reply.text, [image.size for image in request.images], self.scale)
            for request, reply in zip(requests, replies, strict=True)
        ]

    def _question_of_box(self, request: Request) -> Request:
        instruction = self.instruction
        if self.scale is not None:
            instruction = instruction.replace("{scale}", f"{self.scale:g}")
        else:
            sizes = " and ".join(f"{image.width} by {image.height}" for image in request.images)
            instruction = instruction.replace("from 0 to {scale} across", f"in pixels (of {sizes}) across")
        if len(request.images) > 1:
            instruction += " " + ASK_FOR_IMAGE.format(count=len(request.images))
        return replace(request, prompt=_with_sentence(request.prompt, instruction))

    def _closer(self, request: Request, box: Box) -> Request:
        image = request.images[box.image]
        part = crop(image, box, padding=self.padding, min_side=self.min_side)
        named = "the image" if len(request.images) == 1 else f"image {box.image + 1}"
        prompt = _with_sentence(_with_image_slot(request.prompt), CLOSER_LOOK.format(image=named))
        return Request(prompt, (*request.images, part))


def _check(request: Request, position: int) -> None:
    if isinstance(request.prompt, str):
        raise RequestError(
            position,
            "its prompt is a string, which has no place for a second image; give the prompt as a list of messages.",
        )
    if not request.images:
        raise RequestError(position, "it shows no image, so there is nothing to look at twice.")
    if not any(message["role"] == "user" for message in request.prompt):
        raise RequestError(position, "its prompt has no message of the user.")


def _with_sentence(prompt: Any, sentence: str) -> list[dict[str, Any]]:
    """The messages with a sentence behind the last message of the user; the given ones are left as they are."""
    last = max(index for index, message in enumerate(prompt) if message["role"] == "user")
    content = prompt[last]["content"]
    if isinstance(content, str):
        content = f"{content}\n\n{sentence}"
    else:
        content = [*content, {"type": "text", "text": f"\n\n{sentence}"}]
    return [*prompt[:last], {**prompt[last], "content": content}, *prompt[last + 1 :]]


def _with_image_slot(prompt: Any) -> list[dict[str, Any]]:
    """The messages with a slot for one more image, right behind the last one, so that it is the last image."""
    if image_slots(prompt) is None:
        return list(prompt)  # plain strings: images are put before the first message of the user, in order
    messages = [
        {**message, "content": list(message["content"])} if not isinstance(message["content"], str) else message
        for message in prompt
    ]
    for message in reversed(messages):
        if isinstance(message["content"], str):
            continue
        slots = [index for index, block in enumerate(message["content"]) if block.get("type") == "image"]
        if slots:
            message["content"].insert(slots[-1] + 1, {"type": "image"})
            return messages
    raise ValueError("the prompt has contents in parts, but no part for an image; give each image one.")
