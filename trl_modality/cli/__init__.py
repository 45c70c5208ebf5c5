"""The command line `trl-modality`. A command is imported when it is called, which keeps `--help` fast."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import NamedTuple

from .._version import __version__


class Command(NamedTuple):
    """A command: `main(argv)` of `module` gets the words after the command's name and returns the exit code."""

    module: str
    help: str


COMMANDS = {
    "train": Command("train", "train on pairs, by a YAML recipe (`--config`) or options"),
    "data": Command("data", "make pairs, show them, count what is in them"),
    "eval": Command("eval", "measure the gap between the views of a model, and its text skill"),
    "check": Command("check", "put every row of a dataset through a model's processor, without training"),
    "report": Command("report", "write a page about runs and evaluations, with figures and a table for a model card"),
}
USAGE = "usage: trl-modality [--help] [--version] COMMAND ..."


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The words after `trl-modality`; by default those of the process.

    Returns:
        0; 1 if `check` found bad rows; 2 if the command could not run; 130 if it was interrupted (Ctrl-C), and 143 if
        it was told to end (SIGTERM).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print("\n".join([USAGE, "", "commands:", *(f"  {name:8} {c.help}" for name, c in COMMANDS.items())]))
        print("\n`trl-modality COMMAND --help` says more.")
        return 0 if words else 2
    if words[0] == "--version":
        print(f"trl-modality {__version__}")
        return 0
    if words[0] not in COMMANDS:
        print(f"{USAGE}\ntrl-modality: no command {words[0]!r}; there is {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    try:
        with _sigterm_as_interruption(words[0]):
            return import_module(f".{COMMANDS[words[0]].module}", __name__).main(words[1:])
    except KeyboardInterrupt as error:
        # `train` says itself how to go on; of the others those leave something that keep what they have in a folder
        goes_on = words[0] == "eval" and any(word.split("=")[0] == "--output" for word in words)
        goes_on = goes_on or (words[0] == "data" and words[1] in ("render", "trace", "transcribe"))
        again = f". {'Go on' if goes_on else 'Begin again'} with: {shlex.join(['trl-modality', *words])}"
        what = "" if words[0] == "train" else again
        print(f"\ntrl-modality {words[0]}: {str(error) or 'interrupted'}{what}", file=sys.stderr)
        return 143 if _chain_has(error, Ended) else 130
    except (ValueError, OSError, ImportError) as error:
        # Errors that users can mend; any other is a bug of this package, and keeps its traceback
        print(f"trl-modality {words[0]}: {error}", file=sys.stderr)
        return 2


class Ended(KeyboardInterrupt):
    """The process was told to end (SIGTERM)."""


@contextlib.contextmanager
def _sigterm_as_interruption(command: str) -> Iterator[None]:
    """A context in which SIGTERM is met as Ctrl-C is, so that what is done is kept; `train` has its own way."""
    if command == "train" or threading.current_thread() is not threading.main_thread():
        yield
        return

    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(*_: object) -> None:
    raise Ended("interrupted by SIGTERM")


def _end_at_once() -> None:
    """Give a forked process back the SIGTERM of the system, which ends it wherever it is.

    Pools end their workers by it. A handler in Python waits for the next instruction, and a worker that has just begun
    to wait for a lock has none: the pool would wait for it forever.
    """
    if signal.getsignal(signal.SIGTERM) is _end:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_end_at_once)


def _chain_has(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error is not None
