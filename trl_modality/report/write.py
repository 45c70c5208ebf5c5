"""A report's files: the page, the figures as pictures, the Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from .figures.png import to_png
from .markdown import markdown_report
from .page import page
from .reading.runs import Run, read_runs
from .wording import comparison_notes


@dataclass(frozen=True)
class ReportFiles:
    """What was written."""

    html: Path
    markdown: Path
    figures: Sequence[Path]
    """PNG files; none without matplotlib."""
    notes: Sequence[str]
    """What was passed over, is missing or cannot be compared, in sentences."""


def write_report(
    runs: Sequence[str | Path], output: str | Path | None = None, title: str | None = None
) -> ReportFiles:
    """Write a report on runs: one HTML file, and a folder of its name with the figures and `report.md`.

    The same inputs give the same bytes.

    Args:
        runs: Folders of training runs or of evaluations, in the order in which they are to stand.
        output: The HTML file; by default `report.html` in the first folder. Beside it: `report/*.png`,
            `report/report.md`.
        title: Of the page; by default the name of the run.

    Returns:
        The files. Without matplotlib (the extra `plot`) there are no PNG files, and a note says so.

    Raises:
        ValueError: no run, a folder that is none of one, or a file in it that is broken; `output` is no HTML file.
        OSError: a file cannot be read or written.
    """
    found = read_runs(runs)
    path = Path(runs[0], "report.html") if output is None else Path(output)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"`output` must be an .html file, got {path}.")
    title = title or _title(found)
    html, drawings = page(title, found)
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    notes = [*comparison_notes(found), *(note for run in found for note in run.notes)]
    pictures = []
    if find_spec("matplotlib") is not None:
        for drawing in drawings:
            pictures.append(folder / f"{drawing.name}.png")
            pictures[-1].write_bytes(to_png(drawing))
    elif drawings:
        notes.append("No PNG files of the figures: they need matplotlib (pip install 'trl-modality[plot]').")
    figures = [(picture.name, drawing.title) for picture, drawing in zip(pictures, drawings, strict=False)]
    markdown = folder / "report.md"
    markdown.write_text(markdown_report(title, found, figures), encoding="utf-8", newline="\n")
    path.write_text(html, encoding="utf-8", newline="\n")
    return ReportFiles(path, markdown, pictures, notes)


def _title(runs: Sequence[Run]) -> str:
    return runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side"
