"""Write pairs as a dataset folder: Parquet files with the images inside, and a dataset card."""

from __future__ import annotations

import contextlib
import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..views import PAIR_PROMPTS


if TYPE_CHECKING:
    from datasets import Dataset, Features

ROWS_AT_ONCE = 64  # rows in memory at a time, with their images
UNFINISHED = ".unfinished-"  # start of the name of a folder inside of one that is being written

WHAT = (
    "Pairs for [trl-modality](https://pypi.org/project/trl-modality): one question in two views, `text_rich` (image, "
    "facts in words, question) and `vision_centric` (image, question), with one completion."
)
PLAIN = (
    "Rows for [trl-modality](https://pypi.org/project/trl-modality) and TRL: a question about images, as messages. "
    "`trl-modality data transcribe` makes pairs of them."
)
COLUMNS = {
    "id": "names the row; unique",
    "category": "what kind of question it is",
    "images": "what both views show",
    "image": "what both views show",
    "vision_centric_images": "what the vision_centric view shows, where that differs",
    "text_rich_images": "what the text_rich view shows, where that differs (an empty list: words alone)",
    "text_rich_prompt": "the question with the facts in words, as messages",
    "vision_centric_prompt": "the question alone: the facts are in the image",
    "teacher_prompt": "what a teacher reads in place of the text_rich prompt",
    "teacher_images": "what a teacher is shown, where that differs (an empty list: no image)",
    "completion": "what follows either prompt",
    "prompt": "the question, as messages, perhaps with the turns before it",
    "messages": "the whole conversation",
    "answer": "the final answer alone",
    "choices": "the options of the question, in the order of their letters",
    "level_prompts": "the vision_centric prompt at every named level, most words first",
}


@dataclass(frozen=True)
class Card:
    """The texts of a dataset card that cannot be derived from the rows.

    Args:
        title: Heading of the card.
        origin: Where the problems come from, in one or more sentences.
        command: The command that made the dataset and makes it again.
        version: Version of this package.
        licence: Terms of use, in words.
        licence_id: The licence in the short form of dataset cards ("mit").
        provenance: What the rows were made by, as (name, value) in the order of the table: model, prompt, sampling,
            how many rows fell out and why, what was read.
    """

    title: str
    origin: str
    command: str
    version: str
    licence: str
    licence_id: str
    provenance: Sequence[tuple[str, str]] = ()


def require_empty(folder: str | Path) -> Path:
    """The folder as a path, if it is empty or does not exist; else raises `FileExistsError`."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is not a folder; remove it or write elsewhere.")
    names = sorted(each.name for each in folder.iterdir()) if folder.exists() else []
    if names and names[0].startswith(UNFINISHED):
        raise FileExistsError(
            f"{folder} is not empty: {names[0]} in it is of a command that makes data there now, or was killed. Wait "
            "for it, remove that folder, or write elsewhere."
        )
    if names:
        raise FileExistsError(f"{folder} is not an empty folder (it has {names[0]}); remove it or write elsewhere.")
    return folder


def write_dataset(splits: Mapping[str, Dataset], folder: str | Path, card: Card, shard_mib: float = 500) -> list[Path]:
    """Write `data/{split}-00000-of-0000N.parquet` and `README.md`, so that `load_dataset(folder)` reads them.

    Image files are copied into the Parquet files byte for byte; no image is decoded.

    Args:
        splits: The rows of each split, all with the same columns.
        folder: Folder to write; must be empty or not exist.
        card: Texts of the card.
        shard_mib: A file is closed once it has this many MiB of rows.

    Returns:
        The paths of the files, the card last.

    Raises:
        ValueError: a split without rows, or splits of different columns.
        FileExistsError: the folder is not empty.
    """
    folder = require_empty(folder)
    first, *others = splits.items()
    for name, dataset in splits.items():
        if not len(dataset):
            raise ValueError(f"the split {name!r} has no row; leave it out.")
    for name, dataset in others:
        if dataset.features != first[1].features:
            raise ValueError(f"the splits {first[0]!r} and {name!r} differ in their columns or types.")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    files, sizes = [], {}
    for name, dataset in splits.items():
        shards, sizes[name] = _write_split(dataset, folder / "data", name, shard_mib * 2**20)
        files += shards
    readme = folder / "README.md"
    readme.write_text(_card_text(splits, sizes, sum(file.stat().st_size for file in files), card), encoding="utf-8")
    return [*files, readme]


def _write_split(dataset: Dataset, folder: Path, name: str, shard_bytes: float) -> tuple[list[Path], int]:
    """Write the files of a split; returns them and the bytes of its rows in memory.

    A file's name contains the number of files, which is known at the end: files are renamed then.
    """
    import pyarrow.parquet as pq
    from datasets.table import embed_table_storage

    schema = dataset.features.arrow_schema
    parts: list[Path] = []
    written, in_shard, writer = 0, 0, None
    for table in dataset.with_format("arrow").iter(ROWS_AT_ONCE):
        table = embed_table_storage(table.cast(schema))  # pyright: ignore[reportArgumentType]
        if writer is None:
            parts.append(folder / f"{name}.{len(parts)}.part")
            writer, in_shard = pq.ParquetWriter(parts[-1], schema), 0
        writer.write_table(table)
        written, in_shard = written + table.nbytes, in_shard + table.nbytes
        if in_shard >= shard_bytes:
            writer.close()
            writer = None
    if writer is not None:
        writer.close()
    files = [folder / f"{name}-{i:05d}-of-{len(parts):05d}.parquet" for i in range(len(parts))]
    for part, file in zip(parts, files, strict=True):
        part.rename(file)
    return files, written


def _card_text(splits: Mapping[str, Dataset], sizes: Mapping[str, int], download: int, card: Card) -> str:
    from huggingface_hub import DatasetCardData

    features: Features = next(iter(splits.values())).features
    infos = [{"name": n, "num_bytes": sizes[n], "num_examples": len(dataset)} for n, dataset in splits.items()]
    header = DatasetCardData(
        license=card.licence_id,
        language=["en"],
        task_categories=["visual-question-answering"],
        tags=["trl-modality", "paired-views"],
        size_categories=[_size_category(sum(map(len, splits.values())))],
        dataset_info={
            "features": yaml_features(features),
            "splits": infos,
            "download_size": download,
            "dataset_size": sum(sizes.values()),
        },
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"data/{name}-*.parquet"} for name in splits],
            }
        ],
    )
    columns = "\n".join(f"| `{name}` | {COLUMNS.get(name, '')} |" for name in features)
    counts = "\n".join(f"| `{name}` | {len(dataset):,} | {_categories(dataset)} |" for name, dataset in splits.items())
    return f"""---
{header.to_yaml()}
---

