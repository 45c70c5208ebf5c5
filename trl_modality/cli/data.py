"""`trl-modality data make|render|transcribe|trace|show|stats`: make, show and count datasets of pairs."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from importlib import import_module

from .data_asking import add_trace, add_transcribe
from .generators import add_back_end
from .reading import DATASET_HELP, FORMAT_HELP, SPLIT_HELP, add_reading_options


DESCRIPTION = "Make pairs, show them, count what is in them."


def main(argv: Sequence[str]) -> int:
    """Parse the words after `data` and run the subcommand."""
    parser = argparse.ArgumentParser("trl-modality data", description=DESCRIPTION)
    names = "make|render|transcribe|trace|show|stats"
    commands = parser.add_subparsers(dest="command", required=True, metavar=names)
    _add_make(commands)
    _add_render(commands)
    _add_show(commands)
    _add_stats(commands)
    add_transcribe(commands)
    add_trace(commands)
    args = parser.parse_args(argv)
    args.command_line = shlex.join(["trl-modality", "data", *argv])
    return import_module(f".data_{args.command}", __package__).run(args)


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DATASET", help=DATASET_HELP)
    parser.add_argument("--split", help=SPLIT_HELP)


def _add_stats(commands: argparse._SubParsersAction) -> None:
    stats = commands.add_parser("stats", help="count what is in a dataset of pairs")
    _add_dataset(stats)
    asked = stats.add_argument_group("what a model answers without the picture")
    asked.add_argument(
        "--model", metavar="ID_OR_PATH", help="ask this model the questions alone, and grade its answers"
    )
    asked.add_argument("--rows", type=int, metavar="N", help="ask only N pairs, spread evenly over the dataset")
    asked.add_argument("--output", metavar="FOLDER", help="keep the answers; an interrupted run continues there")
    asked.add_argument(
        "--restart", action="store_true", help="begin anew where FOLDER has other answers; they are moved aside"
    )
    add_back_end(stats, default_tokens=256)
    add_reading_options(stats.add_argument_group("of a file"))


def _add_make(commands: argparse._SubParsersAction) -> None:
    make = commands.add_parser("make", help="write a folder of pairs, from generators, a real set, or a file")
    make.add_argument("out", metavar="OUT", help="folder to write; must be empty or not exist")
    source = make.add_mutually_exclusive_group()
    source.add_argument(
        "--generators", nargs="+", metavar="NAME", help="generators that make problems in turn: bar, line, ..."
    )
    source.add_argument(
        "--from",
        dest="real_set",
        metavar="SET",
        help="tabmwp, geometry3k, pgps9k or mathverse; or the form of a `--file` (default: auto, it is recognised)",
    )
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
    _add_files(make)
    real = make.add_argument_group("with --from of a set")
    real.add_argument("--folder", help="the set in its official layout")
    real.add_argument("--split", nargs="+", metavar="SPLIT", help="one or several splits of the set")
    make.add_argument(
        "--shard-mib", type=float, default=500.0, help="a file is closed once it has this many MiB (default 500)"
    )


def _add_files(make: argparse.ArgumentParser) -> None:
    files = make.add_argument_group(f"with --file, and --from FORM ({FORMAT_HELP})")
    files.add_argument(
        "--file",
        nargs="+",
        default=[],
        metavar="FILE",
        help="files, or a folder of them: JSON, JSON lines, CSV, TSV or Parquet; `test=FILE` names the split (train)",
    )
    add_reading_options(files, with_format=False)
    files.add_argument("--licence", metavar="ID", help="of the data, for the card, in the short form of the hub (mit)")
    make.add_argument(
        "--test-share",
        type=float,
        metavar="SHARE",
        help="hold out this share of the rows as `test`, with no question and no image of the rest",
    )


def _add_render(commands: argparse._SubParsersAction) -> None:
    from ..data.rendering.style import STYLES
    from ..data.rendering.views_of_text import TEXT_VIEWS, WHATS

    render = commands.add_parser("render", help="make pairs from text alone: questions or their context as pictures")
    render.add_argument("dataset", metavar="DATASET", help="a file of text rows, a folder, or an id on the hub")
    render.add_argument("--out", required=True, metavar="OUT", help="folder to write; must be empty or not exist")
    render.add_argument("--split", help="by default `train`, or the only one; also a slice, such as `test[:800]`")
    render.add_argument("--what", default="question", choices=WHATS, help="what becomes a picture (default question)")
    render.add_argument("--share", type=float, default=0.5, help="of the words, with `--what middle` (default 0.5)")
    render.add_argument(
        "--style",
        nargs="+",
        default=[],
        metavar="STYLE",
        help=f"{', '.join(STYLES)} (default {next(iter(STYLES))}), then fields: size of picture, typefaces, paper, "
        "noise ..., such as width=640 faces=serif,mono",
    )
    render.add_argument("--seed", type=int, default=0, help="what looks are drawn from (default 0)")
    render.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="OURS=FIELD",
        help="columns of question, answer, completion, context, choices, id, category; by default by the usual names",
    )
    render.add_argument(
        "--text-view",
        default="text_rich",
        choices=TEXT_VIEWS,
        help="whether the view in words shows the picture too (text_rich, the default) or none (text_only)",
    )
    render.add_argument("--ending", help="last line of both prompts (default: asks for `Answer: ...` where it comes)")
    render.add_argument("--plain", action="store_true", help="draw texts as they stand: no formulas, tables, code")
    render.add_argument("--bad-rows", default="error", choices=("error", "skip"), help="rows that cannot be drawn")
    render.add_argument(
        "--ocr-check", type=int, default=0, metavar="N", help="read N pictures by OCR and say how much of it is found"
    )
    render.add_argument("--num-workers", type=int, default=1, help="processes (default 1)")
    render.add_argument("--shard-mib", type=float, default=500.0, help="most MiB of a file (default 500)")


def _add_show(commands: argparse._SubParsersAction) -> None:
    show = commands.add_parser("show", help="print rows, and draw them on a sheet")
    _add_dataset(show)
    add_reading_options(show.add_argument_group("of a file"))
    show.add_argument("--rows", nargs="+", type=int, metavar="ROW", help="by default the first four")
    show.add_argument("--out", metavar="SHEET.png", help="write the rows as a picture")


def _ratio(text: str) -> float | str:
    """A number, or any text as the name of a level, which is checked where it is used."""
    try:
        return float(text)
    except ValueError:
        return text
