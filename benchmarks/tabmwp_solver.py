"""Computes the answers to the frequent questions of TabMWP from the words of a table, true or read by OCR.

`solve` sees the question, its choices and the words, and nothing of the answer. A question that no rule understands,
or whose names and numbers the words lack, has no answer (`None`): nothing is guessed.
"""

from __future__ import annotations

import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction

from tabmwp_schedules import event_at, event_time, journey
from tabmwp_words import Problem, best_name, fold, half_named, mentioned, number, pairs_of, stem_values


Rule = Callable[[Problem], Fraction | str | None]
_LARGEST = r"\b(most|highest|largest|longest|oldest|heaviest|tallest|greatest|biggest|farthest)\b"
_SMALLEST = r"\b(fewest|least|lowest|smallest|shortest|youngest|lightest|closest)\b"
_MORE = r"\b(more|higher|greater|larger)\b"
_LESS = r"\b(less|fewer|lower|smaller)\b"
_AMOUNT = r"(?<![\d$.,/])(\d+\+\d+/\d+|\d+/\d+|\d+(?:\.\d+)?)"
_SMALL_WORDS = {fold(word) for word in ("a", "an", "and", "of", "pound", "pounds", "kilogram", "kilograms", "orders")}
_TIMES_IN_WORDS = {"not": 0, "once": 1, "twice": 2}
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October")
_MONTHS += ("November", "December")


def solve(question: str, choices: Sequence[str] | None, words: str) -> str | None:
    """The answer to a question by the words of its table, or `None`.

    Args:
        question: The text of the question, without choices.
        choices: The choices, if there are any; the answer is one of them then.
        words: The table in lines, with " | " between its cells.
    """
    problem = Problem(question, list(choices or ()), words)
    # The first rule that fits decides: one after it would answer another question
    rule = next((rule for pattern, rule in RULES if re.search(pattern, problem.ask, re.IGNORECASE)), None)
    answer = rule(problem) if rule else None
    return _plain(answer) if isinstance(answer, Fraction) else answer


def _plain(value: Fraction) -> str:
    """A number as a decimal where that is exact to four places, else as a fraction."""
    decimal = f"{float(value):.4f}".rstrip("0").rstrip(".")
    return decimal if Fraction(decimal) == value else str(value)


def in_range(ask: str) -> Callable[[Fraction], bool] | None:
    """The condition on a number that a question states: "at least 30 points but fewer than 40 points"."""
    if found := re.search(r"\bat least (\d+)(?:.* but (?:fewer|less) than (\d+))?", ask):
        low, high = int(found[1]), int(found[2]) if found[2] else math.inf
        return lambda value: low <= value < high
    if found := re.search(r"\b(exactly|fewer than|less than|more than) (\d+|once|twice)\b", ask):
        limit = _TIMES_IN_WORDS.get(found[2]) or int(found[2])
        compare = {"exactly": operator.eq, "more than": operator.gt}.get(found[1], operator.lt)
        return lambda value: compare(value, limit)
    if found := re.search(r"\b(not|once|twice)\b", ask):
        times = _TIMES_IN_WORDS[found[1]]
        return lambda value: value == times
    return None


def count_in_range(problem: Problem) -> Fraction | None:
    """How many in a stem-and-leaf plot or in a table of frequencies meet a condition."""
    meets = in_range(problem.ask)
    if meets is None:
        return None
    values = stem_values(problem.words)
    if values is not None:
        return Fraction(sum(meets(Fraction(value)) for value in values))
    frequencies = _frequencies(problem.words)
    return sum((count for value, count in frequencies if meets(value)), Fraction()) if frequencies else None


def _frequencies(words: str) -> list[tuple[Fraction, Fraction]]:
    """The rows of a table of frequencies; none where the first numbers do not go up by one: then a row of it is
    missing, or misread.
    """
    pairs = pairs_of(words) if "frequency" in fold(words) else []
    steps = {after[0] - before[0] for before, after in zip(pairs, pairs[1:], strict=False)}
    return pairs if steps == {1} else []


def count_all(problem: Problem) -> Fraction | None:
    frequencies = _frequencies(problem.words)
    return sum((count for _, count in frequencies), Fraction()) if frequencies else None


