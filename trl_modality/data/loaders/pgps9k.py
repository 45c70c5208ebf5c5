r"""PGPS9K: plane geometry whose diagrams are also written out as clauses (arXiv 2302.11097).

From https://github.com/mingliangzhang2018/PGPS, which links the archive `PGPS9K_all` (9,022 problems on 4,000
diagrams). The repository is under MIT; for the dataset, made from school books, no licence is stated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import SetFolder, check_split, make_pair_row, required_field, to_dataset


if TYPE_CHECKING:
    from datasets import Dataset

PARTS = {"PGPS9K": ("train", "test"), "Geometry3K": ("train", "test")}
WORDS = {
    r"\odot": "circle",
    r"\triangle": "triangle",
    r"\parallelogram": "parallelogram",
    r"\widehat": "arc",
    r"\angle": "angle",
    r"\perp": "is perpendicular to",
    r"\parallel": "is parallel to",
    r"\cong": "is congruent to",
    r"\sim": "is similar to",
    "on": "at",  # "AB \perp CD on E" names the foot
}


def load_pgps9k(
    folder: str | Path, split: str = "train", *, part: str = "PGPS9K", diagrams: str = "Diagram_Visual"
) -> Dataset:
    """Pairs of PGPS9K: text_rich has the diagram's clauses in words before the problem, vision_centric the problem.

    Both list the four candidates. The answers have no reasoning: the completion is the line `Answer: …`.

    Args:
        folder: `PGPS9K_all`: `PGPS9K/{split}.json`, `Geometry3K/{split}.json` and the pictures of both.
        split: `train` or `test`.
        part: `PGPS9K`, or `Geometry3K`, which the archive holds with clauses of the same form.
        diagrams: Folder of the pictures: `Diagram_Visual`, or `Diagram`, which the authors' own model reads.

    Raises:
        FileNotFoundError, ValueError: a file or a field is missing; the message says where to get the set.
    """
    if part not in PARTS:
        raise ValueError(f"`part` must be one of {', '.join(PARTS)}, got {part!r}.")
    check_split(split, PARTS[part])
    layout = SetFolder(
        folder,
        "PGPS9K",
        "`PGPS9K_all/PGPS9K/{train,test}.json` and `PGPS9K_all/Diagram_Visual/*.png` (or `diagrams='Diagram'`)",
        "https://github.com/mingliangzhang2018/PGPS",
    )
    problems = layout.problems(part, f"{split}.json")
    return to_dataset([_pair(layout, part, diagrams, key, problem) for key, problem in problems.items()])


def _pair(layout: SetFolder, part: str, diagrams: str, key: str, problem: dict[str, Any]) -> dict[str, Any]:
    where = f"problem {key!r} of {part}"
    choices = [_number(choice) for choice in required_field(problem, "choices", where)]
    return make_pair_row(
        id=f"{part.lower()}-{key}",
        category=str(problem.get("type") or "").strip(),
        image=layout.image(diagrams, str(required_field(problem, "diagram", where))),
        facts=clauses_in_words(
            required_field(problem, "parsing_stru_seqs", where), required_field(problem, "parsing_sem_seqs", where)
        ),
        question=str(required_field(problem, "text", where)),
        answer=_number(required_field(problem, "answer", where)),
        choices=choices,
    )


def clauses_in_words(structure: Sequence[str], semantics: Sequence[str]) -> str:
    r"""The clauses of a diagram as sentences: which points lie on which line or circle, then measures and relations.

    `["line A B", "line A D C", "\\odot O lieson A B"]`, `["AB = 5", "DC \\perp AB on D"]` → "There are the lines AB.
    On one line lie, in this order, A, D, C. On circle O lie A, B. AB = 5. DC is perpendicular to AB at D."
    """
    segments, sentences = [], []
    for clause in structure:
        words = clause.split()
        if "lieson" in words:
            place = words.index("lieson")
            on = " ".join(WORDS.get(word, word) for word in words[:place])
            sentences.append(f"On {on} lie {', '.join(words[place + 1 :])}.")
        elif words[:1] == ["line"] and len(words) == 3:
            segments.append("".join(words[1:]))
        elif words[:1] == ["line"]:
            sentences.append(f"On one line lie, in this order, {', '.join(words[1:])}.")
        elif words:
            sentences.append(_sentence(clause))
    if segments:
        sentences.insert(0, f"There are the lines {', '.join(segments)}.")
    return " ".join([*sentences, *map(_sentence, filter(None, semantics))])


def _sentence(clause: str) -> str:
    """One clause with its symbols in words; `m` before an angle or an arc only says that it is measured."""
    words = [WORDS.get(word, word) for word in re.sub(r"\bm\s+(?=\\(angle|widehat))", "", clause).split()]
    return f"{' '.join(words)}."


def _number(value: Any) -> str:
    """A number without trailing zeros ("25.000" → "25"); anything else as text."""
    try:
        return f"{float(value):.10g}"
    except (TypeError, ValueError):
        return str(value)
