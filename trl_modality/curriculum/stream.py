"""Rows of a streamed dataset in its own order, from any place on."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from .._compat import HAS_EXACT_STREAM_STATES, has_shuffle_buffer
from ..views import DATASET_COLUMN, INDEX_COLUMN, PairError, lent_view


if TYPE_CHECKING:
    from datasets import IterableDataset


FILLER_ROWS = 1000  # among which one with an image is looked for


class StreamRows:
    """`sampler.Rows` of a streamed dataset, epoch after epoch.

    Every rank reads the whole stream and leaves out the rows of others, so that the order does not depend on the
    number of ranks. Images are not decoded here.

    Args:
        stream: The dataset; its images undecoded (`IterableDataset.decode(False)`).
        name: The name of the dataset in messages.

    Raises:
        ValueError: the stream has no rows.
    """

    def __init__(self, stream: "IterableDataset", name: str):
        self._stream, self._name = stream, name
        # A buffer of rows to shuffle is not part of a stream's state: it has to be filled again by reading
        self._keeps_state = HAS_EXACT_STREAM_STATES and not has_shuffle_buffer(stream)
        self._iterator: Iterator[Mapping[str, Any]] | None = None
        self._epoch, self._place = 0, 0

    def take(self, count: int) -> list[Mapping[str, Any]]:
        """The next rows, each with its place in the stream as `INDEX_COLUMN`; after the last row come those of the
        next epoch."""
        rows: list[Mapping[str, Any]] = []
        while len(rows) < count:
            if self._iterator is None:
                self._open()
            assert self._iterator is not None
            try:
                for row in islice(self._iterator, count - len(rows)):
                    rows.append({**row, INDEX_COLUMN: self._place, DATASET_COLUMN: self._name})
                    self._place += 1
            except Exception as error:
                raise unread_stream(self._name, self._place, error) from error
            if len(rows) < count:
                if self._place == 0:
                    again = "" if self._epoch == 0 else " when it is read again: give one that can be"
                    raise ValueError(f"`{self._name}` is a stream without rows{again}.")
                self._iterator, self._epoch, self._place = None, self._epoch + 1, 0
        return rows

    def start(self, first: int, state: Any) -> None:
        """Go to place `first` of all epochs: by `state` if given, else by reading the stream up to there."""
        self._epoch, self._place, self._iterator = 0, 0, None
        if state is not None:
            self._epoch = state["epoch"]
            self._open(state["stream"])
            self._place = state["place"]
        elif first:
            for _ in range(first // 1024):
                self.take(1024)
            self.take(first % 1024)

    def filler(self) -> Mapping[str, Any] | None:
        """The first row with an image among the first 1,000, or `None`. Reads the stream from its start."""
        self._epoch = 0
        self._open()
        place = -1
        try:
            for place, row in enumerate(islice(self._iterator or (), FILLER_ROWS)):
                if _lends_images(row):
                    return {**row, INDEX_COLUMN: place, DATASET_COLUMN: self._name}
        except Exception as error:
            raise unread_stream(self._name, place + 1, error) from error
        return None

    def state(self) -> dict[str, Any] | None:
        """The place of the stream as `start` takes it; `None` where only reading up to the place will do."""
        if not self._keeps_state or self._iterator is None:
            return None
        return {"epoch": self._epoch, "place": self._place, "stream": self._stream.state_dict()}

    def _open(self, state: dict[str, Any] | None = None) -> None:
        self._stream.set_epoch(self._epoch)
        # Once it was given a state, a stream begins there until it is given another
        self._stream.load_state_dict(state or {})
        self._iterator = iter(self._stream)


def _lends_images(row: Mapping[str, Any]) -> bool:
    try:
        return lent_view(row) is not None
    except PairError:  # it is named, or left out, when its turn comes
        return False


def unread_stream(name: str, place: int, error: Exception) -> PairError:
    """The error of a stream that raises where its row number `place` should come."""
    return PairError(
        f"`{name}` row {place}",
        f"the stream raises while it reads this row ({type(error).__name__}: {error}).",
        "Mend its source or its functions (`map`, `filter`); what comes after it cannot be read.",
    )
