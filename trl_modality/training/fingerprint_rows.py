"""Fingerprints of the rows of a run: their number, columns, and a hash of some, spread evenly."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from datasets import Dataset, IterableDataset

from .datasets import STREAM_HEAD, AnyDataset


SAMPLED_ROWS = 4096
SAMPLED_BYTES = 2**25
"""After so many bytes no further row is read: 4,096 large images would take seconds."""
READ_TOGETHER = 16


def rows_fingerprint(dataset: AnyDataset) -> dict[str, Any]:
    """What tells a dataset from another: its number of rows, its columns, and a hash of what is in some rows.

    Of a stored dataset these are at most 4,096 rows, spread evenly, and at most 32 MiB, as they are stored: images
    are not decoded, and of an image in a file of its own the name and the size count. So datasets of at most 4,096
    small rows are told apart by any change; of larger ones a change in a few rows may go unseen, but not another
    order, swapped views or other rows throughout. Of a stream the first 16 rows count;
    one that shuffles fills its buffer for them.
    """
    if isinstance(dataset, IterableDataset):
        with _random_states_kept():
            head = list(islice(iter(dataset), STREAM_HEAD))
        columns = sorted({column for row in head for column in row})
        return {"rows": "stream", "columns": columns, "content": _hash_of(head)}
    told = {"rows": len(dataset), "columns": sorted(dataset.column_names)}
    return {**told, "content": _sampled_content(dataset, told["columns"])}


def _sampled_content(dataset: Dataset, columns: list[str]) -> str:
    """The hash of rows in an order of which every beginning is spread over the dataset."""
    n_rows = min(len(dataset), SAMPLED_ROWS)
    places = np.unique(np.linspace(0, len(dataset) - 1, n_rows).round().astype(np.int64)) if n_rows else np.array([])
    stride = -(-len(places) // READ_TOGETHER)
    stored = dataset.select_columns(columns).with_format("arrow")
    digest, n_bytes = xxhash.xxh3_128(), 0
    for start in range(stride):
        chunk: Any = stored[places[start::stride].tolist()]
        for row in chunk.to_pylist():
            n_bytes += _update(digest, {column: row[column] for column in columns})
        if n_bytes >= SAMPLED_BYTES:
            break
    return digest.hexdigest()


def _hash_of(value: Any) -> str:
    digest = xxhash.xxh3_128()
    _update(digest, value)
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> int:
    """Feed a value into a hash, with its type and length, so that no two values feed the same bytes.

    Returns: the bytes that were fed.
    """
    if isinstance(value, dict):
        value = _image_file(value) if set(value) == {"bytes", "path"} else value
        digest.update(b"d%d:" % len(value))
        return sum(_update(digest, str(key)) + _update(digest, each) for key, each in value.items())
    if isinstance(value, list | tuple):
        digest.update(b"l%d:" % len(value))
        return sum(_update(digest, each) for each in value)
    if hasattr(value, "tobytes") and not isinstance(value, memoryview):  # arrays; pictures that a stream decoded
        described = f"{getattr(value, 'shape', getattr(value, 'size', ''))} {getattr(value, 'dtype', '')}"
        return _update(digest, described) + _update(digest, value.tobytes())
    kind = type(value).__name__
    data = value if isinstance(value, bytes) else str(value).encode(errors="surrogatepass")
    digest.update(f"{kind}{len(data)}:".encode())
    digest.update(data)
    return len(data)


def _image_file(image: dict[str, Any]) -> dict[str, Any]:
    """An image as it is stored: its bytes, else the name and the size of its file, which may have moved."""
    if image["bytes"] is not None or image["path"] is None:
        return {"bytes": image["bytes"]}
    path = Path(str(image["path"]))
    try:
        size = path.stat().st_size
    except OSError:  # an address, or a file that is missing: whoever reads the row says so
        size = None
    return {"name": path.name, "size": size}


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """A context after which the generators of random numbers are as before: a stream may draw from them."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.random.set_rng_state(cpu)
