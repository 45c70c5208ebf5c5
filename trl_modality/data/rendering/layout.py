"""Blocks of text → positions of lines, formulas and rules on a page, at one size of letters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil

from .faces import (
    MATH_SETS,
    face_for,
    is_invisible,
    is_right_to_left,
    load_font,
    needs_shaping,
)
from .formulas import FormulaMask, draw_formula
from .markup import Block, Code, Formula, Paragraph, Run, Table


# Ideographs and kana, between which a line may break, with the punctuation that may not begin or end a line
_WIDE = r"\u2e80-\u303f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_CLOSING, _OPENING = "、。，．：；？！）］｝」』】》〉〕’”", "（［｛「『【《〈〔‘“"
_TOKEN = re.compile(rf"\s+|[{_OPENING}]*[{_WIDE}][{_CLOSING}]*|[^\s{_WIDE}]+")


class TooWideError(ValueError):
    """Something that cannot be broken is wider than a line."""


@dataclass(frozen=True)
class Letters:
    """The faces of a text at one size."""

    path: str
    mono_path: str
    math_set: str
    size: int
    line_spacing: float


@dataclass(frozen=True)
class Text:
    """Letters to write; (x, y) is the start of the baseline, in pixels."""

    x: float
    y: float
    text: str
    path: str
    size: int
    direction: str | None
    """Of shaped text, "ltr" or "rtl"; `None` for Pillow's basic layout."""


@dataclass(frozen=True)
class Sign:
    """A formula; (x, y) is the start of its baseline."""

    x: float
    y: float
    mask: FormulaMask


@dataclass(frozen=True)
class Rule:
    """A filled rectangle; `strength` is the share of ink, from 0 to 1."""

    box: tuple[int, int, int, int]
    strength: float


@dataclass(frozen=True)
class Page:
    """What is drawn, and the size in pixels that it takes."""

    items: tuple[Text | Sign | Rule, ...]
    width: int
    height: int


@dataclass(frozen=True)
class _Piece:
    """A part of a line that is not broken; `text` is empty for a formula."""

    text: str
    width: float
    ascent: int
    descent: int
    path: str = ""
    mask: FormulaMask | None = None

    @property
    def is_space(self) -> bool:
        return self.mask is None and not self.text.strip()


def faces_of(blocks: Iterable[Block], face: str) -> tuple[str, str, str]:
    """The files of the faces for text and for code, and the set of glyphs for formulas.

    Raises:
        UnrenderableError: no face has all characters.
    """
    plain, code = [], []
    for run in _runs(blocks):
        {"text": plain, "code": code, "formula": []}[run.kind].append(drawn_text(run.text))
    # A path of one's own is the face for code too, unless it lacks something: then any other is looked for
    return (
        face_for("".join(plain), face),
        face_for("".join(code), "mono"),
        MATH_SETS.get(face.partition("-")[0], "dejavusans"),
    )


def _runs(blocks: Iterable[Block]) -> Iterable[Run]:
    for block in blocks:
        if isinstance(block, Paragraph):
            yield from block.runs
        elif isinstance(block, Table):
            yield from (run for row in block.rows for cell in row for run in cell)
        elif isinstance(block, Code):
            yield from (Run("code", line) for line in block.lines)


def drawn_text(text: str) -> str:
    """A text with accents joined to their letters, tabs as spaces, and without what has no glyph by its nature.

    The joiners of shaped scripts stay.
    """
    # A typeface need not have every kind of white space
    text = re.sub(r"\s", " ", unicodedata.normalize("NFC", text).expandtabs(4))
    if text.isascii():
        return text
    keeps = needs_shaping(text)
    return "".join(each for each in text if each.isspace() or keeps or not is_invisible(each))


def lay_out(blocks: Sequence[Block], letters: Letters, width: int) -> Page:
    """Place the blocks one below another, in `width` pixels.

    Raises:
        TooWideError: a word, a formula, a row of a table or a line of code is wider.
        UnrenderableError: a formula cannot be set.
    """
    items: list[Text | Sign | Rule] = []
    top, used = 0, 0.0
    for block in blocks:
        if isinstance(block, Paragraph):
            placed, top, wide = _paragraph(block.runs, letters, width, top)
        elif isinstance(block, Formula):
            placed, top, wide = _formula(block, letters, width, top)
        elif isinstance(block, Table):
            placed, top, wide = _table(block, letters, width, top)
        else:
            placed, top, wide = _code(block, letters, width, top)
        items += placed
        used = max(used, wide)
    return Page(tuple(items), ceil(used), top)


