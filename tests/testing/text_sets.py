"""Small text tasks as files in their released forms, and models that are no models."""

import csv
import gzip
import json
import re
from dataclasses import dataclass
from pathlib import Path

from trl_modality.evaluation.models.requests import Generation


DOUBLE = """from typing import List


def helper(x):
    return x


def double(x: int) -> int:
    '''Twice x.'''
"""
DOUBLE_TEST = """METADATA = {}


def check(candidate):
    assert candidate(helper(2)) == 4
    assert double(3) == 6
"""


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content.encode()))
    else:
        path.write_text(content)
    return path


def write_gsm8k(path: Path, count: int = 6, first: int = 0) -> Path:
    """What is N plus 1,000?"""
    numbers = range(first, first + count)
    return write_lines(
        path,
        [
            {"question": f"What is {n} plus 1000?", "answer": f"It is <<{n}+1000={n + 1000}>>so.\n#### {n + 1000:,}"}
            for n in numbers
        ],
    )


def write_mmlu(folder: Path, split: str = "test", count: int = 4, first: int = 0) -> Path:
    """Two subjects, each a table without a header; the right choice goes round."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    for subject in ("abstract_algebra", "world_religions"):
        with (folder / split / f"{subject}_{split}.csv").open("w", newline="") as file:
            for n in range(first, first + count):
                choices = [f"no, {i}" for i in range(4)]
                choices[n % 4] = "yes, this"
                csv.writer(file).writerow([f"Which, in {subject} {n}?", *choices, "ABCD"[n % 4]])
    return folder


def write_humaneval(path: Path) -> Path:
    problem = {"prompt": DOUBLE, "entry_point": "double", "canonical_solution": "    return 2 * x\n"}
    return write_lines(path, [{"task_id": f"HumanEval/{i}", **problem, "test": DOUBLE_TEST} for i in range(3)])


@dataclass
class Scripted:
    """A generator that answers by a function of the last message; counts what it was asked."""

    answer: object
    name: str = "scripted"
    asked: int = 0

    def __call__(self, requests):
        self.asked += len(requests)
        return [Generation(self.answer(request.prompt[-1]["content"]), True) for request in requests]


@dataclass(frozen=True)
class LastWord:
    """Grades the last word of an answer."""

    settings = {"tolerance": 0.0}

    def __call__(self, text, expected, choices=None):
        if choices and expected not in "ABCD" and expected not in choices:
            raise ValueError(f"{expected!r} is not among the choices")
        words = re.findall(r"\w+", text)
        return Found(bool(words) and words[-1] == expected, words[-1] if words else "", "words")


@dataclass(frozen=True)
class Found:
    is_correct: bool
    answer: str
    how: str
