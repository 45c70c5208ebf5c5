"""The sections of the page as data for their templates, each there only if a run has what it shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..evaluation.formatting import PROSE
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
from .figures.drawing import Drawing
from .markdown import intervals_note
from .reading.evaluations import Estimate
from .reading.runs import Run
from .tables import group_table, run_table, text_table
from .wording import CONTROLS, against_zero, change, headline, paired_change, trained, vision_gain


_MOST_ROWS = 15  # of a table of groups that is not folded


class Section(NamedTuple):
    """A part of the page under a heading of its own."""

    name: str
    """Its `id` in the page."""
    title: str
    template: str
    """File in `templates/`."""
    content: Mapping[str, Any]
    """What the template shows, as `content`."""
    figures: Sequence[Drawing] = ()
    """The drawings in it, which are also written as PNG files."""


class Tile(NamedTuple):
    """One of the main numbers, large; texts that do not apply are empty."""

    name: str
    value: str
    interval: str
    was: str = ""
    """The value before training."""
    verdict: str = ""
    """Whether it differs from the value before training or, for a regret, from 0."""


class Outcome(NamedTuple):
    """What happened in a run, at the top of the page; texts that do not apply are empty."""

    run: str
    """Its name; empty where it is the only run."""
    headline: str
    more: str
    trained: str
    """What was trained on what."""
    tiles: Sequence[Tile]


def named(runs: Sequence[Run]) -> list[tuple[Run, str, str]]:
    """Each run with an ending for the names of its figures' files, and its name; both empty for a single run."""
    if len(runs) == 1:
        return [(runs[0], "", "")]
    return [(run, f"_{number}", run.name) for number, run in enumerate(runs, 1)]


def outcomes(runs: Sequence[Run]) -> list[Outcome]:
    """What was trained and what happened, of each run; with tiles where there is one run."""
    found = []
    for run, _, name in named(runs):
        first, *others = headline(run) or [""]
        found.append(Outcome(name, first, " ".join(others), trained(run), _tiles(run) if len(runs) == 1 else []))
    return found


def accuracy_section(runs: Sequence[Run]) -> Section | None:
    """Gap, accuracy by condition and vision gain as figures, and a table of all numbers of each run."""
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
    accuracies = [figure for figure in (accuracy_figure(*run) for run in named(runs)) if figure]
    gains = [(name, vision_gain(run.last)) for run, _, name in named(runs) if run.last is not None]
    content = {
        "lead": lead,
        "gaps": gaps,
        "gains": [(name, gain) for name, gain in gains if gain],
        "accuracies": accuracies,
        "tables": [run_table(run) for run in measured],
        "notes": list(dict.fromkeys(map(intervals_note, measured))),
    }
    return Section("accuracy", "Gap and accuracy", "accuracy.html.j2", content, [*gaps, *accuracies])


def training_section(runs: Sequence[Run]) -> Section | None:
    """The curves that each run logged; where there are several runs, two curves of all of them first."""
    compared = compared_figures(runs)
    figures, parts = list(compared), []
    for run, slug, name in named(runs):
        curves, settings = training_figures(run, slug, name)
        if curves or settings:
            parts.append((name, curves, settings))
            figures += curves + settings
    lead = "What the run logged; values in training are means over the rows since the log before, without intervals."
    if any(run.log and curriculum_bands(run.log) for run in runs):
        lead += " The background is the curriculum: in which view the pairs were learnt."
    content = {"lead": lead, "compared": compared, "runs": parts}
    return Section("training", "Training", "training.html.j2", content, figures) if figures else None


def group_section(runs: Sequence[Run], by: str, title: str) -> Section | None:
    """Gap and accuracies of each category or level (`by`), as figures and as a table of each run."""
    figures = [figure for run, slug, of_run in named(runs) for figure in group_figures(run, by, slug, of_run)]
    tables = [table for table in (group_table(run, by) for run in runs) if table]
    if not tables:
        return None
    most = max(len(run.last.groups.get(by, ())) for run in runs if run.last)
    content = {"figures": figures, "tables": tables, "is_long": most > _MOST_ROWS}
    return Section(f"by-{by}", title, "groups.html.j2", content, figures)


