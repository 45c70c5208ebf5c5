"""`trl-modality data make|show|stats|transcribe|trace`: make, show and count datasets of pairs."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from importlib import import_module

from .data_asking import add_trace, add_transcribe


DESCRIPTION = "Make pairs, show them, count what is in them."


def main(argv: Sequence[str]) -> int:
    """Parse the words after `data` and run the subcommand."""
    parser = argparse.ArgumentParser("trl-modality data", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="make|show|stats|transcribe|trace")
    _add_make(commands)
    _add_show(commands)
    stats = commands.add_parser("stats", help="count what is in a dataset of pairs")
    _add_dataset(stats)
    add_transcribe(commands)
    add_trace(commands)
    args = parser.parse_args(argv)
    args.command_line = shlex.join(["trl-modality", "data", *argv])
    return import_module(f".data_{args.command}", __package__).run(args)


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DATASET", help="a folder, or an id on the hub")
    parser.add_argument("--split", help="by default `train`, or the only one")


def _add_make(commands: argparse._SubParsersAction) -> None:
    make = commands.add_parser("make", help="write a folder of pairs, from generators or from a real set")
    make.add_argument("out", metavar="OUT", help="folder to write; must be empty or not exist")
    source = make.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--generators", nargs="+", metavar="NAME", help="generators that make problems in turn: bar, line, ..."
    )
    source.add_argument("--from", dest="real_set", metavar="SET", help="tabmwp, geometry3k, pgps9k or mathverse")
    generated = make.add_argument_group("with --generators")
    generated.add_argument("--count", type=int, help="training pairs")
    generated.add_argument("--test-count", type=int, default=0, help="pairs of a split `test` (default 0)")
    generated.add_argument(
        "--source", default="synthetic", choices=("synthetic", "real"), help="source of the values (default synthetic)"
    )
    generated.add_argument("--seed", type=int, default=0, help="seed of the generators (default 0)")
    generated.add_argument(
        "--look", nargs="+", default=[], metavar="FIELD=VALUE", help="look of the pictures, such as image_size=448"
    )
    generated.add_argument(
        "--text-rich",
        type=_ratio,
        default=0.0,
        metavar="R",
        help="share of the facts that the text_rich view leaves to the picture (default 0)",
    )
    generated.add_argument(
        "--vision-centric",
        type=_ratio,
        default=0.75,
        metavar="R",
        help="the same for the vision_centric view (default 0.75)",
    )
    generated.add_argument("--num-workers", type=int, default=1, help="processes (default 1)")
    real = make.add_argument_group("with --from")
    real.add_argument("--folder", help="the set in its official layout")
    real.add_argument("--split", nargs="+", metavar="SPLIT", help="one or several splits of the set")
    make.add_argument(
        "--shard-mib", type=float, default=500.0, help="a file is closed once it has this many MiB (default 500)"
    )


def _add_show(commands: argparse._SubParsersAction) -> None:
    show = commands.add_parser("show", help="print rows, and draw them on a sheet")
    _add_dataset(show)
    show.add_argument("--rows", nargs="+", type=int, metavar="ROW", help="by default the first four")
    show.add_argument("--out", metavar="SHEET.png", help="write the rows as a picture")


def _ratio(text: str) -> float | str:
    """A number, or any text as the name of a level, which is checked where it is used."""
    try:
        return float(text)
    except ValueError:
        return text
