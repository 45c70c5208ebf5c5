"""The figures of a report: which numbers of a run go into which drawing."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from .figures.bars import Bar, BarGroup, Caption, bar_chart, with_interval
from .figures.curves import LOW_PLOT_HEIGHT, Band, Curve, curve_chart
from .figures.drawing import Drawing
from .reading.evaluations import Estimate, Evaluation
from .reading.logs import Log
from .reading.runs import Run
from .wording import CONDITIONS, CONTROLS, differences, ordered


# `eval_text_rich_accuracy`, or with the name of one of several evaluation sets `eval_charts_text_rich_accuracy`
_IN_TRAINING = re.compile(r"eval_(?:(.+)_)?(text_rich|vision_centric)_accuracy")
VIEWS = ("text_rich", "vision_centric")
_LEAST_POINTS = (0.0, 5.0)  # the least axis for differences in points, so that a tenth of a point does not look large
_MOST_GROUPS = 12  # in a figure; the table has all groups
_HOW = "whiskers are intervals"
_GAP_UNIT = "nats per token, vision_centric minus text_rich"
# Colour and dash of each of several runs in one figure; the colours of the views are left out
_RUN_STYLES = (("gap", ()), ("replay", (6, 3)), ("kl", (2, 3)), ("control", ()), ("ink", (6, 3)), ("muted", (2, 3)))


def gap_figures(runs: Sequence[Run]) -> list[Drawing]:
    """Bar charts of the gap in every evaluation of every run: one in percentage points, one in nats per token."""
    drawings = []
    in_points, in_nats = (lambda e: e.gap.scaled(100) if e.gap else None), (lambda e: e.nats_gap)
    for name, title, unit, digits, bounds, gap_of in (
        ("gap", "Gap between the views", "percentage points", 1, _LEAST_POINTS, in_points),
        ("gap_nats", "Gap between the losses of the views", "nats per token", 3, None, in_nats),
    ):
        groups = []
        for run in runs:
            found = [(e, gap_of(e)) for e in run.evaluations]
            bars = [Bar(e.name, gap, "gap", e is not run.before) for e, gap in found if gap is not None]
            groups += [BarGroup("" if len(runs) == 1 else run.name, bars)] if bars else []
        if groups:
            caption = Caption(name, title, f"{unit}; {_HOW}", _said(groups, unit, digits))
            drawings.append(bar_chart(caption, groups, bounds, digits))
    return drawings


def accuracy_figure(run: Run, slug: str, of: str) -> Drawing | None:
    """A bar chart of the accuracy in each condition before training and last; `None` where nothing was answered.

    `slug` ends the name of the figure's file, `of` is the name of the run; both are empty for a single run.
    """
    states = _first_and_last(run)
    groups = []
    for name in ordered({name: 1 for evaluation in states for name in evaluation.conditions}):
        found = [(e, e.conditions[name]) for e in states if name in e.conditions]
        role = name if name in VIEWS else "control" if name in CONTROLS else "vision_centric"
        bars = [Bar(e.name, share.scaled(100), role, e is not run.before) for e, share in found]
        groups.append(BarGroup(name, bars, CONDITIONS.get(name, "")))
    return _shares(f"accuracy{slug}", "Answered right", "pairs", groups, of)


def group_figures(run: Run, by: str, slug: str, of: str) -> list[Drawing]:
    """Bar charts by category or level (`by`): the last accuracies of both views, and the gap before training and last.

    `slug` ends the names of the figures' files, `of` is the name of the run; both are empty for a single run.
    """
    states = [e for e in _first_and_last(run) if e.groups.get(by)]
    names, some = _largest(states, by)
    accuracies, gaps = [], []
    for name in names:
        found = [(e, e.groups[by][name]) for e in states if name in e.groups[by]]
        # A group that the last evaluation lacks has no last accuracy
        shares = states[-1].groups[by][name].conditions if name in states[-1].groups[by] else {}
        accuracies.append(BarGroup(name, [Bar(v, shares[v].scaled(100), v) for v in VIEWS if v in shares]))
        bars = [Bar(e.name, group.gap.scaled(100), "gap", e is not run.before) for e, group in found if group.gap]
        gaps.append(BarGroup(name, bars))
    accuracies, gaps = ([group for group in groups if group.bars] for groups in (accuracies, gaps))
    drawings = []
    if accuracies:
        title = f"Answered right by {by}, {states[-1].name}"
        drawings += [_shares(f"accuracy_by_{by}{slug}", title, f"pairs{some}", accuracies, of)]
    if gaps:
        subtitle = f"percentage points{some}; {_HOW}"
        caption = Caption(f"gap_by_{by}{slug}", f"Gap by {by}", subtitle, _said(gaps, "points"), of)
        drawings.append(bar_chart(caption, gaps, _LEAST_POINTS))
    return [drawing for drawing in drawings if drawing is not None]


def _largest(states: Sequence[Evaluation], by: str) -> tuple[list[str], str]:
    """The names of the groups with most pairs, and words for the subtitle where some groups are left out."""
    totals: dict[str, int] = {}
    for evaluation in reversed(states):
        for name, group in evaluation.groups[by].items():
            totals.setdefault(name, max((share.total or 0 for share in group.conditions.values()), default=0))
    if len(totals) <= _MOST_GROUPS:
        return list(totals), ""
    largest = sorted(totals, key=lambda name: -totals[name])[:_MOST_GROUPS]
    return [name for name in totals if name in largest], f", {_MOST_GROUPS} largest of {len(totals)} groups"


def text_figures(runs: Sequence[Run]) -> list[Drawing]:
    """Bar charts of the accuracy and of the text regret in each text-only task, with all runs."""
    accuracies, regrets = [], []
    for run in runs:
        before, skill = run.before and run.before.text, run.last and run.last.text
        if not skill:
            continue
        of_run = "" if len(runs) == 1 else f", {run.name}"
        for task, share in skill.tasks.items():
            bars = [Bar(run.last.name if run.last else "", share.scaled(100), "replay")]
            if before and task in before.tasks:
                bars.insert(0, Bar("before", before.tasks[task].scaled(100), "replay", is_solid=False))
            accuracies.append(BarGroup(f"{task}{of_run}", bars))
        bars = [Bar(task, regret.scaled(100), "replay") for task, regret in skill.regret.items()]
        regrets += [BarGroup("" if len(runs) == 1 else run.name, bars)] if bars else []
    drawings = [_shares("text_skill", "Answered right, text alone", "questions", accuracies)]
    if regrets:
        subtitle = f"percentage points lost; below 0: gained; {_HOW}"
        caption = Caption("text_regret", "Text regret", subtitle, _said(regrets, "points"))
        drawings.append(bar_chart(caption, regrets, _LEAST_POINTS))
    return [drawing for drawing in drawings if drawing is not None]


def compared_figures(runs: Sequence[Run]) -> list[Drawing]:
    """Curves of two to six runs together: the gap in nats, and the loss of the vision_centric view."""
    drawings = []
    for name, title, unit in (
        ("gap_nats", "Gap in training", _GAP_UNIT),
        ("vision_centric_nll", "Loss of the vision_centric view", "nats per token"),
    ):
        logged = [(run.name, run.log.points(name)) for run in runs if run.log and _is_finite(run.log.points(name))]
        if 1 < len(logged) <= len(_RUN_STYLES):
            styles = zip(logged, _RUN_STYLES, strict=False)
            curves = [Curve(label, role, points, dash=dash) for (label, points), (role, dash) in styles]
            caption = Caption(f"compared_{name}", title, unit, _said_curves(curves))
            drawings.append(curve_chart(caption, curves, may_be_log=name != "gap_nats"))
    return drawings


def training_figures(run: Run, slug: str, of: str) -> tuple[list[Drawing], list[Drawing]]:
    """Curves that a run logged: (losses, gap, KL and accuracies; schedules of weights and rates).

    `slug` ends the names of the figures' files, `of` is the name of the run; both are empty for a single run.
    """
    log = run.log
    if log is None:
        return [], []
    bands, last_step = curriculum_bands(log), float(log.steps)
    ratio = {round(100 * value, 1) for _, value in log.points("replay_ratio") if math.isfinite(value)}
    replayed = f"nats per token; {ratio.pop():g} % of the rows" if len(ratio) == 1 else "nats per token"
    main, settings = [], []
    for name, title, unit, curves, may_be_log in (
        ("loss", "Loss of each view", "nats per token", _loss_curves(log), True),
        ("gap_in_training", "Gap in training", _GAP_UNIT, _curves(log, [("gap", "gap_nats", "gap")]), False),
        ("kl", "KL of the views", "nats per token", _curves(log, [("KL", "kl", "kl")]), True),
        ("replay", "Loss on replayed text", replayed, _curves(log, [("replay", "replay_nll", "replay")]), True),
    ):
        if curves:
            caption = Caption(f"{name}{slug}", title, unit, _said_curves(curves), of)
            main.append(curve_chart(caption, curves, bands, last_step, may_be_log))
    main[2:2] = _accuracy_figures(run, slug, of, bands)
    for name, title, unit, curves in (
        ("replay_ratio", "Share of replay", "% of the rows", _varying(log, "replay_ratio", 100.0, "replay")),
        ("kl_weight", "Weight of the KL", "", _varying(log, "kl_weight", 1.0, "kl")),
        ("learning_rate", "Learning rate", "", _varying(log, "learning_rate", 1.0, "control")),
    ):
        if curves:
            caption = Caption(f"{name}{slug}", title, unit, _said_curves(curves), of)
            settings.append(curve_chart(caption, curves, (), last_step, plot_height=LOW_PLOT_HEIGHT))
    return main, settings


def curriculum_bands(log: Log) -> list[Band]:
    """The stages of the curriculum, from the logged shares of the views.

    A logged share holds from the previous logged step to its own step. The list is empty where all pairs were learnt
    in both views throughout, which is no curriculum.
    """
    shares = [{round(step): value for step, value in log.points(f"{view}_share")} for view in VIEWS]
    bands: list[Band] = []
    start = 0
    for step in sorted(shares[0].keys() & shares[1].keys()):
        text, vision = (share[step] for share in shares)
        if not (math.isfinite(text) and math.isfinite(vision)):
            continue
        if bands and (bands[-1].text_rich, bands[-1].vision_centric) == (text, vision):
            bands[-1] = Band(bands[-1].start, step, text, vision)
        else:
            bands.append(Band(start, step, text, vision))
        start = step
    return [] if all(band.stage == "both views" for band in bands) else bands


def _first_and_last(run: Run) -> list[Evaluation]:
    return [e for e in (run.before, run.last) if e is not None]


def _shares(name: str, title: str, whole: str, groups: Sequence[BarGroup], of: str = "") -> Drawing | None:
    caption = Caption(name, title, f"% of the {whole}; {_HOW}", _said(groups, "%"), of)
    return bar_chart(caption, groups, (0.0, 100.0)) if groups else None


def _said(groups: Sequence[BarGroup], unit: str, digits: int = 1) -> str:
    """The numbers of a bar chart in words, for readers who do not see it."""
    parts = []
    for group in groups:
        bars = "; ".join(f"{bar.label} {with_interval(bar.estimate, digits)}" for bar in group.bars)
        parts.append(f"{group.heading}: {bars}." if group.heading else f"{bars}.")
    return f"In {unit}, with intervals. {' '.join(parts)}"


def _said_curves(curves: Sequence[Curve]) -> str:
    """First and last value of each curve in words, for readers who do not see the chart."""
    parts = []
    for curve in curves:
        points = [*curve.points, *((step, e.value) for step, e in curve.marked)]
        finite = sorted(point for point in points if math.isfinite(point[1]))
        if finite:
            (first, start), (last, end) = finite[0], finite[-1]
            parts.append(f"{curve.label}: {start:.3g} at step {first:g}, {end:.3g} at step {last:g}.")
    return " ".join(parts)


def _curves(log: Log, wanted: Sequence[tuple[str, str, str]]) -> list[Curve]:
    """Curves of (label, name in the log, colour), with the values of evaluations in training as dots."""
    curves = []
    for index, (label, name, role) in enumerate(wanted):
        points = log.points(name)
        evaluated = [key for key in sorted(log.series) if key.startswith("eval_") and key.endswith(f"_{name}")]
        evaluated = [key for key in evaluated if _is_finite(log.points(key))]
        dash, shape = ((), "circle") if index == 0 else ((6, 3), "square")
        if _is_finite(points):
            curves.append(Curve(f"{label}, training" if evaluated else label, role, points, dash=dash))
        for key in evaluated:
            held_out = key.removeprefix("eval_").removesuffix(name).rstrip("_") or "held out"
            marked = [(step, Estimate(value, value, value)) for step, value in log.points(key) if math.isfinite(value)]
            curves.append(Curve(f"{label}, {held_out}", role, marked=marked, shape=shape))
    return curves


def _loss_curves(log: Log) -> list[Curve]:
    views = _curves(log, [(view, f"{view}_nll", view) for view in VIEWS])
    return views or _curves(log, [("loss", "loss", "control")])


def _varying(log: Log, name: str, factor: float, role: str) -> list[Curve]:
    """The curve of a logged setting, times a factor; none where it never changes."""
    points = [(step, factor * value) for step, value in log.points(name)]
    changes = len({value for _, value in points if math.isfinite(value)}) > 1
    return [Curve(name, role, points)] if changes else []


def _is_finite(points: Sequence[tuple[float, float]]) -> bool:
    return any(math.isfinite(value) for _, value in points)


def _accuracy_figures(run: Run, slug: str, of: str, bands: Sequence[Band]) -> list[Drawing]:
    """A chart of accuracies over steps for each set that was evaluated in training."""
    log = run.log
    assert log is not None
    logged = {match[1] or "" for name in log.series if (match := _IN_TRAINING.fullmatch(name))}
    sets = sorted(logged | {e.set_name for e in run.evaluations if e.step is not None})
    drawings = []
    for number, set_name in enumerate(sets):
        curves = _accuracy_curves(run, log, set_name)
        if curves:
            name = f"accuracy_in_training{f'_{number + 1}' if len(sets) > 1 else ''}{slug}"
            title = "Accuracy in training" + (f", {set_name}" if set_name else "")
            caption = Caption(name, title, "% of the pairs", _said_curves(curves), of)
            drawings.append(curve_chart(caption, curves, bands, float(log.steps)))
    return drawings


def _accuracy_curves(run: Run, log: Log, set_name: str) -> list[Curve]:
    """Accuracies by view over steps: logged values, or those of a `gap.json` (with intervals) where there is one."""
    curves = []
    steps = [e for e in run.evaluations if e.step is not None and e.set_name == set_name]
    # The points of a line must be of the same rows; `before` and `after` may have been asked other ones
    ends = [
        e for e in run.evaluations if e.step is None and not set_name and not any(differences(e, s) for s in steps)
    ]
    for view, shape in zip(VIEWS, ("circle", "square"), strict=True):
        points = log.points(f"eval_{set_name}_{view}_accuracy" if set_name else f"eval_{view}_accuracy")
        found = {s: Estimate(100 * v, 100 * v, 100 * v) for s, v in points if math.isfinite(v)}
        is_curve = bool(found or steps)  # `before` and `after` alone make no curve: other figures have them
        for evaluation in [*steps, *ends]:
            step = {"before": 0, "after": log.steps}.get(evaluation.name, evaluation.step)
            if step is not None and view in evaluation.conditions:
                found[step] = evaluation.conditions[view].scaled(100)
        marked = sorted(found.items())
        if is_curve and len(marked) > 1:
            line = [(float(step), estimate.value) for step, estimate in marked]
            dash = () if view == VIEWS[0] else (6, 3)
            curves.append(Curve(view, view, line, marked, dash, shape))
    return curves
