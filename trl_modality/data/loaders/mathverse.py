"""MathVerse: mathematics with diagrams, each problem in versions that move its facts from the text to the picture.

From https://huggingface.co/datasets/AI4Math/MathVerse (arXiv 2403.14624), MIT: 788 problems in five versions with a
picture (`testmini`) and one without (`testmini_text_only`). It is for evaluation: it has answers without reasoning.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...views import pair_features
from ..pairs import assistant, user
from .files import SetFolder, check_split, make_pair_row, required_field, to_dataset


if TYPE_CHECKING:
    from datasets import Dataset

HUB = "AI4Math/MathVerse"
SPLITS = ("testmini", "testmini_text_only")
VERSIONS = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")
QUERIES = ("query_wo", "query_cot", "question")


def load_mathverse(
    folder: str | Path = HUB,
    split: str = "testmini",
    *,
    text_rich: str = "Text Dominant",
    vision_centric: str = "Vision Dominant",
    query: str = "query_wo",
) -> Dataset:
    """Pairs of MathVerse: two versions of a problem are the two views of a pair.

    Where the versions have pictures of their own, those of the vision_centric view are in `vision_centric_images`.
    The completion is the line `Answer: …`: the letter of a choice, or the value.

    Args:
        folder: The id on the hub, or a folder with `testmini.parquet`, or with `testmini.json` and the unpacked
            `images.zip`.
        split: `testmini`.
        text_rich, vision_centric: Versions: `Text Dominant`, `Text Lite`, `Vision Intensive`, `Vision Dominant` or
            `Vision Only`.
        query: Which wording: `query_wo` asks for the answer at once, `query_cot` for reasoning first, `question`
            is the bare question, which `Vision Only` does not have.

    Raises:
        FileNotFoundError, ValueError: a file or a field is missing; the message says where to get the set.
    """
    check_split(split, SPLITS[:1])
    for option, version in (("text_rich", text_rich), ("vision_centric", vision_centric)):
        if version not in VERSIONS:
            raise ValueError(f"`{option}` must be one of {', '.join(VERSIONS)}, got {version!r}.")
    problems: dict[str, dict[str, dict[str, Any]]] = {}
    for row in _rows(folder, split, query):
        problems.setdefault(str(row["problem_index"]), {})[row["problem_version"]] = row
    return _with_own_images([_pair(i, versions, text_rich, vision_centric, query) for i, versions in problems.items()])


def load_mathverse_levels(folder: str | Path = HUB, split: str = "testmini", *, query: str = "query_wo") -> Dataset:
    """Every version of every problem as a row of its own, with the name of its level.

    Args:
        folder, query: As for `load_mathverse`.
        split: `testmini`, or `testmini_text_only` for the version without a picture.

    Returns:
        `id`, `problem` (the same for all its versions), `level` (`text_dominant`, …, `vision_only`, or `text_only`),
        `category`, `images`, `prompt`, `completion`, `answer`, `question_type` (`multi-choice` or `free-form`).
    """
    from datasets import Dataset, Features, Value

    check_split(split, SPLITS)
    known = pair_features(category=True)
    texts = dict.fromkeys(("id", "problem", "level", "category", "answer", "question_type"), Value("string"))
    features = Features(
        {**texts, "images": known["images"], "prompt": known["completion"], "completion": known["completion"]}
    )
    rows = []
    for row in _rows(folder, split, query):
        level = row["problem_version"].lower().replace(" ", "_")
        rows.append(
            {
                "id": f"mathverse-{row['problem_index']}-{level}",
                "problem": str(row["problem_index"]),
                "level": level,
                "category": _category(row),
                "images": [] if row["image"] is None else [row["image"]],
                "prompt": user(row[query]),
                "completion": assistant(f"Answer: {row['answer']}"),
                "answer": str(row["answer"]),
                "question_type": str(row.get("question_type") or ""),
            }
        )
    return Dataset.from_list(rows, features=features)


def _rows(folder: str | Path, split: str, query: str) -> Iterator[dict[str, Any]]:
    """The rows of the set, with all required fields; `image` is undecoded, or `None`."""
    if query not in QUERIES:
        raise ValueError(f"`query` must be one of {', '.join(QUERIES)}, got {query!r}.")
    for row in _from_hub(folder, split) if str(folder) == HUB else _from_folder(folder, split):
        where = f"sample {row.get('sample_index')!r} of MathVerse"
        for name in ("problem_index", "problem_version", "answer", query):
            required_field(row, name, where)
        yield row


def _from_hub(folder: str | Path, split: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    yield from _iterate_undecoded(load_dataset(str(folder), split, split=split))


def _from_folder(folder: str | Path, split: str) -> Iterator[dict[str, Any]]:
    layout = SetFolder(
        folder,
        "MathVerse",
        f"`{split}.parquet`, or `{split}.json` with its pictures (`images.zip`) unpacked beside it",
        f"https://huggingface.co/datasets/{HUB}",
    )
    if (layout.folder / f"{split}.parquet").is_file():
        from datasets import Dataset

        yield from _iterate_undecoded(Dataset.from_parquet(str(layout.folder / f"{split}.parquet")))
        return
    root = ("images",) if (layout.folder / "images").is_dir() else ()
    for row in layout.json(f"{split}.json"):
        yield {**row, "image": layout.image(*root, row["image"]) if row.get("image") else None}


def _iterate_undecoded(dataset: Any) -> Iterator[dict[str, Any]]:
    from datasets import Image

    if "image" in dataset.column_names and isinstance(dataset.features["image"], Image):
        dataset = dataset.cast_column("image", Image(decode=False))
    for row in dataset:
        yield {**row, "image": row.get("image") or None}


def _category(row: dict[str, Any]) -> str:
    return str((row.get("metadata") or {}).get("subject") or "")


def _pair(index: str, versions: dict[str, Any], text_rich: str, vision_centric: str, query: str) -> dict[str, Any]:
    for version in (text_rich, vision_centric):
        if version not in versions:
            raise ValueError(f"problem {index} of MathVerse has no version {version!r}; it has {', '.join(versions)}.")
        if versions[version]["image"] is None or not str(versions[version][query]).strip():
            missing = "picture" if versions[version]["image"] is None else f"`{query}`"
            raise ValueError(f"problem {index} of MathVerse has no {missing} in its version {version!r}.")
    first, second = versions[text_rich], versions[vision_centric]
    row = make_pair_row(
        id=f"mathverse-{index}",
        category=_category(first),
        image=first["image"],
        facts="",
        question=str(second[query]),
        answer=str(first["answer"]),
    )
    own = None if second["image"] == first["image"] else [second["image"]]
    return {**row, "text_rich_prompt": user(str(first[query])), "vision_centric_images": own}


def _with_own_images(rows: list[dict[str, Any]]) -> Dataset:
    """The pairs as a dataset, with the column `vision_centric_images` only if some pair has such images."""
    from datasets import Dataset

    if not any(row["vision_centric_images"] for row in rows):
        return to_dataset([{k: v for k, v in row.items() if k != "vision_centric_images"} for row in rows])
    features = pair_features(category=True, vision_centric_images=True)
    return Dataset.from_list([{name: row[name] for name in features} for row in rows], features=features)
