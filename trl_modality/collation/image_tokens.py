"""A tokenizer that reads a run of equal image tokens as one token, and repeats its id afterwards.

A processor writes hundreds or thousands of image tokens into the text of a row. To find them one by one takes most of
the time that a row takes beside its image.
"""

import copy
import re
from itertools import chain
from typing import Any

import torch
from transformers import BatchEncoding, ProcessorMixin


# Arguments with which TRL's collator calls a tokenizer; called with others, the tokenizer itself answers
KNOWN = {
    "padding": (True,),
    "padding_side": ("left", "right"),
    "return_tensors": ("pt",),
    "add_special_tokens": (False,),
}
NEUTRAL = (None, False)


def image_token_ids(processor: Any) -> list[int]:
    """The tokens that stand for an image, or for a part of one, in the rows of a processor."""
    # Gemma3's `image_token_id` is only what stands before the tokens of the image, which are in the plural one
    ids = {*getattr(processor, "image_token_ids", ()), getattr(processor, "image_token_id", None)}
    if ids == {None} and (token := getattr(processor, "image_token", None)):  # Janus and BLIP-2 name it alone
        ids.add(processor.tokenizer.convert_tokens_to_ids(str(token)))
    # Llama 4 writes one for each patch; Ovis2's processor has no name for its own
    written = getattr(processor, "img_patch_token", None)
    written = "<IMG_ATOM>" if type(processor).__name__ == "Ovis2Processor" else written
    if written is not None:
        ids.add(processor.tokenizer.convert_tokens_to_ids(written))
    return sorted(ids - {None})


class CollapsedImageTokens:
    """Gives the same ids as a fast tokenizer for a batch of texts with images, sooner.

    Args:
        tokenizer: With `image_token` as a special token of its own, which splits a text wherever it stands, so that
            the tokens around a run do not depend on its length.
        image_token: What the processor writes for a part of an image.
    """

    def __init__(self, tokenizer: Any, image_token: str):
        self._tokenizer = tokenizer
        self._image_token = image_token
        self._image_id = tokenizer.convert_tokens_to_ids(image_token)
        self._run = re.compile(f"(?:{re.escape(image_token)})+")

    def __call__(self, text: Any = None, **kwargs: Any) -> BatchEncoding:
        is_known = isinstance(text, list) and all(isinstance(each, str) for each in text)
        is_known = is_known and KNOWN.keys() <= kwargs.keys()
        if not is_known or not all(value in KNOWN.get(key, NEUTRAL) for key, value in kwargs.items()):
            return self._tokenizer(text, **kwargs)
        lengths = [[len(run) // len(self._image_token) for run in self._run.findall(each)] for each in text]
        short = self._tokenizer([self._run.sub(self._image_token, each) for each in text], add_special_tokens=False)
        if short.keys() != {"input_ids", "attention_mask"}:
            return self._tokenizer(text, **kwargs)
        rows = [self._written_out(ids, runs) for ids, runs in zip(short["input_ids"], lengths, strict=True)]
        return self._padded(rows, kwargs["padding_side"])

    def _written_out(self, ids: list[int], runs: list[int]) -> list[int]:
        lengths = iter(runs)
        return list(chain.from_iterable([i] * next(lengths) if i == self._image_id else [i] for i in ids))

    def _padded(self, rows: list[list[int]], side: str) -> BatchEncoding:
        width = max(map(len, rows), default=0)
        input_ids = torch.full((len(rows), width), self._tokenizer.pad_token_id)
        attention_mask = torch.zeros_like(input_ids)
        for r, row in enumerate(rows):
            start = width - len(row) if side == "left" else 0
            input_ids[r, start : start + len(row)] = torch.tensor(row, dtype=torch.long)
            attention_mask[r, start : start + len(row)] = 1
        return BatchEncoding({"input_ids": input_ids, "attention_mask": attention_mask})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_tokenizer":  # while it is copied or unpickled, it has nothing yet
            raise AttributeError(name)
        return getattr(self._tokenizer, name)


def with_collapsed_image_tokens(processor: ProcessorMixin) -> ProcessorMixin:
    """A shallow copy of a processor with such a tokenizer; the processor itself where the ids might differ.

    They might where the processor asks its tokenizer for more than ids (it has a `__call__` of its own, as that of
    Idefics3), or where the image token is no special token.
    """
    tokenizer: Any = getattr(processor, "tokenizer", None)
    image_token = getattr(processor, "image_token", None)
    asks_for_ids = type(processor).__call__ is ProcessorMixin.__call__
    if not (asks_for_ids and image_token and getattr(tokenizer, "is_fast", False)):
        return processor
    added = tokenizer.added_tokens_decoder.get(tokenizer.convert_tokens_to_ids(image_token))
    splits_texts = added is not None and added.content == image_token and added.special
    if not splits_texts or added.normalized or added.single_word:
        return processor
    copied: Any = copy.copy(processor)
    copied.tokenizer = CollapsedImageTokens(tokenizer, image_token)
    return copied
