"""A time limit for data loader workers, and words for how they end: stopped, hung, or killed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from ..data.rows import Reading


STATES = {"T": "stopped", "t": "stopped", "D": "waits for a disk or a network", "Z": "dead"}


class DataTimeout(RuntimeError):
    """No batch came from the data loader workers in time."""


class WorkerDied(RuntimeError):
    """A data loader worker has ended, or was killed."""


def with_deadline(loader: Any, seconds: float) -> Any:
    """The data loader itself, which stops waiting for its workers after some seconds and says what they were reading.

    Args:
        loader: A `DataLoader`, perhaps prepared by accelerate. Without workers it is left as it is.
        seconds: Longest wait for one batch; 0 is no limit.
    """
    base: DataLoader = getattr(loader, "base_dataloader", loader)
    if not (isinstance(base, DataLoader) and base.num_workers and seconds) or base.timeout:
        return loader
    base.timeout = seconds  # also for the copy that the host makes of a loader to skip batches when it resumes
    reading = Reading(base.num_workers) if hasattr(base.dataset, "reading") else None
    if reading is not None:
        base.dataset.reading = reading  # pyright: ignore[reportAttributeAccessIssue]
    new_iterator = base._get_iterator  # the one place where torch makes its iterators, also those it keeps

    def iterator_with_deadline() -> Any:
        # Half of it, twice: a job that is suspended and goes on has waited long without a fault of its workers
        base.timeout = seconds / 2
        try:
            return _WithDeadline(new_iterator(), seconds, reading)
        finally:
            base.timeout = seconds

    base._get_iterator = iterator_with_deadline  # pyright: ignore[reportAttributeAccessIssue]
    return loader


class _WithDeadline:
    """The iterator of a data loader whose time limit has words."""

    def __init__(self, iterator: Any, seconds: float, reading: Reading | None):
        self._iterator, self._seconds, self._reading = iterator, seconds, reading

    def __iter__(self) -> "_WithDeadline":
        return self

    def __len__(self) -> int:
        return len(self._iterator)

    def __next__(self) -> Any:
        try:
            return next(self._iterator)
        except RuntimeError as error:
            if not _is_timeout(error):
                raise
        try:
            return next(self._iterator)
        except RuntimeError as error:
            if not _is_timeout(error):
                raise
            raise self._explained() from error

    def _explained(self) -> DataTimeout:
        workers = self._iterator._workers
        found = [f"worker {i} (pid {worker.pid}{_state(worker.pid)})" for i, worker in enumerate(workers)]
        if self._reading is not None:
            found = [f"{each} {self._reading.describe(i)}" for i, each in enumerate(found)]
        # Torch asks them to end, which one that is stopped does not hear: its parent would wait for it at its own end
        self._iterator._shutdown_workers()
        for worker in workers:
            worker.kill()
        return DataTimeout(
            f"No batch came from the data loader for {self._seconds:g} s (`data_timeout`): {'; '.join(found)}. Look "
            "at these rows and the disk or network that they come from, then resume from the last checkpoint. Where "
            "rows do take that long, raise `data_timeout`; 0 waits for ever."
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)


def _is_timeout(error: RuntimeError) -> bool:
    return str(error).startswith("DataLoader timed out")


def _state(pid: int) -> str:
    """What a process does, where the system says it in a word."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
    return f", {STATES[letter]}" if letter in STATES else ""


@contextmanager
def saying_why_workers_die() -> Iterator[None]:
    """A context in which the death of a data loader worker, which torch raises wherever the training is, is explained.

    Raises:
        WorkerDied, DataTimeout: in place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if _is_timeout(error):
            raise DataTimeout(
                f"No batch came from the data loader in time: {error} (`data_timeout`). Look at the disk or network "
                "that the rows come from, then resume from the last checkpoint. Where rows do take that long, raise "
                "`data_timeout`; 0 waits for ever."
            ) from error
        if isinstance(error, WorkerDied) or not str(error).startswith("DataLoader worker (pid"):
            raise
        raise WorkerDied(
            f"{str(error).strip().rstrip('.')}. A worker that is killed had, as a rule, no memory left (`dmesg` says "
            "so): lower `dataloader_num_workers` or `dataloader_prefetch_factor`, or scale the images down; then "
            "resume from the last checkpoint."
        ) from error
