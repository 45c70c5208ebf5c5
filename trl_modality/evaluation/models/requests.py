"""What a model is asked and what it answers, free of any back end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol


if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Request:
    """One question to a model."""

    prompt: str | list[dict[str, Any]]
    """A string as a chat template renders it, or a message list, as in the columns of a pair."""
    images: tuple[Image.Image, ...] = ()
    """Decoded; `()` where none is shown. A string prompt may then still hold the places of images: the back end takes
    them out, since only it knows how they are written."""


@dataclass(frozen=True)
class Generation:
    """One answer of a model."""

    text: str
    """What it wrote, without special tokens."""
    is_complete: bool
    """It ended by itself, not at the largest number of tokens."""
    is_fallback: bool | None = None
    """Of `ZoomGenerator`: there was no valid box, so the question was put without a crop; `None` elsewhere."""


class Generator(Protocol):
    """A back end: transformers, a server, or anything that answers requests.

    Two further attributes are read where it has them: `settings`, a dict of plain values that its answers depend on
    (written beside the answers, and compared before they are continued), and `asks_together`: on several processes
    that hold one model among them, each has to ask everything.
    """

    name: str
    """For reports: the id or path of the model."""

    def __call__(self, requests: Sequence[Request]) -> list[Generation]:
        """The answers, in the order of the requests."""
        ...


class RequestError(ValueError):
    """A request that the back end cannot ask; `position` is its place among those of the call."""

    def __init__(self, position: int, problem: str):
        super().__init__(problem)
        self.position = position

    def __reduce__(self) -> tuple:
        return type(self), (self.position, str(self))  # it comes back whole from another process
