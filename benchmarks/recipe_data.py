"""Training and test sets of the recipe study: held-out problems, and three kinds of shifted ones."""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from trl_modality.problems.demo.draw import SHIFTED_DRAWINGS
from trl_modality.problems.demo.pairs import draw_problems, make_demo_pairs, to_dataset
from trl_modality.problems.demo.problem import FURTHER_FACTS, NAMED_FACTS, DemoProblem
from trl_modality.problems.real_tables import load_records


N_TEST, N_SHIFTED = 400, 200


def training_pairs(count: int, seed: int, *, wrong_labels: float = 0.0, further: bool = False) -> Dataset:
    """Pairs about real records; the share `wrong_labels` of them has the reasoning and the answer to other facts."""
    kinds = NAMED_FACTS | FURTHER_FACTS if further else NAMED_FACTS
    pairs = make_demo_pairs(count, 1, seed, kinds=kinds)[0]
    if not wrong_labels:
        return pairs
    rng = np.random.default_rng(seed)
    chosen = set(rng.permutation(count)[: round(wrong_labels * count)].tolist())
    wrong = {row: _other_completion(pairs[row], rng) for row in sorted(chosen)}
    completions = [wrong.get(row, completion) for row, completion in enumerate(pairs["completion"])]
    features = pairs.features["completion"]
    return pairs.remove_columns("completion").add_column("completion", completions, feature=features)


def _other_completion(pair: dict, rng: np.random.Generator) -> list[dict]:
    _, form, kind, *names = pair["id"].split("-")
    title, facts, _ = pair["text_rich_prompt"][0]["content"].split("\n")
    shown = [fact.split("=")[0] for fact in facts.split(",")]
    others = tuple(zip(shown, map(int, rng.integers(0, 10, len(shown))), strict=True))
    return DemoProblem("", title, others, kind, tuple(names)).to_pair(None)["completion"]


def held_out_sets(seed: int) -> dict[str, Dataset]:
    """Held-out records; other tables; other drawings; questions of one more step, never asked about pictures."""
    held_out = make_demo_pairs(1, N_TEST, seed)[1]
    rng = np.random.default_rng(seed)
    others = dict(enumerate(load_records(shifted=True)))
    records = load_records()
    unseen = {i: records[i] for i in sorted({int(name.split("-")[0]) for name in held_out["id"]})}
    return {
        "held_out": held_out,
        "other_tables": to_dataset(draw_problems(others, N_SHIFTED, rng)),
        "other_styles": to_dataset(draw_problems(unseen, N_SHIFTED, rng, forms=tuple(SHIFTED_DRAWINGS))),
        "other_questions": to_dataset(draw_problems(unseen, N_SHIFTED, rng, kinds=FURTHER_FACTS)),
    }
