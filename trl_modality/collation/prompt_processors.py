"""Processors that TRL's collator cannot make prompt-completion batches with, in a form in which it can.

TRL's collator calls a processor twice, with the prompts and their images and with the completions alone. PaliGemma's
wants images in every call, and puts tokens of its own around a text: those of a prompt are not those of a completion.
Mllama's puts a start token before every text, and says of the prompt alone which images its tokens see.
"""

import copy
from typing import Any

import torch
from transformers import BatchFeature, MllamaProcessor, PaliGemmaProcessor, ProcessorMixin


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
        if flat := _flat(images):
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


class MllamaPrompts(MllamaProcessor):
    """Makes prompts, completions and conversations of text and images, with one entry for each image.

    A row may have no image, of which the image processor makes tensors of another length. There is no
    `cross_attention_mask`: which images a token sees follows from the whole row (`cross_attention.py`).
    """

    is_for_conversations = False
    """Whether it is called with whole conversations, which begin with a start token, as prompts do."""

    def __call__(  # type: ignore[override]
        self, images: Any = None, text: Any = None, padding_side: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        if self.is_for_conversations or padding_side == "left":
            _, text, *_ = self.prepare_inputs_layout(text=text)
            shown = [(each, row) for each, row in zip(text, images or (), strict=False) if row]
            if shown:  # a slot of a row without an image is found afterwards
                self.validate_inputs(text=[each for each, _ in shown], images=[row for _, row in shown])
        data = dict(self.tokenizer(text, padding_side=padding_side, **kwargs))
        if flat := _flat(images):
            data |= self.image_processor([[image] for image in flat], return_tensors="pt")
            del data["num_tiles"]
        return BatchFeature(data)


FORMS: dict[type, type] = {PaliGemmaProcessor: PaliGemmaPrompts, MllamaProcessor: MllamaPrompts}


def is_ours_to_call(processor: Any, model_type: str | None) -> bool:
    """Whether TRL's collator cannot make batches of images with a processor, and ours can.

    Args:
        processor: Or `None`, where it is that of the model.
        model_type: Of the model.
    """
    return type(processor) in FORMS if processor is not None else model_type in ("mllama", "paligemma")


def for_prompts_and_completions(processor: ProcessorMixin, is_for_conversations: bool = False) -> ProcessorMixin:
    """The processor in a form that TRL's collator can call; itself where it is in one."""
    form = FORMS.get(type(processor))
    if form is None:
        return processor
    copied: Any = copy.copy(processor)
    copied.__class__, copied.is_for_conversations = form, is_for_conversations
    return copied


def _flat(images: Any) -> list[Any]:
    """The images of all rows, of which each has a list or one."""
    return [image for row in images or () for image in (row if isinstance(row, list | tuple) else [row])]
