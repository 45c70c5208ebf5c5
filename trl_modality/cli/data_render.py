"""`trl-modality data render`: pairs from text alone, in a folder that `load_dataset` reads, with a card."""

from __future__ import annotations

import argparse
import os
import re
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from .._version import __version__
from ..data.export import Card, Licence, write_dataset
from ..data.rendering.legibility import WORDS, check_legibility
from ..data.rendering.pairs import RenderCounts, render_pairs
from ..data.rendering.style import TextRenderStyle, parse_style
from ..resumable.unfinished import unfinished_folder
from .reading import parse_columns
from .text_tables import plural


if TYPE_CHECKING:
    from datasets import Dataset

SHEET_ROWS = 12
DRAWN = {
    "question": "The question is drawn, with its choices",
    "middle": "A part from the middle of the question is drawn",
    "context": "The context of the question is drawn",
}


def run(args: argparse.Namespace) -> int:
    """Render the pairs, write them, and print what was made, what was not as asked, and which files were written."""
    from datasets import disable_progress_bars

    from ..data.rows import PairRows
    from ..problems.sheet import contact_sheet

    disable_progress_bars()
    style, out, counts = parse_style(args.style), Path(args.out), RenderCounts()
    with unfinished_folder(out, "rendering text") as work:
        try:
            pairs = _rendered(args, style, work.kept, counts)
            report = [*_report(counts), *_legibility(args, pairs)]
            pairs, split = pairs.remove_columns(WORDS), _split_name(args.split)
            with work.result() as folder:
                files = write_dataset({split: pairs}, folder, _card(args, style, report), args.shard_mib)
                rows = PairRows(pairs)
                files.append(folder / "contact_sheet.png")
                contact_sheet([rows[index] for index in range(min(SHEET_ROWS, len(rows)))]).save(files[-1])
                written = [out / file.relative_to(folder) for file in files]
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(f"interrupted: what is rendered is kept in {work.kept}") from error
    print("\n".join([f"{split}: {plural(len(pairs), 'pair')}", *report]))
    for file in written:
        print(f"wrote {file} ({file.stat().st_size / 2**20:.2f} MiB)")
    return 0


def _split_name(split: str | None) -> str:
    """The name that a split of pairs has: that of the texts, of a slice too."""
    found = re.match(r"\w+", split or "")
    return found[0] if found else "train"


def _rendered(args: argparse.Namespace, style: TextRenderStyle, folder: Path, counts: RenderCounts) -> Dataset:
    return render_pairs(
        args.dataset,
        what=args.what,
        style=style,
        seed=args.seed,
        text_view=args.text_view,
        columns=parse_columns(args.columns),
        share=args.share,
        ending=args.ending,
        plain=args.plain,
        bad_rows=args.bad_rows,
        split=args.split,
        num_workers=args.num_workers,
        words=True,
        work_folder=folder,
        counts=counts,
        progress=_progress if sys.stderr.isatty() else None,
    )


def _progress(done: int, of: int) -> None:
    print(f"\rrendered {done:,} of {of:,}", end="\n" if done == of else "", file=sys.stderr, flush=True)


def _report(counts: RenderCounts) -> list[str]:
    """What was not as asked, a line each."""
    lines = [
        f"`{column}` is not read: the pairs have pictures of words alone. Of pictures and questions, `trl-modality "
        "data transcribe` makes pairs"
        for column in counts.unread_images
    ]
    if counts.smaller:
        lines.append(f"{plural(counts.smaller, 'pair')} in smaller letters than asked for, so that the text fits")
    lines += [
        f"{plural(count, 'pair')} in {face}, where the typeface asked for lacks characters"
        for face, count in counts.other_faces.items()
    ]
    lines += [
        f"{plural(count, 'row')} left out ({kind}); the first: {counts.examples[kind]}"
        for kind, count in counts.left_out.items()
    ]
    return lines


def _legibility(args: argparse.Namespace, pairs: Dataset) -> list[str]:
    if not args.ocr_check:
        return []
    return [check_legibility(pairs, args.ocr_check).line()]


def _card(args: argparse.Namespace, style: TextRenderStyle, report: list[str]) -> Card:
    name = Path(args.dataset).name if os.path.exists(args.dataset) else args.dataset
    licence = Licence.of(args.dataset)
    shown = "both views show it" if args.text_view == "text_rich" else "the text_rich view shows no picture"
    changed = [f"{field}={value!r}" for field, value in asdict(style).items()]
    return Card(
        title=f"Rendered text: {name}",
        origin=(
            f"The rows of {name}. {DRAWN[args.what]}; {shown}. A picture depends on its text, the style and the seed "
            "alone: the same command gives the same rows and pixels with the same versions."
        ),
        command=args.command_line,
        version=__version__,
        licence=f"That of the texts. {licence.text}",
        licence_id=licence.id,
        provenance=[
            ("read", name),
            ("drawn", args.what),
            ("style", ", ".join(changed)),
            ("seed", str(args.seed)),
            ("drawn by", ", ".join(f"{each} {version(each)}" for each in ("pillow", "numpy", "matplotlib"))),
            *(("note", line) for line in report),
        ],
    )
