"""Visual search by cropping: the model names the part of an image that matters, then answers with a crop of it added.

Crops are cut from the image at its native resolution, so they restore detail that the processor's resizing has lost.
The idea is that of V* (arXiv 2312.14135) and ViCrop (arXiv 2502.17422); here the model itself gives the box.
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
    """A rectangle in image number `image`, its edges as shares (0 to 1) of width and height from the top left.

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
    """The one box in a model's reply; `None` for no box, several boxes, or a box outside the image.

    Args:
        reply: What the model wrote.
        sizes: (width, height) of each image in pixels. With several images the reply must name one ("image 2", counted
            from 1).
        scale: Coordinate of the right and the bottom edge; `None` if the model gives pixels.
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
    """The pixels of an image in a padded box.

    Args:
        image: The image at its native resolution.
        box: The part to cut out; its `image` is not read.
        padding: Share of the box's width and height that is added on each side, within the image.
        min_side: Least width and height in pixels. A smaller box is widened within the image; where the image itself
            is smaller, the crop is enlarged in proportion.
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
    """A generator that asks another one twice: for the box that matters, then the question with a crop of it added.

    Both passes are batched: one call of `generator` for all boxes, one for all answers. Where the model gives no valid
    box, the question is asked without a crop; such an answer has `is_fallback` set. `fallbacks` counts them, `total`
    counts all answers.

    Coordinates from 0 to 1000 are what Qwen-VL, Qwen2-VL, Qwen3-VL and InternVL are trained on. Qwen2.5-VL counts the
    pixels of the image as its processor resizes it: give it images of that size and `scale=None`. Whether another
    model follows the instruction shows in `fallbacks`.

    Args:
        generator: The generator that is asked.
        choose: Chooses the box in place of the model, given the request and `generator`; where it returns `None`, the
            question is asked without a crop.
        instruction: Sentence after the question that asks for the box. `{scale}` in it is replaced.
        scale: Coordinate of the right and the bottom edge; `None` for pixels.
        padding: Share of the box that is added on each side.
        min_side: Least side of a crop in pixels; see `crop`. The processors of the Qwen2-VL family need at least 28.

    Raises:
        ValueError: a negative `padding`, a `min_side` below 1, or a `scale` that is not positive.
        RequestError: (when called) a request has a string prompt, which has no place for a second image, or no image.
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
        """What the answers depend on: the settings of `generator`, and how boxes are asked for and cut out."""
        zoom = {"instruction": self.instruction, "scale": self.scale}
        zoom |= {"padding": self.padding, "min_side": self.min_side, "choose": getattr(self.choose, "__name__", None)}
        return {**getattr(self.generator, "settings", {}), "zoom": zoom}

    @property
    def asks_together(self) -> bool:
        """The same as of `generator`."""
        return getattr(self.generator, "asks_together", False)

    def __call__(self, requests: Sequence[Request]) -> list[Generation]:
        """The answers in the order of the requests, each with `is_fallback`."""
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
    """A copy of the messages with a sentence added to the last message of the user."""
    last = max(index for index, message in enumerate(prompt) if message["role"] == "user")
    content = prompt[last]["content"]
    if isinstance(content, str):
        content = f"{content}\n\n{sentence}"
    else:
        content = [*content, {"type": "text", "text": f"\n\n{sentence}"}]
    return [*prompt[:last], {**prompt[last], "content": content}, *prompt[last + 1 :]]


def _with_image_slot(prompt: Any) -> list[dict[str, Any]]:
    """A copy of the messages with one more image part right after the last one, so that it is the last image."""
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
