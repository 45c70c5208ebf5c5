"""Rows made a chunk at a time. A chunk is a file named by its content, so that work can go on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol


if TYPE_CHECKING:
    from datasets import Dataset, Features

ROWS = 64  # of a chunk: what an interruption may cost
_NOTES = b"notes"

Row = dict[str, Any]
NeverStops: Callable[[], bool] = lambda: False  # noqa: E731


class Maker(Protocol):
    """Makes rows of rows; pure in what it is given."""

    def features(self) -> Features:
        """The columns of what it makes."""
        ...

    def rows(
        self, rows: Sequence[Row], first: int, is_stopped: Callable[[], bool]
    ) -> tuple[list[Row], dict[str, Any]]:
        """What is made of consecutive rows, of which the first has the index `first`, and notes about it (JSON).

        It raises `Stopped` between two rows once `is_stopped()`.
        """
        ...


class Stopped(Exception):
    """Work was stopped before the end of a chunk."""


def make_rows(
    rows: Dataset,
    maker: Maker,
    key: str,
    folder: Path,
    num_workers: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[Dataset, list[dict[str, Any]]]:
    """Make all rows, or those that are not in the folder yet.

    Args:
        rows: What they are made of.
        maker: Makes them.
        key: Names all that decides on the result beside the rows: settings, versions.
        folder: Where the chunks are kept; it is created.
        num_workers: Processes.
        progress: Called with the number of rows done and of all.

    Returns:
        The rows in order, mapped from the files, and the notes of the chunks.

    Raises:
        OSError: the folder cannot be written; it is named.
        ChildProcessError: a process was killed.
    """
    import pyarrow as pa
    from datasets import Dataset, concatenate_datasets

    starts = range(0, len(rows), ROWS)
    work = _Work(rows.with_format(None), maker, key, folder)
    with _full_disk_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        paths: dict[int, Path] = {}
        for start, path in work.all(starts, num_workers):
            paths[start] = path
            if progress is not None:
                progress(min(ROWS * len(paths), len(rows)), len(rows))
    ordered = [paths[start] for start in starts]
    notes = [json.loads(_schema(path).metadata[_NOTES]) for path in ordered]
    parts = [Dataset.from_file(str(path)) for path, note in zip(ordered, notes, strict=True) if note["rows"]]
    if not parts:
        return Dataset(pa.Table.from_pylist([], maker.features().arrow_schema)), notes
    return concatenate_datasets(parts), notes


class _Work:
    """What a process needs to make a chunk."""

    def __init__(self, rows: Dataset, maker: Maker, key: str, folder: Path):
        self.rows, self.maker, self.key, self.folder = rows, maker, key, folder

    def all(self, starts: Sequence[int], num_workers: int) -> Iterator[tuple[int, Path]]:
        """Make the chunks that begin at these rows, in any order."""
        if num_workers == 1 or len(starts) == 1:
            for start in starts:
                yield start, self.chunk(start)
            return
        # Forked, so that neither the dataset nor functions of the row have to be pickled
        context = multiprocessing.get_context("fork")
        stop = context.Event()
        with ProcessPoolExecutor(
            min(num_workers, len(starts)), mp_context=context, initializer=_start, initargs=(self, stop)
        ) as pool:
            waiting = {pool.submit(_chunk, start) for start in starts}
            try:
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            except BrokenProcessPool as error:
                raise ChildProcessError(
                    f"one of the {num_workers} processes that make pairs was killed, perhaps for want of memory. Use "
                    "fewer (`num_workers`, `--num-workers`)."
                ) from error
            finally:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def chunk(self, start: int, is_stopped: Callable[[], bool] = NeverStops) -> Path:
        """The file of the chunk that begins at a row, which is made if it is not there."""
        # By index: `select` makes a fingerprint, in which `datasets` catches whatever is raised, Ctrl-C too
        rows: list[Any] = [self.rows[i] for i in range(start, min(start + ROWS, len(self.rows)))]
        content = json.dumps([self.key, start, rows], default=_plain, sort_keys=True)
        path = self.folder / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.arrow"
        if not path.is_file():
            made, notes = self.maker.rows(rows, start, is_stopped)
            _write(path, made, notes, self.maker.features())
        return path


_work: tuple[_Work, Any] | None = None


def _start(work: _Work, stop: Any) -> None:
    """Begin a worker process: Ctrl-C is met by the process that started it."""
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _work = work, stop


def _chunk(start: int) -> tuple[int, Path]:
    assert _work is not None
    work, stop = _work
    return start, work.chunk(start, stop.is_set)


def _plain(value: Any) -> str:
    """A value that JSON does not know (bytes, times, pictures) as text that stands for its content."""
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else repr(value)


def _write(path: Path, rows: list[Row], notes: dict[str, Any], features: Features) -> None:
    """Write a file whole or not at all."""
    import pyarrow as pa

    schema = features.arrow_schema
    noted = json.dumps({**notes, "rows": len(rows)}, ensure_ascii=False).encode()
    schema = schema.with_metadata({**(schema.metadata or {}), _NOTES: noted})
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows, schema))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _schema(path: Path) -> Any:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        return reader.schema


@contextlib.contextmanager
def _full_disk_named(folder: Path) -> Iterator[None]:
    try:
        yield
    except ChildProcessError:
        raise
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(
            error.errno,
            f"{folder} cannot be written ({error.strerror}). Free some space there, or write elsewhere; what is made "
            "is kept",
        ) from error
