"""The page: one HTML file that loads nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from .examples import examples_html
from .figures.drawing import Drawing
from .figures.palette import css_variables
from .reading.runs import Run
from .sections import (
    Section,
    accuracy_section,
    group_section,
    setup_section,
    summary,
    text_section,
    training_section,
)
from .text import html_text
from .wording import comparison_notes


# Should any text of a model's ever get through as markup: nothing runs, nothing is loaded, nothing is sent
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def page(title: str, runs: Sequence[Run]) -> tuple[str, list[Drawing]]:
    """The report as HTML, and its figures."""
    shown, missing = examples_html(runs)
    found = [
        accuracy_section(runs),
        training_section(runs),
        group_section(runs, "category", "By category"),
        group_section(runs, "level", "By level"),
        text_section(runs),
        Section("examples", "Worst examples", shown) if shown else None,
        setup_section(runs),
    ]
    sections = [section for section in found if section is not None]
    alone = len(runs) == 1
    notes = [note if alone else f"{run.name}: {note}" for run in runs for note in run.notes]
    links = "".join(f'<a href="#{section.name}">{section.title}</a>' for section in sections)
    body = "".join(
        f'<section id="{section.name}"><h2>{section.title}</h2>{section.html}</section>' for section in sections
    )
    html = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f'<title>{html_text(title)}</title><style>{_style()}</style></head>\n<body><div class="page">'
        f'<header><p class="kind">Modality gap report</p><h1>{html_text(title)}</h1>'
        f'<nav aria-label="Sections">{links}</nav></header>\n<main>'
        f"{summary(runs, [*comparison_notes(runs), *notes, *missing])}\n{body}</main>\n"
        "<footer>Made by <code>trl-modality report</code>. "
        "Gap: text_rich minus vision_centric accuracy, or vision_centric minus text_rich loss. "
        "Two numbers are called different where the interval of their change on the same rows leaves 0 out, or, "
        "where that was not measured, where their intervals are apart. Each interval is for one comparison, one seed."
        "</footer></div></body></html>\n"
    )
    return html, [figure for section in sections for figure in section.figures]


def _style() -> str:
    return css_variables() + files("trl_modality.report").joinpath("style.css").read_text(encoding="utf-8")
