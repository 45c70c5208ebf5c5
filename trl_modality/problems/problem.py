"""A problem: facts, a question about them and what follows; and its views, in which facts are told in words or shown.

The named levels are those of MathVerse (arXiv 2403.14624), with facts of its three kinds.
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
    """What a fact is to the picture, in the order in which facts leave the words as `vision_ratio` rises."""

    DESCRIPTION = "description"
    """What anyone sees at once: which shapes, axes or columns there are."""
    PROPERTY = "property"
    """What is seen with some thought: which lines are parallel, how the rows are ordered."""
    CONDITION = "condition"
    """What the answer is computed from: values, lengths, angles."""


@dataclass(frozen=True)
class Fact:
    """One fact, told by a sentence and by the picture.

    Args:
        words: A sentence that tells it without the picture.
        labels: What the picture writes down to tell it, as written there ("42", "AB"); empty where it is drawn only.
        kind: What it is to the picture.
    """

    words: str
    labels: tuple[str, ...] = ()
    kind: FactKind = FactKind.CONDITION


# Draws a problem: the positions of the facts that the picture shall tell, and the question where it shall stand in it
Renderer = Callable[[frozenset[int], str | None], "Image.Image"]


@dataclass(frozen=True)
class Problem:
    """Facts, a question about them, the reasoning from the one to the other, and how the facts are drawn.

    Args:
        id: Unique within a data set; the same in every run.
        facts: All that has to be known, and maybe more.
        question: Asks for the answer; tells no fact.
        answer: The final answer alone: a number, with its unit apart in the question, or a word.
        reasoning: The steps from the facts to the answer, a sentence each; the last one states the answer.
        render: Draws the picture with some of the facts in it, the same pixels each time.
        category: What kind of question it is, to count and report by.
        meta: What a check of the answer needs: plain numbers, strings, lists and dicts of them.

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
                raise ValueError(f"problem {self.id!r}: `{name}` is empty; a problem needs facts and what follows.")

    def facts_in_words(self, vision_ratio: float | str) -> tuple[int, ...]:
        """Positions of the facts that a view tells in words.

        Descriptions leave the words between 0 and 0.25, properties between 0.25 and 0.5, conditions between 0.5 and
        0.75, the last of each kind first; the question leaves them at 1.

        Args:
            vision_ratio: From 0, all facts in words, to 1, all in the picture and the question too; or the name of a
                level.

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
        """The words of a view: some of the facts, and the question where the picture does not hold it.

        At 1 they only say where the question is.
        """
        if _ratio(vision_ratio) == 1.0:
            return "Answer the question in the image."
        facts = [self.facts[i].words for i in self.facts_in_words(vision_ratio)]
        return "\n".join([" ".join(facts), self.question]) if facts else self.question

    def picture(self, vision_ratio: float | str, repeats: bool = True) -> Image.Image:
        """The picture of a view.

        Args:
            vision_ratio: As for `facts_in_words`; at 1 the question stands in the picture.
            repeats: Whether the picture also tells the facts that the words tell. All views below 1 then show the
                same picture, which a pair needs to encode it once.
        """
        told = () if repeats else self.facts_in_words(vision_ratio)
        shown = frozenset(range(len(self.facts))) - frozenset(told)
        return self.render(shown, self.question if _ratio(vision_ratio) == 1.0 else None)

    def to_pair(self, text_rich: float | str = 0.0, vision_centric: float | str = 0.75) -> dict[str, Any]:
        """The pair row: the question in two views, whose one completion is the reasoning and the answer.

        Args:
            text_rich, vision_centric: `vision_ratio` of the two views. With the vision_centric view at 1, it has
                images of its own, with the question in them.

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
