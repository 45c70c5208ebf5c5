"""The grader: is a model's answer the right one? Its text is treated as hostile, and nothing in it is executed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from .answers import MAX_ANSWER, choice_in, number_in, tail_of, words_in
from .normalize import bare, clean, parse_quantity, same_quantity, same_words
from .symbolic import are_equal, is_formula


_LETTER = re.compile(r"\(?([A-Ja-j])\)?")
_CHOICE_LABEL = re.compile(r"\s*+\(?([A-Z])[).:]\s*+(?=\S)")


@dataclass(frozen=True)
class Grade:
    """The grade of one answer.

    `answer` is the final answer found in the text, "" where there is none. `how` says what decided: for a right answer
    "words", "number", "choice" or "symbolic"; else "none" (no answer found), "wrong", or "limit" (comparing formulas
    took too much time or memory).
    """

    is_correct: bool
    answer: str
    how: str


@dataclass(frozen=True)
class Grader:
    """Finds the final answer in a model's text and compares it with the expected one.

    Numbers are compared as exact fractions, words without regard to case and typography, choices by letter or text.
    Only the last 20,000 characters of a text are read. A grader has no state.

    Args:
        tolerance: Relative tolerance for numbers: right if |answer - expected| <= tolerance * |expected|. 0 is exact,
            0.01 the published protocol. It does not apply to words, choices and times of day.
        symbolic: Let math-verify decide whether two formulas are equal, in a process of its own. Needs the extra
            `eval`.
        time_limit: Seconds for one answer; only the comparison of formulas can take so long.

    Raises:
        ValueError: the tolerance is outside [0, 1), or the time limit is not positive.
        ImportError: `symbolic` is set, and math-verify is not installed.
    """

    tolerance: float = 0.0
    symbolic: bool = False
    time_limit: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"`tolerance` is relative and must be in [0, 1), got {self.tolerance}; 0.01 is 1 %.")
        if not (self.time_limit > 0 and math.isfinite(self.time_limit)):
            raise ValueError(f"`time_limit` must be a positive number of seconds, got {self.time_limit}.")
        if self.symbolic:
            from ..._extras import require

            require("math_verify", extra="eval", purpose="Grading with `symbolic=True` needs")

    @property
    def settings(self) -> dict[str, Any]:
        """The options that a grade depends on; written beside graded answers."""
        return {"tolerance": self.tolerance, "symbolic": self.symbolic}

    def __call__(self, text: str, expected: str, choices: Sequence[str] | None = None) -> Grade:
        """Grade one answer.

        Args:
            text: What the model wrote; any text at all.
            expected: The right answer; with `choices` the text of one of them, or its letter.
            choices: The texts of the choices in the order of their letters, at most 26.

        Raises:
            ValueError: `expected` is empty, is none of the choices, or is too long for a final answer; or there are
                more than 26 choices.
        """
        gold = bare(clean(expected[: 2 * MAX_ANSWER + 1]))
        if not gold:
            raise ValueError(f"`expected` is {expected!r}; give the right answer of each question.")
        if not choices and len(gold) > MAX_ANSWER:
            raise ValueError(
                f"`expected` has {len(expected):,} characters, and no answer of more than {MAX_ANSWER} is found in a "
                f"text ({expected[:40]!r}...); give the final answer, not the way to it."
            )
        cleaned = clean(tail_of(text))
        if choices:
            return self._grade_choice(cleaned, gold, choices)
        letter = _LETTER.fullmatch(gold)
        if letter and gold != "a":
            index, answer = choice_in(cleaned, [""] * 10, lambda *_: False)
            if index is not None:
                is_right = chr(ord("A") + index) == letter[1].upper()
                return _grade(is_right, chr(ord("A") + index), "choice")
        quantity = parse_quantity(gold)
        readings = [number_in(cleaned)] if quantity else words_in(cleaned)
        how = next((how for reading in readings if (how := self._same(reading, gold))), None)
        if how:
            return _grade(True, next(reading for reading in readings if self._same(reading, gold)), how)
        answer = next(iter(readings), "")
        if answer and self.symbolic and is_formula(answer) and is_formula(gold) and not _both_numbers(answer, gold):
            verdict = are_equal(answer, gold, time_limit=self.time_limit)
            return Grade(False, answer, "limit") if verdict is None else _grade(verdict, answer, "symbolic")
        return _grade(False, answer, "")

    def final_answer(self, text: str, choices: Sequence[str] | None = None) -> str:
        """The answer that a text gives, where no right one is known: a choice, a number with its unit, or words.

        Args:
            text: What the model wrote; any text at all.
            choices: The texts of the choices in the order of their letters, at most 26.

        Returns:
            An answer that may be `expected` in a call; "" where the text gives none.
        """
        cleaned = clean(tail_of(text))
        if choices:
            texts = _without_labels([clean(choice[:MAX_ANSWER]) for choice in choices])
            index, _ = choice_in(cleaned, texts, lambda a, b: self._same(a, bare(b), tolerance=0.0) is not None)
            return "" if index is None else choices[index]
        number = number_in(cleaned)
        return number if parse_quantity(number) else next(reversed(words_in(cleaned)), "")

    def _same(self, answer: str, gold: str, tolerance: float | None = None) -> str | None:
        """How two bare answers agree ("number", "words"), or `None`."""
        first, second = parse_quantity(answer), parse_quantity(gold)
        if first and second:
            exact = Fraction(repr(self.tolerance if tolerance is None else tolerance))
            return "number" if same_quantity(first, second, exact) else None
        return "words" if same_words(answer, gold) else None

    def _grade_choice(self, text: str, gold: str, choices: Sequence[str]) -> Grade:
        if len(choices) > 26:
            raise ValueError(f"{len(choices)} choices; letters name at most 26.")
        texts = _without_labels([clean(choice[:MAX_ANSWER]) for choice in choices])

        def same(first: str, second: str) -> bool:
            return self._same(first, bare(second), tolerance=0.0) is not None

        matching = [i for i, choice in enumerate(texts) if same_words(gold, bare(choice))]
        matching = matching or [i for i, choice in enumerate(texts) if same(gold, choice)]
        letter = _LETTER.fullmatch(gold)
        if not matching and letter and ord(letter[1].upper()) - ord("A") < len(texts):
            matching = [ord(letter[1].upper()) - ord("A")]
        if len(matching) != 1:
            raise ValueError(f"`expected` {gold!r} must name exactly one of the choices {list(choices)}.")
        index, answer = choice_in(text, texts, same)
        if index is None and self.tolerance:
            index = self._nearest(number_in(text), texts)
        return _grade(index == matching[0], answer if index is None else bare(texts[index]), "choice")

    def _nearest(self, answer: str, texts: Sequence[str]) -> int | None:
        near = [i for i, choice in enumerate(texts) if self._same(answer, bare(choice)) == "number"]
        return near[0] if len(near) == 1 else None


def _grade(is_correct: bool, answer: str, how: str) -> Grade:
    return Grade(is_correct, answer, how if is_correct else "wrong" if answer else "none")


def _both_numbers(answer: str, gold: str) -> bool:
    return parse_quantity(answer) is not None and parse_quantity(gold) is not None


def _without_labels(choices: list[str]) -> list[str]:
    """Choices without their labels, where all are labelled in order ("A. 5", "B. 7"); else unchanged."""
    labels = [_CHOICE_LABEL.match(choice) for choice in choices]
    if all(label and ord(label[1]) - ord("A") == index for index, label in enumerate(labels)):
        return [choice[label.end() :] for choice, label in zip(choices, labels, strict=True) if label]
    return choices
