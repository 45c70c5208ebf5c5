"""`trl-modality report`: a page about runs and evaluations."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


DESCRIPTION = (
    "Write one HTML file about training runs or evaluations, and beside it a folder with its figures (PNG) and a "
    "Markdown table for a model card. It loads nothing from elsewhere, so that it can be passed on."
)


def main(argv: Sequence[str]) -> int:
    """Write a report and say where."""
    args = _parser().parse_args(argv)
    from ..report.write import write_report

    files = write_report(args.runs, args.output, args.title)
    for note in files.notes:
        print(note)
    for path in (files.html, files.markdown, *files.figures):
        print(f"wrote {path} ({path.stat().st_size / 1024:,.0f} KiB)")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("trl-modality report", description=DESCRIPTION)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="folder of a training run, or of an evaluation (one with gap.json)"
    )
    parser.add_argument("--output", metavar="FILE", help="the HTML file (default: report.html in the first RUN)")
    parser.add_argument("--title", help="heading of the page (default: the name of the run)")
    return parser
