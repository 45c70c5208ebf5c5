"""Orders of rows that are computed, not stored: the row at any place of an epoch, from a key."""

import math

import numpy as np


ROUNDS = 8


class Permutation:
    """A pseudo-random order of `size` rows, as a function of the place.

    A generalized Feistel network: a place is a pair of numbers below about √size, and each round adds to one of them a
    hash of the other, which can be undone, so no two places get one row. The few pairs beyond `size` are walked on
    until they fall inside (Black and Rogaway, *Ciphers with Arbitrary Finite Domains*, 2002). Nothing grows with
    `size`, so an epoch of any length starts at once, at any place.

    Args:
        size: Number of rows, 1 or more.
        seed: Of the run.
        epoch: Every epoch has an order of its own.

    Raises:
        ValueError: `size` is below 1.
    """

    def __init__(self, size: int, seed: int, epoch: int = 0):
        if size < 1:
            raise ValueError(f"`size` must be 1 or more, got {size}: there is nothing to order.")
        self.size = size
        self._width = math.isqrt(size - 1) + 1
        self._height = -(-size // self._width)
        # `SeedSequence` gives the same numbers in every version of numpy
        self._keys = np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS, np.uint64)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """The rows at some places.

        Args:
            places: Integers in [0, size), of any shape. Many at once are quicker than one by one.

        Raises:
            ValueError: a place is outside.
        """
        places = np.asarray(places)
        if places.size and not (places.min() >= 0 and places.max() < self.size):
            raise ValueError(f"places must be in [0, {self.size}), got {places.min()} to {places.max()}.")
        rows = self._shuffled(places.astype(np.uint64).reshape(-1))
        while (outside := rows >= self.size).any():
            rows[outside] = self._shuffled(rows[outside])
        return rows.astype(np.int64).reshape(places.shape)

    def _shuffled(self, places: np.ndarray) -> np.ndarray:
        """A permutation of [0, width · height)."""
        width, height = np.uint64(self._width), np.uint64(self._height)
        high, low = np.divmod(places, width)
        for r, key in enumerate(self._keys):
            if r % 2:
                high = (high + _hashed(low, key) % height) % height
            else:
                low = (low + _hashed(high, key) % width) % width
        return high * width + low


def _hashed(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """64 bits for each value: the finalizer of SplitMix64, whose overflow is meant."""
    with np.errstate(over="ignore"):
        values = (values ^ key) * np.uint64(0x9E3779B97F4A7C15) + key
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))
