"""Reading rows of a dataset as they are stored: undecoded and numbered; and as a plan asks for them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..views import IMAGE_COLUMNS, INDEX_COLUMN, SLOT_COLUMN, PairError, describe_row, is_pair


if TYPE_CHECKING:
    from datasets import Dataset

    from ..curriculum.sampler import Slot


class PairRows:
    """A map-style dataset whose rows carry their index and whose images are left as stored.

    `datasets` decodes an image while it reads the row, so that a corrupt one fails where nobody knows the row. Read
    through Arrow, the image arrives as bytes or a path, and the collator decodes it with the row's name at hand.

    Args:
        rows: The dataset. One with a transform of its own (`with_transform`) is read through that transform.
    """

    def __init__(self, rows: "Dataset"):
        self._rows = rows if rows.format["type"] == "custom" else rows.with_format("arrow")
        # `Image(mode=...)` is part of decoding, so it goes along
        features = {column: rows.features[column] for column in IMAGE_COLUMNS if column in rows.features}
        modes = {column: getattr(getattr(f, "feature", f), "mode", None) for column, f in features.items()}
        self._modes = {column: mode for column, mode in modes.items() if mode is not None}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._rows[index]
        if not isinstance(row, dict):
            row = row.to_pylist()[0]
            for column, mode in self._modes.items():
                images = row[column] if isinstance(row[column], list) else [row[column]]
                for image in filter(None, images):
                    image["mode"] = mode
        return {**row, INDEX_COLUMN: index}


class PlannedRows:
    """The rows that a plan's slots ask for, marked with what the plan makes of them.

    Args:
        rows, replay: The datasets; `None` where the slots bring the rows themselves, as those of a stream do.
        n_slots: Of an epoch, if it has a length.
    """

    def __init__(self, rows: PairRows | None, replay: PairRows | None, n_slots: int | None = None):
        self._rows, self._replay, self._n_slots = rows, replay, n_slots

    def __len__(self) -> int:
        if self._n_slots is None:
            raise TypeError("It has no length.")
        return self._n_slots

    def __getitem__(self, slot: "Slot") -> dict[str, Any]:
        if isinstance(slot.row, Mapping):
            row = dict(slot.row)
        else:
            stored = self._replay if slot.is_replay else self._rows
            assert stored is not None
            row = stored[slot.row]
        if slot.vision_ratio is not None and is_pair(row):
            row = at_level(row, slot.vision_ratio)
        return {**row, SLOT_COLUMN: slot._replace(row=0)}


def at_level(row: Mapping[str, Any], vision_ratio: float) -> dict[str, Any]:
    """The pair with its vision_centric view at a level: one of its `level_prompts`, which go from all facts in words
    (`vision_ratio` 0) to none (1) in equal steps.

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
