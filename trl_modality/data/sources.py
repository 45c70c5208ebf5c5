"""Open a dataset by its id on the hub or its folder, or take it as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from datasets import Dataset


def open_dataset(dataset: Any, split: str | None = None, streaming: bool = False, **load_kwargs: Any) -> Any:
    """Open a dataset, or a dict of its splits: from the hub, from a folder (also of `save_to_disk`), or as given.

    Args:
        dataset: An id on the hub, a folder, or an object of `datasets`.
        split: Name of a split; by default a dict of all splits is returned.
        streaming: Whether to read while iterating, without a copy on the disk.
        **load_kwargs: Arguments for `datasets.load_dataset`, such as `name` or `data_files`.

    Raises:
        ValueError: the split does not exist, or an option does not fit the kind of dataset given.
    """
    from datasets import DatasetDict, IterableDatasetDict, load_dataset, load_from_disk

    if not isinstance(dataset, str | Path):
        if streaming or load_kwargs:
            given = ", ".join(f"`{name}`" for name in (["streaming"] if streaming else []) + list(load_kwargs))
            raise ValueError(f"{given} is for a dataset given by its name; this one is a {type(dataset).__name__}.")
        opened = dataset
    elif any((Path(dataset) / name).is_file() for name in ("dataset_dict.json", "state.json")):
        opened = load_from_disk(str(dataset))
        if streaming or load_kwargs:
            raise ValueError(f"{dataset} was written by `save_to_disk`, which is neither streamed nor configured.")
    else:
        opened = load_dataset(str(dataset), streaming=streaming, **load_kwargs)
    if split is None:
        return opened
    if not isinstance(opened, DatasetDict | IterableDatasetDict):
        if isinstance(dataset, str | Path):
            return opened
        raise ValueError(f"`split={split!r}` is for several splits, but a single {type(opened).__name__} is given.")
    if split not in opened:
        name = dataset if isinstance(dataset, str | Path) else "the dataset"
        raise ValueError(f"no split {split!r} in {name}; it has {', '.join(map(str, opened))}.")
    return opened[split]


def open_split(dataset: Any, split: str | None = None) -> Dataset:
    """Open one split as a map-style dataset: the named one, else `train`, else the only one.

    Raises:
        ValueError: the named split does not exist, or none is named among several without `train`.
    """
    from datasets import Dataset

    opened = open_dataset(dataset, split)
    if isinstance(opened, Dataset):
        return opened
    if len(opened) > 1 and "train" not in opened:
        raise ValueError(f"{dataset} has the splits {', '.join(map(str, opened))}; say which one.")
    return opened["train"] if "train" in opened else next(iter(opened.values()))
