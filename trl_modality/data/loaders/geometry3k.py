"""Geometry3K: plane geometry whose diagrams are also written out in logic forms (arXiv 2105.04165).

From https://github.com/lupantech/InterGPS, folder `data/geometry3k` (unzip its archives): 3,002 problems from school
books. The repository is under MIT.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import SetFolder, check_split, make_pair_row, required_field, to_dataset
from .logic_forms import forms_in_words


if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "val", "test")
LETTERS = "ABCD"


def load_geometry3k(folder: str | Path, split: str = "train") -> Dataset:
    """Pairs of Geometry3K: text_rich has the diagram's logic forms in words before the problem.

    Both views have the problem's text, which may state facts of its own, and the four choices. The problems have no
    solutions: the completion is the line `Answer: …` with the text of the right choice.

    Args:
        folder: `data/geometry3k`: `{split}/{id}/` with `data.json`, `logic_form.json` and `img_diagram.png`.
        split: `train`, `val` or `test`.

    Raises:
        FileNotFoundError, ValueError: a file or a field is missing; the message says where to get the set.
    """
    check_split(split, SPLITS)
    layout = SetFolder(
        folder,
        "Geometry3K",
        "`{train,val,test}/{id}/` with `data.json`, `logic_form.json` and `img_diagram.png`",
        "https://github.com/lupantech/InterGPS (unzip `data/geometry3k/*.zip`)",
    )
    found = [path.parent.name for path in (layout.folder / split).glob("*/data.json")]
    if not found:
        layout.file(split, "0", "data.json")  # raises, and says what is missing
    ids = sorted(found, key=lambda name: (int(name), name) if name.isdigit() else (0, name))
    return to_dataset([_pair(layout, split, each) for each in ids])


def _pair(layout: SetFolder, split: str, key: str) -> dict[str, Any]:
    where = f"problem {key!r} of Geometry3K"
    problem, forms = layout.json(split, key, "data.json"), layout.json(split, key, "logic_form.json")
    choices = problem.get("compact_choices") or required_field(problem, "choices", where)
    letter = str(required_field(problem, "answer", where))
    if letter not in LETTERS[: len(choices)]:
        raise ValueError(f"{where} has the answer {letter!r}, which is none of its {len(choices)} choices.")
    kinds = problem.get("problem_type_graph") or []
    return make_pair_row(
        id=f"geometry3k-{key}",
        category=", ".join(kinds),
        image=layout.image(split, key, "img_diagram.png"),
        facts=forms_in_words(required_field(forms, "diagram_logic_form", where)),
        question=problem.get("compact_text") or required_field(problem, "problem_text", where),
        answer=str(choices[LETTERS.index(letter)]).strip(),
        choices=choices,
    )
