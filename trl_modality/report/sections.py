"""The sections of the page, each there only if a run has its data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .charts import (
    VIEWS,
    accuracy_figure,
    compared_figures,
    curriculum_bands,
    gap_figures,
    group_figures,
    text_figures,
    training_figures,
)
from .figures.bars import decimal
from .figures.drawing import Drawing
from .figures.svg import to_svg
from .markdown import intervals_note
from .reading.runs import Estimate, Run
from .tables import compared_table, group_table, run_table, text_table
from .text import html_text
from .wording import CONTROLS, against_zero, between, change, headline, paired_change, trained, vision_gain


_MOST_ROWS = 15  # of a table of groups that is not folded


class Section(NamedTuple):
    """A part of the page, with the figures that are also written as files."""

    name: str
    title: str
    html: str
    figures: Sequence[Drawing] = ()


def named(runs: Sequence[Run]) -> list[tuple[Run, str, str]]:
    """Each run with what the names of its figures' files end with, and what it is called in them."""
    if len(runs) == 1:
        return [(runs[0], "", "")]
    return [(run, f"_{number}", run.name) for number, run in enumerate(runs, 1)]


def summary(runs: Sequence[Run], notes: Sequence[str]) -> str:
    """What was trained and what happened, at the top of the page."""
    parts = []
    for run in runs:
        name = "" if len(runs) == 1 else f"<h2>{html_text(run.name)}</h2>"
        line = trained(run)
        first, *others = headline(run) or [""]
        parts.append(
            f'<article class="outcome">{name}<p class="headline">{html_text(first)}</p>'
            + (f"<p>{html_text(' '.join(others))}</p>" if others else "")
            + (f'<p class="trained">{html_text(line)}</p>' if line else "")
            + (_tiles(run) if len(runs) == 1 else "")
            + "</article>"
        )
    listed = "".join(f"<li>{html_text(note)}</li>" for note in notes)
    warnings = (
        f'<aside class="notes" aria-label="Notes"><strong>Note</strong><ul>{listed}</ul></aside>' if notes else ""
    )
    table = compared_table(runs)
    return warnings + (table.to_html() if table else "") + "".join(parts)


def accuracy_section(runs: Sequence[Run]) -> Section | None:
    """Gap bars, accuracies by condition, vision gain, and the table of everything."""
    accuracies = [figure for figure in (accuracy_figure(*run) for run in named(runs)) if figure]
    measured = [run for run in runs if run.evaluations]
    if not measured:
        return None
    lead = "Each pair asks one question twice: with the facts in words beside the image, and with the image alone. "
    lead += "The gap is what the model loses when it has to see. "
    if any(map(_has_controls, runs)):
        lead += "Grey bars are controls, without the image or with that of another row. "
    if any(run.before for run in runs):
        lead += "Hollow bars: before training."
    gaps = gap_figures(runs)
    shown = _cards([*map(_figure, gaps), _vision_gains(runs), *map(_figure, accuracies)], "stacked")
    figures = [*gaps, *accuracies]
    notes = dict.fromkeys(map(intervals_note, measured))
    numbers = "".join([run_table(run).to_html() for run in measured])
    numbers += "".join(f'<p class="small">{html_text(note)}</p>' for note in notes)
    return Section(
        "accuracy",
        "Gap and accuracy",
        f'<p class="lead">{lead}</p>{shown}'
        f"<details{' open' * (not figures)}><summary>All numbers</summary>{numbers}</details>",
        figures,
    )


def training_section(runs: Sequence[Run]) -> Section | None:
    """The curves of each run."""
    figures = compared_figures(runs)
    parts = [figures_html(figures)]
    for run, slug, of_run in named(runs):
        main, settings = training_figures(run, slug, of_run)
        if main or settings:
            name = f"<h3>{html_text(run.name)}</h3>" if of_run else ""
            more = f"<details><summary>Weights and rates</summary>{figures_html(settings)}</details>" * bool(settings)
            parts.append(name + figures_html(main) + more)
            figures += main + settings
    lead = "What the run logged; values in training are means over the rows since the log before, without intervals."
    if any(run.log and curriculum_bands(run.log) for run in runs):
        lead += " The background is the curriculum: in which view the pairs were learnt."
    html = f'<p class="lead">{lead}</p>{"".join(parts)}'
    return Section("training", "Training", html, figures) if figures else None


def group_section(runs: Sequence[Run], by: str, title: str) -> Section | None:
    """Gap and accuracies by category or level."""
    figures = [figure for run, slug, of_run in named(runs) for figure in group_figures(run, by, slug, of_run)]
    tables = [table.to_html() for table in (group_table(run, by) for run in runs) if table]
    if not tables:
        return None
    lead = (
        '<p class="lead">Of few pairs the intervals are wide; among many groups, one or the other is far off by '
        "chance.</p>"
    )
    shown = "".join(tables)
    if max(len(run.last.groups.get(by, ())) for run in runs if run.last) > _MOST_ROWS:
        shown = f"<details><summary>All groups</summary>{shown}</details>"
    return Section(f"by-{by}", title, lead + figures_html(figures) + shown, figures)


def text_section(runs: Sequence[Run]) -> Section | None:
    """Accuracies and regret in text-only tasks."""
    tables = [table.to_html() for table in map(text_table, runs) if table]
    if not tables:
        return None
    figures = text_figures(runs)
    baselines = dict.fromkeys(run.last.text.baseline for run in runs if run.last and run.last.text)
    names = ", ".join(f"<q>{html_text(name)}</q>" for name in baselines if name)
    against = f" Baseline: {names}." if names else ""
    lead = f'<p class="lead">Text regret is what the model lost in tasks without images.{against}</p>'
    return Section("text", "Text skill", lead + figures_html(figures) + "".join(tables), figures)


