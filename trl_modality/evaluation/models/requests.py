"""Requests to a model and its generations, and the protocol of a generator, whatever runs the model."""

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
    """A message list, or a string as a chat template renders it, as in the prompt columns of a pair."""
    images: tuple[Image.Image, ...] = ()
    """Decoded images; `()` to show none. A string prompt may then still hold image tokens, which the generator has to
    remove, since their form depends on the model."""
    seed: int | None = None
    """Of the draw, where the generator samples: the same request with the same seed has the same answer."""


@dataclass(frozen=True)
class Generation:
    """One answer of a model."""

    text: str
    """What the model wrote, without special tokens."""
    is_complete: bool
    """Whether the model ended its answer; False where it was cut off at the largest number of new tokens."""
    is_fallback: bool | None = None
    """From `ZoomGenerator`: whether the question was asked without a crop, for lack of a valid box; else `None`."""
    failure: str | None = None
    """Why there is no answer (a filter, a prompt that is too long, ...); `None` where there is one. A failed request
    counts as neither right nor wrong."""


class Generator(Protocol):
    """A callable that answers requests: with transformers, over a server, or in any other way.

    Three optional attributes are read where a generator has them. `settings` is a dict of plain values that its
    answers depend on; it is written beside the answers and compared before they are continued. `asks_together` is True
    where several processes hold one model among them, so that each must be given every request. `answered` is for a
    generator whose answers do not depend on what else is in a batch: by position, the answers of the last call, also
    of one that an error or an interruption ended, so that they can be kept.
    """

    name: str
    """Id or path of the model, for reports."""

    def __call__(self, requests: Sequence[Request]) -> list[Generation]:
        """The answers, in the order of the requests."""
        ...


class RequestError(ValueError):
    """A request that a generator cannot ask; `position` is its index among the requests of the call."""

    def __init__(self, position: int, problem: str):
        super().__init__(problem)
        self.position = position

    def __reduce__(self) -> tuple:
        return type(self), (self.position, str(self))  # so that it can be pickled to another process
