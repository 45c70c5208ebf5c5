"""Text in drawings: how wide a line is, how it is shortened to a width, and how it stands in SVG."""

from __future__ import annotations

import re
import unicodedata

from markupsafe import Markup, escape


# Controls, zero-width signs, marks of text direction, lone surrogates: browsers do not show them, or let them turn the
# text that follows around
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""The text with controls, marks of text direction and lone surrogates written as escapes (`\x1b`, `\u202e`).

    Tabs and newlines stay. The result can be encoded as UTF-8 and does not change how the text around it reads.
    """
    text = text.replace("\r\n", "\n")
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def escaped(text: str) -> Markup:
    """The text, made `visible`, as HTML or SVG: for elements and for attributes in quotes."""
    return escape(visible(text))


def text_width(text: str, size: float) -> float:
    """An upper estimate of the width of a line in a sans-serif font, in the unit of `size`, the font size."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    narrow = sum(character in " .,:;'|()[]ijlI1t-" for character in text)
    return size * (1.02 * wide + 0.4 * narrow + 0.6 * (len(text) - wide - narrow))


def shorten(text: str, size: float, most: float) -> str:
    """The text as one line whose `text_width` at a font size is at most `most`; an ellipsis replaces its middle.

    Both ends are kept, since names of runs and categories differ at their ends as often as at their starts.
    """
    line = " ".join(visible(text).split())
    if text_width(line, size) <= most:
        return line
    kept = min(len(line) - 1, int(most / (0.4 * size)))  # no more of the narrowest characters would fit
    while kept > 1 and text_width(line[: kept - kept // 2] + "…" + line[len(line) - kept // 2 :], size) > most:
        kept -= 1
    return line[: kept - kept // 2].rstrip() + "…" + line[len(line) - kept // 2 :].lstrip()