def setup_section(runs: Sequence[Run]) -> Section:
    """What it takes to repeat the runs: sizes, seeds, configs, versions, settings of the evaluations."""
    parts = []
    for run in runs:
        name = "" if len(runs) == 1 else f"<h3>{html_text(run.name)}</h3>"
        log = run.log
        facts = {
            "model": run.model or (run.last.model if run.last else ""),
            **run.record,
            "steps": log.steps if log else None,
            "tokens": _last_value(run, "num_tokens"),
            "tokens spared by shared prefixes": _last_value(run, "num_tokens_saved"),
            "seconds of training": _last_value(run, "train_runtime"),
            "curves from": log.source if log else None,
        }
        known = {key: value for key, value in facts.items() if value not in (None, "")}
        command = f'<pre tabindex="0">{html_text(run.command)}</pre>' if run.command else ""
        versions = dict(run.versions) or next((dict(e.versions) for e in reversed(run.evaluations) if e.versions), {})
        settings = {
            e.name: json.dumps(dict(e.settings), sort_keys=True, ensure_ascii=False)
            for e in run.evaluations
            if e.settings
        }
        parts.append(
            name
            + command
            + _details("Run", known, is_open=True)
            + _details("Config: what differs from the defaults", _without_secrets(run.config))
            + _details("Versions", versions)
            + _details("Settings of the evaluations", settings)
        )
    return Section("setup", "Setup", "".join(parts))


def figures_html(drawings: Iterable[Drawing]) -> str:
    """Figures in cards, two in a row where there is room."""
    return _cards(map(_figure, drawings))


def _figure(drawing: Drawing) -> str:
    return f'<figure class="card">{to_svg(drawing)}</figure>'


def _cards(cards: Iterable[str], kind: str = "") -> str:
    """`stacked`: in two columns, of unlike heights."""
    html = "".join(cards)
    return f'<div class="figures {kind}">{html}</div>' if html else ""


def _vision_gains(runs: Sequence[Run]) -> str:
    """How much seeing gives, as a card; empty where it was not measured."""
    gains = [(run, vision_gain(run.last)) for run in runs if run.last is not None]
    rows = "".join(
        f"<p>{'' if len(runs) == 1 else f'{html_text(run.name)}: '}<strong>{html_text(gain)}</strong></p>"
        for run, gain in gains
        if gain
    )
    why = (
        "What seeing gives: vision_centric accuracy minus blind accuracy, which is what the question alone gives away."
    )
    return f'<div class="card"><h3>Vision gain</h3><p class="small">{why}</p>{rows}</div>' if rows else ""


def _has_controls(run: Run) -> bool:
    return any(name in CONTROLS for evaluation in run.evaluations for name in evaluation.conditions)


def _tiles(run: Run) -> str:
    """The main figures, before and last, each with its verdict."""
    before, last = run.before, run.last
    if last is None:
        return ""
    tiles = [
        _tile("Gap, points", before and before.gap, last.gap, before and paired_change(before, last, "gap")),
        *(
            _tile(
                f"{view} accuracy, %",
                before and before.conditions.get(view),
                last.conditions.get(view),
                before and paired_change(before, last, view),
            )
            for view in VIEWS
        ),
    ]
    regrets = last.text.regret if last.text else {}
    tiles += [_tile(f"{task} regret, points", None, regret) for task, regret in list(regrets.items())[:3]]
    return f'<dl class="tiles">{"".join(tiles)}</dl>' if any(tiles) else ""


def _tile(name: str, before: Estimate | None, last: Estimate | None, paired: Estimate | None = None) -> str:
    """A figure with its verdict: against the one before, or of a regret against none."""
    if last is None:
        return ""
    value, interval, verdict = decimal(100 * last.value), between(last), ""
    if before is not None:
        value = f'<span class="was">{decimal(100 * before.value)}</span> \u2192 {value}'
        interval = f"{between(before)} \u2192 {interval}"
        what = {"lower": "\u25bc lower", "higher": "\u25b2 higher", "same": "\u2248 not distinguishable"}
        verdict = what[change(before, last, paired)]
    elif name.endswith("regret, points"):
        what = {
            "above": "\u25bc worse than its baseline",
            "below": "\u25b2 better",
            "same": "\u2248 not distinguishable",
        }
        verdict = what[against_zero(last)]
    tail = f'<dd class="verdict">{verdict}</dd>' if verdict else ""
    head = f'<dt>{html_text(name)}</dt><dd class="value">{value}</dd>'
    return f'<div>{head}<dd class="interval">{interval}</dd>{tail}</div>'


def _last_value(run: Run, name: str) -> str:
    points = run.log.points(name) if run.log else []
    return f"{points[-1][1]:,.0f}" if points else ""


def _details(title: str, values: Mapping[str, Any], is_open: bool = False) -> str:
    if not values:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{html_text(str(key))}</th><td class="words">{html_text(_shown(value))}</td></tr>'
        for key, value in values.items()
    )
    label = html_text(title)
    return (
        f"<details{' open' * is_open}><summary>{label}</summary>"
        f'<div class="scroll" role="region" aria-label="{label}" tabindex="0">'
        f'<table class="facts">{rows}</table></div></details>'
    )


def _shown(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{value:,}" if abs(value) >= 10_000 else str(value)


def _without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """A report is passed on; keys to a hub or a server are not."""
    return {k: "(not shown)" if k.endswith(("hub_token", "api_key")) and v else v for k, v in config.items()}
