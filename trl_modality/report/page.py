"""The HTML page of a report: one file that loads nothing and runs nothing, made from the templates in `templates/`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .examples import examples_section
from .figures.drawing import Drawing
from .figures.lettering import visible
from .figures.palette import css_variables
from .figures.svg import to_svg
from .reading.runs import Run
from .sections import (
    accuracy_section,
    group_section,
    outcomes,
    setup_section,
    text_section,
    training_section,
)
from .tables import compared_table
from .text import cut
from .wording import comparison_notes


MOST_TEXT, MOST_NAME = 700, 160
"""Characters of a text of an example, and of its name: longer ones are cut."""


def page(title: str, runs: Sequence[Run]) -> tuple[str, list[Drawing]]:
    """The report on runs as HTML, and its figures in their order."""
    examples, missing = examples_section(runs)
    found = [
        accuracy_section(runs),
        training_section(runs),
        group_section(runs, "category", "By category"),
        group_section(runs, "level", "By level"),
        text_section(runs),
        examples,
        setup_section(runs),
    ]
    sections = [section for section in found if section is not None]
    notes = [note if len(runs) == 1 else f"{run.name}: {note}" for run in runs for note in run.notes]
    html = (
        _templates()
        .get_template("page.html.j2")
        .render(
            title=title,
            style=_style(),
            notes=[*comparison_notes(runs), *notes, *missing],
            compared=compared_table(runs),
            outcomes=outcomes(runs),
            sections=sections,
        )
    )
    return html, [figure for section in sections for figure in section.figures]


@cache
def _templates() -> Environment:
    """The templates, which escape every text that is not markup of ours, after making all its signs visible."""
    templates = Environment(
        loader=PackageLoader("trl_modality.report"),
        autoescape=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"cut": cut, "plain": _plain, "svg": to_svg}
    templates.globals |= {"most_text": MOST_TEXT, "most_name": MOST_NAME}
    return templates


def _plain(value: Any) -> str:
    """A setting as text: whole numbers from 10,000 on with commas, texts as they are, all else as JSON."""
    if isinstance(value, bool) or not isinstance(value, int):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{value:,}" if abs(value) >= 10_000 else str(value)


def _style() -> Markup:
    return Markup(css_variables() + files("trl_modality.report").joinpath("style.css").read_text(encoding="utf-8"))
