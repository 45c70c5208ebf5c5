"""The rows of a batch in groups that are collated at once."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..views import BAD_COLUMN, PAIR_VIEWS, SLOT_COLUMN, View, images_of, is_pair, lent_view, shows_same_images


Rows = Sequence[Mapping[str, Any]]


class Group(NamedTuple):
    """Rows that are collated at once, view by view."""

    positions: tuple[int, ...]
    """Of the rows in the batch."""
    views: tuple[View, ...]
    """The views in which every row of the group goes through the model."""
    row_format: str
    """How their text is given: `pair`, `completion` (`prompt` and `completion`) or `document` (`messages` or text)."""
    shares_images: bool = False
    """Whether both views of every row show the same images."""
    is_filler: bool = False
    """Whether the rows only lend their images: they are cut after the last one and have no labels."""


def groups_of(rows: Rows) -> Iterator[Group]:
    """The groups of a batch: pairs in both views first, then the others.

    A row with a slot of the plan (`SLOT_COLUMN`) goes through the model in the views of its slot, any other row in all
    views that it has. Rows that are left out (`BAD_COLUMN`) are in none.
    """
    keys: dict[tuple, list[int]] = {}
    for i, row in enumerate(rows):
        if row.get(BAD_COLUMN) is None:
            keys.setdefault(_group_key(row), []).append(i)
    # Pairs with both views come first in each of them; among those, the ones whose images stand in the batch once
    for key in sorted(keys, key=lambda key: (-len(key[0]), not key[2], key)):
        views, row_format, shares_images, lends = key
        yield Group(tuple(keys[key]), views, row_format, shares_images, is_filler=lends)


def _group_key(row: Mapping[str, Any]) -> tuple[tuple[View, ...], str, bool, bool]:
    slot, lends = row.get(SLOT_COLUMN), is_filler(row)
    views = _views_of(row)
    if is_pair(row):
        return views, "pair", len(views) > 1 and shows_same_images(row), lends
    row_format = "document" if row.get("prompt") is None else "completion"
    view = View.REPLAY if slot is not None and slot.is_replay else View.PLAIN
    return (view,), row_format, False, lends


def _views_of(row: Mapping[str, Any]) -> tuple[View, ...]:
    """The views in which a row goes through the model; a row that is no pair has its text in one of them."""
    slot = row.get(SLOT_COLUMN)
    if not is_pair(row):
        return (View.PLAIN,)
    if slot is None:
        return PAIR_VIEWS
    return slot.views or (lent_view(row) or View.TEXT_RICH,)


def shows_an_image(row: Mapping[str, Any]) -> bool:
    """Whether a row shows an image in the views in which it goes through the model."""
    return any(images_of(row, view) for view in _views_of(row))


def is_filler(row: Mapping[str, Any]) -> bool:
    """Whether a row only lends its image, and is no part of the data."""
    slot = row.get(SLOT_COLUMN)
    return slot is not None and not slot.views


def with_an_image(rows: Rows) -> Rows:
    """The rows of a batch without fillers; where none of them shows an image, with the first filler, which does."""
    own = [row for row in rows if not is_filler(row)]
    fillers = [row for row in rows if is_filler(row) and row.get(BAD_COLUMN) is None]
    if not fillers or any(shows_an_image(row) for row in own if row.get(BAD_COLUMN) is None):
        return own
    return [*own, fillers[0]]


def has_cross_entropy(row: Mapping[str, Any], view: View) -> bool:
    """Whether a row has a cross-entropy in a view."""
    slot = row.get(SLOT_COLUMN)
    if slot is None or not is_pair(row):
        return not is_filler(row)
    return view in slot.cross_entropy_views
