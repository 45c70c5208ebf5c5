"""A lock on a folder, so that two runs or two evaluations do not write into it at one time."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from .batches import Processes
from .records import named_errors, write_json


# Uploads to the hub leave out what begins with "_"
LOCK, HOLDER = "_in_use.lock", "_in_use.json"


class FolderInUseError(OSError):
    """A folder is written to by another process, or by another run of this one."""


@contextmanager
def locked_evaluation(folder: str | os.PathLike | None) -> Iterator[None]:
    """A context in which no other evaluation writes into the folder; `None` for one that writes nothing.

    Of several processes the first one holds it; where it cannot, the error is raised on all of them.

    Raises:
        FolderInUseError: somebody else holds it; the message says who and since when.
        OSError: the folder cannot be written to.
    """
    with ExitStack() as held:
        if folder is not None:
            lock = locked_folder(folder, "an evaluation", "folder")
            Processes().from_first(lambda: held.enter_context(lock))
        yield


@contextmanager
def locked_folder(folder: str | os.PathLike, doing: str, option: str) -> Iterator[None]:
    """A context in which nobody else holds the folder. It is created where it is missing.

    The system releases the lock when the process ends, however it ends: no lock of a killed process stays. The empty
    file of the lock stays, since removing it could let two processes lock two files of one name. File systems that
    cannot lock (some network file systems) are not protected.

    Args:
        folder: The folder.
        doing: What is done in it, for the message that another process sees: "a training run", "an evaluation".
        option: The option that names the folder, for the same message: "output_dir".

    Raises:
        FolderInUseError: somebody else holds it; the message says who and since when.
        OSError: the folder cannot be written to; it is named.
    """
    folder = Path(folder)
    with named_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    is_locked = True
    try:
        lock.acquire()
    except Timeout:
        raise FolderInUseError(
            f"{folder} is in use by {_holder(folder)}: two at a time would write over each other's files. Wait until "
            f"it ends, or give another `{option}`."
        ) from None
    except (PermissionError, FileNotFoundError) as error:
        with named_errors(folder):
            raise error
    except (OSError, NotImplementedError):  # a file system without locks
        is_locked = False
    try:
        if is_locked:
            since = datetime.now(UTC).isoformat(timespec="seconds")
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "doing": doing}
            write_json(folder / HOLDER, holder)
        yield
    finally:
        if is_locked:
            with suppress(OSError):  # the folder may have been removed meanwhile
                (folder / HOLDER).unlink(missing_ok=True)
            lock.release()


def _holder(folder: Path) -> str:
    """Who holds the lock, as far as it is known."""
    try:
        told = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"{told['doing']} (process {told['pid']} on {told['host']}, since {told['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
