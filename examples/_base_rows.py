"""Training data of the demo's base model: made-up tables in words and in pictures, and text-only exercises."""

from __future__ import annotations

from io import BytesIO
from itertools import combinations
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, List, Value

from trl_modality.problems.demo.draw import DRAWINGS
from trl_modality.problems.demo.problem import FURTHER_FACTS, NAMED_FACTS, DemoProblem
from trl_modality.problems.demo.text_skill import make_text_skill
from trl_modality.problems.real_tables import Record, load_records


# Names of the facts in a table: those of the demo's tables, and others; their order within a table is fixed
NAMES = (
    ("mon", "tue", "wed", "thu"),
    ("mpg", "hp", "lb", "sec"),
    ("sl", "sw", "pl", "pw"),
    ("jan", "feb", "mar", "apr"),
    ("A", "B", "C", "D"),
    ("red", "blue", "lime", "gray"),
    ("n", "e", "s", "w"),
    ("tea", "milk", "rice", "salt"),
    ("ibm", "msft", "amzn", "aapl"),
)
TITLES = ("Shop, units", "Club, points", "Farm, tons")
TRANSCRIBE = "list"
_MESSAGES = List({"role": Value("string"), "content": Value("string")})
_FEATURES = Features({"images": List(Image()), "prompt": _MESSAGES, "completion": _MESSAGES})


class MadeUpTables:
    """Random tables of four digits. None has the facts of a real record, so that the demo's records stay unseen.

    Args:
        seed: Seed of the draws.
    """

    def __init__(self, seed: int):
        self._rng = np.random.default_rng(seed)
        records = load_records()
        self._real = {record.facts for record in [*records, *load_records(shifted=True)]}
        self._titles = (*TITLES, *dict.fromkeys(record.title for record in records))

    def record(self) -> Record:
        while True:
            names = NAMES[self._rng.integers(len(NAMES))]
            facts = tuple(zip(names, map(int, self._rng.integers(0, 10, len(names))), strict=True))
            if facts not in self._real:
                return Record(str(self._rng.choice(self._titles)), facts)

    def problem(self) -> DemoProblem:
        record = self.record()
        kinds = NAMED_FACTS | FURTHER_FACTS
        kind = list(kinds)[self._rng.integers(len(kinds))]
        options = list(combinations([name for name, _ in record.facts], kinds[kind]))
        return DemoProblem("", record.title, record.facts, kind, options[self._rng.integers(len(options))])

    def picture(self, record: Record | DemoProblem) -> list[dict[str, Any]]:
        file = BytesIO()
        DRAWINGS[list(DRAWINGS)[self._rng.integers(len(DRAWINGS))]](record.facts).save(file, "PNG")
        return [{"bytes": file.getvalue(), "path": None}]


def reading_rows(count: int, seed: int) -> Dataset:
    """Text-only rows: half exercises, half questions about facts in words."""
    tables = MadeUpTables(seed)
    exercises = make_text_skill(count // 2, 0, seed)[0].select_columns(["prompt", "completion"])
    questions = [tables.problem().to_pair(None) for _ in range(count - len(exercises))]
    rows = [{"prompt": pair["text_rich_prompt"], "completion": pair["completion"]} for pair in questions]
    return Dataset.from_list([row for pair in zip(rows, exercises, strict=True) for row in pair])


def looking_rows(count: int, seed: int) -> Dataset:
    """Rows in tens: four transcribe a picture, three ask about facts in words beside one, three are text-only."""
    tables = MadeUpTables(seed)
    words = iter(reading_rows(2 * (3 * count // 20 + 3), seed + 1))
    rows = []
    for number in range(count):
        kind = number % 10
        if kind < 4:
            record = tables.record()
            facts = ",".join(f"{name}={value}" for name, value in record.facts)
            prompt, completion = message("user", TRANSCRIBE), message("assistant", facts)
            rows.append({"images": tables.picture(record), "prompt": prompt, "completion": completion})
        elif kind < 7:
            problem = tables.problem()
            pair = problem.to_pair(None)
            prompt, completion = pair["text_rich_prompt"], pair["completion"]
            rows.append({"images": tables.picture(problem), "prompt": prompt, "completion": completion})
        else:
            rows.append({"images": [], **next(words)})
    return Dataset.from_list(rows, features=_FEATURES)


def message(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]
