"""The conditions in which a pair is asked: its two views, controls without image or words, and levels between."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from ..collation.image_slots import without_image_parts
from ..images import PixelLimits
from ..views import LEVELS, PROMPT_COLUMN, PairError, View, describe_row, load_images, without_none
from .models.requests import Request


class Condition(StrEnum):
    """Which prompt and which images of a pair a model is shown."""

    TEXT_RICH = "text_rich"
    VISION_CENTRIC = "vision_centric"
    BLIND = "blind"
    """The vision_centric prompt without an image: measures guessing."""
    SHUFFLED = "shuffled"
    """The vision_centric prompt with the images of another row."""
    TEXT_ONLY = "text_only"
    """The text_rich prompt without an image: measures what the words alone give."""
    ZOOM = "zoom"
    """The vision_centric view, with a crop that the model chose as a second image (`ZoomGenerator`)."""


VIEWS = (Condition.TEXT_RICH, Condition.VISION_CENTRIC)
DEFAULT_CONDITIONS = (*VIEWS, Condition.BLIND, Condition.SHUFFLED, Condition.TEXT_ONLY)
WITHOUT_IMAGES = (Condition.BLIND, Condition.TEXT_ONLY)
# Each level shows one prompt of the column `level_prompts` with the images of the pair
LEVEL_CONDITIONS = tuple(name for name, ratio in LEVELS.items() if ratio < 1)


def view_of(condition: str) -> View:
    """The view whose prompt and images a condition starts from."""
    return View.TEXT_RICH if condition in (Condition.TEXT_RICH, Condition.TEXT_ONLY) else View.VISION_CENTRIC


def make_request(
    row: Mapping[str, Any],
    condition: str,
    other: Mapping[str, Any] | None = None,
    pixels: PixelLimits | None = None,
) -> Request:
    """The prompt and the images that a model is shown for a pair in a condition.

    Args:
        row: A pair, as stored.
        condition: A `Condition` or one of `LEVEL_CONDITIONS`.
        other: For `shuffled`, the pair whose images are shown.
        pixels: Into which the images are scaled.

    Raises:
        PairError: an image cannot be read.
    """
    if condition in LEVEL_CONDITIONS:
        row = level_row(row, condition)
    view = view_of(condition)
    prompt = without_none(row[PROMPT_COLUMN[view]])
    if condition in WITHOUT_IMAGES:
        return Request(without_image_parts(prompt))
    shown = other if condition == Condition.SHUFFLED and other is not None else row
    return Request(prompt, tuple(load_images(shown, view, pixels=pixels)))


def level_row(row: Mapping[str, Any], level: str) -> Mapping[str, Any]:
    """The pair with the prompt of a level as its vision_centric prompt.

    Raises:
        PairError: `level_prompts` does not have one prompt for each level.
    """
    prompts = row.get("level_prompts") or ()
    if len(prompts) != len(LEVEL_CONDITIONS):
        raise PairError(
            describe_row(row),
            f"`level_prompts` has {len(prompts)} prompts.",
            f"To be asked at each level it needs {len(LEVEL_CONDITIONS)}: {', '.join(LEVEL_CONDITIONS)}.",
        )
    # The prompts of all levels go with the images of the pair
    prompt = prompts[LEVEL_CONDITIONS.index(level)]
    return {**row, "vision_centric_prompt": prompt, "vision_centric_images": None}


def image_digests(images: Sequence[Any]) -> tuple[str, ...]:
    """A hash of the RGB pixels of each PIL image: equal images have equal digests, however stored."""
    return tuple(
        hashlib.sha256(f"{image.size}".encode() + image.convert("RGB").tobytes()).hexdigest() for image in images
    )


def rows_with_other_images(shown: Sequence[tuple[str, ...]]) -> list[int]:
    """For each row, the position of the next row (cyclically) with equally many images that are not the same ones.

    Args:
        shown: For each row, the digests of its images.

    Raises:
        ValueError: there is no such row for one of them.
    """
    others = [-1] * len(shown)
    for count in set(map(len, shown)):
        rows = [row for row, digests in enumerate(shown) if len(digests) == count]
        # Backwards, and twice around for the cycle: within a run of rows with the same images, every row takes over
        # what the last one of the run has found
        for place in reversed(range(2 * len(rows) - 1)):
            row, following = rows[place % len(rows)], rows[(place + 1) % len(rows)]
            others[row] = following if shown[following] != shown[row] else others[following]
        if others[rows[0]] == -1:
            raise ValueError(
                f"row {rows[0]} cannot be shown the image of another row: all {len(rows)} rows with {count} image(s) "
                "show the same. Leave out the condition `shuffled`."
            )
    return others
