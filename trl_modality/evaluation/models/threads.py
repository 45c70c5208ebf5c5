"""Calls in threads that an interruption does not wait for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar


Item = TypeVar("Item")
Result = TypeVar("Result")
_POLL = 0.2  # seconds; not every system ends a wait for a signal


def in_threads(
    work: Callable[[int, Item], Result],
    items: Sequence[Item],
    threads: int,
    done: dict[int, Result],
    stop: Any,
) -> None:
    """Call `work(position, item)` for every item, in a number of threads at once.

    An error of one call, or an interruption of this one (Ctrl-C), is raised at once: `stop.set()` is called, no
    further item is begun, and calls that go on are not waited for. Python ends without waiting for them either.

    Args:
        work: The function; it should end soon after `stop` is set.
        items: The items.
        threads: Number of threads.
        done: Results by position, filled in as they come; after an error it holds those that were there by then.
        stop: Is set where the rest is not wanted any more.
    """
    waiting = iter(range(len(items)))
    lock = threading.Lock()
    outcomes: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        while not stop.is_set():
            with lock:
                position = next(waiting, None)
            if position is None:
                return
            try:
                outcomes.put((position, work(position, items[position]), None))
            except BaseException as error:
                outcomes.put((position, None, error))
                return

    try:
        for _ in range(min(threads, len(items))):
            # A daemon: the interpreter waits at its end for every other thread, and for those of `concurrent.futures`
            threading.Thread(target=run, daemon=True).start()
        while len(done) < len(items):
            try:
                position, result, error = outcomes.get(timeout=_POLL)
            except queue.Empty:
                continue
            if error is not None:
                raise error
            done[position] = result
    finally:
        stop.set()
        while not outcomes.empty():
            position, result, error = outcomes.get_nowait()
            if error is None:
                done[position] = result
