"""Text of others in our pages and Markdown: escaped, since what a model wrote is hostile, and cut to a length."""

from __future__ import annotations

import re
from html import escape

from .figures.lettering import visible


# What is markup anywhere in one line of Markdown, or starts a block at its beginning
_MARKDOWN = re.compile(r"([\\`*_\[\]|~$]|^[#+=-]|(?<=^\d)[.)](?=\s))")


def markdown_text(text: str) -> str:
    """The text as one line of Markdown, for a paragraph or a table cell, with all markup in it escaped."""
    line = " ".join(visible(text).split())
    return _MARKDOWN.sub(r"\\\1", escape(line, quote=False))


def cut(text: str, most: int, lines: int = 24) -> str:
    """The text up to `most` characters and `lines` lines, followed by the number of characters left out, if any."""
    start = "\n".join(text[:most].split("\n", lines)[:lines])
    left = len(text) - len(start)
    return text if left <= 0 else f"{start} … ({left:,} more character{'' if left == 1 else 's'})"
