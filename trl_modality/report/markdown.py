"""Results as Markdown, for a model card."""

from __future__ import annotations

from collections.abc import Sequence

from .reading.runs import Run
from .tables import compared_table, run_table
from .text import markdown_text
from .wording import comparison_notes, confidence_text, headline, trained


def card_section(run: Run, heading: str = "## Modality gap") -> str:
    """A section for a model card: what was trained and what happened in words, and a table of all that was measured.

    Args:
        run: From `runs.read_run`.
        heading: Its first line.
    """
    parts = [heading, markdown_text(trained(run)), markdown_text(" ".join(headline(run)))]
    parts += [markdown_text(f"Note: {note}") for note in comparison_notes([run])]
    if run.evaluations:
        parts += [run_table(run).to_markdown(), markdown_text(intervals_note(run))]
    return "\n\n".join(filter(None, parts)) + "\n"


def intervals_note(run: Run) -> str:
    """How the intervals of a run were made, and what gap and regret are."""
    level = confidence_text(run.evaluations)
    return (
        f"In parentheses: {level} intervals (accuracies: Wilson; differences: bootstrap, paired by question). "
        "Gap: text_rich minus vision_centric accuracy, or vision_centric minus text_rich loss; positive is bad. "
        "Regret: baseline minus this model; positive is a loss."
    )


def markdown_report(title: str, runs: Sequence[Run], figures: Sequence[tuple[str, str]]) -> str:
    """A page of Markdown: a section for each run, then its figures.

    Args:
        title: Of the page.
        runs: In their order.
        figures: File and title of each picture.
    """
    headings = ["## Modality gap"] if len(runs) == 1 else [f"## {markdown_text(run.name)}" for run in runs]
    table = compared_table(runs)
    sections = [table.to_markdown() + "\n"] if table else []
    # What is of one run alone stands in its section
    own = {note for run in runs for note in comparison_notes([run])}
    sections += [markdown_text(f"Note: {note}") + "\n" for note in comparison_notes(runs) if note not in own]
    sections += [card_section(run, heading) for run, heading in zip(runs, headings, strict=True)]
    pictures = [f"![{markdown_text(name)}]({file})" for file, name in figures]
    return "\n".join([f"# {markdown_text(title)}\n", *sections, *[f"{picture}\n" for picture in pictures]])
