"""Pairs that show the gap: right where the facts are in words, wrong where they are in the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..views import PROMPT_COLUMN, View, load_images, text_of
from .asking.batches import Processes
from .conditions import VIEWS


N_EXAMPLES = 12


def pick_examples(
    answers: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], folder: Path | None
) -> list[dict[str, Any]]:
    """At most `N_EXAMPLES`, spread evenly over the rows with a gap.

    Args:
        answers: Records of an evaluation.
        rows: The pairs, as stored.
        folder: Where the pictures of the vision_centric view are written, as `examples/{row}-{place}.png`; `None`:
            nowhere.
    """
    of_row: dict[int, dict[str, Mapping[str, Any]]] = {}
    for record in answers:
        of_row.setdefault(record["row"], {})[record["condition"]] = record
    read, seen = VIEWS
    found = [
        (row, own)
        for row, own in of_row.items()
        if {read, seen} <= own.keys() and own[read]["is_correct"] and not own[seen]["is_correct"]
    ]
    count = min(N_EXAMPLES, len(found))
    examples = []
    for row, own in (found[i * len(found) // count] for i in range(count)):
        stored = rows[row]
        example: dict[str, Any] = {
            "row": row,
            "id": own[read]["id"],
            "category": own[read]["category"],
            "expected": own[read]["expected"],
            "prompts": {str(view): text_of(stored[PROMPT_COLUMN[View(view)]]) for view in VIEWS},
            "answers": {
                name: {key: record[key] for key in ("text", "answer", "is_correct")} for name, record in own.items()
            },
        }
        if folder is not None:
            example["images"] = _save_images(row, stored, folder)
        examples.append(example)
    return examples


def _save_images(row: int, stored: Mapping[str, Any], folder: Path) -> list[str]:
    names = []
    for place, image in enumerate(load_images(stored, View.VISION_CENTRIC)):
        names.append(f"examples/{row}-{place}.png")
        if Processes().rank == 0:
            (folder / "examples").mkdir(exist_ok=True)
            image.convert("RGB").save(folder / names[-1])
    return names
