"""Answers to the questions of charts and tables, from the words of the text_rich view alone.

It shares nothing with the generators: it reads the sentences, then the question, and computes.
"""

import re
from decimal import Decimal
from fractions import Fraction
from math import floor


# A question by its wording: {W} what is asked for, {A} at which category, {C} a category, {S} a series, {N} a number
_WORDINGS = {
    "look_up": r"What is the ({W}) ({A}), in \S+\?",
    "add": r"What is the ({W}) ((?:{A})(?:, (?:{A}))* and (?:{A})) added up, in \S+\?",
    "total": r"What is the ({W}) added up over all \w+, in \S+\?",
    "difference": r"By how many \S+ does the ({W}) ({A}) differ from that ({A})\?",
    "ratio": r"How many times as large as the ({W}) ({A}) is that ({A})\? Round to one decimal\.",
    "average": r"What is the average ({W}) over all \w+, in \S+\? Round to one decimal\.",
    "extremum": r"Which \w+ has the (largest|smallest) ({W})\?",
    "spread": r"By how many \S+ does the largest ({W}) exceed the smallest\?",
    "count_above": r"For how many \w+ is the ({W}) above ({N}) \S+\?",
    "rank": r"Which \w+ has the (second|third|fourth) (largest|smallest) ({W})\?",
    "top_two": r"What do the two largest values of the ({W}) add up to, in \S+\?",
    "two_against_one": r"By how many \S+ does the ({W}) ({A}) and ({A}) together differ from that ({A})\?",
    "share": r"What percentage of the total ({W}) is that ({A})\? Round to a whole number\.",
    "largest_rise": r"For which \w+ is the rise of the ({W}) over the \w+ before the largest\?",
    "count_rises": r"How many times does the ({W}) rise from one \w+ to the next\?",
    "change": r"By how many \S+ does the ({W}) change from ({C}) to ({C})\? Write a fall as a negative number\.",
    "larger_total": r"Which has the larger total .+ over all \w+: ({S}) or ({S})\?",
    "total_gap": r"By how many \S+ does the total .+ differ between ({S}) and ({S})\?",
    "count_wins": r"For how many \w+ is the ({W}) above that \w+ ({S})\?",
    "widest_gap": r"For which \w+ do ({S}) and ({S}) differ most in .+\?",
    "across_series": r"What is the .+ ({A}) added up over .+, in \S+\?",
    "highlighted_gap": r"By how many \S+ does the ({W}) of the highlighted \w+ differ from that ({A})\?",
    "highlighted_rank": r"Counted from the largest ({W}), which place has the highlighted \w+\? Answer .+\.",
    "above_target": r"For how many \w+ is the ({W}) above the target line\?",
    "target_gap": r"By how many \S+ does the ({W}) ({A}) differ from the target\?",
    "at_extremum": r"What is the ({W}) of the point with the (largest|smallest) ({W}), in \S+\?",
    "count_both": r"How many points have a ({W}) above ({N}) \S+ and a ({W}) above ({N}) \S+\?",
    "rises_along": r"With the points in order of rising ({W}), how many times does the ({W}) rise from .+\?",
    "group_count": r"For how many of the ({G}) points is the ({W}) above ({N}) \S+\?",
    "group_average": r"What is the average ({W}) of the ({G}) points, in \S+\? Round to one decimal\.",
    "group_larger": r"Which points have the larger ({W}) when it is added up: ({G}) or ({G})\?",
}


