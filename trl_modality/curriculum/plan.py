"""The plan: which rows a step trains on and in which view, as a function of the step.

A *slot* is a place in a global batch. A share s marks slot i when floor(s·(i+1)) > floor(s·i): any n slots in a row
hold s·n ± 1 marked ones, and no state is stored, so any rank, worker or later run finds the same. Where the share
changes from step to step, s·i is replaced by the sum of the shares of all slots before slot i.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .schedule import Mix


class Size(NamedTuple):
    """The length of an epoch."""

    slots: int
    replay: int
    """Slots that are replay."""
    rows: int
    """Rows of the dataset; with `dataloader_drop_last` the last ones get no slot."""


@dataclass(frozen=True)
class StepPlan:
    """The slots of one step.

    Args:
        mix: The schedule's value for the step.
        first_row, first_replay: How many rows (replay rows) all earlier steps have used.
        is_replay: `[n]`, whether a slot is replay; n is the global batch, or less at the end of an epoch.
        text_rich, vision_centric: `[n]`, whether a pair in that slot has a cross-entropy in the view.
    """

    mix: Mix
    first_row: int
    first_replay: int
    is_replay: np.ndarray
    text_rich: np.ndarray
    vision_centric: np.ndarray

    def __len__(self) -> int:
        return len(self.is_replay)

    @property
    def n_replay(self) -> int:
        return int(self.is_replay.sum())


class Plan:
    """Which slots of every step are replay, and in which views the other slots learn.

    Args:
        mix_at: The mix of a step; called once for each step, in order.
        batch: Slots of a global batch, over all ranks and accumulation steps.
        replay_ratio: Share of the slots that are replay, where the mix does not change it.
        size: The length of an epoch, whose last batch is smaller where the rows end. `None`: all batches are whole,
            and a batch may hold the last rows of one epoch and the first of the next.

    Raises:
        ValueError: a share of replay of 1 or more.
    """

    def __init__(
        self, mix_at: Callable[[int], Mix], *, batch: int, replay_ratio: float = 0.0, size: Size | None = None
    ):
        self._mix_at, self._batch, self._replay_ratio = mix_at, batch, replay_ratio
        self.size = size
        self._mixes: list[Mix] = []
        self._rows = [0]  # before each step
        # Sums of shares before each step: of replay among the slots, of the rows learnt in the text_rich view alone,
        # and among the other rows of those learnt in the vision_centric view alone. A slot is marked where one rises
        # past a whole number.
        self._replay, self._text_alone, self._vision_alone = [0.0], [0.0], [0.0]

    @property
    def steps_per_epoch(self) -> int | None:
        """Steps of an epoch; `None` where it has no length."""
        return None if self.size is None else self._steps_of(self.size)

    def _steps_of(self, size: Size) -> int:
        return -(-size.slots // self._batch)

    def step(self, step: int) -> StepPlan:
        """The slots of a step, counted from 0 over all epochs."""
        mix = self.mix(step)
        replayed = self._replayed(step)
        is_replay = np.diff(replayed) > 0
        text_rich, vision_centric = np.zeros_like(is_replay), np.zeros_like(is_replay)
        text_rich[~is_replay], vision_centric[~is_replay] = self._views(step)
        return StepPlan(mix, self._rows[step], int(replayed[0]), is_replay, text_rich, vision_centric)

    def mix(self, step: int) -> Mix:
        """The mix of a step."""
        while len(self._mixes) <= step:
            self._append()
        return self._mixes[step]

    def rows_before(self, step: int) -> int:
        """Rows of an epoch before its step of that number; an estimate where the epoch has no length."""
        slots = step * self._batch
        if self.size is None:
            return round(slots * (1.0 - self._replay_ratio))
        slots = min(slots, self.size.slots)
        return slots - slots * self.size.replay // self.size.slots

    def _append(self) -> None:
        step = len(self._mixes)
        mix = self._mix_at(step)
        if self._replay_ratio * mix.replay >= 1.0:
            raise ValueError(
                f"`replay_ratio`={self._replay_ratio} times the schedule's {mix.replay} is 1 or more at step {step}: "
                "no slot is left for the rows of the dataset. Lower one of them."
            )
        self._mixes.append(mix)
        slots = self.n_slots(step)
        self._replay.append(self._replay[-1] + slots * self._replay_ratio * mix.replay)
        rows = slots - (self._replay_before(step + 1) - self._replay_before(step))
        self._rows.append(self._rows[-1] + rows)
        if self.size is not None and (step + 1) % self._steps_of(self.size) == 0:
            self._rows[-1] = (step + 1) // self._steps_of(self.size) * self.size.rows
        self._text_alone.append(self._text_alone[-1] + rows * (1.0 - mix.vision_centric))
        others = rows - (math.floor(self._text_alone[-1]) - math.floor(self._text_alone[-2]))
        if mix.text_rich + mix.vision_centric <= 1.0 + 1e-9:
            share = 1.0  # a quotient would be a rounding below
        else:
            share = (1.0 - mix.text_rich) / mix.vision_centric
        self._vision_alone.append(self._vision_alone[-1] + others * share)

    def n_slots(self, step: int) -> int:
        """How many slots a step has."""
        if self.size is None:
            return self._batch
        done = step % self._steps_of(self.size) * self._batch
        return min(self._batch, self.size.slots - done)

    def _replay_before(self, step: int) -> int:
        """Replay rows before a step."""
        if self.size is None:
            return math.floor(self._replay[step])
        # Whole numbers, however long the run: an epoch has its rows, not one more or less
        epoch, place = divmod(step, self._steps_of(self.size))
        return epoch * self.size.replay + place * self._batch * self.size.replay // self.size.slots

    def _replayed(self, step: int) -> np.ndarray:
        """Replay rows before each slot of the step, and after its last slot, `[n + 1]`."""
        slots = np.arange(self.n_slots(step) + 1)
        if self.size is None:
            return _floors(self._replay[step], self._replay[step + 1], slots)
        place = step % self._steps_of(self.size) * self._batch
        rest = place * self.size.replay % self.size.slots
        return self._replay_before(step) + (rest + slots * self.size.replay) // self.size.slots

    def _views(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Whether each row of a step has a cross-entropy in the text_rich and in the vision_centric view, `[rows]`."""
        n_replay = self._replay_before(step + 1) - self._replay_before(step)
        rows = np.arange(self.n_slots(step) - n_replay + 1)
        text_alone = np.diff(_floors(self._text_alone[step], self._text_alone[step + 1], rows)) > 0
        others = np.arange(int((~text_alone).sum()) + 1)
        vision_alone = np.zeros_like(text_alone)
        vision_alone[~text_alone] = (
            np.diff(_floors(self._vision_alone[step], self._vision_alone[step + 1], others)) > 0
        )
        return ~vision_alone, ~text_alone


def _floors(begin: float, end: float, places: np.ndarray) -> np.ndarray:
    """The floor of a line from `begin` to `end` at `places`; its ends are exact, since steps next to it share them."""
    floors = np.floor(begin + (end - begin) * places / max(places[-1], 1)).astype(np.int64)
    floors[0], floors[-1] = math.floor(begin), math.floor(end)
    return floors


def size_of_epoch(n_rows: int, replay_ratio: float) -> Size:
    """The slots of an epoch in which every row stands once and replay has its share, to the nearest row."""
    replay = round(n_rows * replay_ratio / (1.0 - replay_ratio))
    return Size(n_rows + replay, replay, n_rows)
