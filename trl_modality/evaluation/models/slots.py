"""The places of images in prompts that are strings, written as the family of the model writes them."""

from __future__ import annotations

import os
from typing import Any


def without_image_slots(prompt: str, processor: Any) -> str:
    """A rendered prompt without the places of its images.

    What a family writes for an image (one token, or several with begin and end) is what its chat template adds for an
    image part.

    Raises:
        ValueError: tokens of an image are left that do not stand as the chat template writes them.
    """
    written = _written_for_an_image(processor)
    tokens = _image_tokens(processor)
    for slot in (written, written.strip(), *tokens):
        prompt = prompt.replace(slot, "") if slot else prompt
    special = (token for token in processor.tokenizer.get_added_vocab() if token in written)
    if left := [token for token in special if token in prompt]:
        raise ValueError(
            f"the prompt starting {prompt[:60]!r} has {left[0]!r} where the chat template writes {written!r} for an "
            "image, so that it cannot be asked without one. Give the prompts as message lists, or write each image "
            "as the template does."
        )
    return prompt


def _image_tokens(processor: Any) -> list[str]:
    # Gemma3 writes what stands before an image, and its processor puts the image behind it
    names = (getattr(processor, name, None) for name in ("image_token", "boi_token"))
    return [name for name in names if name]


def _written_for_an_image(processor: Any) -> str:
    """What the chat template adds for an image; the image token where there is no template, or it changes more."""
    default = next(iter(_image_tokens(processor)), "")
    if not processor.chat_template:
        return default
    text = {"type": "text", "text": "x"}
    without, shown = (
        processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        for content in ([text], [{"type": "image"}, text])
    )
    start = len(os.path.commonprefix([without, shown]))
    end = start + len(shown) - len(without)
    return shown[start:end] if shown[:start] + shown[end:] == without else default
