"""Reading rows of a dataset as they are stored: numbered, with their images undecoded."""

import time
from multiprocessing.sharedctypes import RawArray
from typing import TYPE_CHECKING, Any

from ..images import retried
from ..views import BAD_COLUMN, DATASET_COLUMN, IMAGE_COLUMNS, INDEX_COLUMN, PairError, describe_row


if TYPE_CHECKING:
    from datasets import Dataset


class Reading:
    """Which row each worker of a data loader is reading, in memory that the processes share.

    Args:
        n_workers: Number of workers.
    """

    def __init__(self, n_workers: int):
        self._rows = RawArray("d", [-1.0] * (3 * n_workers))  # index, whether it is of the replay dataset, since when

    def begin(self, index: int, *, is_replay: bool = False) -> None:
        """Note that this process, if it is a worker, reads a row from now on."""
        from torch.utils.data import get_worker_info  # not at the top: this module stays light

        worker = get_worker_info()
        if worker is not None:
            self._rows[3 * worker.id : 3 * worker.id + 3] = [index, is_replay, time.time()]

    def describe(self, worker: int) -> str:
        """The row that a worker was the last to begin with, and when."""
        index, is_replay, since = self._rows[3 * worker : 3 * worker + 3]
        if index < 0:
            return "has read no row"
        dataset = "of the replay dataset " if is_replay else ""
        return f"began row {index:.0f} {dataset}{time.time() - since:.0f} s ago"


class PairRows:
    """A map-style dataset whose rows carry their index (`INDEX_COLUMN`) and whose images are not decoded.

    `datasets` decodes an image while it reads the row, so that a corrupt one fails where nobody knows the row. Read
    through Arrow, the image arrives as bytes or a path, and the collator decodes it with the row's name at hand.

    Args:
        rows: The dataset. One with a transform of its own (`with_transform`) is read through that transform.
        name: Of the dataset in messages; rows carry it (`DATASET_COLUMN`).
        keeps_errors: A row that cannot be read is given with its error in `BAD_COLUMN`, for a collator that leaves it
            out.

    Raises:
        PairError: reading a row fails; errors of file systems that may pass are tried again first.
    """

    def __init__(self, rows: "Dataset", name: str | None = None, *, keeps_errors: bool = False):
        self.keeps_errors = keeps_errors
        self.reading: Reading | None = None  # where a data loader with workers asks for it
        self._known = {} if name is None else {DATASET_COLUMN: name}
        self._has_transform = rows.format["type"] == "custom"
        self._rows = rows if rows.format["type"] == "custom" else rows.with_format("arrow")
        # `Image(mode=...)` is part of decoding, so it goes along
        features = {column: rows.features[column] for column in IMAGE_COLUMNS if column in rows.features}
        modes = {column: getattr(getattr(f, "feature", f), "mode", None) for column, f in features.items()}
        self._modes = {column: mode for column, mode in modes.items() if mode is not None}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.reading is not None:
            self.reading.begin(index)
        known = {**self._known, INDEX_COLUMN: index}
        try:
            row = retried(lambda: self._rows[index])
        except Exception as error:
            if not -len(self) <= index < len(self):
                raise  # the end of an iteration
            unread = self._unread(known, error)
            if self.keeps_errors:
                return {**known, BAD_COLUMN: unread}
            raise unread from error
        if not isinstance(row, dict):
            row = row.to_pylist()[0]
            for column, mode in self._modes.items():
                images = row[column] if isinstance(row[column], list) else [row[column]]
                for image in filter(None, images):
                    image["mode"] = mode
        return {**row, **known}

    def _unread(self, known: dict[str, Any], error: Exception) -> PairError:
        reason = f"{type(error).__name__}: {error}"
        if self._has_transform:
            return PairError(
                describe_row(known),
                f"the transform of the dataset raises on it ({reason}).",
                "Mend the function given to `with_transform`, or remove the row.",
            )
        files = ", ".join(repr(each["filename"]) for each in self._rows.cache_files) or "memory"
        return PairError(
            describe_row(known),
            f"it cannot be read from {files} ({reason}).",
            "Load the dataset anew: its files may be damaged, or have been removed since.",
        )
