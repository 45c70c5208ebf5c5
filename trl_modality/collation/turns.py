"""Completions of several turns: of those, only the assistant's are learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import ProcessorMixin

from ..views import PairError
from .layout import Part


REMEDY = "Make a row of each answer, with the turns before it in its prompt (`turns='each'` of `read_rows`)."


def mask_other_turns(
    part: Part, rows: Sequence[Mapping[str, Any]], names: Sequence[str], processor: ProcessorMixin
) -> None:
    """Take the labels off the turns of others (users, tools) in completions, and off what opens an answer after them.

    What is left of a completion are its answers, each with the token that ends its turn: as if every answer were the
    completion of a row of its own.

    Args:
        part: What TRL's collator made of the rows, whose completions have labels; `labels` is changed.
        rows: What it was given: `prompt` and `completion`.
        names: Of the rows in messages.
        processor: Of the model, with a fast tokenizer.

    Raises:
        PairError: the turns of a completion cannot be told apart in its tokens.
    """
    for r, (row, name) in enumerate(zip(rows, names, strict=True)):
        completion = row.get("completion")
        if not isinstance(completion, list | tuple) or all(turn["role"] == "assistant" for turn in completion):
            continue
        text, spans = _spans_of_others(row["prompt"], completion, processor, name)
        places = (part["labels"][r] != -100).nonzero().flatten()
        tokenizer: Any = getattr(processor, "tokenizer", None)
        if not getattr(tokenizer, "is_fast", False):
            raise PairError(
                name, "its completion has several turns, which a slow tokenizer cannot tell apart.", REMEDY
            )
        read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        if read["input_ids"] != part["labels"][r][places].tolist():
            raise PairError(
                name, "its completion has several turns, and its processor reads them in another way.", REMEDY
            )
        for place, (start, _) in zip(places.tolist(), read["offset_mapping"], strict=True):
            if any(begin <= start < end for begin, end in spans):
                part["labels"][r, place] = -100


def _spans_of_others(
    prompt: Any, completion: Sequence[Mapping[str, Any]], processor: ProcessorMixin, name: str
) -> tuple[str, list[tuple[int, int]]]:
    """The completion as the template writes it, and the characters between its answers."""

    def rendered(n_turns: int, opens_answer: bool = False) -> str:
        messages = [*prompt, *completion[:n_turns]]
        return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=opens_answer)

    whole = rendered(len(completion))
    asked = rendered(0, opens_answer=prompt[-1]["role"] in ("user", "tool"))
    start = _common(asked, whole)  # as TRL cuts it
    spans = []
    place = 0
    while place < len(completion):
        end = place + 1
        if completion[place]["role"] != "assistant":
            while end < len(completion) and completion[end]["role"] != "assistant":
                end += 1
            before = rendered(place) if place else asked
            after = rendered(end, opens_answer=True) if end < len(completion) else whole
            if not (whole.startswith(before) and whole.startswith(after)):
                raise PairError(
                    name, "its completion has several turns, which its template writes anew at each.", REMEDY
                )
            spans.append((len(before) - start, len(after) - start))
        place = end
    return whole[start:], spans


def _common(first: str, second: str) -> int:
    """The number of characters that two texts begin with."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
