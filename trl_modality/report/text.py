"""Text of others on our pages: what a model wrote is hostile until it is escaped."""

from __future__ import annotations

import re
import unicodedata
from html import escape


# Nothing of these is shown by a browser as what it is: they vanish, or turn the text after them around
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
# Of one line: what marks text up anywhere, or a block at its start
_MARKDOWN = re.compile(r"([\\`*_\[\]|~$]|^[#+=-]|(?<=^\d)[.)](?=\s))")


def visible(text: str) -> str:
    r"""The text with controls, marks of direction and lone surrogates as escapes (`\x1b`, `\u202e`).

    Tabs and newlines stay. What is left can be encoded as UTF-8 and does not change how its surroundings read.
    """
    text = text.replace("\r\n", "\n")
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def html_text(text: str) -> str:
    """The text as HTML, for elements and for attributes in double quotes."""
    return escape(visible(text), quote=True)


def markdown_text(text: str) -> str:
    """The text as one line of Markdown, for a paragraph or a cell of a table: no markup of its own survives."""
    line = " ".join(visible(text).split())
    return _MARKDOWN.sub(r"\\\1", escape(line, quote=False))


def cut(text: str, most: int, lines: int = 24) -> str:
    """The start of a text that has more than `most` characters or so many lines, and how much more there was."""
    start = "\n".join(text[:most].split("\n", lines)[:lines])
    left = len(text) - len(start)
    return text if left <= 0 else f"{start} … ({left:,} more character{'' if left == 1 else 's'})"


def text_width(text: str, size: float) -> float:
    """About how wide a line is, in the unit of its font size: a little more than in most sans-serif fonts."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    narrow = sum(character in " .,:;'|()[]ijlI1t-" for character in text)
    return size * (1.02 * wide + 0.4 * narrow + 0.6 * (len(text) - wide - narrow))


def shorten(text: str, size: float, most: float) -> str:
    """One line that is no wider than `most`; three dots stand for what is left out of its middle.

    Names of runs and categories differ at their ends as often as at their starts, so both are kept.
    """
    line = " ".join(visible(text).split())
    if text_width(line, size) <= most:
        return line
    kept = min(len(line) - 1, int(most / (0.4 * size)))  # no more of the narrowest characters would fit
    while kept > 1 and text_width(line[: kept - kept // 2] + "…" + line[len(line) - kept // 2 :], size) > most:
        kept -= 1
    return line[: kept - kept // 2].rstrip() + "…" + line[len(line) - kept // 2 :].lstrip()