_Placed = tuple[list[Text | Sign | Rule], int, float]
"""Items, the y where the next block begins, and the width that was used."""


# Most height above and below the baseline by the size: some faces ask for more, so that accents on capitals clear
_ABOVE, _BELOW = 0.94, 0.27


@lru_cache(maxsize=1024)
def _heights(path: str, size: int) -> tuple[int, int]:
    """Height above and below the baseline that a line of a face takes, in pixels."""
    ascent, descent = load_font(path, size).getmetrics()
    return min(ascent, ceil(_ABOVE * size)), min(descent, ceil(_BELOW * size))


@lru_cache(maxsize=32768)
def _letters_width(text: str, path: str, size: int, is_shaped: bool) -> float:
    return load_font(path, size, shaped=is_shaped).getlength(text)


def _pieces(runs: Sequence[Run], letters: Letters) -> list[_Piece]:
    """The parts of a line that may not be broken: words, spaces between them, formulas."""
    pieces: list[_Piece] = []
    for run in runs:
        if run.kind == "formula":
            mask = draw_formula(run.text, letters.size, letters.math_set)
            pieces.append(_Piece("", mask.width, mask.ascent, mask.descent, mask=mask))
            continue
        path = letters.mono_path if run.kind == "code" else letters.path
        ascent, descent = _heights(path, letters.size)
        for word in _TOKEN.findall(drawn_text(run.text)):
            width = _letters_width(word, path, letters.size, needs_shaping(word))
            pieces.append(_Piece(word, width, ascent, descent, path))
    return pieces


def _broken(pieces: list[_Piece], width: float) -> list[list[_Piece]]:
    """Lines of pieces, each as long as it may be; spaces at the ends of lines go.

    A piece sticks to the one before it unless there is a space between them, or one of both is an ideograph.
    """
    groups: list[list[_Piece]] = []
    for piece in pieces:
        if groups and not piece.is_space and not groups[-1][-1].is_space and not _may_break(groups[-1][-1], piece):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    lines: list[list[_Piece]] = [[]]
    used = 0.0
    for group in groups:
        wide = sum(piece.width for piece in group)
        if group[0].is_space:
            if lines[-1] or len(lines) == 1:
                lines[-1] += group
                used += wide
            continue
        if wide > width:
            what = "".join(piece.text for piece in group)[:40]
            raise TooWideError(
                f"{what!r} is {wide:.0f} pixels wide" if what else f"a formula is {wide:.0f} pixels wide"
            )
        if used + wide > width and any(not piece.is_space for piece in lines[-1]):
            lines.append([])
            used = 0.0
        lines[-1] += group
        used += wide
    for line in lines:
        while line and line[-1].is_space:
            line.pop()
    return [line for line in lines if line]


def _may_break(before: _Piece, after: _Piece) -> bool:
    return bool(before.text and re.search(f"[{_WIDE}]", before.text)) or bool(
        after.text and re.search(f"[{_WIDE}]", after.text[-1])
    )


def _paragraph(runs: Sequence[Run], letters: Letters, width: int, top: int) -> _Placed:
    ascent, descent = _heights(letters.path, letters.size)
    if not runs:
        return [], top + round(0.6 * (ascent + descent)), 0.0
    whole = drawn_text("".join(run.text for run in runs if run.kind != "formula"))
    from_right = is_right_to_left(whole)
    items: list[Text | Sign | Rule] = []
    used = 0.0
    for line in _broken(_pieces(runs, letters), width):
        above = max(ascent, *(piece.ascent for piece in line))
        below = max(descent, *(piece.descent for piece in line))
        wide = sum(piece.width for piece in line)
        spread = round((letters.line_spacing - 1) * (ascent + descent))
        items += _line(line, letters, 0.0, top + above, width if from_right else None)
        used = max(used, width if from_right else wide)
        top += above + below + spread
    return items, top, used