def extreme_of_stems(problem: Problem) -> Fraction | None:
    values = stem_values(problem.words)
    sign = _direction(problem.ask)
    return Fraction(max(values, key=lambda value: sign * value)) if values and sign else None


def _direction(ask: str) -> int:
    """1 where the largest is asked for, -1 for the smallest, 0 where it is unclear."""
    largest = re.search(rf"{_LARGEST}|{_MORE}", ask, re.IGNORECASE)
    smallest = re.search(rf"{_SMALLEST}|{_LESS}", ask, re.IGNORECASE)
    return bool(largest) - bool(smallest)


def statistic(problem: Problem) -> Fraction | None:
    """Mean, median, mode or range of a column of numbers."""
    rows = problem.table.rows
    values = sorted(row.values[0] for row in rows)
    if len(values) < 3 or any(len(row.values) != 1 for row in rows):
        return None
    found = re.search(r"\b(mean|median|mode|range)\b", problem.ask)
    if not found:
        return None
    if found[1] == "mean":
        return sum(values, Fraction()) / len(values)
    if found[1] == "range":
        return values[-1] - values[0]
    if found[1] == "median":
        middle = len(values) // 2
        return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2
    ranked = Counter(values).most_common(2)
    is_one = len(ranked) == 1 or ranked[0][1] > ranked[1][1]
    return ranked[0][0] if is_one else None


def rate_of_change(problem: Problem) -> Fraction | None:
    found = re.search(r"between (.+) and (.+)\?", problem.ask)
    first, last = (problem.row(name) for name in found.groups()) if found else (None, None)
    if not first or not last:
        return None
    years = Fraction(last.name) - Fraction(first.name) if first.name.isdigit() and last.name.isdigit() else 1
    return (last.values[0] - first.values[0]) / years if years else None


def asked_values(problem: Problem) -> list[Fraction]:
    """The numbers that a question names by rows and columns, in its order.

    With one row and two columns, or two rows and one column, these are two numbers; of a row of several columns
    of which none is named, it is the sum.
    """
    table, ask = problem.table, problem.ask
    rows = [table.rows[index] for index, _ in mentioned([row.name for row in table.rows], ask)]
    width = max((len(row.values) for row in rows), default=0)
    if any(len(row.values) != width for row in rows):
        return []  # a number of one of them is missing in the words
    if width == 1:
        return [row.values[0] for row in rows]
    columns = table.asked_columns(ask)
    if columns is None:
        return []
    if not columns:
        return [sum(row.values, Fraction()) for row in rows]
    return [row.values[index] for row in rows for index in columns] if min(len(rows), len(columns)) == 1 else []


def difference(problem: Problem) -> Fraction | None:
    values = asked_values(problem)
    return abs(values[0] - values[1]) if len(values) == 2 else None


def total_of_two(problem: Problem) -> Fraction | None:
    values = asked_values(problem)
    return sum(values, Fraction()) if len(values) == 2 else None


def one_value(problem: Problem) -> Fraction | None:
    values = asked_values(problem)
    return values[0] if len(values) == 1 else None


def _column_values(problem: Problem) -> list[tuple[str, Fraction]]:
    """Of each row, its name and the number in the column that is asked for, or the sum where no column is."""
    table = problem.table
    width = max((len(row.values) for row in table.rows), default=0)
    if any(len(row.values) != width for row in table.rows):
        return []
    columns = table.asked_columns(problem.ask) if width > 1 else [0]
    if columns is None or len(columns) > 1:
        return []
    return [(row.name, row.values[columns[0]] if columns else sum(row.values, Fraction())) for row in table.rows]


def extreme_choice(problem: Problem) -> str | None:
    """The choice whose row has the largest or the smallest number; every choice must have its row."""
    sign = _direction(problem.ask)
    values = {problem.choice(name): sign * value for name, value in _column_values(problem)}
    if not sign or not all(choice in values for choice in problem.choices):
        return None
    ranked = sorted(problem.choices, key=lambda choice: -values[choice])
    return ranked[0] if len(ranked) > 1 and values[ranked[0]] > values[ranked[1]] else None


