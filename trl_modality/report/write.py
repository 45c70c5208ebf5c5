"""Writing the files of a report: the HTML page, the figures as PNG, the Markdown."""

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
    """The files that a report was written to."""

    html: Path
    markdown: Path
    figures: Sequence[Path]
    """PNG files of the figures; none without matplotlib."""
    notes: Sequence[str]
    """Sentences about files that were skipped, figures that are missing, and evaluations that are not comparable."""


def write_report(
    runs: Sequence[str | Path], output: str | Path | None = None, title: str | None = None
) -> ReportFiles:
    """Write a report on runs: an HTML file, and beside it a folder of the same name with figures and `report.md`.

    The same inputs give the same bytes.

    Args:
        runs: Folders of training runs or of evaluations, in the order of the report.
        output: The HTML file; by default `report.html` in the first folder, with `report/*.png` and
            `report/report.md` beside it.
        title: Title of the page; by default the name of the run.

    Returns:
        The files. Without matplotlib (the extra `plot`) there are no PNG files, and a note says so.

    Raises:
        ValueError: no run is given, a folder is neither that of a run nor of an evaluation, a file in one is broken,
            or `output` is not named as an HTML file.
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
