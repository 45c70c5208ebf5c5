"""A problem of the demo: one-digit facts and a short question, from which reasoning and answer are computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


# Kinds of questions, and how many facts a question of the kind names; with 0 it is about all facts
NAMED_FACTS = {"look_up": 1, "sum": 2, "difference": 2, "largest": 0, "smallest": 0}
# Kinds that take one more step of reasoning; the demo does not train on them
FURTHER_FACTS = {"sum_of_three": 3, "spread": 0}

_WORDING = {"look_up": "{0}?", "sum": "{0}+{1}?", "difference": "{0} to {1}?", "sum_of_three": "{0}+{1}+{2}?"}


@dataclass(frozen=True)
class DemoProblem:
    """
    Facts, and one question about them.

    The wording, the reasoning and the answer are computed from `facts`, so that they cannot contradict them.

    Args:
        id: unique within a data set.
        title: what the facts are and in which unit; both views show it.
        facts: (name, value) records in the order in which they are shown.
        kind: one of `NAMED_FACTS` or `FURTHER_FACTS`; "difference" is the absolute difference of two facts, "spread"
            that of the largest and the smallest.
        names: the facts the question is about, as many as the kind needs.

    Raises:
        ValueError: for an unknown kind, a wrong number of names, a name without a fact, or a repeated fact name.
    """

    id: str
    title: str
    facts: tuple[tuple[str, int], ...]
    kind: str
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        counts = NAMED_FACTS | FURTHER_FACTS
        if self.kind not in counts:
            raise ValueError(f"`kind` must be one of {sorted(counts)}, got {self.kind!r}.")
        if len(self.names) != counts[self.kind]:
            raise ValueError(f"{self.kind!r} needs {counts[self.kind]} `names`, got {self.names}.")
        known = dict(self.facts)
        if not known or len(known) != len(self.facts):
            raise ValueError(f"`facts` must be non-empty and name each fact once, got {self.facts}.")
        if missing := [name for name in self.names if name not in known]:
            raise ValueError(f"`names` {missing} are not among the facts {list(known)}.")

    @property
    def question(self) -> str:
        return _WORDING.get(self.kind, "{kind}?").format(*self.names, kind=self.kind)

    @property
    def facts_in_words(self) -> str:
        return _in_words(self.facts)

    @property
    def reasoning(self) -> str:
        """The facts that the answer depends on, in words: those that the question names, or all of them."""
        known = dict(self.facts)
        return _in_words([(name, known[name]) for name in self.names] or self.facts)

    @property
    def answer(self) -> str:
        known = dict(self.facts)
        values = [known[name] for name in self.names] or list(known.values())
        if self.kind in ("difference", "spread"):
            return str(max(values) - min(values))
        return str({"largest": max, "smallest": min}.get(self.kind, sum)(values))

    def to_pair(self, image: Any) -> dict[str, Any]:
        """
        The pair row: both views of the question and one completion, "reasoning;answer".

        Args:
            image: the entry of `images`: a PIL image that shows the facts, or anything that `datasets.Image` encodes.
        """
        return {
            "id": self.id,
            "images": [image],
            "text_rich_prompt": _message("user", f"{self.title}\n{self.facts_in_words}\n{self.question}"),
            "vision_centric_prompt": _message("user", f"{self.title}\n{self.question}"),
            "completion": _message("assistant", f"{self.reasoning};{self.answer}"),
            "answer": self.answer,
        }


def _in_words(facts: Any) -> str:
    return ",".join(f"{name}={value}" for name, value in facts)


def _message(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]
