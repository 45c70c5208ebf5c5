"""The demo's pairs: charts and tables of real records, with other records held out for the test split."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from io import BytesIO
from itertools import combinations, zip_longest
from typing import TYPE_CHECKING

import numpy as np

from ...views import pair_features
from ..real_tables import Record, load_records
from .draw import DRAWINGS, SHIFTED_DRAWINGS
from .problem import NAMED_FACTS, DemoProblem


if TYPE_CHECKING:
    from datasets import Dataset

TEST_SHARE = 0.15  # of the records are held out


def make_demo_pairs(
    n_train: int, n_test: int, seed: int = 0, *, kinds: Mapping[str, int] = NAMED_FACTS
) -> tuple[Dataset, Dataset]:
    """
    Pairs for training and for testing; no facts of a test problem occur in training.

    All kinds of questions have the same number of rows, within one, until the distinct questions of a kind are used
    up. Questions and forms (chart, table) are drawn without replacement, a pure function of the arguments.

    Args:
        n_train: number of training pairs.
        n_test: number of test pairs.
        seed: seed of the split and of the draw.
        kinds: kinds of questions, and how many facts a question of the kind names.

    Returns:
        (train, test) with the columns `id`, `category` ("chart, sum"), `images`, `text_rich_prompt`,
        `vision_centric_prompt`, `completion`, `answer`; an `id` names the record, the form and the question.

    Raises:
        ValueError: if there are fewer distinct problems than asked for.
        ImportError: if `vega_datasets` is not installed.
    """
    rng = np.random.default_rng(seed)
    records = load_records()
    order = rng.permutation(len(records))
    n_held_out = round(TEST_SHARE * len(records))
    held_out, seen = order[:n_held_out], order[n_held_out:]
    drawn = []
    for indices, count in ((seen, n_train), (held_out, n_test)):
        drawn.append(draw_problems({i: records[i] for i in map(int, indices)}, count, rng, kinds=kinds))
    return to_dataset(drawn[0]), to_dataset(drawn[1])


def draw_problems(
    records: Mapping[int, Record],
    count: int,
    rng: np.random.Generator,
    *,
    kinds: Mapping[str, int] = NAMED_FACTS,
    forms: Collection[str] = tuple(DRAWINGS),
) -> list[tuple[DemoProblem, str]]:
    """Draw `count` distinct (problem, form) about some records, in random order; ids contain the key of the record.

    Raises:
        ValueError: if there are fewer distinct problems than `count`.
    """
    queues = []
    for kind, n_names in kinds.items():
        options = [
            (index, form, kind, names)
            for index in records
            for form in forms
            for names in combinations([name for name, _ in records[index].facts], n_names)
        ]
        queues.append([options[i] for i in rng.permutation(len(options))])
    if count > (available := sum(map(len, queues))):
        raise ValueError(f"{count} pairs asked for, but these tables give {available} distinct ones.")
    # The kinds take turns; one that is used up is skipped.
    in_turn = [option for turn in zip_longest(*queues) for option in turn if option is not None][:count]
    chosen = []
    for index, form, kind, names in (in_turn[i] for i in rng.permutation(count)):
        identity = "-".join((str(index), form, kind, *names))
        chosen.append((DemoProblem(identity, records[index].title, records[index].facts, kind, names), form))
    return chosen


def to_dataset(problems: Iterable[tuple[DemoProblem, str]]) -> Dataset:
    """The pair rows of (problem, form), with the pictures as PNG."""
    from datasets import Dataset

    # Many questions are about the same record: each of its drawings is made and compressed once.
    drawn: dict[tuple, bytes] = {}
    rows = []
    for problem, form in problems:
        key = (problem.facts, form)
        if key not in drawn:
            file = BytesIO()
            (DRAWINGS | SHIFTED_DRAWINGS)[form](problem.facts).save(file, "PNG")
            drawn[key] = file.getvalue()
        pair = problem.to_pair({"bytes": drawn[key], "path": None})
        rows.append({**pair, "category": f"{form}, {problem.kind}"})
    return Dataset.from_list(rows, features=pair_features(category=True))
