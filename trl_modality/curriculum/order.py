"""The order of the rows: which row stands at which place, counted over all epochs."""

from bisect import bisect_right
from collections.abc import Callable

import numpy as np

from .permutation import Permutation


BLOCK = 4096  # rows that are ordered at a time
GROUPED_STEPS = 50  # in how many steps rows of like length are looked for, as in transformers


class Order:
    """An endless sequence of rows, epoch after epoch, every row once in each.

    Args:
        size: Number of rows.
        seed: Of the shuffle; `None`: the rows in their own order.
        lengths: Of each row, to put rows of like length into the same step; `None`: no grouping. What is in a step is
            still random: the rows of 50 steps are sorted by length, and the steps take them in a random order.
        rows_before: With `lengths`, how many rows of an epoch stand before its step of that number.

    Raises:
        ValueError: no rows, or not one length for each row.
    """

    def __init__(
        self,
        size: int,
        seed: int | None,
        *,
        lengths: np.ndarray | None = None,
        rows_before: Callable[[int], int] = lambda step: step,
    ):
        if size < 1:
            raise ValueError(f"`size` must be 1 or more, got {size}: there is nothing to order.")
        if lengths is not None and len(lengths) != size:
            raise ValueError(f"`lengths` must have one length for each of the {size} rows, got {len(lengths)}.")
        self.size = size
        self._seed, self._lengths, self._rows_before = seed, lengths, rows_before
        self._block = (-1, range(0), np.empty(0, dtype=np.int64))  # epoch, places, rows

    def __call__(self, first: int, count: int) -> np.ndarray:
        """The rows at the places from `first` on, `[count]`."""
        pieces = []
        while count > 0:
            epoch, place = divmod(first, self.size)
            if epoch != self._block[0] or place not in self._block[1]:
                self._block = epoch, *self._block_at(epoch, place)
            _, places, block = self._block
            rows = block[place - places.start :][:count]
            pieces.append(rows)
            first, count = first + len(rows), count - len(rows)
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)

    def _block_at(self, epoch: int, place: int) -> tuple[range, np.ndarray]:
        """The places that are ordered together with one, and their rows."""
        if self._lengths is None:
            begin = place // BLOCK * BLOCK
            places = range(begin, min(begin + BLOCK, self.size))
            return places, self._shuffled(epoch, places)
        # The last step that begins at the place or before it, and the run of steps which that one is in
        step = bisect_right(range(self.size + 1), place, key=self._rows_before) - 1
        first = step // GROUPED_STEPS * GROUPED_STEPS
        begins = [min(self._rows_before(first + i), self.size) for i in range(GROUPED_STEPS + 1)]
        places = range(begins[0], begins[-1])
        rows = self._shuffled(epoch, places)
        rows = rows[np.argsort(-self._lengths[rows], kind="stable")]
        # Each step takes as many as it has room for, from the longest on, in an order of their own
        steps = np.arange(GROUPED_STEPS)
        if self._seed is not None:
            steps = np.random.default_rng([self._seed, epoch, first]).permutation(GROUPED_STEPS)
        sizes = np.diff(begins)
        taken = np.split(rows, np.cumsum(sizes[steps])[:-1])
        by_step = dict(zip(steps.tolist(), taken, strict=True))
        return places, np.concatenate([by_step[i] for i in range(GROUPED_STEPS)])

    def _shuffled(self, epoch: int, places: range) -> np.ndarray:
        rows = np.arange(places.start, places.stop)
        return rows if self._seed is None else Permutation(self.size, self._seed, epoch)(rows)
