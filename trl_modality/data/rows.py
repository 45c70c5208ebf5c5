"""Reading rows of a dataset as they are stored: numbered, with their images undecoded."""

from typing import TYPE_CHECKING, Any

from ..views import IMAGE_COLUMNS, INDEX_COLUMN


if TYPE_CHECKING:
    from datasets import Dataset


class PairRows:
    """A map-style dataset whose rows carry their index (`INDEX_COLUMN`) and whose images are not decoded.

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
