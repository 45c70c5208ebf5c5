"""The tables of a report, which the page shows by its templates and Markdown by `Table.to_markdown`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..evaluation.formatting import PROSE
from .reading.evaluations import Estimate, Evaluation
from .reading.runs import Run
from .text import markdown_text
from .wording import ordered


class Cell(NamedTuple):
    """A cell of a table: a text, and below it in small print its interval or another remark."""

    text: str
    note: str = ""


class Table(NamedTuple):
    """A table; the first cell of each row is its heading."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def to_markdown(self) -> str:
        """The table in Markdown, without its caption; notes stand in parentheses."""
        rows = [[_markdown_cell(cell) for cell in row] for row in self.rows]
        lines = [[markdown_text(name) for name in self.head], ["---", *["---:"] * (len(self.head) - 1)], *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown_cell(cell: Cell) -> str:
    text = markdown_text(cell.text)
    return f"{text} ({markdown_text(cell.note)})" if cell.note else text


NOTHING = Cell("\u2013")


def share_cell(estimate: Estimate | None) -> Cell:
    """A share in percent with its interval."""
    return NOTHING if estimate is None else Cell(PROSE.percent(estimate.value), PROSE.interval(estimate, 100))


def points_cell(estimate: Estimate | None) -> Cell:
    """A difference of shares in percentage points with its interval."""
    return NOTHING if estimate is None else Cell(PROSE.decimal(100 * estimate.value), PROSE.interval(estimate, 100))


def nats_cell(estimate: Estimate | None) -> Cell:
    """Nats per token with their interval."""
    return NOTHING if estimate is None else Cell(PROSE.decimal(estimate.value, 3), PROSE.interval(estimate, digits=3))


def run_table(run: Run) -> Table:
    """All that was measured of a run: a row for each quantity, a column for each evaluation in order of time."""
    evaluations = list(run.evaluations)
    rows: list[list[Cell]] = []
    for name in ordered({name: 1 for evaluation in evaluations for name in evaluation.conditions}):
        rows.append([Cell(f"{name} accuracy"), *(share_cell(e.conditions.get(name)) for e in evaluations)])
    if any(e.gap for e in evaluations):
        rows.append([Cell("gap, points"), *(points_cell(e.gap) for e in evaluations)])
    if any(e.vision_gain for e in evaluations):
        rows.append([Cell("vision gain, points"), *(points_cell(e.vision_gain) for e in evaluations)])
    for name in ordered({name: 1 for evaluation in evaluations for name in evaluation.nats}):
        values = (Cell(PROSE.decimal(e.nats[name], 3)) if name in e.nats else NOTHING for e in evaluations)
        rows.append([Cell(f"{name} loss, nats per token"), *values])
    if any(e.nats_gap for e in evaluations):
        rows.append([Cell("gap, nats per token"), *(nats_cell(e.nats_gap) for e in evaluations)])
    for task in _tasks(evaluations):
        found = (e.text.tasks.get(task) if e.text else None for e in evaluations)
        rows.append([Cell(f"{task} accuracy"), *map(share_cell, found)])
    for task in _tasks(evaluations):
        regrets = [e.text.regret.get(task) if e.text else None for e in evaluations]
        if any(regrets):
            rows.append([Cell(f"{task} regret, points"), *map(points_cell, regrets)])
    for name in dict.fromkeys(name for e in evaluations for name in e.failures):
        counts = (e.failures.get(name) for e in evaluations)
        rows.append([Cell(f"{name} requests without an answer"), *(Cell(f"{n:,}") if n else NOTHING for n in counts)])
    return Table(f"All that was measured: {run.name}", ["", *(e.name for e in evaluations)], rows)


def _tasks(evaluations: Sequence[Evaluation]) -> list[str]:
    return list(dict.fromkeys(task for e in evaluations if e.text for task in e.text.tasks))


def text_table(run: Run) -> Table | None:
    """Text skill: for each task the accuracy before and last, and the regret; `None` where none was measured last."""
    last = run.last
    if last is None or last.text is None:
        return None
    first = run.before.text.tasks if run.before is not None and run.before.text else {}
    rows = [
        [
            Cell(task, f"{estimate.total:,} questions" if estimate.total else ""),
            share_cell(first.get(task)),
            share_cell(estimate),
            points_cell(last.text.regret.get(task)),
        ]
        for task, estimate in last.text.tasks.items()
    ]
    return Table(f"Text skill: {run.name}", ["task", "before", last.name, "regret, points"], rows)


def group_table(run: Run, by: str) -> Table | None:
    """Accuracies and gap of each category or level (`by`), before and last; `None` where the last has no groups."""
    last = run.last
    if last is None or not last.groups.get(by):
        return None
    before = run.before.groups.get(by, {}) if run.before is not None else {}
    states = [("before", before), (last.name, last.groups[by])] if before else [(last.name, last.groups[by])]
    head = [by, "pairs", *(f"{quantity}, {name}" for quantity in _QUANTITIES for name, _ in states)]
    names = dict.fromkeys([*last.groups[by], *before])
    rows = []
    for name in names:
        groups = [groups.get(name) for _, groups in states]
        totals = [e.total for g in groups if g for e in g.conditions.values() if e.total is not None]
        cells = (cell_of(group) for cell_of in _QUANTITIES.values() for group in groups)
        rows.append([Cell(name), Cell(f"{totals[-1]:,}") if totals else NOTHING, *cells])
    return Table(f"By {by}: {run.name}", head, rows)


_QUANTITIES = {
    "text_rich": lambda group: share_cell(group.conditions.get("text_rich") if group else None),
    "vision_centric": lambda group: share_cell(group.conditions.get("vision_centric") if group else None),
    "gap": lambda group: points_cell(group.gap if group else None),
}


def compared_table(runs: Sequence[Run]) -> Table | None:
    """Several runs, a row each: gap before and last, accuracies and regrets last; `None` for a single run."""
    lasts = [run.last for run in runs]
    if len(runs) < 2 or not any(lasts):
        return None
    tasks = list(dict.fromkeys(task for last in lasts if last and last.text for task in last.text.regret))
    rows = []
    for run, last in zip(runs, lasts, strict=True):
        shares = last.conditions if last else {}
        regrets = last.text.regret if last and last.text else {}
        rows.append(
            [
                Cell(run.name, last.name if last else ""),
                points_cell(run.before.gap if run.before else None),
                points_cell(last.gap if last else None),
                share_cell(shares.get("text_rich")),
                share_cell(shares.get("vision_centric")),
                *(points_cell(regrets.get(task)) for task in tasks),
            ]
        )
    head = ["", "gap before, points", "gap, points", "text_rich accuracy", "vision_centric accuracy"]
    return Table("The runs side by side", [*head, *(f"{task} regret, points" for task in tasks)], rows)
