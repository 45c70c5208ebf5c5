"""The rows of `trl-modality data make --from FORM --file FILE`, and their card."""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .._version import __version__
from ..data.export import Card
from ..data.importers.formats import FORMATS
from ..data.importers.read import AUTO, data_files
from ..data.sources import read_files
from .reading import reading_options


if TYPE_CHECKING:
    from datasets import Dataset

SOURCES = (AUTO, *FORMATS)
UNKNOWN_LICENCE = "Not stated: that of the files that the rows were read from."


def imported(args: argparse.Namespace) -> tuple[dict[str, Dataset], Card]:
    """The rows of the files by split, and a card; what was read, and what was left out, is printed.

    Raises:
        ValueError: no file, an option of other sources, or files that cannot become rows.
    """
    if not args.file:
        raise ValueError(f"`--from {args.real_set}` needs `--file`: a file, or a folder of files.")
    if args.count is not None or args.test_count or args.look or args.folder or args.split:
        raise ValueError(
            "`--count`, `--test-count` and `--look` are for `--generators`, `--folder` and `--split` for "
            "sets; hold rows of files out with `--test-share`, or name a file `test=FILE`."
        )
    files: dict[str, list[Path]] = {}
    for word in args.file:
        for split, paths in _files_of(word).items():
            files.setdefault(split, []).extend(paths)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        print(line)

    splits = dict(read_files(files, reading_options(args, args.real_set), say))
    digests = [
        f"`{path.name}` (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]})"
        for paths in files.values()
        for path in paths
    ]
    card = Card(
        title=f"Rows of {', '.join(path.name for paths in files.values() for path in paths)}",
        origin="\n\n".join([f"Read from {', '.join(digests)}.", *_without_folders(said, files)]),
        command=args.command_line,
        version=__version__,
        licence=UNKNOWN_LICENCE if args.licence is None else f"That of the files: {args.licence}.",
        licence_id=args.licence or "unknown",
    )
    return splits, card  # pyright: ignore[reportReturnType]


def _files_of(word: str) -> dict[str, list[Path]]:
    """The files that a word names, by split: a file, a folder of files, or `split=FILE`."""
    path = Path(word)
    if path.is_dir():
        if found := data_files(path):
            return found
        raise ValueError(f"{path} has no file of JSON, JSON lines, CSV, TSV or Parquet.")
    split, equals, name = word.partition("=")
    if equals and not path.exists():
        split, path = split, Path(name)
    else:
        split = "train"
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}.")
    if not re.fullmatch(r"\w+", split):
        raise ValueError(f"`--file {word}`: {split!r} is no name for a split; write letters, numbers and '_'.")
    return {split: [path]}


def check_none_is_given(args: argparse.Namespace) -> None:
    """Refuse options of files where the rows come from somewhere else.

    Raises:
        ValueError: names the option.
    """
    given = {"image-root": args.image_root, "columns": args.columns, "skip-missing": args.skip_missing}
    given |= {"skip-bad": args.skip_bad, "turns": args.turns != "each", "licence": args.licence}
    if wrong := next((name for name, value in given.items() if value), None):
        raise ValueError(f"`--{wrong}` is for rows of a file: `--from {'|'.join(SOURCES)} --file FILE`.")


def _without_folders(said: list[str], files: dict[str, list[Path]]) -> list[str]:
    """What was said of the files, by their names alone: a card is no place for the folders of its maker."""
    for path in (path for paths in files.values() for path in paths):
        said = [line.replace(str(path), path.name) for line in said]
    return said
