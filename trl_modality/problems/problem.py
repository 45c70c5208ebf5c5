"""A problem (facts, a question, reasoning, an answer) and its views, which tell each fact in words or in the picture.

The named levels (`views.LEVELS`) and the three kinds of facts are those of MathVerse (arXiv 2403.14624).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ..views import LEVELS


if TYPE_CHECKING:
    from PIL import Image


class FactKind(StrEnum):
    """Kinds of facts, in the order in which they leave the words of a view as its `vision_ratio` rises."""

    DESCRIPTION = "description"
    """Obvious in the picture: which shapes, axes or columns there are."""
    PROPERTY = "property"
    """Seen on a closer look: which lines are parallel, which colour is which series."""
    CONDITION = "condition"
    """What the answer is computed from: values, lengths, angles."""


@dataclass(frozen=True)
class Fact:
    """One fact, which a sentence can tell, and the picture too.

    Args:
        words: A sentence that tells the fact without the picture.
        labels: Strings that the picture contains to tell it ("42", "AB"); empty where the fact is drawn without text.
        kind: Decides at which `vision_ratio` the fact leaves the words.
    """

    words: str
    labels: tuple[str, ...] = ()
    kind: FactKind = FactKind.CONDITION


# Draws a problem, given the positions of the facts to show and the question, or None to leave it out of the picture
Renderer = Callable[[frozenset[int], str | None], "Image.Image"]


@dataclass(frozen=True)
class Problem:
    """Facts, a question about them, the reasoning from the facts to the answer, and a function that draws them.

    Args:
        id: Unique within a data set; the same in every run.
        facts: All that the answer depends on, and perhaps distractors.
        question: Asks for the answer; tells no fact.
        answer: The final answer alone: a word, or a number whose unit the question states.
        reasoning: The steps from the facts to the answer, one sentence each; the last one states the answer.
        render: Draws the picture with some of the facts; the same arguments give the same pixels.
        category: Kind of question, by which results are counted and reported.
        meta: What a checker of the answer needs: numbers, strings, lists and dicts.

    Raises:
        ValueError: no facts, or an empty question, answer or reasoning.
    """

    id: str
    facts: tuple[Fact, ...]
    question: str
    answer: str
    reasoning: tuple[str, ...]
    render: Renderer = field(repr=False, compare=False)
    category: str = ""
    meta: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("facts", "question", "answer", "reasoning"):
            if not getattr(self, name):
                raise ValueError(
                    f"problem {self.id!r}: `{name}` is empty; a problem needs facts, a question, an answer and "
                    "reasoning."
                )

    def facts_in_words(self, vision_ratio: float | str) -> tuple[int, ...]:
        """Positions in `facts` of those that a view tells in words.

        As the ratio rises, descriptions leave the words between 0 and 0.25, properties between 0.25 and 0.5,
        conditions between 0.5 and 0.75, the last fact of each kind first; the question leaves them at 1.

        Args:
            vision_ratio: From 0 (all facts in words) to 1 (all facts, and the question, in the picture), or the name
                of a level.

        Raises:
            ValueError: an unknown name, or a ratio outside [0, 1].
        """
        ratio = _ratio(vision_ratio)
        told: list[int] = []
        for stage, kind in enumerate(FactKind):
            positions = [i for i, fact in enumerate(self.facts) if fact.kind is kind]
            left = min(max(stage + 1 - 4 * ratio, 0.0), 1.0)
            told += positions[: round(left * len(positions))]
        return tuple(sorted(told))

    def prompt(self, vision_ratio: float | str) -> str:
        """The text of a view: the facts that it tells in words, then the question.

        At a ratio of 1 the question is in the picture, and the text only says so.
        """
        if _ratio(vision_ratio) == 1.0:
            return "Answer the question in the image."
        facts = [self.facts[i].words for i in self.facts_in_words(vision_ratio)]
        return "\n".join([" ".join(facts), self.question]) if facts else self.question

    def picture(self, vision_ratio: float | str, repeats: bool = True) -> Image.Image:
        """The picture of a view.

        Args:
            vision_ratio: As for `facts_in_words`; at 1 the question is drawn into the picture.
            repeats: Whether the picture also shows the facts that the words tell. All views below 1 then have the
                same picture, so that the views of a pair can share its encoding.
        """
        told = () if repeats else self.facts_in_words(vision_ratio)
        shown = frozenset(range(len(self.facts))) - frozenset(told)
        return self.render(shown, self.question if _ratio(vision_ratio) == 1.0 else None)

    def to_pair(self, text_rich: float | str = 0.0, vision_centric: float | str = 0.75) -> dict[str, Any]:
        """The pair row: two views of the question, and one completion of the reasoning and the answer.

        Args:
            text_rich, vision_centric: `vision_ratio` of the two views. A vision_centric view at 1 has an image of its
                own, with the question in it.

        Returns:
            `id`, `category`, `images`, `text_rich_prompt`, `vision_centric_prompt`, `completion`, `answer`, and
            `level_prompts`: the vision_centric prompt at every named level below 1, for the `levels` curriculum.
        """
        completion = f"{' '.join(self.reasoning)}\nAnswer: {self.answer}"
        row = {
            "id": self.id,
            "category": self.category,
            "images": [self.picture(text_rich)],
            "text_rich_prompt": _message("user", self.prompt(text_rich)),
            "vision_centric_prompt": _message("user", self.prompt(vision_centric)),
            "completion": _message("assistant", completion),
            "answer": self.answer,
            "level_prompts": [_message("user", self.prompt(ratio)) for ratio in LEVELS.values() if ratio < 1],
        }
        if _ratio(vision_centric) == 1.0:
            row["vision_centric_images"] = [self.picture(vision_centric)]
        return row


def _ratio(vision_ratio: float | str) -> float:
    if isinstance(vision_ratio, str):
        if vision_ratio not in LEVELS:
            raise ValueError(f"`vision_ratio` must be a number in [0, 1] or one of {', '.join(LEVELS)}.")
        return LEVELS[vision_ratio]
    if not 0.0 <= vision_ratio <= 1.0:
        raise ValueError(f"`vision_ratio` must be in [0, 1], got {vision_ratio}.")
    return float(vision_ratio)


def _message(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]
