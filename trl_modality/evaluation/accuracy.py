"""Exact-match accuracy of a model's greedy answers, per view."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import torch
from tqdm.auto import tqdm
from trl import prepare_multimodal_messages

from ..views import PROMPT_COLUMN, View, load_images


# A number with optional thousands separators. A minus counts as a sign only where it cannot be a subtraction ("7-3").
_NUMBER = re.compile(r"(?:(?<![\w)])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")


@dataclass(frozen=True)
class ExactMatch:
    """Counts of right answers; `accuracy` is their share, from 0 to 1."""

    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.total

    def __float__(self) -> float:
        return self.accuracy


def extract_answer(text: str) -> str:
    """
    The final answer in `text`: the last number after the last ";" (or in all of it, where there is none).

    Without a number it is those words themselves, stripped. Thousands separators are dropped; an empty text gives "".
    """
    tail = text.rsplit(";", 1)[-1]
    numbers = _NUMBER.findall(tail)
    return numbers[-1].replace(",", "") if numbers else tail.strip(" \n\t.")


def is_correct(answer: str, expected: str) -> bool:
    """Whether two final answers agree: as numbers where both are ("8", "8.0"), else as words, case aside."""
    if _NUMBER.fullmatch(answer) and _NUMBER.fullmatch(expected):
        return Decimal(answer.replace(",", "")) == Decimal(expected.replace(",", ""))
    return answer.strip().casefold() == expected.strip().casefold()


@torch.no_grad()
def exact_match(
    model: Any,
    processor: Any,
    pairs: Iterable[dict[str, Any]],
    view: View | str,
    *,
    batch_size: int = 32,
    max_new_tokens: int = 64,
    show_progress: bool = True,
) -> ExactMatch:
    """
    Share of the pairs whose `answer` the model gives when it is asked in one view.

    Answers are decoded greedily. The model is put into evaluation mode and back. In a distributed run every process
    must call it, on the same pairs.

    Args:
        model: any transformers image-text-to-text model, or a PEFT model around one.
        processor: its processor.
        pairs: pair rows that have an `answer`.
        view: `View.TEXT_RICH` or `View.VISION_CENTRIC`, or its name.
        batch_size: rows per call of `generate`.
        max_new_tokens: an answer must be complete within these.
        show_progress: draw a progress bar.

    Raises:
        ValueError: for an unknown view or an empty set of pairs.
        KeyError: if a row lacks its prompt or its `answer`.
    """
    if view not in tuple(PROMPT_COLUMN):
        raise ValueError(f"`view` must be one of {[str(known) for known in PROMPT_COLUMN]}, got {view!r}.")
    view = View(view)
    # A streamed set has no length; a stored one is read batch by batch, so that its images are not all held at once.
    rows: Any = pairs if hasattr(pairs, "__getitem__") else list(pairs)
    total = len(rows)
    if not total:
        raise ValueError("`pairs` is empty; an accuracy needs at least one pair.")
    was_training = model.training
    model.eval()
    correct = 0
    try:
        with tqdm(total=total, desc=f"answers, {view}", unit="pair", disable=not show_progress) as progress:
            for start in range(0, total, batch_size):
                batch = [rows[i] for i in range(start, min(start + batch_size, total))]
                texts = _generate(model, processor, batch, view, max_new_tokens)
                answers = [extract_answer(text) for text in texts]
                correct += sum(is_correct(got, row["answer"]) for got, row in zip(answers, batch, strict=True))
                progress.update(len(batch))
    finally:
        model.train(was_training)
    return ExactMatch(correct, total)


def _generate(model: Any, processor: Any, batch: list[dict[str, Any]], view: View, max_new_tokens: int) -> list[str]:
    images = [load_images(row, view) for row in batch]
    prompts = [
        _render(processor, row[PROMPT_COLUMN[view]], row_images) for row, row_images in zip(batch, images, strict=True)
    ]
    inputs = processor(
        # Processors want no images at all rather than empty lists.
        images=images if any(images) else None,
        text=prompts,
        padding=True,
        # A continuation starts where the prompt ends, so padding goes to the left.
        padding_side="left",
        return_tensors="pt",
        # The template has placed the special tokens already.
        add_special_tokens=False,
    ).to(model.device, getattr(model, "dtype", None))
    tokenizer = processor.tokenizer
    output = model.generate(
        **inputs,
        do_sample=False,
        # Sampling settings of the checkpoint would only raise warnings in a greedy run.
        temperature=None,
        top_p=None,
        top_k=None,
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    return tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def _render(processor: Any, prompt: str | list[dict[str, Any]], images: list[Any]) -> str:
    if isinstance(prompt, str):
        return prompt
    messages = prepare_multimodal_messages(prompt, images=images)
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
