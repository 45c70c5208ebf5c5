"""Text-only exercises: a skill that the demo's base has before training on pictures, and may lose by it."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np


if TYPE_CHECKING:
    from datasets import Dataset

TEST_SHARE = 0.2  # of all questions
_NAMES = ("Ann", "Bob", "Cem", "Dan", "Eva", "Flo", "Gus", "Ida")
_THINGS = ("pens", "cups", "hats", "keys", "nuts", "pots", "rugs", "toys")

# (question, reasoning, answer)
Exercise = tuple[str, str, str]


def _add(rng: np.random.Generator) -> Exercise:
    a, b = map(int, rng.integers(10, 100, 2))
    ones = a % 10 + b % 10
    tens = a // 10 + b // 10 + ones // 10
    return f"{a}+{b}?", f"{a % 10}+{b % 10}={ones},{a // 10}+{b // 10}+{ones // 10}={tens}", str(a + b)


def _sort(rng: np.random.Generator) -> Exercise:
    values = [int(value) for value in rng.permutation(10)[:5]]
    question = f"sort {' '.join(map(str, values))}"
    return question, f"from {min(values)} to {max(values)}", " ".join(map(str, sorted(values)))


def _story(rng: np.random.Generator) -> Exercise:
    who, other = rng.choice(_NAMES, 2, replace=False)
    thing = rng.choice(_THINGS)
    many, few = sorted(map(int, rng.integers(1, 20, 2)), reverse=True)
    if rng.integers(2):
        return f"{who} has {many} {thing}. {who} gives {few} to {other}. {who} has?", f"{many}-{few}", str(many - few)
    return f"{who} has {many} {thing}. {who} gets {few} from {other}. {who} has?", f"{many}+{few}", str(many + few)


def _next(rng: np.random.Generator) -> Exercise:
    first, step = int(rng.integers(1, 40)), int(rng.integers(1, 10))
    terms = [first + step * i for i in range(5)]
    return f"{','.join(map(str, terms[:-1]))},?", f"+{step}", str(terms[-1])


EXERCISES: dict[str, Callable[[np.random.Generator], Exercise]] = {
    "add": _add,
    "sort": _sort,
    "story": _story,
    "next": _next,
}


def make_text_skill(n_train: int, n_test: int, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Text-only rows: sums of two numbers, five digits to sort, one-step stories, arithmetic series to continue.

    The kinds take turns. No question of a test split occurs in a training split, whatever their seeds; a question may
    occur twice in a training split.

    Args:
        n_train, n_test: Rows of the splits.
        seed: Seed of the draw.

    Returns:
        (train, test) with the columns `id`, `category`, `prompt`, `completion` ("reasoning;answer"), `answer`.
    """
    from datasets import Dataset

    rng = np.random.default_rng(seed)
    splits = {"train": n_train, "test": n_test}
    train, test = (
        Dataset.from_list([_row(rng, list(EXERCISES)[i % len(EXERCISES)], split, i) for i in range(count)])
        for split, count in splits.items()
    )
    return train, test


def _row(rng: np.random.Generator, kind: str, split: str, number: int) -> dict:
    while True:
        question, reasoning, answer = EXERCISES[kind](rng)
        # Its hash assigns a question to one split, whatever the seed
        is_test = zlib.crc32(question.encode()) < TEST_SHARE * 2**32
        if is_test == (split == "test"):
            break
    return {
        "id": f"{kind}-{split}-{number}",
        "category": kind,
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": f"{reasoning};{answer}"}],
        "answer": answer,
    }