def extreme_size(problem: Problem) -> str | None:
    """The choice whose row has the number furthest from zero, or closest to it."""
    far = re.search(rf"\b(furthest|further|farther)\b|{_MORE}|{_LARGEST}", problem.ask)
    near = re.search(rf"\b(closer)\b|{_LESS}|{_SMALLEST}", problem.ask)
    sizes = [(abs(row.values[0]), row.name) for row in problem.table.rows if len(row.values) == 1]
    if len(sizes) != 2 or sizes[0][0] == sizes[1][0] or bool(far) == bool(near):
        return None
    return problem.choice((max if far else min)(sizes)[1])


def purchase(problem: Problem) -> Fraction | None:
    """What the named goods cost: each price times the number before its name.

    Only where nothing but numbers and small words is left of the phrase that lists them: a name that the words lack
    may not be passed over.
    """
    phrases = re.findall(
        r"(?:\b(?:buys?|bought|purchased|purchases|cost for|spends? on)\b)\s+(.+?)(?=[,.?]?\s+[Hh]ow |[.?]\s|[.?]?$)",
        re.sub(r"(?<!\d)\.(?=\d)", "0.", problem.question.replace("What ", "How ")),
    )
    if len(phrases) != 1:
        return None
    phrase, rows = phrases[0], problem.table.rows
    found = mentioned([row.name for row in rows], phrase)
    total, rest, end = Fraction(), "", 0
    for index, (start, stop) in found:
        before = phrase[end:start]
        amounts = re.findall(_AMOUNT, before)
        if len(amounts) > 1 or len(rows[index].values) != 1:
            return None
        total += rows[index].values[0] * (sum(map(Fraction, amounts[0].split("+"))) if amounts else 1)
        rest, end = rest + " " + before, stop
    rest = re.sub(_AMOUNT, " ", rest + " " + phrase[end:])
    return total if found and set(re.findall(r"\w+", fold(rest))) <= _SMALL_WORDS else None


def _funds(question: str) -> Fraction | None:
    found = re.search(r"\bhas \$([\d,]+(?:\.\d+)?)", question)
    return number(found[1]) if found else None


def money_left(problem: Problem) -> Fraction | None:
    funds, cost = _funds(problem.question), purchase(problem)
    return None if funds is None or cost is None else funds - cost


def has_enough(problem: Problem) -> str | None:
    left = money_left(problem)
    return None if left is None else "yes" if left >= 0 else "no"


def fraction_of_total(problem: Problem) -> Fraction | None:
    row, rows = problem.row(problem.ask), problem.table.rows
    if not row or len(rows) < 2 or any(len(each.values) != 1 for each in rows):
        return None
    return row.values[0] / sum((each.values[0] for each in rows), Fraction())


def probability(problem: Problem) -> Fraction | None:
    """A cell of a two-way table over the sum of all cells."""
    table, clause = problem.table, re.sub(r".*probability that a randomly selected", "", problem.ask)
    row = best_name([row.name for row in table.rows], clause)
    widths = {len(each.values) for each in table.rows}
    columns = table.columns or (half_named(table.header, clause) if widths == {2} else None)
    column = best_name(columns, clause) if isinstance(columns, tuple) else columns
    if row is None or column is None or len(table.rows) < 2 or len(widths) > 1:
        return None
    return table.rows[row].values[column] / sum((sum(each.values) for each in table.rows), Fraction())


def is_linear(problem: Problem) -> str | None:
    points = pairs_of(problem.words)
    if len(points) < 3 or len({x for x, _ in points}) < len(points):
        return None
    (x0, y0), *others = points
    return "linear" if len({(y - y0) / (x - x0) for x, y in others}) == 1 else "nonlinear"


def is_function(problem: Problem) -> str | None:
    points = set(pairs_of(problem.words))
    return ("yes" if len({x for x, _ in points}) == len(points) else "no") if len(points) > 1 else None


