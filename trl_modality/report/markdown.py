"""Reports as Markdown, for model cards."""

from __future__ import annotations

from collections.abc import Sequence

from .reading.runs import Run
from .tables import compared_table, run_table
from .text import markdown_text
from .wording import comparison_notes, confidence_text, headline, trained


def card_section(run: Run, heading: str = "## Modality gap") -> str:
    """A section for a model card: what was trained, the outcome in words, and a table of all that was measured.

    Args:
        run: A run, from `read_run`.
        heading: First line of the section, with its `#` signs.
    """
    parts = [heading, markdown_text(trained(run)), markdown_text(" ".join(headline(run)))]
    parts += [markdown_text(f"Note: {note}") for note in comparison_notes([run])]
    if run.evaluations:
        parts += [run_table(run).to_markdown(), markdown_text(intervals_note(run))]
    return "\n\n".join(filter(None, parts)) + "\n"


def intervals_note(run: Run) -> str:
    """A note for below a table: how the intervals were made, and the signs of gap and regret."""
    level = confidence_text(run.evaluations)
    return (
        f"In parentheses: {level} intervals (accuracies: Wilson; differences: bootstrap, paired by question). "
        "Gap: text_rich minus vision_centric accuracy, or vision_centric minus text_rich loss; positive is bad. "
        "Regret: baseline minus this model; positive is a loss."
    )


def markdown_report(title: str, runs: Sequence[Run], figures: Sequence[tuple[str, str]]) -> str:
    """A report in Markdown: a comparison of the runs, a section for each run, then all figures.

    Args:
        title: Title of the report.
        runs: The runs in their order.
        figures: File name and title of each figure.
    """
    headings = ["## Modality gap"] if len(runs) == 1 else [f"## {markdown_text(run.name)}" for run in runs]
    table = compared_table(runs)
    sections = [table.to_markdown() + "\n"] if table else []
    # Notes on one run alone are in the section of that run
    own = {note for run in runs for note in comparison_notes([run])}
    sections += [markdown_text(f"Note: {note}") + "\n" for note in comparison_notes(runs) if note not in own]
    sections += [card_section(run, heading) for run, heading in zip(runs, headings, strict=True)]
    pictures = [f"![{markdown_text(name)}]({file})" for file, name in figures]
    return "\n".join([f"# {markdown_text(title)}\n", *sections, *[f"{picture}\n" for picture in pictures]])
