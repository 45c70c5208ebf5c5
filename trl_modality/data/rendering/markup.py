r"""Plain text → paragraphs, tables, code and formulas, as they are commonly written in datasets.

- Formulas: `$...$` and `\(...\)` in a line, `$$...$$` and `\[...\]` on their own. A dollar before an amount of money
  is none: see `_is_formula`.
- Tables: two or more lines with the same number of cells, between bars (`| a | b |`, `a | b`) or tabs.
- Code: lines between ` ``` `, and words between single backquotes.

Every line of a text stays a line; headings, lists and emphasis stay as they are typed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """A part of a line: `kind` is "text", "code" or "formula" (without its dollars)."""

    kind: str
    text: str


@dataclass(frozen=True)
class Paragraph:
    """A line of the text, which is wrapped; without runs it is an empty line."""

    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Table:
    """Rows of cells; `has_header` where a line of dashes stands below the first row."""

    rows: tuple[tuple[tuple[Run, ...], ...], ...]
    has_header: bool


@dataclass(frozen=True)
class Code:
    """Lines that are neither wrapped nor stripped."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Formula:
    """A formula in the middle of a line of its own."""

    text: str


Block = Paragraph | Table | Code | Formula

_BLOCK = re.compile(
    r"^```[^\n`]*\n(?P<code>.*?)\n?^```[ \t]*$|\$\$(?P<dollars>.+?)\$\$|\\\[(?P<brackets>.+?)\\\]",
    re.DOTALL | re.MULTILINE,
)
_INLINE = re.compile(
    r"`(?P<code>[^`\n]+)`|\\\((?P<parens>[^\n]+?)\\\)|(?<!\\)\$(?P<dollars>(?! )(?:[^$\n\\]|\\.)*?(?<! ))\$(?!\d)"
)
_DASHES = re.compile(r":?-+:?")
_COMMAND = re.compile(r"\\[A-Za-z]")
_PROSE = re.compile(r"[A-Za-z]{3,}|^\d.*\s[A-Za-z]{2,}\b")  # what is in no formula without commands


def parse(text: str, *, plain: bool = False) -> list[Block]:
    """The blocks of a text; with `plain`, every line is a paragraph of text as it stands."""
    text = "\n".join(text.splitlines()).strip("\n")  # also at form feeds, and at Unicode's ends of lines
    if plain:
        return [Paragraph((Run("text", line),) if line.strip() else ()) for line in text.split("\n")]
    blocks: list[Block] = []
    at = 0
    for found in _BLOCK.finditer(text):
        blocks += _lines(text[at : found.start()].strip("\n"))
        if found["code"] is not None:
            blocks.append(Code(tuple(found["code"].split("\n"))))
        else:
            blocks.append(Formula(" ".join((found["dollars"] or found["brackets"]).split())))
        at = found.end()
    return blocks + _lines(text[at:].strip("\n"))


def _lines(text: str) -> list[Block]:
    """The paragraphs and tables of a text without code and formulas of their own."""
    if not text.strip():
        return []
    lines = text.split("\n")
    cells = [_cells(line) for line in lines]
    blocks: list[Block] = []
    at = 0
    while at < len(lines):
        end = at
        while end < len(lines) and len(cells[end]) >= 2 and len(cells[end]) == len(cells[at]):
            end += 1
        if end - at >= 2:
            blocks.append(_table(cells[at:end]))
            at = end
        else:
            blocks.append(Paragraph(tuple(inline(lines[at]))))
            at += 1
    return blocks


def _cells(line: str) -> list[str]:
    """The cells of a line of a table; of any other line, none."""
    if "\t" in line.strip():
        return [cell.strip() for cell in line.split("\t")]
    stripped = line.strip()
    if len(stripped) > 2 and stripped.startswith("|") and stripped.endswith("|"):
        return [cell.strip() for cell in stripped[1:-1].split("|")]
    cells = [cell.strip() for cell in stripped.split(" | ")]
    # The bar of `P(A | B)` is none between cells
    return cells if len(cells) > 1 and all(cell.count("(") == cell.count(")") for cell in cells) else []


def _table(cells: list[list[str]]) -> Table:
    has_header = len(cells) > 2 and all(map(_DASHES.fullmatch, cells[1]))
    rows = [*cells[:1], *cells[2:]] if has_header else cells
    return Table(tuple(tuple(tuple(inline(cell)) for cell in row) for row in rows), has_header)


def inline(line: str) -> list[Run]:
    r"""The runs of a line; an escaped dollar (`\$`) is a dollar."""
    runs, at = [], 0
    for start, end, run in _marked(line):
        runs += [Run("text", line[at:start]), run]
        at = end
    runs.append(Run("text", line[at:]))
    return [Run(run.kind, run.text.replace(r"\$", "$")) if run.kind == "text" else run for run in runs if run.text]


def _marked(line: str) -> Iterator[tuple[int, int, Run]]:
    """The formulas and the code in a line, with where they begin and end."""
    at = 0
    while found := _INLINE.search(line, at):
        at = found.end()
        if found["code"] is not None:
            yield found.start(), at, Run("code", found["code"])
        elif found["parens"] is not None:
            yield found.start(), at, Run("formula", found["parens"].strip())
        elif _is_formula(found["dollars"]):
            yield found.start(), at, Run("formula", found["dollars"])
        else:
            at = found.start() + 1  # the other dollar may begin a formula


def _is_formula(text: str) -> bool:
    """Whether what stands between two dollars is a formula, and not the words between two amounts of money.

    As in Pandoc there is no space inside of the dollars, and no digit after the second. Besides, it has a command of
    TeX, or no word of three letters and, if it begins with a number, no word of two after a space.
    """
    return bool(text) and (_COMMAND.search(text) is not None or not _PROSE.search(text))


def atoms(text: str) -> list[tuple[int, int]]:
    """Where the parts of a text begin and end that may not be cut: blocks of code, tables, formulas, and words."""
    spans = [found.span() for found in _BLOCK.finditer(text)]
    spans += _outside(spans, _tables(text))
    offset = 0
    marked = []
    for line in text.split("\n"):
        marked += [(offset + start, offset + end) for start, end, _ in _marked(line)]
        offset += len(line) + 1
    spans += _outside(spans, marked)
    spans += _outside(spans, [found.span() for found in re.finditer(r"\S+", text)])
    return sorted(spans)


def _outside(taken: list[tuple[int, int]], others: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans that none of those taken touches; a span that one touches is part of it."""
    return [(start, end) for start, end in others if not any(a < end and start < b for a, b in taken)]


def _tables(text: str) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    offset, begins, count = 0, 0, 0
    for line in [*text.split("\n"), ""]:
        cells = len(_cells(line))
        if cells < 2 or cells != count:
            begins, count = offset, cells
        elif spans and spans[-1][0] == begins:
            spans[-1] = (begins, offset + len(line))
        else:
            spans.append((begins, offset + len(line)))
        offset += len(line) + 1
    return spans


def words(blocks: list[Block]) -> str:
    """What of the text is written as letters, formulas left out: what optical character recognition can be held to."""
    lines: list[str] = []
    for block in blocks:
        if isinstance(block, Paragraph):
            lines.append(_letters(block.runs))
        elif isinstance(block, Table):
            lines += [" ".join(_letters(cell) for cell in row) for row in block.rows]
        elif isinstance(block, Code):
            lines += block.lines
    return "\n".join(lines)


def _letters(runs: tuple[Run, ...]) -> str:
    return "".join(run.text if run.kind != "formula" else " " for run in runs)
