"""`trl-modality data stats`: count what is in a dataset of pairs."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .reading import reading_options, say
from .text_tables import histogram, plural, share, spread


if TYPE_CHECKING:
    from ..data.summary import Statistics

MOST = 10  # entries printed of a list


def run(args: argparse.Namespace) -> int:
    """Count what is in the dataset and print the counts."""
    from datasets import disable_progress_bars

    from ..data.sources import open_split
    from ..data.summary import count_pairs

    disable_progress_bars()
    counted = count_pairs(open_split(args.dataset, args.split, reading=reading_options(args), say=say))
    print("\n".join(stats_text(counted)))
    return 0


def stats_text(counted: Statistics) -> list[str]:
    """The counts as lines of text."""
    lines = [f"{plural(counted.rows, 'row')}, {plural(counted.pairs, 'pair')}"]
    if not counted.pairs:
        return lines
    if counted.categories:
        lines += ["", "categories", *_counts(counted.categories, counted.pairs)]
    lines += ["", *spread(counted.characters, "characters"), "", *spread(counted.words, "words")]
    lines += ["", *_images(counted), "", *_answers(counted)]
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