# {card.title}

{WHAT if PAIR_PROMPTS[0] in features else PLAIN}

{card.origin}

| split | rows | by category |
| --- | --- | --- |
{counts}

| column | what it holds |
| --- | --- |
{columns}

## How it was made

With trl-modality {card.version}:

```
{card.command}
```
{_provenance_table(card.provenance)}
## Licence

{card.licence}
"""


def _provenance_table(provenance: Sequence[tuple[str, str]]) -> str:
    if not provenance:
        return ""
    lines = (f"| {name} | {_in_a_cell(value)} |" for name, value in provenance)
    return "\n".join(["", "| | |", "| --- | --- |", *lines, ""])


def _in_a_cell(text: str) -> str:
    """A text as it stands in a cell of a table: of one line, and without a bar or a tag that would be one."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", "<br>")


@dataclass(frozen=True)
class Licence:
    """The terms of a dataset that was read."""

    text: str
    id: str

    @classmethod
    def of(cls, name: str) -> Licence:
        """The terms that the card of a dataset states, or that it states none.

        Args:
            name: Its folder, or its id on the hub.
        """
        from huggingface_hub import DatasetCard

        path = Path(name) / "README.md"
        card = None
        if path.is_file() or (not path.parent.exists() and "/" in name):
            with contextlib.suppress(Exception):  # no network, no card: nothing is stated then
                card = DatasetCard.load(path if path.is_file() else name)
        told = card.data.get("license") if card else None
        stated = re.search(r"^## Licen[cs]e\n+(.+?)(?=^#|\Z)", card.text, re.MULTILINE | re.DOTALL) if card else None
        if stated:
            return cls(stated[1].strip(), str(told or "unknown"))
        text = f"Its card states `{told}`." if told else "Its card states none; ask those who made it."
        return cls(text, str(told or "unknown"))


def yaml_features(features: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The columns in the form of `dataset_info` in the header of a dataset card."""
    return [{"name": name, **_yaml_type(feature)} for name, feature in features.items()]


def _yaml_type(feature: Any) -> dict[str, Any]:
    from datasets import Image, List, Value

    if isinstance(feature, Image):
        return {"dtype": "image"}
    if isinstance(feature, Value):
        return {"dtype": feature.dtype}
    if isinstance(feature, List):
        inner = _yaml_type(feature.feature)
        return {"list": inner.get("dtype") or inner.get("struct") or inner}
    if isinstance(feature, Mapping):
        return {"struct": yaml_features(feature)}
    raise ValueError(f"a column of type {type(feature).__name__} has no place in a dataset of pairs; leave it out.")


def _categories(dataset: Dataset) -> str:
    if "category" not in dataset.column_names:
        return ""
    counts = Counter(dataset.select_columns(["category"])["category"])
    return ", ".join(f"{name or 'none'} {count:,}" for name, count in counts.most_common(12))


def _size_category(rows: int) -> str:
    limits: Sequence[tuple[int, str]] = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"))
    return next((name for limit, name in limits if rows < limit), "100K<n<1M" if rows < 10**6 else "n>1M")
