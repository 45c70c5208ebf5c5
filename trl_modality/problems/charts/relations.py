"""Questions about changes over time, about several series, and about the highlighted category and target line."""

from __future__ import annotations

from fractions import Fraction

from .grid import plain
from .questions import Ask, Maker, Question, _counted, is_unique, listed


def largest_rise(ask: Ask) -> Question | None:
    g, s = ask.grid, ask.pick_series()
    values = g.values[s]
    rises = [after - before for before, after in zip(values, values[1:], strict=False)]
    top = rises.index(max(rises))
    if rises[top] <= 0 or not is_unique(rises, top):
        return None
    name = g.categories[top + 1]
    text = f"For which {g.noun} is the rise of the {g.what(s)} over the {g.noun} before the largest?"
    steps = (
        ask.everything(s),
        f"The changes from one to the next are {', '.join(map(plain, rises))}.",
        f"The largest rise is {plain(rises[top])}, from {g.categories[top]} to {name}, so the {g.noun} is {name}.",
    )
    return Question("largest_rise", text, name, steps, {"s": s})


def count_rises(ask: Ask) -> Question:
    g, s = ask.grid, ask.pick_series()
    values = g.values[s]
    rising = [g.categories[i + 1] for i in range(len(values) - 1) if values[i + 1] > values[i]]
    text = f"How many times does the {g.what(s)} rise from one {g.noun} to the next?"
    steps = (
        ask.everything(s),
        f"It rises to {listed(rising)}." if rising else "It never rises.",
        f"The number of rises is {len(rising)}.",
    )
    return Question("count_rises", text, str(len(rising)), steps, {"s": s})


def change(ask: Ask) -> Question:
    g, s = ask.grid, ask.pick_series()
    a, b = sorted(ask.pick(2))
    first, last = g.values[s][a], g.values[s][b]
    answer = plain(last - first)
    text = (
        f"By how many {g.unit} does the {g.what(s)} change from {g.categories[a]} to {g.categories[b]}? "
        "Write a fall as a negative number."
    )
    steps = (
        ask.told(s, [a, b]),
        f"{plain(last)} - {plain(first)} = {answer}.",
        f"The change is {answer} {g.unit}.",
    )
    return Question("change", text, answer, steps, {"s": s, "c": [a, b]})


def _two_series(ask: Ask) -> tuple[int, int]:
    first, second = ask.rng.permutation(len(ask.grid.series))[:2].tolist()
    return first, second


def _totals(ask: Ask, pair: tuple[int, int]) -> tuple[list[Fraction], tuple[str, ...]]:
    totals = [sum(ask.grid.values[s], Fraction(0)) for s in pair]
    steps = tuple(
        f"{ask.grid.series[s]}: {' + '.join(map(plain, ask.grid.values[s]))} = {plain(whole)}."
        for s, whole in zip(pair, totals, strict=True)
    )
    return totals, steps


def larger_total(ask: Ask) -> Question | None:
    g, pair = ask.grid, _two_series(ask)
    totals, steps = _totals(ask, pair)
    if totals[0] == totals[1]:
        return None
    a, b = (g.series[s] for s in pair)
    name = a if totals[0] > totals[1] else b
    text = f"Which has the larger total {g.quantity} over all {g.nouns}: {a} or {b}?"
    last = f"{plain(max(totals))} is more than {plain(min(totals))}, so it is {name}."
    return Question("larger_total", text, name, (*steps, last), {"series": list(pair)})


def total_gap(ask: Ask) -> Question:
    g, pair = ask.grid, _two_series(ask)
    totals, steps = _totals(ask, pair)
    answer = plain(abs(totals[0] - totals[1]))
    text = (
        f"By how many {g.unit} does the total {g.quantity} differ between {g.series[pair[0]]} and {g.series[pair[1]]}?"
    )
    last = f"{plain(max(totals))} - {plain(min(totals))} = {answer}, so the difference is {answer} {g.unit}."
    return Question("total_gap", text, answer, (*steps, last), {"series": list(pair)})


def count_wins(ask: Ask) -> Question:
    g, pair = ask.grid, _two_series(ask)
    a, b = pair
    wins = [g.categories[c] for c in range(len(g.categories)) if g.values[a][c] > g.values[b][c]]
    text = f"For how many {g.nouns} is the {g.what(a)} above that {g.series_joiner} {g.series[b]}?"
    steps = (
        f"{g.series[a]}: {ask.everything(a)}",
        f"{g.series[b]}: {ask.everything(b)}",
        f"It is above for {listed(wins)}." if wins else "It is never above.",
        f"The number of {g.nouns} is {len(wins)}.",
    )
    return Question("count_wins", text, str(len(wins)), steps, {"series": list(pair)})


