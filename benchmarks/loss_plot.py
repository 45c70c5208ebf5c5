"""Draws the newest results of `bench_loss.py` from its CSV: time by tokens, time by vocabulary, peak memory."""

import csv
from pathlib import Path

from peers import COMPILED, FLOOR, FLOOR_IN_PLACE, LIGER, OURS, PLAIN, TRL, TRL_TUNED


# Okabe and Ito's colours, which those who do not see red or green as others do can tell apart; shapes tell them too
STYLES = {
    OURS: {"color": "#0072B2", "marker": "o", "linewidth": 2.6, "zorder": 5},
    PLAIN: {"color": "#E69F00", "marker": "s"},
    COMPILED: {"color": "#CC79A7", "marker": "D"},
    TRL: {"color": "#D55E00", "marker": "^"},
    TRL_TUNED: {"color": "#56B4E9", "marker": "v"},
    LIGER: {"color": "#009E73", "marker": "P"},
    FLOOR: {"color": "#555555", "marker": "x", "linestyle": "--"},
    FLOOR_IN_PLACE: {"color": "#999999", "marker": "+", "linestyle": ":"},
}
CASES = ("growth_m", "growth_v", "memory")


def draw(table: Path, picture: Path) -> None:
    """Draw the newest growth and memory rows, all from the device of the last row."""
    try:
        import matplotlib
    except ImportError:
        print("No picture: matplotlib is not installed (`pip install 'trl-modality[plot]'`).")
        return
    if not table.exists():
        print(f"No picture: there is no {table} yet.")
        return
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["case"] in CASES]
    curves = {case: newest(rows, case) for case in CASES}
    if not any(curves.values()):
        print("No picture: there are no rows of `--preset growth` or `--preset memory` yet.")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(15, 5.2), layout="constrained")
    _draw_times(axes[0], curves["growth_m"], "n_tokens", "tokens M, each in both views")
    _draw_times(axes[1], curves["growth_v"], "vocab_size", "vocabulary V")
    _draw_memory(axes[2], curves["memory"])
    any_row = next(rows for rows in curves.values() if rows)[0]
    figure.suptitle(
        f"Two cross-entropies and a forward KL, forward and backward, head trained: {any_row['device']}, "
        f"{any_row['dtype']}, H = {int(any_row['hidden_size']):,}"
    )
    entries = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    ordered = [name for name in STYLES if name in entries] + [name for name in entries if name not in STYLES]
    figure.legend([entries[name] for name in ordered], ordered, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(picture, dpi=130)
    pyplot.close(figure)
    print(f"drawn: {picture}")


def newest(rows: list[dict[str, str]], case: str) -> list[dict[str, str]]:
    """The measured rows of a case from its last run on the device of the last row."""
    of_case = [row for row in rows if row["case"] == case and row["device"] == rows[-1]["device"] and not row["note"]]
    return [row for row in of_case if row["timestamp"] == of_case[-1]["timestamp"]]


def _draw_times(ax, rows: list[dict[str, str]], size: str, label: str) -> None:
    from matplotlib import ticker

    ax.set(xlabel=label, ylabel="time of forward and backward (s)", xscale="log", yscale="log")
    if not rows:
        _say_nothing(ax)
        return
    for name, style in STYLES.items():
        points = sorted((int(row[size]), *_seconds(row)) for row in rows if row["implementation"] == name)
        if points:
            sizes, low, middle, high = zip(*points, strict=True)
            ax.plot(sizes, middle, label=name, **style)
            ax.fill_between(sizes, low, high, color=style["color"], alpha=0.15, linewidth=0)
    fixed = ("vocab_size", "V") if size == "n_tokens" else ("n_tokens", "M")
    ax.set_title(f"{fixed[1]} = {int(rows[0][fixed[0]]):,}", fontsize="medium")
    ax.xaxis.set(
        major_locator=ticker.FixedLocator(sorted({int(row[size]) for row in rows})),
        minor_locator=ticker.NullLocator(),
        major_formatter=ticker.StrMethodFormatter("{x:,.0f}"),
    )
    _plain_numbers(ax.yaxis)
    ax.grid(alpha=0.3)


def _draw_memory(ax, rows: list[dict[str, str]]) -> None:
    ax.set(ylabel="peak memory beside inputs, outputs\nand gradients (MiB)", yscale="log")
    if not rows:
        _say_nothing(ax)
        return
    names = [name for name in STYLES if any(row["implementation"] == name for row in rows)]
    tokens = sorted({int(row["n_tokens"]) for row in rows})
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        own = {int(row["n_tokens"]): float(row["peak_extra_mib"]) for row in rows if row["implementation"] == name}
        for at, n_tokens in enumerate(tokens):
            if n_tokens in own:
                place = at + (i - (len(names) - 1) / 2) * width
                ax.bar(place, own[n_tokens], 0.92 * width, color=STYLES[name]["color"])
                ax.annotate(
                    f"{own[n_tokens]:,.0f}", (place, own[n_tokens]), (0, 2), textcoords="offset points",
                    ha="center", va="bottom", fontsize="x-small",
                )  # fmt: skip
    budget = next((float(row["tile_mib"]) for row in rows if row["tile_mib"]), None)
    if budget is not None:
        ax.axhline(budget, color="black", linestyle=":", label=f"budget of ours: {budget:,.0f} MiB")
    ax.set_xticks(range(len(tokens)), [f"M = {n:,}" for n in tokens])
    # Bars on a logarithmic scale start anywhere: low enough that the smallest is still one
    values = [float(row["peak_extra_mib"]) for row in rows]
    ax.set_ylim(min(values) / 4, max(values) * 1.7)
    _plain_numbers(ax.yaxis)
    ax.set_title(f"V = {int(rows[0]['vocab_size']):,}", fontsize="medium")
    ax.grid(axis="y", alpha=0.3)


def _seconds(row: dict[str, str]) -> tuple[float, float, float]:
    low, middle, high = (float(row[f"p{percent}_ms"]) / 1e3 for percent in (20, 50, 80))
    return low, middle, high


def _plain_numbers(axis) -> None:
    """Label an axis with 1, 2, 5, 10, … rather than powers of ten."""
    from matplotlib import ticker

    axis.set(
        major_locator=ticker.LogLocator(subs=(1, 2, 5)),
        minor_locator=ticker.NullLocator(),
        major_formatter=ticker.StrMethodFormatter("{x:,.6g}"),
    )


def _say_nothing(ax) -> None:
    ax.text(0.5, 0.5, "not measured yet", transform=ax.transAxes, ha="center", va="center")
