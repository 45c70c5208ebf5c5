"""Working on items in batches, spread over the processes of a run, with results kept in a file and continued."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from .records import Journal


Item = TypeVar("Item")
Record = dict[str, Any]


def cut(groups: Sequence[str], batch_size: int) -> list[list[int]]:
    """Cut items into batches of one group each; a batch is the positions of its items.

    Groups come in the order of their first item, `groups` has the group of each item.
    """
    by_group: dict[str, list[int]] = {}
    for position, group in enumerate(groups):
        by_group.setdefault(group, []).append(position)
    return [
        positions[start : start + batch_size]
        for positions in by_group.values()
        for start in range(0, len(positions), batch_size)
    ]


def in_batches(
    items: Sequence[Item],
    keys: Sequence[str],
    groups: Sequence[str],
    work: Callable[[list[Item]], list[Record]],
    *,
    batch_size: int,
    file: str | os.PathLike | None,
    settings: Mapping[str, Any],
    title: str,
    show_progress: bool = True,
    asks_together: bool = False,
    any_order: bool = False,
    restart: bool = False,
    on_resume: Callable[[Sequence[Record]], object] = len,
) -> list[Record]:
    """Call `work` on every batch of items, and return one record for each item.

    The batches depend on the items and `batch_size` alone, not on the number of processes or on where a run was
    interrupted, since padding changes floating point. With several processes each works on one batch of the same group
    at a time; all get all records, the first one writes them. But with `any_order`, all call `work` equally often.

    Args:
        items: The items to work on.
        keys: A unique key for each item; its record has it as `key`.
        groups: The group of each item; a batch holds items of one group only.
        work: Returns the records of a batch, in order.
        batch_size: Items in a batch.
        file: JSONL file for the records, written batch by batch; an interrupted one is continued. `None`: no file.
        settings: What the records depend on; a file with other settings is refused.
        title: Title of the progress bar.
        show_progress: Draw the progress bar.
        asks_together: The processes hold one model among them (tensor parallelism): all work on the same batch.
        any_order: No record depends on its batch: parts are kept too, as those of an error that has `records`.
        restart: Where the file has records of other settings, move it aside and begin a new one.
        on_resume: Called with the records that the file has already.

    Returns:
        The records in the order of the items.

    Raises:
        ValueError: there are no items, two items have the same key, or the file has records of other settings.
        Interrupted: by Ctrl-C; what is done is in the file, and the message says how much.
    """
    _check(keys, batch_size)
    processes, journal = Processes(), Journal(file, settings, restart)
    batches = cut(groups, batch_size)
    found = processes.from_first(lambda: journal.resume([[keys[i] for i in batch] for batch in batches], any_order))
    have = {record["key"]: record for record in found}
    on_resume(found)
    left = [rest for batch in batches if (rest := [i for i in batch if keys[i] not in have])]
    steps = _rounds(left, groups, 1 if asks_together else processes.count)
    is_shown, may_rest = show_progress and processes.rank == 0, any_order and not asks_together
    with _kept(journal, have, len(items), processes.rank), _bar(title, keys, have, is_shown) as progress:
        for records in _made(work, items, steps, processes, may_rest):
            if processes.rank == 0:
                journal.add(records)
            have |= {record["key"]: record for record in records}
            progress.update(len(records))
    return [have[key] for key in keys]


def _bar(title: str, keys: Sequence[str], have: Mapping[str, Record], is_shown: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=len(keys), initial=len(have), desc=title, unit="row", disable=not is_shown)


def _made(
    work: Callable[[list[Item]], list[Record]],
    items: Sequence[Item],
    steps: Iterable[list[list[int]]],
    processes: Processes,
    may_rest: bool,
) -> Iterator[list[Record]]:
    """The records of every batch, each batch made by one process and given to all."""
    for step in steps:
        own = step[min(processes.rank, len(step) - 1)]
        if may_rest and processes.rank >= len(step):
            own = []  # asking it again would cost again
        yield from processes.gather(lambda own=own: work([items[i] for i in own]) if own else [])[: len(step)]


class Interrupted(KeyboardInterrupt):
    """An evaluation was interrupted; the message says how much is done, where it is kept, and how to go on."""


@contextlib.contextmanager
def _kept(journal: Journal, have: dict[str, Record], total: int, rank: int) -> Iterator[None]:
    """A context that writes what an error has in its `records`, and puts an interruption into words."""
    try:
        yield
    except BaseException as error:
        made = getattr(error, "records", [])
        if rank == 0:
            journal.add(made)
        if not isinstance(error, KeyboardInterrupt):
            raise
        count = f"{len(have) + len(made):,} of {total:,} are done"
        if journal.path is None:
            where = "nothing is kept, since no folder was given for the results"
        else:
            where = f"they are kept in {journal.path}, and the same call goes on from there"
        raise Interrupted(f"interrupted: {count}; {where}") from error


def _check(keys: Sequence[str], batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if not keys:
        raise ValueError("there is nothing to ask: not a single question.")
    if len(set(keys)) < len(keys):
        repeated = next(key for place, key in enumerate(keys) if key in keys[:place])
        raise ValueError(f"two questions have the key {repeated!r}; each needs one of its own.")


def _rounds(batches: Sequence[list[int]], groups: Sequence[str], count: int) -> Iterator[list[list[int]]]:
    """Batches that processes work on at the same time: up to `count` consecutive batches of one group."""
    step: list[list[int]] = []
    for batch in batches:
        if step and (len(step) == count or groups[batch[0]] != groups[step[0][0]]):
            yield step
            step = []
        step.append(batch)
    if step:
        yield step


class Processes:
    """The processes of a distributed run: `rank` of this one and `count` of all; 0 and 1 without torch.distributed."""

    def __init__(self):
        # Importing torch takes seconds, which a server's client can do without: a process group exists only where
        # torch.distributed was imported already
        dist: Any = sys.modules.get("torch.distributed")
        self._dist = dist if dist is not None and dist.is_available() and dist.is_initialized() else None
        self.rank = self._dist.get_rank() if self._dist else 0
        self.count = self._dist.get_world_size() if self._dist else 1

    def gather(self, make: Callable[[], Any]) -> list[Any]:
        """Call `make` on every process and return all results, by rank; an error on one process is raised on all."""
        if self._dist is None:
            return [make()]
        try:
            own, error = make(), None
        except Exception as caught:
            own, error = None, caught
        gathered: list[Any] = [None] * self.count
        self._dist.all_gather_object(gathered, (own, error))
        for _, error in gathered:
            if error is not None:
                raise error
        return [made for made, _ in gathered]

    def from_first(self, make: Callable[[], Any]) -> Any:
        """Call `make` on the first process only and return its result on all."""
        return self.gather(lambda: make() if self.rank == 0 else None)[0]
