"""Reads a table of TabMWP from words: lines, with " | " between the cells, as the true table has them or as OCR does.

OCR loses spaces ("Gamesplayed"), some separators, and empty cells. So empty cells count for nothing here, columns are
numbered from the right, and a name is found in a question whatever spaces are in either.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property


NUMBER = r"-?\$?-?\d+(?:,\d{3})*(?:\.\d+)?"
_VALUES = re.compile(rf"((?:{NUMBER}\s*)+)(?:(?:/|per)\s*[A-Za-z]+)?", re.IGNORECASE)
_LAST_VALUE = re.compile(rf"(.*\S)\s+({NUMBER}(?:\s*(?:/|per)\s*[A-Za-z]+)?)", re.IGNORECASE)
_YEAR = re.compile(r"(?:19|20)\d\ds?")
_STEM_HEADER = re.compile(r"\bstem\b[\s|]*leaf", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """A row of a table: its name, and the numbers after it; in a schedule these are minutes since midnight."""

    name: str
    values: tuple[Fraction, ...]


@dataclass(frozen=True)
class Table:
    """Rows with numbers, and the names of the columns of these numbers; no names where the header cannot be told."""

    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    header: str

    def asked_columns(self, ask: str) -> list[int] | None:
        """Numbers of the columns that a question names, in its order; `None` where the header may hide one of them.

        In "Person Hungerprevention | Parks" the first separator was lost: the name of the column of names is before
        the first one's. In "PersonHungerprevention | Parks" it cannot be told.
        """
        found = [index for index, _ in mentioned(self.columns, ask)]
        if found or len(cells_of(self.header)) > len(self.columns) > 0:
            return found
        words = self.columns[0].split() if self.columns else []
        ends = [" ".join(words[start:]) for start in range(1, len(words))]
        return [0] if any(find_name(end, ask) for end in ends) else [] if ends else None


def fold(text: str) -> str:
    """Text in lower case, with one letter for `l` and `I`, which OCR takes for one another."""
    return text.casefold().replace("l", "i").replace("’", "'")


def number(text: str) -> Fraction:
    return Fraction(re.sub(r"[$,\s]", "", text))


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|") if cell.strip()]


def values_of(cell: str) -> list[Fraction] | None:
    """The numbers of a cell that holds nothing else but a unit ("$4 per pound"), else `None`."""
    found = _VALUES.fullmatch(cell)
    return [number(each) for each in re.findall(NUMBER, found[1])] if found else None


def _row(line: str) -> Row | None:
    """A name of at least one cell, then numbers to the end of the line; `None` for any other line."""
    cells = cells_of(line)
    if len(cells) == 1 and (split := _LAST_VALUE.fullmatch(cells[0])):
        cells = list(split.groups())
    names, values = cells[:1], []
    for cell in cells[1:]:
        numbers = values_of(cell)
        if numbers is None and values:
            return None
        if numbers is None:
            names.append(cell)
        else:
            values += numbers
    return Row(" ".join(names), tuple(values)) if values else None


def table_of(words: str) -> Table:
    """The rows of a table that have numbers. Years in the first line of several cells are names of columns."""
    rows, header = [], ""
    for line in words.splitlines():
        row, cells = _row(line), cells_of(line)
        if row and not rows and len(cells_of(header)) < 2:
            if len(cells) > 1 and all(_YEAR.fullmatch(cell) for cell in cells[1:]):
                row = None
            elif len(cells) == 1 and "$" not in line:
                continue  # a title that ends with a number
        if row:
            rows.append(row)
        elif not rows and (len(cells) > 1 or not header):
            header = line
    width = max((len(row.values) for row in rows), default=0)
    columns = cells_of(header)
    if len(columns) < width:
        columns = re.split(r"[\s|]+", header.strip())  # a separator was lost: right only if each name is one word
        columns = columns if len(columns) == width else []
    return Table(tuple(rows), tuple(columns[-width:]) if width else (), header)


def _with_zeros(line: str) -> str:
    """A line with a 0 for each letter O that stands alone, as OCR reads a 0 that does."""
    return re.sub(r"\b[Oo]\b", "0", line)


def pairs_of(words: str) -> list[tuple[Fraction, Fraction]]:
    """The rows of two numbers."""
    pairs = []
    for line in words.splitlines():
        found = re.fullmatch(rf"({NUMBER})[\s|]+({NUMBER})", _with_zeros(line).strip(" |"))
        if found:
            pairs.append((number(found[1]), number(found[2])))
    return pairs


def stem_values(words: str) -> list[int] | None:
    """The numbers of a stem-and-leaf plot, whose leaves are one digit each; `None` where the words hold none.

    Stems that do not rise were read wrongly: `None` as well.
    """
    lines = words.splitlines()
    start = next((index for index, line in enumerate(lines) if _STEM_HEADER.search(line)), None)
    if start is None:
        return None
    values, last = [], -1
    for line in lines[start + 1 :]:
        found = re.fullmatch(r"(\d+)(?:[\s|]+([\d\s,|]*))?", _with_zeros(line).strip())
        if not found or int(found[1]) <= last:
            return None
        last = int(found[1])
        values += [10 * last + int(leaf) for leaf in re.findall(r"\d", found[2] or "")]
    return values or None


def find_name(name: str, text: str) -> list[tuple[int, int]]:
    """Where a text has a name as whole words: whatever spaces are in either, in the singular or in the plural."""
    letters = re.findall(r"[^\W_]", fold(name))
    if not letters:
        return []
    # A plural is a matter of the text's words, whose ends are known: "pieceofcopper" is in "2 pieces of copper"
    plural = "(?:e?s)?"
    between = rf"(?:{plural}[\W_]+)?"
    whole = between.join("(?:y|ies)" if letter == "y" else re.escape(letter) for letter in letters)
    return [match.span() for match in re.finditer(rf"(?<![^\W_]){whole}{plural}(?![^\W_])", fold(text))]


def mentioned(names: Sequence[str], text: str) -> list[tuple[int, tuple[int, int]]]:
    """Which names a text has, in its order: (index of the name, its first place). The longer of two that overlap."""
    found = [(index, span) for index, name in enumerate(names) for span in find_name(name, text)]
    taken: list[tuple[int, tuple[int, int]]] = []
    for index, (start, end) in sorted(found, key=lambda each: (each[1][0] - each[1][1], each[1])):
        is_new = all(index != other for other, _ in taken)
        if is_new and all(end <= other[0] or start >= other[1] for _, other in taken):
            taken.append((index, (start, end)))
    return sorted(taken, key=lambda each: each[1])


def likeness(name: str, text: str) -> float:
    """Share of the runs of three letters of a name that a text has, 0 to 1; spaces count for nothing."""
    name, text = (re.sub(r"[\W_]+", "", fold(each)) for each in (name, text))
    runs = {name[start : start + 3] for start in range(max(1, len(name) - 2))}
    return sum(run in text for run in runs) / len(runs) if name else 0.0


def best_name(names: Sequence[str], text: str, least: float = 0.6, ahead: float = 0.15) -> int | None:
    """Index of the one name that a text speaks of; `None` where there is none, or more than one."""
    found = mentioned(names, text)
    if found:
        return found[0][0] if len(found) == 1 else None
    ranked = sorted(range(len(names)), key=lambda index: -likeness(names[index], text))
    marks = [likeness(names[index], text) for index in ranked[:2]]
    if not marks or marks[0] < least or (len(marks) > 1 and marks[0] - marks[1] < ahead):
        return None
    return ranked[0]


def half_named(header: str, text: str) -> int | None:
    """Which of the two names of columns in a header without a separator a text speaks of, 0 or 1, else `None`.

    Where the first name ends is not known. Of all parts that begin or end the header, the longest that the text has
    is taken for a name.
    """
    words = header.split()
    parts = [(" ".join(words[:at]), 0) for at in range(1, len(words))]
    parts += [(" ".join(words[at:]), 1) for at in range(1, len(words))]
    found = sorted(((len(part), half) for part, half in parts if find_name(part, text)), reverse=True)
    is_one = len(found) == 1 or (len(found) > 1 and found[0][0] > found[1][0])
    return found[0][1] if is_one else None


@dataclass(frozen=True)
class Problem:
    """What a rule sees of a question; tables are read when a rule needs them."""

    question: str
    choices: Sequence[str]
    words: str

    @cached_property
    def ask(self) -> str:
        """The last sentence that asks something."""
        text = re.sub(r"\b(Mr|Mrs|Ms|Dr|St|P|E|U|S)\.", r"\1", self.question)
        sentences = re.split(r"(?<=[.?!])\s+(?=[A-Z])", text)
        return next((each for each in reversed(sentences) if "?" in each), sentences[-1])

    @cached_property
    def table(self) -> Table:
        return table_of(self.words)

    def row(self, text: str) -> Row | None:
        """The one row that a text names."""
        named = mentioned([row.name for row in self.table.rows], text)
        return self.table.rows[named[0][0]] if len(named) == 1 else None

    def choice(self, name: str) -> str | None:
        """The one choice that a name of the table stands for."""
        close = [each for each in self.choices if find_name(name, each) or find_name(each, name)]
        index = None if close else best_name(self.choices, name)
        return close[0] if len(close) == 1 else None if index is None else self.choices[index]
