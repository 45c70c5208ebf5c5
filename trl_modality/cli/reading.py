"""Options of the commands that read files in the forms that people have data in."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from ..data.importers.drafts import TURNS
from ..data.importers.formats import FORMATS, NAMES
from ..data.importers.read import AUTO, ReadOptions


DATASET_HELP = "a folder, a file (JSON, JSON lines, CSV, Parquet), or an id on the hub"
SPLIT_HELP = "by default `train`, or the only one; also a slice, such as `test[:800]`"
FORMAT_HELP = f"form of a file: {', '.join(FORMATS)}; by default it is recognised"
ROOT_HELP = "folder or folders below which the images of a file are (default: that of the file)"
TURNS_HELP = (
    f"of conversations with several answers ({', '.join(TURNS)}): each answer is a row (default), the last alone is "
    "learnt, or all are in one row"
)
COLUMNS_HELP = f"what a file calls its fields: {', '.join(NAMES)}; with `facts=FIELD` rows become pairs"
HOW_PAIRS_ARE_MADE = (
    "`--columns facts=FIELD` makes pairs of a file that has the facts of its pictures in words, "
    "`trl_modality.data.make_pairs` of columns, `trl-modality data transcribe` of pictures and questions alone"
)
SKIP_BAD_HELP = "leave out records that cannot become rows, and say how many and why"
SKIP_HELP = "leave out records whose images are not there, and say how many"


def add_reading_options(parser: argparse._ActionsContainer, *, with_format: bool = True) -> None:
    """Add the options about files to a parser."""
    if with_format:
        parser.add_argument("--format", default=AUTO, metavar="FORM", help=FORMAT_HELP)
    parser.add_argument("--image-root", nargs="+", metavar="DIR", help=ROOT_HELP)
    parser.add_argument("--turns", default="each", metavar="WHICH", help=TURNS_HELP)
    parser.add_argument("--columns", nargs="+", default=[], metavar="OURS=FIELD", help=COLUMNS_HELP)
    parser.add_argument("--skip-missing", action="store_true", help=SKIP_HELP)
    parser.add_argument("--skip-bad", action="store_true", help=SKIP_BAD_HELP)


def reading_options(args: argparse.Namespace, form: str | None = None) -> ReadOptions:
    """The options of parsed words.

    Raises:
        ValueError: an unknown form or field, or a word that is no `OURS=FIELD`.
    """
    return ReadOptions(
        form or args.format,
        args.image_root,
        args.turns,
        parse_columns(args.columns),
        args.skip_missing,
        args.skip_bad,
    )


def parse_columns(words: str | Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """`["question=Q", "facts=table"]` as a dict; a recipe may have it as one, or as a single word.

    Raises:
        ValueError: a word is of another form.
    """
    if isinstance(words, Mapping):
        return {str(name): str(field) for name, field in words.items()}
    words = [words] if isinstance(words, str) else words
    pairs = [word.partition("=") for word in words]
    if wrong := next((word for word, (name, equals, field) in zip(words, pairs, strict=True) if not field), None):
        raise ValueError(f"`--columns`: {wrong!r} is no OURS=FIELD, such as question=Question.")
    return {name: field for name, _, field in pairs}


def say(line: str) -> None:
    """Print what was read to the error stream, of several processes once."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(line, file=sys.stderr)
