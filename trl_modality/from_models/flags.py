"""What is wrong with a transcription, as far as its words tell; and how far two transcriptions agree."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from ..evaluation.models.requests import Generation


FAILED = "no transcription"
EMPTY = "empty"
CUT = "cut off at the largest number of tokens"
OTHER_SCRIPT = "in another script than the question"
TELLS_ANSWER = "tells the answer"
REASONS = (FAILED, EMPTY, CUT, OTHER_SCRIPT, TELLS_ANSWER)

_WORD = re.compile(r"\w+(?:[.,]\w+)*")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_TOGETHER = ({"HIRAGANA", "KATAKANA", "CJK"}, {"HANGUL", "CJK"})
"""Scripts in which one language is written: a question in the first of them may be about words in the others."""
_LONG = 6
"""A line of a completion with so many words is no coincidence where a transcription has it too."""


def flag(
    transcription: Generation, question: str, answer: str | None, completion: str = "", *, is_read: bool = False
) -> str | None:
    """Why a transcription is of no use, one of `REASONS`; `None` where nothing is seen of it.

    Args:
        transcription: What came back.
        question: The question, whose script the words should be in.
        answer: The right answer, if there is one.
        completion: The completion, if there is one.
        is_read: By OCR, which writes nothing but what stands in the picture, in whatever script.
    """
    text = transcription.text.strip()
    if transcription.failure is not None:
        return FAILED
    if not any(character.isalnum() for character in text):
        return EMPTY
    if not transcription.is_complete:
        return CUT
    if is_read:
        return None
    if _is_other_script(text, question):
        return OTHER_SCRIPT
    if tells_answer(text, answer, completion):
        return TELLS_ANSWER
    return None


def tells_answer(text: str, answer: str | None, completion: str = "") -> bool:
    """Whether words say what the answer is, and not only the facts: "Answer: 12", the answer alone, or its reasoning.

    An answer that is one of the facts (the tallest bar's name) is no leak.
    """
    said = _plain(text)
    if answer and (right := _plain(answer)):
        if said == right:
            return True
        # "the answer is 12", "answer: (B) 12"; the answers of a survey are facts
        if re.search(rf"\banswer\b(?: \w+){{0,3}}? {re.escape(right)}(?: |$)", said):
            return True
    lines = (_plain(line) for line in completion.splitlines())
    return any(line.count(" ") + 1 >= _LONG and f" {line} " in f" {said} " for line in lines)


def agreement(first: str, second: str) -> float:
    """How alike two transcriptions are, 0 to 1: Dice's coefficient of their words or of their numbers, the lower.

    Dice's coefficient of multisets a and b is 2 |a ∩ b| / (|a| + |b|). Numbers are compared by value: 12 is 12.0.
    """
    pairs = [
        (Counter(_words(first)), Counter(_words(second))),
        (Counter(numbers(first)), Counter(numbers(second))),
    ]
    return min(_dice(*pair) for pair in pairs)


def numbers(text: str) -> list[Fraction]:
    """The numbers in a text, by value; a comma between groups of three digits is left out."""
    return [Fraction(number) for number in _NUMBER.findall(re.sub(r"(?<=\d),(?=\d{3}\b)", "", text))]


def _dice(first: Counter, second: Counter) -> float:
    total = first.total() + second.total()
    return 2 * (first & second).total() / total if total else 1.0


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.casefold()) if not word[0].isdigit()]


def _plain(text: str) -> str:
    """Words and numbers alone, a space between each."""
    return " ".join(_WORD.findall(re.sub(r"(?<=\d),(?=\d{3}\b)", "", text).casefold()))


def _is_other_script(text: str, question: str) -> bool:
    """Whether more than half of the letters are of scripts that the question has no letter of."""
    known = set(_scripts(question))
    known |= next((scripts for scripts in _TOGETHER if known & (scripts - {"CJK"})), set())
    letters = _scripts(text)
    return bool(known) and sum(script not in known for script in letters) > len(letters) / 2


def _scripts(text: str) -> Sequence[str]:
    """The script of each letter, by the first word of its name in Unicode: LATIN, CYRILLIC, CJK, ARABIC, ..."""
    text = unicodedata.normalize("NFKC", text)  # FULLWIDTH and HALFWIDTH are no scripts
    return [re.split("[ -]", unicodedata.name(each, "?"))[0] for each in text if each.isalpha()]
