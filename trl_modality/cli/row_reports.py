"""Put rows of a dataset through the collator of a training run, and collect lengths and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..collation.collator import PairedCollator
from ..collation.teacher_view import TEACHER_BATCH
from ..data.likeness import Likeness
from ..data.rows import PairRows
from ..views import PairError, View, describe_row, is_pair, validate_pair


BATCH = 8  # rows collated at once, whose pixels are in memory


@dataclass
class Inspection:
    """Findings about the rows of a dataset. Lists of counts have an entry per good row or pair, in dataset order."""

    rows: int = 0
    errors: list[str] = field(default_factory=list)
    """Messages about bad rows, with the row, the field and the remedy."""
    too_long: list[str] = field(default_factory=list)
    """Messages about rows that are longer than the run allows."""
    combinations: list[str] = field(default_factory=list)
    """Messages about batches that fail although each of their rows passes alone."""
    tokens: dict[str, list[int]] = field(default_factory=dict)
    """Tokens of each row, by view."""
    completions: list[int] = field(default_factory=list)
    """Supervised tokens of each row; a pair counts once."""
    image_tokens: list[int] = field(default_factory=list)
    """Image tokens of each row of each view."""
    longest: list[int] = field(default_factory=list)
    """Tokens of the longest view of a pair, a teacher's too, or of the row."""
    pair_tokens: list[int] = field(default_factory=list)
    """Tokens of both views of a pair together."""
    prefixes: list[int] = field(default_factory=list)
    """Length of the common prefix of a pair's views, as in `ViewLayout.prefixes`."""
    not_shared: list[str] = field(default_factory=list)
    """For each pair, why its common prefix does not contain the image; '' if it does."""
    likeness: Likeness = field(default_factory=Likeness)
    """How alike the views of the good pairs are."""

    def add(self, other: Inspection) -> None:
        """Append the findings about later rows."""
        self.rows += other.rows
        self.likeness.add(other.likeness)
        for view, lengths in other.tokens.items():
            self.tokens.setdefault(view, []).extend(lengths)
        for name in ("errors", "too_long", "combinations", "completions", "image_tokens", "longest"):
            getattr(self, name).extend(getattr(other, name))
        for name in ("pair_tokens", "prefixes", "not_shared"):
            getattr(self, name).extend(getattr(other, name))


def inspect_rows(
    dataset: Dataset,
    collate: PairedCollator,
    limited: PairedCollator | None = None,
    count: int | None = None,
    num_workers: int = 0,
) -> Inspection:
    """Collate rows in small batches, and the rows of a batch that fails one by one.

    Args:
        dataset: Pairs, perhaps with plain rows among them.
        collate: A collator without `max_length`, so that the length of every row is known.
        limited: The collator of the run. A row above its `max_length` is bad if this collator raises.
        count: Number of rows to check, spread evenly over the dataset; by default all.
        num_workers: Processes beside this one.
    """
    if count is not None and count < 1:
        raise ValueError(f"`--rows` must be at least 1, got {count}.")
    total = len(dataset) if count is None else min(count, len(dataset))
    chunks = _Chunks(PairRows(dataset), total, collate, limited)
    loader = DataLoader(chunks, batch_size=None, num_workers=num_workers)  # pyright: ignore[reportArgumentType]
    found = Inspection()
    with tqdm(total=total, desc="Checking", disable=None) as progress:
        for each in loader:
            found.add(each)
            progress.update(each.rows)
    return found


