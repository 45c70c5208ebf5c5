"""Open a dataset by its id on the hub, its folder or its file, or take it as it is; splits, and slices of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .importers.read import ReadOptions, data_files, is_recognised, read_together
from .importers.records import is_data_file, suffix_of


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

logger = getLogger(__name__)

BUILDERS = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}


def open_dataset(
    dataset: Any,
    split: str | None = None,
    streaming: bool = False,
    *,
    reading: ReadOptions | None = None,
    say: Callable[[str], None] = logger.info,
    **load_kwargs: Any,
) -> Any:
    """Open a dataset, or a dict of its splits: from the hub, a folder (also of `save_to_disk`), a file, or as given.

    Args:
        dataset: An id on the hub, a folder, a file, or an object of `datasets`.
        split: Name of a split, or a slice of one as on the hub (`test[:800]`, `train[90%:]`, `train+test`); by default
            a dict of all splits is returned.
        streaming: Whether to read while iterating, without a copy on the disk.
        reading: How files in the formats of `data.importers` become rows, also those of a folder of JSON or CSV files.
            `None`: a file's columns are taken as they are.
        say: Is told what was read from such files.
        **load_kwargs: Arguments for `datasets.load_dataset`, such as `name` or `data_files`.

    Raises:
        ValueError: the split does not exist, an option does not fit the kind of dataset given, or a file cannot become
            rows.
    """
    from datasets import DatasetDict, IterableDatasetDict, load_dataset, load_from_disk

    if not isinstance(dataset, str | Path):
        if streaming or load_kwargs:
            given = ", ".join(f"`{name}`" for name in (["streaming"] if streaming else []) + list(load_kwargs))
            raise ValueError(f"{given} is for a dataset given by its name; this one is a {type(dataset).__name__}.")
        opened = dataset
    elif any((Path(dataset) / name).is_file() for name in ("dataset_dict.json", "state.json")):
        if reading is not None and reading != ReadOptions():
            raise _no_files_to_read(dataset)
        opened = load_from_disk(str(dataset))
        if streaming or load_kwargs:
            raise ValueError(f"{dataset} was written by `save_to_disk`, which is neither streamed nor configured.")
    elif reading is not None and (files := _files_to_read(Path(dataset), reading, streaming or bool(load_kwargs))):
        if streaming or load_kwargs:
            raise ValueError(f"{dataset} is read whole, and is neither streamed nor configured.")
        opened = read_files(files, reading, say)
    elif Path(dataset).is_file():
        opened = _columns_of_file(Path(dataset), streaming, load_kwargs)
    else:
        opened = load_dataset(str(dataset), streaming=streaming, **load_kwargs)
    if split is None:
        return opened
    name = str(dataset) if isinstance(dataset, str | Path) else "the dataset"
    if not isinstance(opened, DatasetDict | IterableDatasetDict):
        if isinstance(dataset, str | Path):
            return select_split({split.partition("[")[0]: opened}, split, name)
        raise ValueError(f"`split={split!r}` is for several splits, but a single {type(opened).__name__} is given.")
    return select_split(dict(opened), split, name)  # pyright: ignore[reportArgumentType]


def _no_files_to_read(folder: str | Path) -> ValueError:
    return ValueError(
        f"{folder} has no file of records directly in it; how files are read is an option for those alone. Name the "
        "files themselves, or make pairs of the columns of a dataset with `trl_modality.data.make_pairs`."
    )


def _files_to_read(path: Path, reading: ReadOptions, has_options: bool) -> dict[str, list[Path]]:
    """The files that the importers read, by split: of a folder, if they are of a form that they know, or asked for.

    Args:
        path: A file, a folder, or an id on the hub.
        reading: How files are read.
        has_options: Whether there are options for `datasets`, which then reads a folder of known forms itself.
    """
    if path.is_file():
        return {"train": [path]}
    is_asked_for = reading != ReadOptions()
    if not path.is_dir():
        if is_asked_for:
            raise ValueError(f"{path} is no file or folder; how files are read is an option for those alone.")
        return {}
    if is_asked_for:
        if not (files := data_files(path)):
            raise _no_files_to_read(path)
        return files
    found = [file for file in path.iterdir() if is_data_file(file)]
    is_ours = not has_options and all(suffix_of(file) != ".parquet" for file in found)
    return data_files(path) if is_ours and any(map(is_recognised, found)) else {}


def read_files(files: Mapping[str, list[Path]], reading: ReadOptions, say: Callable[[str], None]) -> DatasetDict:
    """The rows of files, by split.

    Raises:
        ValueError: a file cannot become rows, or the files of a split are of different columns.
    """
    from datasets import DatasetDict, concatenate_datasets

    read = iter(read_together([path for paths in files.values() for path in paths], reading, say))
    splits = {}
    for split, paths in files.items():
        parts = [next(read) for _ in paths]
        for path, part in zip(paths[1:], parts[1:], strict=True):
            if part.features != parts[0].features:
                raise ValueError(
                    f"{paths[0]} and {path} become rows of different columns ({', '.join(parts[0].column_names)}; "
                    f"{', '.join(part.column_names)}): make a dataset of each."
                )
        splits[split] = concatenate_datasets(parts)
    return DatasetDict(splits)


def _columns_of_file(path: Path, streaming: bool, load_kwargs: dict[str, Any]) -> Any:
    """A file as `datasets` reads it, its columns as they are."""
    from datasets import load_dataset

    if not is_data_file(path):
        raise ValueError(f"{path} is no file of records: its name ends in none of {', '.join(BUILDERS)}.")
    kind = suffix_of(path)
    options = {"sep": "\t"} if kind == ".tsv" else {}
    return load_dataset(BUILDERS[kind], data_files=str(path), streaming=streaming, **options, **load_kwargs)


def select_split(splits: Mapping[str, Any], spec: str, name: str) -> Any:
    """A split, or a slice of one or several as on the hub: `test`, `test[:800]`, `train[10%:20%]`, `train+test`.

    Args:
        splits: Datasets or streams by the names of the splits. Of a stream, rows are counted from its beginning.
        spec: What is wanted.
        name: Of the dataset in messages.

    Raises:
        ValueError: there is no such split, or the slice cannot be read.
    """
    from datasets import IterableDataset, ReadInstruction, concatenate_datasets

    wanted = [re.sub(r"\[.*?\]|\(.*?\)", "", part).strip() for part in spec.split("+")]
    if missing := [part for part in wanted if part not in splits]:
        raise ValueError(f"no split {missing[0]!r} in {name}; it has {', '.join(map(str, splits))}.")
    if spec in splits:
        return splits[spec]
    if any(isinstance(splits[part], IterableDataset) for part in wanted):
        return _slice_of_stream(splits, spec)
    try:
        ranges = ReadInstruction.from_spec(spec).to_absolute({part: len(splits[part]) for part in wanted})
    except (ValueError, AssertionError) as error:
        raise ValueError(
            f"`{spec}` is no slice of a split ({error}); write, say, `test[:800]` or `train[90%:]`."
        ) from error
    parts = [splits[each.splitname].select(range(each.from_, each.to)) for each in ranges if each.from_ < each.to]
    if not parts:
        raise ValueError(f"`{spec}` of {name} has no row; {wanted[0]} has {len(splits[wanted[0]]):,}.")
    return concatenate_datasets(parts) if len(parts) > 1 else parts[0]


def _slice_of_stream(splits: Mapping[str, Any], spec: str) -> Any:
    found = re.fullmatch(r"([^\[+]+)\[(\d*):(\d*)\]", spec)
    if found is None:
        raise ValueError(f"`{spec}`: of a stream, whose length is not known, rows are counted from 0: `train[10:90]`.")
    split, start, stop = found[1], int(found[2] or 0), found[3]
    rest = splits[split].skip(start) if start else splits[split]
    return rest.take(max(int(stop) - start, 0)) if stop else rest


def open_split(
    dataset: Any,
    split: str | None = None,
    *,
    reading: ReadOptions | None = None,
    say: Callable[[str], None] = logger.info,
) -> Dataset:
    """Open one split as a map-style dataset: the named one (or a slice of it), else `train`, else the only one.

    Raises:
        ValueError: the named split does not exist, or none is named among several without `train`.
    """
    from datasets import Dataset

    opened = open_dataset(dataset, split, reading=reading or ReadOptions(), say=say)
    if isinstance(opened, Dataset):
        return opened
    if len(opened) > 1 and "train" not in opened:
        raise ValueError(f"{dataset} has the splits {', '.join(map(str, opened))}; say which one.")
    return opened["train"] if "train" in opened else next(iter(opened.values()))
