"""The order of the rows: which row stands at a place of the endless sequence of epochs."""

import numpy as np

from .permutation import Permutation


BLOCK = 4096  # rows that are ordered at a time
GROUPED_BATCHES = 50  # in how many global batches rows of like length are looked for, as in transformers


class Order:
    """An endless sequence of rows, epoch after epoch, every row once in each.

    Args:
        size: Number of rows.
        seed: Of the shuffle; `None`: the rows in their own order.
        batch: Rows of a global batch, to group rows of like length by.
        lengths: Of each row, to put rows of like length into the same batch; `None`: no grouping. What is in a batch
            is still random: of 50 batches' rows, sorted by length, and the batches shuffled.

    Raises:
        ValueError: no rows, or not one length for each row.
    """

    def __init__(self, size: int, seed: int | None, *, batch: int = 1, lengths: np.ndarray | None = None):
        if size < 1:
            raise ValueError(f"`size` must be 1 or more, got {size}: there is nothing to order.")
        if lengths is not None and len(lengths) != size:
            raise ValueError(f"`lengths` must have one length for each of the {size} rows, got {len(lengths)}.")
        self.size = size
        self._seed, self._batch, self._lengths = seed, batch, lengths
        self._block_size = BLOCK if lengths is None else batch * GROUPED_BATCHES
        self._block = (-1, -1, np.empty(0, dtype=np.int64))

    def __call__(self, first: int, count: int) -> np.ndarray:
        """The rows at the places from `first` on, `[count]`."""
        pieces = []
        while count > 0:
            epoch, place = divmod(first, self.size)
            block, offset = divmod(place, self._block_size)
            rows = self._rows_of_block(epoch, block)[offset : offset + count]
            pieces.append(rows)
            first, count = first + len(rows), count - len(rows)
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)

    def _rows_of_block(self, epoch: int, block: int) -> np.ndarray:
        if self._block[:2] != (epoch, block):
            first = block * self._block_size
            rows = np.arange(first, min(first + self._block_size, self.size))
            if self._seed is not None:
                rows = Permutation(self.size, self._seed, epoch)(rows)
            if self._lengths is not None:
                rows = self._grouped(rows, epoch, block)
            self._block = epoch, block, rows
        return self._block[2]

    def _grouped(self, rows: np.ndarray, epoch: int, block: int) -> np.ndarray:
        assert self._lengths is not None
        rows = rows[np.argsort(-self._lengths[rows], kind="stable")]
        whole = len(rows) // self._batch
        batches = rows[: whole * self._batch].reshape(whole, self._batch)
        if whole and self._seed is not None:
            batches = batches[np.random.default_rng([self._seed, epoch, block]).permutation(whole)]
        return np.concatenate([batches.reshape(-1), rows[whole * self._batch :]])