class Reading:
    """What the sentences say: `table[what]` is a list of (category, at, value) in the order of the categories."""

    def __init__(self, sentences: list[str]):
        self.table: dict[str, list[tuple[str, str, Fraction]]] = {}
        self.series: dict[str, str] = {}
        self.groups: dict[str, list[str]] = {}
        self.highlighted = self.target = None
        text = "\n".join(sentences)
        if found := re.search(r"^The highlighted \w+ is (.+)\.$", text, re.M):
            self.highlighted = found[1]
        if found := re.search(r"^The target line stands at (\S+) .+\.$", text, re.M):
            self.target = Fraction(found[1])
        if "scatter plot" in sentences[0]:
            self._read_points(text)
        else:
            self._read_values(text)

    def _read_points(self, text: str) -> None:
        names = re.findall(r"^The (?:horizontal|vertical) axis shows the (.+) in \S.*, from \S+ to \S+\.$", text, re.M)
        colours = dict(re.findall(r"[Tt]he (\w+) points are ([^;.]+)", text))
        self.groups = {group: [] for group in colours.values()}
        self.table = {name: [] for name in names}
        pattern = rf"^Point (\w) (?:is (\w+) and )?lies at {names[0]} (\S+) and {names[1]} (\S+)\.$"
        for letter, colour, *values in re.findall(pattern, text, re.M):
            if colour:
                self.groups[colours[colour]].append(letter)
            for name, value in zip(names, values, strict=True):
                self.table[name].append((letter, f"of point {letter}", Fraction(value)))

    def _read_values(self, text: str) -> None:
        quantity, unit = re.search(r"^It shows the (.+) in ([^ ,]+?)(?:, on an axis.*)?\.$", text, re.M).groups()
        names = re.findall(r"(?:^The|; the) \w+ (?:bars are|line is|slice is) ([^;]+?)(?=;|\.$)", text, re.M)
        listed = re.search(r"^The (?:(?:groups of )?bars stand|points stand|rows are).*?: (.+)\.$", text, re.M)
        categories = listed[1].split(", ") if listed else names
        series = names if listed else []
        if columns := re.search(r"^The columns are: (.+)\.$", text, re.M):
            columns = columns[1].split(", ")
            series = columns if len(columns) > 1 else []
        told = {}
        for phrase, value in re.findall(rf"^The ({re.escape(quantity)} .+) is (\S+) {re.escape(unit)}\.$", text, re.M):
            told[phrase] = Fraction(value)
        for name in series or [None]:
            for category in categories:
                middle = rf"(?: \w+ {re.escape(name)})" if name else ""
                pattern = rf"({re.escape(quantity)}{middle}) (\w+ {re.escape(category)})"
                ((what, at, value),) = [
                    (*found.groups(), value)
                    for phrase, value in told.items()
                    if (found := re.fullmatch(pattern, phrase))
                ]
                self.table.setdefault(what, []).append((category, at, value))
                if name:
                    self.series[name] = what
        assert sum(map(len, self.table.values())) == len(told), "a sentence was not understood"

    def at(self, what: str, at: str) -> Fraction:
        (value,) = [value for _, other, value in self.table[what] if other == at]
        return value

    def of(self, what: str, category: str) -> Fraction:
        (value,) = [value for other, _, value in self.table[what] if other == category]
        return value

    def values(self, what: str) -> list[Fraction]:
        return [value for _, _, value in self.table[what]]

    def pattern(self, wording: str) -> str:
        first = next(iter(self.table.values()))

        def either(names) -> str:
            return "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or "(?!)"

        parts = {
            "{W}": either(self.table),
            "{A}": either({at for _, at, _ in first}),
            "{C}": either({category for category, _, _ in first}),
            "{S}": either(self.series),
            "{G}": either(self.groups),
            "{N}": r"-?\d+(?:\.\d+)?",
        }
        for key, value in parts.items():
            wording = wording.replace(key, value)
        return wording


def written(value: Fraction, places: int | None = None) -> str:
    if places is not None:
        scaled = abs(value) * 10**places
        whole = floor(scaled) + (scaled - floor(scaled) >= Fraction(1, 2))
        value = Fraction(whole, 10**places) * (-1 if value < 0 else 1)
    number = Decimal(value.numerator) / Decimal(value.denominator)
    assert Fraction(number) == value
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def solve(sentences: list[str], question: str) -> tuple[str, str]:
    """(kind of question, answer); AssertionError where the question is not understood by exactly one wording."""
    reading = Reading(sentences)
    found = {}
    for kind, wording in _WORDINGS.items():
        plain_start = re.split(r"[\\({.]", wording)[0]  # most wordings are ruled out without a regular expression
        if question.startswith(plain_start) and (match := re.fullmatch(reading.pattern(wording), question)):
            found[kind] = match.groups()
    assert len(found) == 1, (question, found, sentences)
    ((kind, parts),) = found.items()
    for solver in (_of_one_series, _of_order, _of_marked, _of_several_series, _of_points):
        answer = solver(reading, kind, parts)
        if answer is not None:
            return kind, answer
    raise AssertionError(kind)


def _of_one_series(r: Reading, kind: str, p: tuple) -> str | None:
    if kind == "look_up":
        return written(r.at(p[0], p[1]))
    if kind == "add":
        return written(sum(r.at(p[0], at) for at in re.split(r", | and ", p[1])))
    if kind == "total":
        return written(sum(r.values(p[0])))
    if kind == "difference":
        return written(abs(r.at(p[0], p[1]) - r.at(p[0], p[2])))
    if kind == "ratio":
        return written(r.at(p[0], p[2]) / r.at(p[0], p[1]), 1)
    if kind == "average":
        return written(Fraction(sum(r.values(p[0])), len(r.values(p[0]))), 1)
    if kind == "spread":
        return written(max(r.values(p[0])) - min(r.values(p[0])))
    if kind == "count_above":
        return str(len([value for value in r.values(p[0]) if value > Fraction(p[1])]))
    if kind == "top_two":
        return written(sum(sorted(r.values(p[0]))[-2:]))
    if kind == "two_against_one":
        return written(abs(r.at(p[0], p[1]) + r.at(p[0], p[2]) - r.at(p[0], p[3])))
    if kind == "share":
        return written(r.at(p[0], p[1]) * 100 / sum(r.values(p[0])), 0)
    return None


