"""TabMWP: school problems about tables, which are given both as a picture and as text (arXiv 2209.14610).

From https://github.com/lupantech/PromptPG, folder `data/tabmwp`: 38,431 problems. Its authors license the dataset
under CC BY-NC-SA 4.0, the repository under MIT.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import SetFolder, check_split, join_lines, make_pair_row, required_field, to_dataset


if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "dev", "test", "dev1k", "test1k")


def load_tabmwp(folder: str | Path, split: str = "train") -> Dataset:
    """Pairs of TabMWP: text_rich has the table's title and text before the question, vision_centric the question.

    Both views state the unit of the answer and the options, which are part of what is asked. The completion is the
    solution step by step and a last line `Answer: …`; `category` is the type of the answer.

    Args:
        folder: `data/tabmwp` of its repository: `problems_{split}.json` and `tables/{id}.png`. A single
            `problems.json` with all splits also serves; `dev1k` and `test1k` then stand for all of `dev` and `test`.
        split: `train`, `dev`, `test`, or `dev1k` or `test1k` (1,000 problems each).

    Raises:
        FileNotFoundError, ValueError: a file or a field is missing; the message says where to get the set.
    """
    check_split(split, SPLITS)
    layout = SetFolder(
        folder,
        "TabMWP",
        "`problems_{train,dev,test,dev1k,test1k}.json` and `tables/{id}.png`",
        "https://github.com/lupantech/PromptPG (folder `data/tabmwp`)",
    )
    if not (layout.folder / f"problems_{split}.json").is_file() and (layout.folder / "problems.json").is_file():
        whole = split.removesuffix("1k")
        problems = {key: p for key, p in layout.problems("problems.json").items() if p.get("split", whole) == whole}
        if not problems:
            raise ValueError(f"{layout.folder / 'problems.json'} has no problem of the split {whole!r}.")
    else:
        problems = layout.problems(f"problems_{split}.json")
    return to_dataset([_pair(layout, key, problem) for key, problem in problems.items()])


def _pair(layout: SetFolder, key: str, problem: dict[str, Any]) -> dict[str, Any]:
    where = f"problem {key!r} of TabMWP"
    table, question, answer = (str(required_field(problem, name, where)) for name in ("table", "question", "answer"))
    unit = problem.get("unit")
    return make_pair_row(
        id=f"tabmwp-{key}",
        category=str(problem.get("ans_type") or ""),
        image=layout.image("tables", f"{key}.png"),
        facts=join_lines(problem.get("table_title"), table),
        question=join_lines(question, f"(Unit: {unit})" if unit else ""),
        answer=answer,
        reasoning=problem.get("solution") or "",
        choices=problem.get("choices"),
    )
