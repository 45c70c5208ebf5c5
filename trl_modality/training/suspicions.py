"""What is likely a mistake in a set of pairs, though each of its rows is one: said before the first step."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from transformers.utils import logging

from ..views import PROMPT_COLUMN, View, shows_same_images, text_of


logger = logging.get_logger(__name__)

FEWEST = 4  # pairs from which something is concluded
NEARLY_ALL = 0.9
LONG = 20  # characters of a completion that is in a prompt by no accident


class PairFacts(NamedTuple):
    """What is remembered of a pair that was checked."""

    is_alike: bool
    """Both views have the same prompt and the same images."""
    is_swapped: bool
    """The text_rich prompt is shorter than the vision_centric one."""
    has_completion_in_prompt: bool
    """The vision_centric prompt has the whole completion in it, and the row has no `choices`."""
    completion: int
    """A hash of the completion."""
    id: Any


def facts_of(row: Mapping[str, Any]) -> PairFacts:
    """Those of a pair."""
    text, vision = (text_of(row[PROMPT_COLUMN[view]]).strip() for view in (View.TEXT_RICH, View.VISION_CENTRIC))
    completion = text_of(row["completion"]).strip()
    return PairFacts(
        text == vision and shows_same_images(row),
        len(text) < len(vision),
        len(completion) >= LONG and completion in vision and not row.get("choices"),
        hash(completion),
        row.get("id"),
    )


def say_what_is_suspicious(name: str, facts: Sequence[PairFacts], *, changes_prompts: bool) -> None:
    """Warn of what is the same mistake in nearly all pairs.

    Args:
        name: Of the dataset in messages.
        facts: Of the pairs that were checked.
        changes_prompts: Whether the vision_centric prompts are taken from `level_prompts`.
    """
    n = len(facts)
    if n < FEWEST:
        return
    for is_so, problem, remedy in (
        (
            not changes_prompts and _share(facts, "is_alike") >= NEARLY_ALL,
            "have the same prompt and the same images in both views, so that the divergence is 0 and there is no gap",
            "Take the facts out of `vision_centric_prompt`, or train on plain rows.",
        ),
        (
            not changes_prompts and _share(facts, "is_swapped") >= NEARLY_ALL,
            "have a `text_rich_prompt` that is shorter than their `vision_centric_prompt`, as if the two were swapped",
            "The text_rich one is the one with the facts in words.",
        ),
        (
            _share(facts, "has_completion_in_prompt") >= NEARLY_ALL,
            "have their `completion` in their `vision_centric_prompt`, which teaches to copy it",
            "Take it out of the prompt, unless it is one of several choices there.",
        ),
        (
            len({each.completion for each in facts}) == 1,
            "have one and the same `completion`",
            "Check the column that it is made of.",
        ),
    ):
        if is_so:
            logger.warning(f"`{name}`: all or nearly all of the {n} pairs that were checked {problem}. {remedy}")
    _say_double_ids(name, facts)


def _say_double_ids(name: str, facts: Sequence[PairFacts]) -> None:
    """Warn of an `id` that several pairs of an evaluation have; a training set may repeat rows on purpose."""
    if not name.startswith("eval_dataset"):
        return
    known = Counter(str(each.id) for each in facts if each.id is not None)
    double = [row_id for row_id, count in known.items() if count > 1]
    if double:
        logger.warning(
            f"`{name}`: {len(double)} `id`(s) are those of several of the {len(facts)} pairs that were checked "
            f"({', '.join(map(repr, double[:5]))}). Rows that are there twice count twice: give each its own."
        )


def _share(facts: Sequence[PairFacts], what: str) -> float:
    return sum(getattr(each, what) for each in facts) / len(facts)
