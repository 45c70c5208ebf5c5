"""A folder that a command writes all or nothing, with work in it that an interrupted command goes on from."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from .folder_lock import locked_folder
from .records import write_json


UNFINISHED = ".unfinished"
_RESULT, _MOVING, _DONE = "result", "moving.json", "done.json"


class Unfinished:
    """Work of a command on its way to the folder `out`.

    It is inside of `out`, so that both are on one disk, and `out` may be a mounted volume.
    """

    def __init__(self, out: Path):
        self.out, self._folder = out, out / UNFINISHED

    @property
    def kept(self) -> Path:
        """A folder for what an interrupted command goes on from; it is removed when all is done."""
        return self._folder

    @contextlib.contextmanager
    def result(self) -> Iterator[Path]:
        """A new folder to write the result into. At the end its files move to `out`, and the work is removed."""
        folder = self._folder / _RESULT
        shutil.rmtree(folder, ignore_errors=True)  # half a result of before
        folder.mkdir()
        yield folder
        _require_only(self.out, ())
        names = sorted(each.name for each in folder.iterdir())
        # Told first: a kill between two of the moves leaves files in `out` that are known to be ours
        write_json(self._folder / _MOVING, {"names": names})
        for name in names:
            (folder / name).rename(self.out / name)
        folder.rmdir()
        # Before the work: while the list is there, a command that goes on makes the result again of that
        (self._folder / _MOVING).replace(self._folder / _DONE)
        self.remove_work()

    @property
    def is_done(self) -> bool:
        """Whether the result is whole, and what is left of the work of no more use."""
        return (self._folder / _DONE).is_file()

    def remove_work(self) -> None:
        """Remove the work that a whole result was made of, and at last the sign that it is whole."""
        for each in self._folder.iterdir():
            # What `--restart` has moved aside may have cost much, and stays
            if not each.name.startswith("_in_use") and ".before-" not in each.name and each.name != _DONE:
                each.unlink()
        (self._folder / _DONE).unlink()

    def undo_moves(self) -> None:
        """Remove what a command that was killed while its result moved has left in `out`."""
        moving = self._folder / _MOVING
        if moving.is_file():
            for name in json.loads(moving.read_text(encoding="utf-8"))["names"]:
                path = self.out / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            moving.unlink()


@contextlib.contextmanager
def unfinished_folder(out: Path, doing: str) -> Iterator[Unfinished]:
    """A context with the unfinished work of `out`: new, or as an interrupted command has left it.

    After an error or an interruption `out` has the folder `.unfinished` and nothing else; where that is empty, `out`
    is as it was before.

    Args:
        out: The folder to write; empty, not there, or with unfinished work.
        doing: What is done, for the message that another command sees that wants the same folder.

    Raises:
        FileExistsError: the folder has something else in it.
        FolderInUseError: another command works on it.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; write elsewhere.")
    existed, work = out.exists(), Unfinished(out)
    if not (work.kept / _MOVING).is_file():
        if work.is_done:  # a command was killed before it had removed its work
            with locked_folder(work.kept, doing, "OUT"):
                work.remove_work()
            _remove_if_empty(work.kept)
        _require_only(out, ())
    try:
        with locked_folder(work.kept, doing, "OUT"):
            work.undo_moves()
            _require_only(out, ())
            yield work
    finally:
        _remove_if_empty(work.kept)
        if not existed:
            with contextlib.suppress(OSError):  # there is work, or a result
                out.rmdir()


def _require_only(out: Path, names: tuple[str, ...]) -> None:
    """Raise `FileExistsError` where the folder has more than these names and unfinished work."""
    others = (
        sorted(each.name for each in out.iterdir() if each.name not in (UNFINISHED, *names)) if out.exists() else []
    )
    if others:
        raise FileExistsError(f"{out} is not an empty folder: it has {others[0]}. Remove it or write elsewhere.")


def _remove_if_empty(folder: Path) -> None:
    """Remove a folder in which there is nothing but the files of its lock."""
    if folder.is_dir() and all(each.name.startswith("_in_use") for each in folder.iterdir()):
        shutil.rmtree(folder, ignore_errors=True)
