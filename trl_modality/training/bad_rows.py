"""What a run does about bad rows (`bad_rows`): where they are listed, and how many it may leave out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers.utils import logging

from ..collation.layout import ViewLayout
from ..data.quarantine import QUARANTINE_FILE, Quarantine, allowed_bad_rows
from ..data.rows import PairRows
from ..views import PairError


logger = logging.get_logger(__name__)


class TooManyBadRows(ValueError):
    """More rows are bad than `bad_rows_limit` allows."""


def quarantine_of(args: Any) -> Quarantine | None:
    """The list that bad rows of a run go to; `None` where they stop it."""
    return Quarantine(Path(args.output_dir) / QUARANTINE_FILE) if args.bad_rows == "skip" else None


def evaluated_rows(dataset: Dataset, args: Any) -> PairRows:
    """The rows of a dataset that is evaluated, undecoded and with a name for messages."""
    return PairRows(dataset, "eval_dataset", keeps_errors=args.bad_rows == "skip")


class BadRowBudget:
    """Counts the bad rows of a run, and ends it where they are too many.

    Args:
        args: The config.
    """

    def __init__(self, args: Any):
        self._args, self._n_rows, self._n_bad = args, 0, 0

    def counts(self) -> list[int]:
        """The bad rows and all rows of this process so far; a run that goes on takes them over with `load`."""
        return [self._n_bad, self._n_rows]

    def load(self, counts: Sequence[Sequence[int]], rank: int, ranks: int) -> None:
        """Go on from the `counts` of each process of a checkpoint; other numbers of processes share their sum."""
        mine = counts[rank] if len(counts) == ranks else [-(-sum(each) // ranks) for each in zip(*counts, strict=True)]
        self._n_bad, self._n_rows = mine

    def add(self, layout: ViewLayout) -> None:
        """Add a micro-batch.

        Raises:
            TooManyBadRows: with it, more rows were bad than `bad_rows_limit` allows.
        """
        self._n_bad += layout.bad_rows
        self._n_rows += layout.bad_rows + len({i for examples in layout.examples.values() for i in examples})
        limit = self._args.bad_rows_limit
        if layout.bad_rows and self._n_bad > allowed_bad_rows(limit, self._n_rows):
            path = str(Path(self._args.output_dir) / QUARANTINE_FILE)
            raise TooManyBadRows(
                f"{self._n_bad} of the {self._n_rows} rows that this process has trained on are bad, more than "
                f"`bad_rows_limit`={limit:g} allows. They are listed in {path!r}: mend or remove them, or raise the "
                "limit; then resume from the last checkpoint."
            )


def report_bad_rows(found: Sequence[PairError], n_checked: int, name: str, limit: float) -> None:
    """Warn of the bad rows among those of a dataset that were checked before the first step.

    Raises:
        TooManyBadRows: all of them are bad, or more than the limit allows.
    """
    if not found:
        return
    message = f"{len(found)} of the {n_checked} rows of `{name}` that were checked are bad. The first: {found[0]}"
    if len(found) == n_checked > 1 or len(found) > allowed_bad_rows(limit, n_checked):
        raise TooManyBadRows(f"{message} They are more than `bad_rows_limit`={limit:g} allows.")
    logger.warning(f"{message} They are left out (`bad_rows='skip'`).")