def _only(names: list[str]) -> str:
    """The one name; a question with several right answers is a wrong question."""
    (name,) = names
    return name


def _of_order(r: Reading, kind: str, p: tuple) -> str | None:
    if kind in ("extremum", "rank"):
        *word, what = p
        place = {"second": 1, "third": 2, "fourth": 3}[word[0]] if kind == "rank" else 0
        ordered = sorted(r.values(what), reverse=word[-1] == "largest")
        return _only([category for category, _, value in r.table[what] if value == ordered[place]])
    if kind in ("largest_rise", "count_rises"):
        rows = r.table[p[0]]
        rises = {rows[i][0]: rows[i][2] - rows[i - 1][2] for i in range(1, len(rows))}
        if kind == "count_rises":
            return str(sum(rise > 0 for rise in rises.values()))
        assert max(rises.values()) > 0
        return _only([name for name, rise in rises.items() if rise == max(rises.values())])
    if kind == "change":
        return written(r.of(p[0], p[2]) - r.of(p[0], p[1]))
    return None


def _of_marked(r: Reading, kind: str, p: tuple) -> str | None:
    if kind == "highlighted_gap":
        return written(abs(r.of(p[0], r.highlighted) - r.at(p[0], p[1])))
    if kind == "highlighted_rank":
        own = r.of(p[0], r.highlighted)
        assert r.values(p[0]).count(own) == 1
        return str(sorted(r.values(p[0]), reverse=True).index(own) + 1)
    if kind == "above_target":
        assert r.target not in r.values(p[0])
        return str(sum(value > r.target for value in r.values(p[0])))
    if kind == "target_gap":
        return written(abs(r.at(p[0], p[1]) - r.target))
    return None


def _of_several_series(r: Reading, kind: str, p: tuple) -> str | None:
    if kind in ("larger_total", "total_gap"):
        totals = {name: sum(r.values(r.series[name])) for name in p}
        if kind == "total_gap":
            return written(abs(totals[p[0]] - totals[p[1]]))
        return _only([name for name in p if totals[name] == max(totals.values())])
    if kind == "count_wins":
        pairs = zip(r.values(p[0]), r.values(r.series[p[1]]), strict=True)
        return str(sum(a > b for a, b in pairs))
    if kind == "widest_gap":
        first, second = (r.table[r.series[name]] for name in p)
        gaps = {a[0]: abs(a[2] - b[2]) for a, b in zip(first, second, strict=True)}
        return _only([name for name, gap in gaps.items() if gap == max(gaps.values())])
    if kind == "across_series":
        return written(sum(r.at(what, p[0]) for what in r.table))
    return None


def _of_points(r: Reading, kind: str, p: tuple) -> str | None:
    if kind == "at_extremum":
        extreme = (max if p[1] == "largest" else min)(r.values(p[2]))
        return written(r.of(p[0], _only([letter for letter, _, value in r.table[p[2]] if value == extreme])))
    if kind == "count_both":
        sets = [{row[0] for row in r.table[p[i]] if row[2] > Fraction(p[i + 1])} for i in (0, 2)]
        return str(len(sets[0] & sets[1]))
    if kind == "rises_along":
        assert len(set(r.values(p[0]))) == len(r.values(p[0]))
        ordered = [r.of(p[1], letter) for letter, _, _ in sorted(r.table[p[0]], key=lambda row: row[2])]
        return str(sum(b > a for a, b in zip(ordered, ordered[1:], strict=False)))
    if kind == "group_count":
        return str(sum(r.of(p[1], letter) > Fraction(p[2]) for letter in r.groups[p[0]]))
    if kind == "group_average":
        values = [r.of(p[0], letter) for letter in r.groups[p[1]]]
        return written(Fraction(sum(values), len(values)), 1)
    if kind == "group_larger":
        totals = {group: sum(r.of(p[0], letter) for letter in r.groups[group]) for group in p[1:]}
        return _only([group for group, whole in totals.items() if whole == max(totals.values())])
    return None
