"""The command line `trl-modality`. A command is imported when it is called, which keeps `--help` fast."""

from __future__ import annotations

import sys
from collections.abc import Sequence
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
        0; 1 if `check` found bad rows; 2 if the command could not run.
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
        return import_module(f".{COMMANDS[words[0]].module}", __name__).main(words[1:])
    except (ValueError, OSError, ImportError) as error:
        # Errors that users can mend; any other is a bug of this package, and keeps its traceback
        print(f"trl-modality {words[0]}: {error}", file=sys.stderr)
        return 2