def _line(
    line: Sequence[_Piece], letters: Letters, x: float, baseline: float, right: float | None = None
) -> list[Text | Sign]:
    """The pieces of a line in their places: from `x` to the right or, given a right edge, from there to the left.

    Neighbouring words in one face are one piece of text, which keeps the kerning and the order of mixed directions.
    """
    joined: list[_Piece] = []
    for piece in line:
        last = joined[-1] if joined else None
        if last is not None and last.mask is None and piece.mask is None and last.path == piece.path:
            joined[-1] = replace(last, text=last.text + piece.text, width=last.width + piece.width)
        else:
            joined.append(piece)
    is_shaped = right is not None or any(needs_shaping(piece.text) for piece in joined)
    direction = ("rtl" if right is not None else "ltr") if is_shaped else None
    items: list[Text | Sign] = []
    at = x if right is None else right
    for piece in joined:
        if right is not None:
            at -= piece.width
        if piece.mask is not None:
            items.append(Sign(at, baseline, piece.mask))
        elif not piece.is_space:
            items.append(Text(at, baseline, piece.text, piece.path, letters.size, direction))
        if right is None:
            at += piece.width
    return items


def _formula(block: Formula, letters: Letters, width: int, top: int) -> _Placed:
    mask = draw_formula(block.text, letters.size, letters.math_set)
    if mask.width > width:
        raise TooWideError(f"the formula ${block.text[:40]}$ is {mask.width} pixels wide")
    gap = round(0.4 * letters.size)
    x = (width - mask.width) / 2
    sign = Sign(x, top + gap + mask.ascent, mask)
    return [sign], top + 2 * gap + mask.ascent + mask.descent, x + mask.width


def _table(block: Table, letters: Letters, width: int, top: int) -> _Placed:
    """A grid with rules; a rule below the header is twice as strong. Cells are not wrapped."""
    ascent, descent = _heights(letters.path, letters.size)
    pad_x, pad_y, line = round(0.5 * letters.size), round(0.25 * letters.size), max(round(letters.size / 16), 1)
    cells = [[_pieces(cell, letters) for cell in row] for row in block.rows]
    columns = [
        ceil(max(sum(piece.width for piece in row[column]) for row in cells)) + 2 * pad_x
        for column in range(len(cells[0]))
    ]
    wide = sum(columns) + line * (len(columns) + 1)
    if wide > width:
        raise TooWideError(f"a table of {len(columns)} columns is {wide} pixels wide")
    items: list[Text | Sign | Rule] = []
    top += pad_y
    first = top
    for number, row in enumerate(cells):
        above = max([ascent, *(piece.ascent for cell in row for piece in cell)])
        below = max([descent, *(piece.descent for cell in row for piece in cell)])
        thick = line * (1 + (number == 1 and block.has_header))
        items.append(Rule((0, top, wide, top + thick), 0.7))
        top += thick
        left = 0
        for column, cell in zip(columns, row, strict=True):
            items += _line(cell, letters, left + line + pad_x, top + pad_y + above)
            left += line + column
        top += 2 * pad_y + above + below
    items.append(Rule((0, top, wide, top + line), 0.7))
    left = 0
    for column in [*columns, 0]:
        items.append(Rule((left, first, left + line, top + line), 0.7))
        left += line + column
    return items, top + line + pad_y + round(0.3 * letters.size), float(wide)


def _code(block: Code, letters: Letters, width: int, top: int) -> _Placed:
    """Lines of code in a tinted box."""
    ascent, descent = _heights(letters.mono_path, letters.size)
    pad = round(0.5 * letters.size)
    lines = [drawn_text(line).rstrip() for line in block.lines]
    widths = [_letters_width(line, letters.mono_path, letters.size, needs_shaping(line)) for line in lines]
    wide = ceil(max(widths)) + 2 * pad
    if wide > width:
        longest = lines[widths.index(max(widths))]
        raise TooWideError(f"the line of code {longest.strip()[:40]!r} is {wide} pixels wide")
    top += round(0.2 * letters.size)
    step = round(1.1 * (ascent + descent))
    items: list[Text | Sign | Rule] = [Rule((0, top, width, top + 2 * pad + step * len(lines)), 0.07)]
    for number, line in enumerate(lines):
        if line.strip():
            direction = "ltr" if needs_shaping(line) else None
            baseline = top + pad + step * number + ascent
            items.append(Text(pad, baseline, line, letters.mono_path, letters.size, direction))
    return items, top + 2 * pad + step * len(lines) + round(0.3 * letters.size), float(width)