def widest_gap(ask: Ask) -> Question | None:
    g, pair = ask.grid, _two_series(ask)
    a, b = pair
    gaps = [abs(x - y) for x, y in zip(g.values[a], g.values[b], strict=True)]
    top = gaps.index(max(gaps))
    if not is_unique(gaps, top):
        return None
    name = g.categories[top]
    text = f"For which {g.noun} do {g.series[a]} and {g.series[b]} differ most in {g.quantity}?"
    pairs = zip(g.categories, g.values[a], g.values[b], gaps, strict=True)
    steps = (
        ", ".join(f"{c}: {plain(max(x, y))} - {plain(min(x, y))} = {plain(gap)}" for c, x, y, gap in pairs) + ".",
        f"The largest difference is {plain(gaps[top])}, so the {g.noun} is {name}.",
    )
    return Question("widest_gap", text, name, steps, {"series": list(pair)})


def across_series(ask: Ask) -> Question:
    g, (c,) = ask.grid, ask.pick(1)
    values = [g.values[s][c] for s in range(len(g.series))]
    answer = plain(sum(values, Fraction(0)))
    text = f"What is the {g.quantity} {g.at(c)} added up over {listed(g.series)}, in {g.unit}?"
    steps = (
        ", ".join(f"{name}: {plain(value)}" for name, value in zip(g.series, values, strict=True)) + ".",
        f"{' + '.join(map(plain, values))} = {answer}.",
        f"The sum is {answer} {g.unit}.",
    )
    return Question("across_series", text, answer, steps, {"c": [c]})


def highlighted_gap(ask: Ask) -> Question:
    g, h, s = ask.grid, ask.highlighted, ask.pick_series()
    assert h is not None
    (c,) = ask.pick(1, without=h)
    high, low = max(g.values[s][h], g.values[s][c]), min(g.values[s][h], g.values[s][c])
    answer = plain(high - low)
    text = f"By how many {g.unit} does the {g.what(s)} of the highlighted {ask.mark} differ from that {g.at(c)}?"
    steps = (
        f"The highlighted {ask.mark} is {g.categories[h]}.",
        ask.told(s, [h, c]),
        f"{plain(high)} - {plain(low)} = {answer}, so the difference is {answer} {g.unit}.",
    )
    return Question("highlighted_gap", text, answer, steps, {"s": s, "c": [c], "highlighted": h})


def highlighted_rank(ask: Ask) -> Question | None:
    g, h, s = ask.grid, ask.highlighted, ask.pick_series()
    assert h is not None
    values = g.values[s]
    if not is_unique(values, h):
        return None
    larger = [c for c, value in enumerate(values) if value > values[h]]
    text = f"Counted from the largest {g.what(s)}, which place has the highlighted {ask.mark}? Answer with a number."
    steps = (
        f"The highlighted {ask.mark} is {g.categories[h]}, with {plain(values[h])} {g.unit}.",
        ask.everything(s),
        f"Larger: {listed([g.categories[c] for c in larger])}." if larger else "None is larger.",
        f"Its place is {len(larger) + 1}.",
    )
    return Question("highlighted_rank", text, str(len(larger) + 1), steps, {"s": s, "highlighted": h})


def above_target(ask: Ask) -> Question:
    g, target = ask.grid, ask.target
    assert target is not None
    text = f"For how many {g.nouns} is the {g.what()} above the target line?"
    steps, answer = _counted(ask, 0, target)
    return Question(
        "above_target", text, answer, (f"The target is {plain(target)} {g.unit}.", *steps), {"target": plain(target)}
    )


def target_gap(ask: Ask) -> Question:
    g, target, (c,) = ask.grid, ask.target, ask.pick(1)
    assert target is not None
    value = g.values[0][c]
    answer = plain(abs(value - target))
    text = f"By how many {g.unit} does the {g.phrase(c)} differ from the target?"
    steps = (
        f"The {g.phrase(c)} is {plain(value)} and the target is {plain(target)} {g.unit}.",
        f"{plain(max(value, target))} - {plain(min(value, target))} = {answer}.",
        f"The difference is {answer} {g.unit}.",
    )
    return Question("target_gap", text, answer, steps, {"c": [c], "target": plain(target)})


CHANGES: dict[str, Maker] = {"largest_rise": largest_rise, "count_rises": count_rises, "change": change}
COMPARISONS: dict[str, Maker] = {"count_wins": count_wins, "widest_gap": widest_gap}
COMPARED_SUMS: dict[str, Maker] = {
    "larger_total": larger_total,
    "total_gap": total_gap,
    "across_series": across_series,
}
HIGHLIGHTED: dict[str, Maker] = {"highlighted_gap": highlighted_gap, "highlighted_rank": highlighted_rank}
TARGETS: dict[str, Maker] = {"above_target": above_target, "target_gap": target_gap}