def text_section(runs: Sequence[Run]) -> Section | None:
    """Accuracy and regret in text-only tasks, as figures and as a table of each run."""
    tables = [table for table in map(text_table, runs) if table]
    if not tables:
        return None
    figures = text_figures(runs)
    baselines = dict.fromkeys(run.last.text.baseline for run in runs if run.last and run.last.text)
    content = {"figures": figures, "tables": tables, "baselines": list(filter(None, baselines))}
    return Section("text", "Text skill", "text.html.j2", content, figures)


def setup_section(runs: Sequence[Run]) -> Section:
    """What it takes to repeat the runs: command, sizes, seed, config, versions, settings of the evaluations."""
    parts = []
    for run, _, name in named(runs):
        log = run.log
        facts = {
            "model": run.model or (run.last.model if run.last else ""),
            **_with_parts_in_words(run.record),
            "steps": log.steps if log else None,
            "tokens": _last_value(run, "num_tokens"),
            "tokens spared by shared prefixes": _last_value(run, "num_tokens_saved"),
            "seconds of training": _last_value(run, "train_runtime"),
            "curves from": log.source if log else None,
        }
        settings = {
            e.name: json.dumps(dict(e.settings), sort_keys=True, ensure_ascii=False)
            for e in run.evaluations
            if e.settings
        }
        versions = dict(run.versions) or next((dict(e.versions) for e in reversed(run.evaluations) if e.versions), {})
        parts.append(
            {
                "run": name,
                "command": run.command,
                "facts": {key: value for key, value in facts.items() if value not in (None, "")},
                "config": _without_secrets(run.config),
                "versions": versions,
                "settings": settings,
            }
        )
    return Section("setup", "Setup", "setup.html.j2", {"runs": parts})


def _with_parts_in_words(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of a run, what trains as one line: `attention 1,024 at 0.001, vision_tower 512 frozen`."""
    told = dict(record)
    rows = told.get("parts")
    if isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows):
        lines = []
        for row in rows:
            rate, count = row.get("learning_rate"), row.get("parameters")
            how = f"at {rate}" if rate else "frozen"
            lines.append(
                f"{row.get('part')} {count:,} {how}" if isinstance(count, int) else f"{row.get('part')} {how}"
            )
        told["parts"] = ", ".join(lines)
    return told


def _has_controls(run: Run) -> bool:
    return any(name in CONTROLS for evaluation in run.evaluations for name in evaluation.conditions)


def _tiles(run: Run) -> list[Tile]:
    """Gap and accuracy of both views, each against the evaluation before training, and up to three text regrets."""
    before, last = run.before, run.last
    if last is None:
        return []
    quantities = [("gap", "Gap, points", before and before.gap, last.gap)]
    quantities += [
        (view, f"{view} accuracy, %", before and before.conditions.get(view), last.conditions.get(view))
        for view in VIEWS
    ]
    tiles = [
        _tile(name, first, found, before and paired_change(before, last, quantity))
        for quantity, name, first, found in quantities
        if found is not None
    ]
    regrets = last.text.regret if last.text else {}
    verdicts = {
        "above": "\u25bc worse than its baseline",
        "below": "\u25b2 better",
        "same": "\u2248 not distinguishable",
    }
    tiles += [
        _tile(f"{task} regret, points", None, regret)._replace(verdict=verdicts[against_zero(regret)])
        for task, regret in list(regrets.items())[:3]
    ]
    return tiles


def _tile(name: str, before: Estimate | None, last: Estimate, paired: Estimate | None = None) -> Tile:
    value, interval = PROSE.decimal(100 * last.value), PROSE.interval(last, 100)
    if before is None:
        return Tile(name, value, interval)
    verdicts = {"lower": "\u25bc lower", "higher": "\u25b2 higher", "same": "\u2248 not distinguishable"}
    return Tile(
        name,
        value,
        f"{PROSE.interval(before, 100)} \u2192 {interval}",
        was=PROSE.decimal(100 * before.value),
        verdict=verdicts[change(before, last, paired)],
    )


def _last_value(run: Run, name: str) -> str:
    points = run.log.points(name) if run.log else []
    return f"{points[-1][1]:,.0f}" if points else ""


def _without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without keys to a hub or a server, since a report is passed on."""
    return {k: "(not shown)" if k.endswith(("hub_token", "api_key")) and v else v for k, v in config.items()}
