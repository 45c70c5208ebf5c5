"""What a model is asked and what it wrote, free of any back end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol


if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Request:
    """What a model is asked: a prompt as in the pair columns, and the decoded images that it shows (() for none)."""

    prompt: str | list[dict[str, Any]]
    images: tuple[Image, ...]


@dataclass(frozen=True)
class Generation:
    """What a model wrote, special tokens removed; complete if it ended by itself, not at `max_new_tokens`."""

    text: str
    is_complete: bool


class Generator(Protocol):
    """A back end: transformers, a server, or anything of the user's. `name` is for reports: a model id or a path."""

    name: str

    def __call__(self, requests: Sequence[Request]) -> list[Generation]: ...
