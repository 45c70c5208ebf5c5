"""`trl-modality data stats`: count what is in a dataset of pairs."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..views import PAIR_PROMPTS, is_pair
from .data_asking import check_back_end
from .reading import HOW_PAIRS_ARE_MADE, reading_options, say
from .text_tables import histogram, likeness_text, plural, share, spread


if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.summary import Statistics

MOST = 10  # entries printed of a list
OF_THE_MODEL = ("rows", "output", "restart", "batch_size", "adapter", "device", "server", "deadline")


def run(args: argparse.Namespace) -> int:
    """Count what is in the dataset and print the counts."""
    from datasets import disable_progress_bars

    from ..data.sources import open_split
    from ..data.summary import count_pairs

    disable_progress_bars()
    _check(args)
    dataset = open_split(args.dataset, args.split, reading=reading_options(args), say=say)
    counted = count_pairs(dataset)
    print("\n".join(stats_text(counted)))
    if not counted.pairs:
        print(f"found {', '.join(dataset.column_names)}. {HOW_PAIRS_ARE_MADE}.")
    elif args.model:
        print("\n" + "\n".join(_without_pictures(args, dataset)), flush=True)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.model is None and (given := [name for name in OF_THE_MODEL if getattr(args, name)]):
        option = given[0].replace("_", "-")
        raise ValueError(f"`--{option}` is about the model that is asked: name it with `--model`.")
    check_back_end(args)
    if args.restart and args.output is None:
        raise ValueError("`--restart` needs `--output`, the folder in which to begin anew.")
    if args.rows is not None and args.rows < 1:
        raise ValueError(f"`--rows` must be at least 1, got {args.rows}.")


def _without_pictures(args: argparse.Namespace, dataset: Dataset) -> list[str]:
    """What a model answers rightly without any picture: guesses of the question, and answers from the words alone."""
    from ..evaluation.gap import ModalityGapEvaluator
    from .generators import batch_size, load_generator

    rows: Any = dataset.select_columns([column for column in PAIR_PROMPTS if column in dataset.column_names])
    indices = [index for index, row in enumerate(rows) if is_pair(row)]
    count = min(args.rows or len(indices), len(indices))
    asked = dataset.select([indices[place * len(indices) // count] for place in range(count)])
    conditions = {"blind": "the question alone", "text_only": "the words of the text_rich view alone"}
    evaluate = ModalityGapEvaluator(asked, conditions=list(conditions), batch_size=batch_size(args))
    result = evaluate(load_generator(args), folder=args.output, restart=args.restart)
    lines = [f"answered rightly without a picture by {args.model}, of {plural(count, 'pair')}"]
    for condition, what in conditions.items():
        accuracy = result.conditions.get(condition)
        if accuracy is None:
            lines.append(f"  from {what}: no answer, all requests failed")
            continue
        low, high = 100 * accuracy.interval.low, 100 * accuracy.interval.high
        found = share(accuracy.correct, accuracy.total)
        lines.append(f"  from {what}: {found}, {100 * result.confidence:g} % interval {low:.1f} to {high:.1f}")
    return lines


def stats_text(counted: Statistics) -> list[str]:
    """The counts as lines of text."""
    lines = [f"{plural(counted.rows, 'row')}, {plural(counted.pairs, 'pair')}"]
    if not counted.pairs:
        return lines
    if counted.categories:
        lines += ["", "categories", *_counts(counted.categories, counted.pairs)]
    lines += ["", *spread(counted.characters, "characters"), "", *spread(counted.words, "words")]
    lines += ["", *likeness_text(counted.likeness), "", *_images(counted), "", *_answers(counted)]
    lines += ["", f"same question and images as an earlier row: {share(len(counted.repeated), counted.pairs)}"]
    lines += _examples(counted.repeated)
    lines += [f"same `id` as an earlier row: {share(len(counted.repeated_ids), counted.rows)}"]
    return lines + _examples(counted.repeated_ids)


def _images(counted: Statistics) -> list[str]:
    lines = [f"{plural(counted.images, 'image')}, {counted.distinct_images:,} distinct"]
    if counted.own_images:
        lines.append(f"the vision_centric view shows others: {share(counted.own_images, counted.pairs)}")
    if counted.unreadable:
        lines.append(f"images that cannot be read: {counted.unreadable:,}")
    if counted.image_sizes:
        widths, heights = ([size[i] for size in counted.image_sizes.elements()] for i in (0, 1))
        lines += spread({"width": widths, "height": heights}, "pixels")
    return lines


def _answers(counted: Statistics) -> list[str]:
    given = sum(counted.answers.values())
    lines = [f"answers: {len(counted.answers):,} distinct; {share(counted.numbers, given)} are numbers"]
    if counted.without_answer:
        lines.append(f"pairs without `answer`: {share(counted.without_answer, counted.pairs)}")
    lines += _counts(counted.answers, given)
    lengths = [len(answer) for answer in counted.answers.elements()]
    return [*lines, "characters of the answers", *histogram(lengths)] if lengths else lines


def _counts(counts: Counter[str], total: int) -> list[str]:
    shown = counts.most_common(MOST)
    width = max((min(len(name), 40) for name, _ in shown), default=0)
    lines = [f"  {name[:40]:{width}}  {share(count, total)}" for name, count in shown]
    rest = len(counts) - len(shown)
    return [*lines, f"  and {rest:,} more"] if rest else lines


def _examples(pairs: Sequence[tuple[int, int]]) -> list[str]:
    return [f"  row {row} as row {earlier}" for row, earlier in pairs[:MOST]]
