"""How alike the two views of pairs are, and whether the words give the answer away: counted from text alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..views import PAIR_VIEWS, PROMPT_COLUMN, images_of, shows_same_images, text_of


_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


@dataclass
class Likeness:
    """Counts over pairs."""

    pairs: int = 0
    same_views: int = 0
    """Pairs whose views have the same prompt and the same images: nothing can be learnt from one for the other."""
    same_prompts: int = 0
    """Pairs whose views have the same prompt, whatever their images."""
    words_alone: int = 0
    """Pairs whose text_rich view shows no image."""
    overlaps: list[int] = field(default_factory=list)
    """For each pair with words in its text_rich prompt, the percentage of them that the other prompt has too."""
    with_answer: int = 0
    answer_in_text_rich: int = 0
    """Pairs whose `answer` (of a letter, its option) stands in the text_rich prompt, word for word."""
    answer_in_vision_centric: int = 0
    """The same of the vision_centric prompt, where it is given away without the picture (or is one of the choices)."""

    def count(self, row: Mapping[str, Any]) -> None:
        """Add a pair."""
        text, vision = (text_of(row.get(PROMPT_COLUMN[view])).strip() for view in PAIR_VIEWS)
        self.pairs += 1
        self.same_prompts += text == vision
        self.same_views += text == vision and shows_same_images(row)
        self.words_alone += not images_of(row, PAIR_VIEWS[0])
        own, other = (Counter(each.casefold().split()) for each in (text, vision))
        if own:
            self.overlaps.append(round(100 * (own & other).total() / own.total()))
        answer = _answer_in_words(row)
        if answer:
            self.with_answer += 1
            self.answer_in_text_rich += has_word(text, answer)
            self.answer_in_vision_centric += has_word(vision, answer)

    def add(self, other: Likeness) -> None:
        """Add the counts of later pairs."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def _answer_in_words(row: Mapping[str, Any]) -> str:
    """The answer, as the text of its option where it is a letter ("a" stands in nearly every text); "" where there is
    none."""
    answer, choices = row.get("answer"), row.get("choices") or ()
    answer = "" if answer is None else str(answer).strip()
    place = ord(answer) - ord("A") if len(answer) == 1 else -1
    return str(choices[place]) if 0 <= place < len(choices) and answer not in choices else answer


def has_word(text: str, answer: str) -> bool:
    """Whether an answer stands in a text as a whole: "12" in "12 cm" and "mon=12,", not in "120", "3.12" or "1,120".

    "1,200" is "1200".
    """
    text, answer = (_THOUSANDS.sub("", each.casefold()) for each in (text, answer.strip()))
    return re.search(rf"(?<!\w)(?<!\d[.,]){re.escape(answer)}(?!\w)(?![.,]\d)", text) is not None