def shortage_or_surplus(problem: Problem) -> str | None:
    found = re.search(r"price of \$([\d,]+(?:\.\d+)?)", problem.ask)
    price, header = number(found[1]) if found else None, fold(problem.table.header)
    if not 0 <= header.find("demanded") < header.find(fold("supplied")):
        return None
    for line in problem.words.splitlines():
        numbers = [number(each) for each in re.findall(r"\$?\d[\d,]*", line)]
        if len(numbers) == 3 and numbers[0] == price and numbers[1] != numbers[2]:
            return "shortage" if numbers[1] > numbers[2] else "surplus"
    return None


def proportion(problem: Problem) -> Fraction | None:
    """The number that goes on a table of multiples. All its rows must have the rate that the question states."""
    asked = re.search(r"\b(?:in|on) (\d+) ", problem.ask)
    stated = re.search(r"\b(?:has|have) (\d+) ", problem.question)
    rates = {y / x if x else None for x, y in pairs_of(problem.words)}
    return Fraction(int(asked[1]) * int(stated[1])) if asked and stated and rates == {int(stated[1])} else None


def pay_stub(problem: Problem) -> Fraction | None:
    """The sum of the taxes, or what is left after them; with a state income tax where the question tells of one."""
    rows = {fold(row.name): row.values[0] for row in problem.table.rows if len(row.values) == 1}
    taxes = [value for name, value in rows.items() if "tax" in name and not re.match(r"totai|pay", name)]
    earnings = [value for name, value in rows.items() if re.match(r"totai\s*earnings", name)]
    expected = 3 if "that has state income tax" in problem.question else 2
    if len(taxes) != expected or len(earnings) != 1:
        return None
    return earnings[0] - sum(taxes) if "after taxes" in problem.ask else sum(taxes, Fraction())


def financial_record(problem: Problem) -> Fraction | None:
    """What was received or spent on a day or for a thing: the first number of its row."""
    found = re.search(rf"\b({'|'.join(_MONTHS)}) (\d+)\b", problem.ask)
    day = f"{_MONTHS.index(found[1]) + 1}/{found[2]}" if found else None
    rows = [row for row in problem.table.rows if len(row.values) == 2]  # the amount, and what there is after it
    if day:
        hits = [row for row in rows if re.match(rf"{day}(?!\d)", row.name)]
    else:
        names = [re.sub(r"^\d+/\d+\s*", "", row.name) for row in rows]
        hits = [rows[index] for index, _ in mentioned(names, problem.ask)]
    return hits[0].values[0] if len(hits) == 1 else None


_CONDITION = r"\bat least \d|\b(exactly|(fewer|less|more) than) (\d|once|twice)|\b(once|twice)\b|\bnot .* any\b"
RULES: list[tuple[str, Rule]] = [
    (r"linear or nonlinear", is_linear),
    (r"relation a function", is_function),
    (r"shortage or a surplus", shortage_or_surplus),
    (r"\b(mean|median|mode|range) of the numbers", statistic),
    (r"rate of change", rate_of_change),
    (r"probability that a randomly selected", probability),
    (r"^what fraction of", fraction_of_total),
    (r"^how many .* (in|on) \d+ [^?]*\?$", proportion),
    (r"have enough", has_enough),
    (r"money will .* have left", money_left),
    (r"there in all\?$", count_all),
    (rf"^how many .*({_CONDITION})", count_in_range),
    (rf"^what is the .*({_LARGEST}|{_SMALLEST})", extreme_of_stems),
    (r"payroll tax|after taxes", pay_stub),
    (r"how much money did .* (spend|make)", financial_record),
    (r"how (many|much) (more|less|fewer|higher|lower)\b.*\bthan\b", difference),
    (r"need to buy|will .* spend|total cost|how much (did|does|would) (he|she|it) (spend|cost to buy)", purchase),
    (r"zero|sea level|change|affects", extreme_size),
    (r"^when does", event_time),
    (r"^(which|at which) .* at \d", event_at),
    (r"^(what time|how long|how soon)", journey),
    (r"^how (many|much) .*\b(in all|total)\b|^(in all|together), how (many|much)", total_of_two),
    (r"how (many|much)", one_value),
    (rf"{_LARGEST}|{_SMALLEST}|{_MORE}|{_LESS}", extreme_choice),
]
