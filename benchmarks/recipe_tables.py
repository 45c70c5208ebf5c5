"""Tables and plots of the recipe study, from the rows of its runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from recipe_book import RECIPES, SETTINGS


Row = dict[str, str]
COLUMNS = {
    "text_rich": "held_out_text_rich",
    "vision_centric": "held_out_vision_centric",
    "other tables": "other_tables_vision_centric",
    "other styles": "other_styles_vision_centric",
    "other questions": "other_questions_vision_centric",
    "other questions, text_rich": "other_questions_text_rich",
    "text skill": "text_skill",
}
GOAL_COLUMNS = {"steps to 90 %": "steps_to_goal", "tokens": "tokens_to_goal", "seconds": "seconds_to_goal"}


def write_tables(rows: Sequence[Row], folder: Path) -> None:
    """Write `recipes.md`, and pictures: `recipes.png` (every recipe), `recipe_parts.png` (what trains) and
    `recipe_settings.png` (where labels are wrong or few)."""
    parts = ["# Recipes", "", *_base(rows)]
    for name, setting in SETTINGS.items():
        for budget in setting.budgets:
            own = [row for row in rows if (row["setting"], row["budget"]) == (name, budget)]
            if own:
                parts += ["", f"## {name}, equal {budget}", "", *_table(own)]
                for reference in setting.references:
                    parts += ["", f"Minus `{reference}`, of the same seed:", "", *_differences(own, reference)]
    (folder / "recipes.md").write_text("\n".join(parts) + "\n", encoding="utf-8")
    _plot_recipes(rows, "main", "tokens", "Equal processed tokens", folder / "recipes.png")
    _plot_recipes(rows, "parts", "steps", "What trains, in 200 steps", folder / "recipe_parts.png")
    _plot_settings(rows, folder / "recipe_settings.png")


def _base(rows: Sequence[Row]) -> list[str]:
    own = [row for row in rows if row["recipe"] == "base"]
    cells = [f"{name} {interval([100 * float(row[column]) for row in own])}" for name, column in COLUMNS.items()]
    return [f"The base, percent: {'; '.join(cells)}."] if own else []


def _table(rows: Sequence[Row]) -> list[str]:
    """Means over the seeds with Student's 95 % intervals."""
    heads = ["recipe", "seeds", "steps", "tokens", *COLUMNS, *GOAL_COLUMNS]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for recipe in RECIPES:
        own = [row for row in rows if row["recipe"] == recipe]
        if own:
            accuracies = [interval([100 * float(row[column]) for row in own]) for column in COLUMNS.values()]
            steps, tokens = (f"{mean(float(row[name]) for row in own):,.0f}" for name in ("steps", "tokens"))
            goals = [_goal(own, column) for column in GOAL_COLUMNS.values()]
            lines.append("| " + " | ".join([recipe, str(len(own)), steps, tokens, *accuracies, *goals]) + " |")
    return lines


def _differences(rows: Sequence[Row], reference: str) -> list[str]:
    """Differences of recipes to the reference in points, by seed: both have the same data and tests."""
    lines = ["| " + " | ".join(["recipe", *COLUMNS]) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    others = {row["seed"]: row for row in rows if row["recipe"] == reference}
    for recipe in RECIPES:
        own = [row for row in rows if row["recipe"] == recipe != reference and row["seed"] in others]
        if own:
            cells = [
                interval([100 * (float(row[column]) - float(others[row["seed"]][column])) for row in own], "+.1f")
                for column in COLUMNS.values()
            ]
            lines.append("| " + " | ".join([recipe, *cells]) + " |")
    return lines


def _goal(rows: Sequence[Row], column: str) -> str:
    """Mean over the seeds that reached the goal, and their number if not all did."""
    reached = [float(row[column]) for row in rows if row[column]]
    if not reached:
        return "never"
    return f"{mean(reached):,.0f}" + (f" ({len(reached)} of {len(rows)})" if len(reached) < len(rows) else "")


def interval(values: Iterable[float], form: str = ".1f") -> str:
    """The mean ± half the width of Student's 95 % interval."""
    values = list(values)
    if len(values) < 2:
        return f"{values[0]:{form}}"
    return f"{mean(values):{form}} ± {half_width(values):.1f}"


def half_width(values: Sequence[float]) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


SHOWN = {
    "held_out_vision_centric": "vision_centric, held out",
    "held_out_text_rich": "text_rich, held out",
    "other_questions_vision_centric": "vision_centric, other questions",
    "text_skill": "text skill",
}
SHOWN_SETTINGS = {
    ("main", "tokens"): "right labels",
    ("wrong_labels", "tokens"): "wrong labels (30 %)",
    ("several_steps", "tokens"): "also questions of one more step",
    ("few_vision_labels", "steps"): "answers for a tenth of the pictures",
}


def _plot_recipes(rows: Sequence[Row], setting: str, budget: str, title: str, file: Path) -> None:
    own = [row for row in rows if (row["setting"], row["budget"]) == (setting, budget)]
    recipes = [recipe for recipe in RECIPES if any(row["recipe"] == recipe for row in own)]
    panels = [(name, recipes, own, column) for column, name in SHOWN.items()]
    _plot(panels if recipes else [], title, file)


def _plot_settings(rows: Sequence[Row], file: Path) -> None:
    panels = []
    for (name, budget), title in SHOWN_SETTINGS.items():
        own = [row for row in rows if (row["setting"], row["budget"]) == (name, budget)]
        # The recipes that were also tried where labels are wrong
        compared = SETTINGS["wrong_labels" if name == "main" else name].recipes
        recipes = [recipe for recipe in compared if any(row["recipe"] == recipe for row in own)]
        panels += [(title, recipes, own, "held_out_vision_centric")] if recipes else []
    _plot(panels, "Accuracy in the vision_centric view, held out", file)


def _plot(panels: Sequence[tuple[str, list[str], list[Row], str]], title: str, file: Path) -> None:
    """Plot panels, each given as (title, recipes, rows, column)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    if not panels:
        return
    height = 0.42 * max(len(recipes) for _, recipes, _, _ in panels) + 1.4
    figure, axes = plt.subplots(1, len(panels), figsize=(3.3 * len(panels), height), squeeze=False)
    shares_names = all(recipes == panels[0][1] for _, recipes, _, _ in panels)
    for number, (axis, (name, recipes, rows, column)) in enumerate(zip(axes[0], panels, strict=True)):
        for place, recipe in enumerate(recipes):
            values = [100 * float(row[column]) for row in rows if row["recipe"] == recipe]
            error: Any = half_width(values) if len(values) > 1 else 0.0
            axis.errorbar(mean(values), place, xerr=error, fmt="o", color="#1f5fa8", capsize=3, zorder=3)
            axis.plot(values, [place] * len(values), "o", markersize=3.5, color="#f0a030", alpha=0.8, zorder=4)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("%")
        axis.set_xlim(-3, 103)
        axis.grid(axis="x", alpha=0.3)
        axis.set_yticks(range(len(recipes)), [] if shares_names and number else recipes)
        axis.set_ylim(len(recipes) - 0.5, -0.5)
    figure.suptitle(f"{title}; points are seeds, bars 95 % intervals of their mean", fontsize=10)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)
