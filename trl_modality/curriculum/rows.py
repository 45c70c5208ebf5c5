"""The rows that the slots of a plan ask for, read from the datasets of a run."""

from collections.abc import Mapping
from typing import Any

from ..data.rows import PairRows, Reading
from ..views import BAD_COLUMN, INDEX_COLUMN, SLOT_COLUMN, PairError, describe_row, is_pair
from .sampler import Slot


class PlannedRows:
    """A dataset whose keys are `Slot`s: gives the row of a slot, with the slot in its `SLOT_COLUMN` for the collator.

    Args:
        rows, replay: The datasets; `None` where slots bring their rows along, as those of a stream do.
        n_slots: Length of an epoch, if it has one.
        keeps_errors: As of `PairRows`.
    """

    def __init__(
        self, rows: PairRows | None, replay: PairRows | None, n_slots: int | None = None, *, keeps_errors: bool = False
    ):
        self._keeps_errors = keeps_errors
        self.reading: Reading | None = None  # where a data loader with workers asks for it
        self._rows, self._replay, self._n_slots = rows, replay, n_slots
        self._filler: tuple[int, dict[str, Any]] | None = None

    def __len__(self) -> int:
        if self._n_slots is None:
            raise TypeError("A stream has no length.")
        return self._n_slots

    def __getitem__(self, slot: Slot) -> dict[str, Any]:
        if self.reading is not None:
            index = slot.row[INDEX_COLUMN] if isinstance(slot.row, Mapping) else slot.row
            self.reading.begin(index, is_replay=slot.is_replay)
        row = self._read(slot)
        if slot.vision_ratio is not None and is_pair(row):
            try:
                row = at_level(row, slot.vision_ratio)
            except PairError as error:
                if not self._keeps_errors:
                    raise
                row[BAD_COLUMN] = error
        # The collator needs the decision, not where the row came from
        return {**row, SLOT_COLUMN: slot._replace(row=0)}

    def _read(self, slot: Slot) -> dict[str, Any]:
        if isinstance(slot.row, Mapping):
            return dict(slot.row)
        stored = self._replay if slot.is_replay else self._rows
        assert stored is not None
        if slot.views:
            return stored[slot.row]
        # Every step asks for the same filler, and hardly any uses it: it is read once
        if self._filler is None or self._filler[0] != slot.row:
            self._filler = slot.row, stored[slot.row]
        return dict(self._filler[1])


def at_level(row: Mapping[str, Any], vision_ratio: float) -> dict[str, Any]:
    """The pair with one of its `level_prompts` as its vision_centric prompt.

    Args:
        row: A pair.
        vision_ratio: From 0, the first prompt (all facts in words), to 1, the last one (none), in equal steps.

    Raises:
        PairError: the row has no `level_prompts`.
    """
    prompts = row.get("level_prompts")
    if not prompts:
        raise PairError(
            describe_row(row),
            "`level_prompts` is missing, which the `levels` curriculum takes the vision_centric prompt from.",
            "Give a list of prompts, from all facts in words to none, or choose another curriculum.",
        )
    level = min(int(vision_ratio * len(prompts)), len(prompts) - 1)
    # The prompts of all levels go with the images of the pair
    return {**row, "vision_centric_prompt": prompts[level], "vision_centric_images": None}
