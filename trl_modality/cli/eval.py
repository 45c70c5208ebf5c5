"""`trl-modality eval`: the modality gap of a model, its controls, and what is left of its text skill."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from ..evaluation.conditions import DEFAULT_CONDITIONS, Condition
from ..views import PAIR_PROMPTS
from .check import add_pixels
from .generators import add_back_end, batch_size, load_generator
from .reading import DATASET_HELP, SPLIT_HELP, add_reading_options, reading_options, say


DESCRIPTION = (
    "Ask a model every pair in both of its views and in controls, and print accuracies, the gap, and their intervals. "
    "With --text, also measure what it knows without pictures."
)


def main(argv: Sequence[str]) -> int:
    """Evaluate a model and print what was found."""
    args = _parser().parse_args(argv)
    _check(args)
    tasks = _text_tasks(args) if args.text else None
    generator = load_generator(args)
    found = []
    if args.dataset is not None:
        from ..evaluation.terminal import gap_table

        found.append(gap_table(_evaluate_pairs(args, generator)))
    if tasks is not None:
        asked = tasks.ask(
            generator,
            args.output,
            name=args.name,
            batch_size=batch_size(args),
            confidence=args.confidence,
            restart=args.restart,
        )
        found.append(asked.table())
    if args.output is not None:
        found.append(f"wrote {args.output}")
    if int(os.environ.get("RANK", "0")) == 0:
        print("\n\n".join(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("trl-modality eval", description=DESCRIPTION)
    parser.add_argument("model", metavar="MODEL", help="a folder or an id on the hub, of a model or of an adapter")
    parser.add_argument("dataset", metavar="DATASET", nargs="?", help=f"pairs: {DATASET_HELP}")
    parser.add_argument("--split", help=SPLIT_HELP)
    parser.add_argument("--rows", type=int, metavar="N", help="only so many, spread evenly over the dataset")
    parser.add_argument("--output", metavar="FOLDER", help="where the results go; an interrupted run continues there")
    parser.add_argument(
        "--restart", action="store_true", help="begin anew where FOLDER has other results; they are moved aside"
    )
    parser.add_argument("--name", help="of the result (default: that of the folder)")
    parser.add_argument("--baseline", metavar="FOLDER", help="another evaluation of the same rows, to compare with")

    add_reading_options(parser.add_argument_group("pairs of a file"))
    what = parser.add_argument_group("what is measured")
    known = [str(condition) for condition in Condition if condition != Condition.ZOOM]
    what.add_argument("--conditions", nargs="+", metavar="NAME", choices=known, help=f"of {', '.join(known)}; all")
    what.add_argument("--levels", action="store_true", help="also the levels of rows with `level_prompts`")
    what.add_argument("--zoom", action="store_true", help="also the vision_centric view, looked at twice")
    what.add_argument("--nats", action="store_true", help="also the loss of the right completions, in nats per token")
    what.add_argument("--no-generation", action="store_true", help="only that: nothing is generated or graded")
    what.add_argument("--text", nargs="+", metavar="TASK[:FILE]", help="text skill, such as gsm8k:test.jsonl")
    what.add_argument("--allow-code-execution", action="store_true", help="run what the model writes for humaneval")

    add_pixels(what)

    how = parser.add_argument_group("how answers are graded")
    how.add_argument("--tolerance", type=float, default=0.0, metavar="SHARE", help="0.01 takes a number within 1 %%")
    how.add_argument("--symbolic", action="store_true", help="compare formulas by math-verify (the extra `eval`)")
    how.add_argument("--confidence", type=float, default=0.95, help="of the intervals (default 0.95)")

    back_end = add_back_end(parser, default_tokens=256)
    back_end.add_argument("--seed", type=int, default=0, help="of resamples, and of the server (default 0)")
    return parser


def _check(args: argparse.Namespace) -> None:
    """What does not go together, before a model is loaded."""
    if args.dataset is None and not args.text:
        raise ValueError("name a DATASET of pairs, or text tasks with `--text`.")
    if args.dataset is None:
        only_pairs = ("split", "rows", "conditions", "levels", "zoom", "nats", "no_generation")
        only_pairs += ("max_pixels", "min_pixels")
        if given := [name for name in only_pairs if getattr(args, name)]:
            raise ValueError(f"`--{given[0].replace('_', '-')}` is about pairs; name their DATASET.")
    if args.text and args.output is None:
        raise ValueError("`--text` needs `--output`, the folder for its answers.")
    if args.rows is not None and args.rows < 1:
        raise ValueError(f"`--rows` must be at least 1, got {args.rows}.")
    if args.no_generation and (args.levels or args.zoom or args.baseline):
        raise ValueError("`--no-generation` grades nothing, so `--levels`, `--zoom` and `--baseline` say nothing.")
    if args.restart and args.output is None:
        raise ValueError("`--restart` needs `--output`, the folder in which to begin anew.")
    if args.deadline is not None and not args.server:
        raise ValueError("`--deadline` is for answers of a `--server`.")
    if args.server:
        names = ("nats", "no_generation", "adapter", "device", "trust_remote_code")
        if given := [name for name in names if getattr(args, name)]:
            raise ValueError(f"`--{given[0].replace('_', '-')}` needs the model itself, and `--server` only answers.")


def _evaluate_pairs(args: argparse.Namespace, generator: Any) -> Any:
    from datasets import disable_progress_bars

    from ..data.sources import open_split
    from ..evaluation.gap import ModalityGapEvaluator

    disable_progress_bars()
    dataset = open_split(args.dataset, args.split, reading=reading_options(args), say=say)
    if not any(column in dataset.column_names for column in PAIR_PROMPTS):
        raise ValueError(
            f"{args.dataset} has no pairs: it has {', '.join(dataset.column_names)}, one view of each question. "
            "`trl-modality data transcribe` makes the other; facts that a file has in words are named by "
            "`--columns facts=FIELD`."
        )
    if args.rows is not None:
        count = min(args.rows, len(dataset))
        dataset = dataset.select([position * len(dataset) // count for position in range(count)])
    evaluate = ModalityGapEvaluator(
        dataset,
        conditions=[*(args.conditions or DEFAULT_CONDITIONS), *([Condition.ZOOM] if args.zoom else [])],
        grader=_grader(args),
        batch_size=batch_size(args),
        confidence=args.confidence,
        seed=args.seed,
        dataset_name=f"{args.dataset}, {args.split}" if args.split else args.dataset,
        levels=args.levels,
        generate=not args.no_generation,
        nats=args.nats or args.no_generation,
        max_pixels=args.max_pixels,
        min_pixels=args.min_pixels,
    )
    return evaluate(generator, folder=args.output, name=args.name, baseline=args.baseline, restart=args.restart)


def _text_tasks(args: argparse.Namespace) -> Any:
    """Read and checked before a model is loaded and pairs are asked: a missing file would be found after hours."""
    from ..evaluation.text.run import TextTasks

    return TextTasks(
        args.text, baseline=args.baseline, grader=_grader(args), allow_code_execution=args.allow_code_execution
    )


def _grader(args: argparse.Namespace) -> Any:
    from ..evaluation.grading.grader import Grader

    return Grader(tolerance=args.tolerance, symbolic=args.symbolic)