class _Chunks:
    """A map-style dataset for a `DataLoader`: item i is the `Inspection` of batch i of the rows."""

    def __init__(self, rows: PairRows, total: int, collate: PairedCollator, limited: PairedCollator | None):
        self._rows, self._total = rows, total
        self._collate, self._limited = collate, limited

    def __len__(self) -> int:
        return -(-self._total // BATCH)

    def __getitem__(self, index: int) -> Inspection:
        if not 0 <= index < len(self):
            raise IndexError(index)
        positions = range(index * BATCH, min((index + 1) * BATCH, self._total))
        rows = [self._rows[position * len(self._rows) // self._total] for position in positions]
        return inspect_batch(rows, self._collate, self._limited)


def inspect_batch(
    rows: Sequence[Mapping[str, Any]], collate: PairedCollator, limited: PairedCollator | None = None
) -> Inspection:
    """Inspect some rows: collate them at once or, if that fails, one by one."""
    found = Inspection(rows=len(rows))
    good = []
    for row in rows:
        try:
            # Reports a bad row before any image is decoded
            if is_pair(row):
                validate_pair(row, describe_row(row), getattr(collate.processor, "image_token", None))
            good.append(row)
        except PairError as error:
            found.errors.append(str(error))
    if not good:
        return found
    try:
        batch = collate(good)
    except Exception as error:
        return _one_by_one(found, good, collate, limited, error)
    _read_batch(found, good, batch, collate, limited)
    return found


def _one_by_one(
    found: Inspection,
    rows: Sequence[Mapping[str, Any]],
    collate: PairedCollator,
    limited: PairedCollator | None,
    error: Exception,
) -> Inspection:
    if len(rows) == 1:
        name = describe_row(rows[0])
        is_named = isinstance(error, PairError)
        found.errors.append(str(error) if is_named else f"{name}: cannot be collated ({_describe_error(error)}).")
        return found
    n_errors = len(found.errors)
    for row in rows:
        alone = inspect_batch([row], collate, limited)
        alone.rows = 0
        found.add(alone)
    if len(found.errors) == n_errors:
        found.combinations.append(f"{describe_row(rows[0])} to {describe_row(rows[-1])} ({_describe_error(error)})")
    return found


def _read_batch(
    found: Inspection,
    rows: Sequence[Mapping[str, Any]],
    batch: Mapping[str, Any],
    collate: PairedCollator,
    limited: PairedCollator | None,
) -> None:
    """Add the counts of a batch to `found`, and put rows that are too long through the collator of the run."""
    for row in filter(is_pair, rows):
        found.likeness.count(row)
    layout = batch["view_layout"]
    ids, labels = batch["input_ids"], batch["labels"]
    is_image = torch.isin(ids, ids.new_tensor(collate.image_token_ids))
    image_counts = is_image.sum(1).tolist()
    longest, learnt, first_image = [0] * len(rows), [0] * len(rows), {}
    both: dict[int, int] = {}
    for view, span in layout.spans().items():
        for r, example, length in zip(
            range(span.start, span.stop), layout.examples[view], layout.lengths[view], strict=True
        ):
            found.tokens.setdefault(view.value, []).append(length)
            longest[example] = max(longest[example], length)
            learnt[example] = int((labels[r] != -100).sum())
            found.image_tokens.append(image_counts[r])
            if view is not View.PLAIN:
                both[example] = both.get(example, 0) + length
                first_image.setdefault(example, int(is_image[r].int().argmax()) if image_counts[r] else None)
    if TEACHER_BATCH in batch:
        seen, taught = batch[TEACHER_BATCH]["view_layout"], batch[TEACHER_BATCH]["input_ids"]
        found.image_tokens += torch.isin(taught, ids.new_tensor(collate.image_token_ids)).sum(1).tolist()
        for example, length in zip(seen.examples[View.TEXT_RICH], seen.lengths[View.TEXT_RICH], strict=True):
            found.tokens.setdefault(f"teacher ({collate.teacher_view})", []).append(length)
            longest[example] = max(longest[example], length)
    for place, (example, prefix) in enumerate(
        zip(layout.examples.get(View.TEXT_RICH, ()), layout.prefixes, strict=True)
    ):
        found.pair_tokens.append(both[example])
        found.prefixes.append(prefix)
        image = first_image[example]
        differs = "differ before their image" if image is not None and prefix <= image else ""
        if place >= layout.sharing_pairs:
            differs = "show different images" if image is not None else "show their image in one view alone"
        found.not_shared.append(differs)
    found.longest.extend(longest)
    found.completions.extend(learnt)
    if limited is None or limited.max_length is None or limited.overlong == "drop":
        return
    for row, length in zip(rows, longest, strict=True):
        if length > limited.max_length:
            try:
                limited([row])
            except PairError as error:
                found.too_long.append(str(error))


def _describe_error(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
