"""The rows of a batch by what is collated at once, and by what the plan makes of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..views import PROMPT_COLUMN, SLOT_COLUMN, View, is_pair, shows_same_images


Rows = Sequence[Mapping[str, Any]]
PAIR_VIEWS = tuple(PROMPT_COLUMN)


class Group(NamedTuple):
    """Rows that are collated at once, view by view."""

    positions: tuple[int, ...]
    """Among the rows of the batch."""
    views: tuple[View, ...]
    """In each of which every row goes through the model."""
    form: str
    """How their text is given: `pair`, `completion` (`prompt` and `completion`) or `document`."""
    shares_images: bool = False
    """Both views of every row show the same images."""
    learns: bool = True
    """Otherwise of every row its images are left, without labels."""


def groups_of(rows: Rows) -> Iterator[Group]:
    """The groups of a batch, pairs in both views first.

    A row that the plan has marked (`SLOT_COLUMN`) goes through the model in the views that its slot says, any other in
    all that it has.
    """
    kinds: dict[tuple, list[int]] = {}
    for i, row in enumerate(rows):
        kinds.setdefault(_kind(row), []).append(i)
    # Pairs with both views stand first in each of them, those whose images stand in the batch once before others
    for kind in sorted(kinds, key=lambda kind: (-len(kind[0]), not kind[2], kind)):
        views, form, shares_images, learns = kind
        yield Group(tuple(kinds[kind]), views, form, shares_images, learns)


def _kind(row: Mapping[str, Any]) -> tuple[tuple[View, ...], str, bool, bool]:
    slot = row.get(SLOT_COLUMN)
    learns = slot is None or bool(slot.views)
    if is_pair(row):
        views = PAIR_VIEWS if slot is None else slot.views or (View.TEXT_RICH,)
        return views, "pair", len(views) > 1 and shows_same_images(row), learns
    form = "document" if row.get("prompt") is None else "completion"
    view = View.REPLAY if slot is not None and slot.is_replay else View.PLAIN
    return (view,), form, False, learns


def without_fillers(rows: Rows) -> tuple[Rows, Rows]:
    """The rows, and those that nothing is learnt from: there for their images, where the others have none."""
    is_filler = [row.get(SLOT_COLUMN) is not None and not row[SLOT_COLUMN].views for row in rows]
    learnt, fillers = (
        [row for row, fills in zip(rows, is_filler, strict=True) if fills is kind] for kind in (False, True)
    )
    return learnt, fillers


def learns_in(row: Mapping[str, Any], view: View) -> bool:
    """Whether the row has a cross-entropy in the view."""
    slot = row.get(SLOT_COLUMN)
    if slot is None or not is_pair(row):
        return slot is None or bool(slot.views)
    return view in slot.learns
