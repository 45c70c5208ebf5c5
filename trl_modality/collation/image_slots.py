"""Prompts without their images: messages without image parts, strings without the image tokens of a model's family."""

from __future__ import annotations

import os
from typing import Any


def without_image_parts(prompt: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """A message list without its image parts; a string prompt unchanged (see `without_image_slots`)."""
    if isinstance(prompt, str):
        return prompt
    return [
        message
        if isinstance(message.get("content"), str | None)
        else {**message, "content": [part for part in message["content"] if part.get("type") != "image"]}
        for message in prompt
    ]


def without_image_slots(prompt: str, processor: Any) -> str:
    """A rendered prompt without its image tokens.

    A family writes one token for an image, or several with a begin and an end; which ones is found out by rendering a
    message with and without an image part.

    Raises:
        ValueError: the prompt has image tokens in another form than the chat template writes.
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
    # Gemma3's template writes only the begin-of-image token, after which its processor inserts the image
    names = (getattr(processor, name, None) for name in ("image_token", "boi_token"))
    return [name for name in names if name]


def _written_for_an_image(processor: Any) -> str:
    """What the chat template adds to a message for an image; the bare image token where that cannot be told."""
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
