"""Processors that TRL's collator cannot make prompt-completion batches with, in a form in which it can.

TRL's collator calls a processor twice, with the prompts and their images and with the completions alone. PaliGemma's
wants images in every call, and puts tokens of its own around a text: those of a prompt are not those of a completion.
"""

import copy
from typing import Any

import torch
from transformers import BatchFeature, PaliGemmaProcessor, ProcessorMixin


class PaliGemmaPrompts(PaliGemmaProcessor):
    """Makes the tokens that the processor makes of `text` and `suffix` in two calls, one for each of them.

    A prompt is `images, bos, text, newline`; each of its tokens sees all of it (`token_type_ids` of 0). A completion
    ends with the end token; its tokens see what is before them (1). A prompt may have no image.
    """

    is_for_conversations = False
    """Whether it is called with whole conversations, of which it does not know what is a prompt."""

    def __call__(  # type: ignore[override]
        self, images: Any = None, text: Any = None, padding_side: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        if self.is_for_conversations:
            raise ValueError(
                "PaliGemma's processor marks what is a prompt, and a conversation without one has none. Give the rows "
                "a `prompt` and a `completion`"
            )
        is_prompt = padding_side == "left"
        texts = list(map(self._prompt if is_prompt else self._completion, text))
        data = dict(self.tokenizer(texts, padding_side=padding_side, **kwargs))
        data["token_type_ids"] = torch.full_like(data["input_ids"], 0 if is_prompt else 1)
        flat = [image for row in images or () for image in (row if isinstance(row, list | tuple) else [row])]
        if flat:
            data |= self.image_processor(flat, return_tensors="pt")
        return BatchFeature(data)

    def _prompt(self, text: str) -> str:
        last = text.rfind(self.image_token)
        end = 0 if last < 0 else last + len(self.image_token)
        text = f"{text[:end]}{self.tokenizer.bos_token}{text[end:]}\n"
        return text.replace(self.image_token, self.image_token * self.image_seq_length)

    def _completion(self, text: str) -> str:
        eos = self.tokenizer.eos_token
        return text if text.endswith(eos) else text + eos


def for_prompts_and_completions(processor: ProcessorMixin, is_for_conversations: bool = False) -> ProcessorMixin:
    """The processor in a form that TRL's collator can call; itself where it is in one."""
    if type(processor) is not PaliGemmaProcessor:
        return processor
    copied: Any = copy.copy(processor)
    copied.__class__, copied.is_for_conversations = PaliGemmaPrompts, is_for_conversations
    return copied
