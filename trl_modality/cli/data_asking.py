"""What `data transcribe` and `data trace` have in common: options, and a folder written from a model's answers."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .generators import add_back_end


if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.export import Card
    from ..evaluation.models.requests import Generation

ANSWERS = "answers"
"""Folder in OUT with everything that models said, which `--reuse` reads."""
SHARD_MIB = 500.0


def add_transcribe(commands: argparse._SubParsersAction) -> None:
    """Add the options of `data transcribe`."""
    parser = commands.add_parser(
        "transcribe", help="write the facts of pictures in words: pairs from vision questions"
    )
    _add_places(parser)
    parser.add_argument("--split", nargs="+", metavar="SPLIT", help="of DATASET; by default all")
    who = parser.add_argument_group("who transcribes")
    who.add_argument("--ocr", action="store_true", help="OCR, by rapidocr (the extra `ocr`)")
    who.add_argument("--ocr-scale", type=float, default=1.0, metavar="X", help="enlarge pictures first (default 1)")
    _add_model(who, "else the model; with --ocr, who answers or agrees")
    who.add_argument("--kind", default="any", help="of pictures: any, chart, table, diagram, document, photo")
    who.add_argument("--prompt", help="yours in place of that of --kind; {column} is a column of text")
    who.add_argument("--template", help="of the text_rich view (default: {facts}, an empty line, {question})")
    kept = parser.add_argument_group("which rows are kept")
    kept.add_argument(
        "--keep",
        default="all",
        choices=("answered", "agreed", "all"),
        help="answered: the model answers rightly from the words alone; agreed: a second transcription agrees "
        "(default all)",
    )
    kept.add_argument("--min-agreement", type=float, default=0.8, metavar="X", help="from 0 to 1 (default 0.8)")
    kept.add_argument("--tolerance", type=float, default=0.0, metavar="SHARE", help="0.01 takes a number within 1 %%")
    add_back_end(parser, default_tokens=512).add_argument("--seed", type=int, default=0, help="default 0")


def add_trace(commands: argparse._SubParsersAction) -> None:
    """Add the options of `data trace`."""
    parser = commands.add_parser(
        "trace", help="write completions in the model's own words: samples, of which the right ones are kept"
    )
    _add_places(parser)
    parser.add_argument("--split", metavar="SPLIT", help="that is traced, `train` or the only one; others are copied")
    _add_model(parser.add_argument_group("who writes"), "the model, usually the one that is going to be trained")
    drawn = parser.add_argument_group("what is drawn and taken")
    drawn.add_argument("--samples", type=int, default=1, metavar="K", help="of each row (default 1)")
    drawn.add_argument(
        "--agreed",
        type=float,
        metavar="SHARE",
        help="rows without `answer` are given the one that this share of the samples agrees on (above 0.5)",
    )
    drawn.add_argument("--temperature", type=float, metavar="T", help="default: 0 with one sample, 0.7 with several")
    drawn.add_argument("--top-p", type=float, default=1.0, metavar="P", help="default 1")
    drawn.add_argument("--from-view", default="text_rich", choices=("text_rich", "text_only"), help="what it is shown")
    drawn.add_argument(
        "--take", default="shortest", choices=("shortest", "first", "all"), help="of the right ones (default shortest)"
    )
    drawn.add_argument(
        "--else",
        dest="otherwise",
        choices=("keep", "drop"),
        help="rows without a right one (default: keep the old completion where there is one, else drop the row)",
    )
    drawn.add_argument("--tolerance", type=float, default=0.0, metavar="SHARE", help="0.01 takes a number within 1 %%")
    add_back_end(parser, default_tokens=512).add_argument("--seed", type=int, default=0, help="default 0")


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DATASET", help="a folder that `data make` wrote, or an id on the hub")
    parser.add_argument(
        "--out", required=True, metavar="OUT", help="folder to write; what is unfinished goes on there"
    )
    parser.add_argument("--reuse", nargs="+", default=[], metavar="OUT", help="folders of before, whose answers serve")
    parser.add_argument(
        "--restart", action="store_true", help="begin anew where OUT has unfinished work of other options"
    )


def _add_model(group: Any, what: str) -> None:
    group.add_argument("--model", metavar="MODEL", help=f"{what}; with --server, its name there")


def check_back_end(args: argparse.Namespace) -> None:
    """Raise `ValueError` for options of the back end that do not go together."""
    if args.server and args.model is None:
        raise ValueError("`--server` needs `--model`, the name by which the server knows the model.")
    if args.deadline is not None and not args.server:
        raise ValueError("`--deadline` is for answers of a `--server`.")
    if args.server:
        names = ("adapter", "device", "trust_remote_code")
        if given := [name for name in names if getattr(args, name)]:
            raise ValueError(
                f"`--{given[0].replace('_', '-')}` is for a model of this process, and not for `--server`."
            )


def is_first_process() -> bool:
    """Whether this process writes, of those that `accelerate launch` has started."""
    return int(os.environ.get("RANK", "0")) == 0


@contextlib.contextmanager
def work_folder(args: argparse.Namespace, doing: str) -> Iterator[Any]:
    """A context with the unfinished work of `--out`; only the first process holds its lock."""
    from ..resumable.unfinished import Unfinished, unfinished_folder

    if is_first_process():
        with unfinished_folder(Path(args.out), doing) as work:
            yield work
    else:
        yield Unfinished(Path(args.out))


def answers_of(folders: Sequence[str]) -> dict[str, Generation]:
    """The answers of earlier commands, finished or not, from their folders.

    Raises:
        ValueError: a folder has none.
    """
    from ..from_models.asked import known_answers
    from ..resumable.unfinished import UNFINISHED

    found: dict[str, Generation] = {}
    for folder in folders:
        places = (Path(folder) / ANSWERS, Path(folder) / UNFINISHED)
        # With those that `--restart` has moved aside
        files = sorted(file for place in places for file in place.glob("[!.]*.jsonl*"))
        if not files:
            raise ValueError(f"`--reuse`: {folder} has no answers of `data transcribe` or `data trace`.")
        found |= known_answers(files)
    return found


def write_result(
    work: Any, splits: Mapping[str, Dataset], answers: Mapping[str, Mapping[str, Generation]], card: Card
) -> None:
    """Write the dataset with its card, and the answers beside it, all or nothing; print which files were written."""
    from ..data.export import write_dataset
    from ..from_models.asked import write_answers

    if not is_first_process():
        return
    with work.result() as folder:
        files = write_dataset(splits, folder, card, SHARD_MIB)
        (folder / ANSWERS).mkdir()
        for name, said in answers.items():
            files.append(folder / ANSWERS / f"{name}.jsonl")
            write_answers(said, files[-1])
    for file in files:
        file = work.out / file.relative_to(folder)
        print(f"wrote {file} ({file.stat().st_size / 2**20:.2f} MiB)")


def model_provenance(role: str, generator: Any) -> list[tuple[str, str]]:
    """Rows of a card's table about who answered, and how."""
    settings = ", ".join(f"{name} {value}" for name, value in getattr(generator, "settings", {}).items())
    return [(role, f"{generator.name} ({settings})")]
