"""A question in words → the text that becomes a picture, and the prompts of both views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .faces import EMPTY, UnrenderableError
from .markup import atoms
from .questions import ANSWER, Question


What = Literal["question", "middle", "context"]
WHATS: tuple[What, ...] = ("question", "middle", "context")
TextView = Literal["text_rich", "text_only"]
TEXT_VIEWS: tuple[TextView, ...] = ("text_rich", "text_only")
"""What the view in words shows: the picture too, or none."""
GAP = "[...]"
"""Stands in the words of the vision_centric view where a part of the question is in the picture."""

_ENDING = 'End with a line "Answer: " and the answer alone.'
_LETTER = 'End with a line "Answer: " and the letter of the right choice alone.'


@dataclass(frozen=True)
class TextViews:
    """The words of a pair: what is drawn, and the prompts of both views."""

    drawn: str
    text_rich: str
    vision_centric: str


def split_views(question: Question, what: What, share: float = 0.5, ending: str | None = None) -> TextViews:
    """The views of a question.

    Args:
        question: The question.
        what: What becomes a picture. "question": all of it, its choices too; the text_rich prompt is the question.
            "middle": `share` of its words, from its middle; the vision_centric prompt has "[...]" in their place.
            "context": the context alone; the text_rich prompt has it before the question.
        share: For "middle": share of the words in the picture, between 0 and 1. Formulas, tables and code are whole.
        ending: The last line of both prompts. By default what the completion does: "End with a line ..." where it
            ends with a line `Answer: ...`.

    Raises:
        UnrenderableError: for "middle", a question of fewer than three words.
    """
    if ending is None:
        ending = _default_ending(question)
    choices = question.listed_choices
    if what == "question":
        asked = _joined(question.text, choices)
        return TextViews(asked, _joined(asked, ending), " ".join(filter(None, (ASK, ending))))
    if what == "context":
        assert question.context is not None
        asked = _joined(question.text, choices, ending)
        return TextViews(question.context, _joined(question.context, asked), asked)
    before, middle, after = split_middle(question.text, share)
    shown = f"{before}{GAP}{after}"
    whole = _joined(question.text, choices, ending)
    told = " ".join(filter(None, (f"The words at {GAP} are in the image.", ending)))
    return TextViews(middle.strip(), whole, _joined(shown, choices, told))


ASK = "Answer the question in the image."


def split_middle(text: str, share: float) -> tuple[str, str, str]:
    """What stands before the middle part, the part, and what stands after it.

    Joined they are the text, but for the white space around the part, which goes to its neighbours.
    """
    spans = atoms(text)
    if len(spans) < 3:
        raise UnrenderableError(
            EMPTY,
            f"it has {len(spans)} words, and a middle needs three.",
            "Render the whole question, or leave it out.",
        )
    count = min(max(round(share * len(spans)), 1), len(spans) - 2)
    first = (len(spans) - count) // 2
    start, stop = spans[first][0], spans[first + count][0]
    middle = text[start:stop].rstrip()
    stop = start + len(middle)
    return text[:start], middle, text[stop:]


def _default_ending(question: Question) -> str:
    last = question.completion.rpartition("\n")[2]
    if not last.startswith(ANSWER):
        return ""
    return _LETTER if question.choices else _ENDING


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)
