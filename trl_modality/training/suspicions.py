"""What is likely a mistake in a set of pairs, though each of its rows is one: said before the first step."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from datasets import Dataset
from transformers.utils import logging

from ..views import PAIR_PROMPTS, PROMPT_COLUMN, View, shows_same_images, text_of
from .datasets import columns_of


logger = logging.get_logger(__name__)

FEWEST = 4  # pairs from which something is concluded
NEARLY_ALL = 0.9
SLOT = "<image>"
MESSAGE_COLUMNS = ("messages", "conversations", "prompt", *PAIR_PROMPTS, "completion")
LOOKED_AT = 16  # rows
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


def say_there_are_no_pairs(datasets: Mapping[str, Any], *, is_expected: bool) -> None:
    """Say that a run has no pairs, and what its rows are in their place.

    Args:
        datasets: Of the run, by name.
        is_expected: Whether nothing asks for pairs, as in a run with TRL's own config: then it is not a warning.
    """
    has = "; ".join(f"`{name}` has {', '.join(columns_of(dataset, name))}" for name, dataset in datasets.items())
    say = logger.info if is_expected else logger.warning
    say(
        f"0 pairs: no dataset has `{'` and `'.join(PAIR_PROMPTS)}` ({has}). It is trained on as by `SFTTrainer`: in "
        "one view, without a divergence. `trl_modality.data.make_pairs` makes pairs of columns, `trl-modality data "
        "transcribe` of images and questions."
    )


def say_none_is_a_pair(name: str, n_rows: int) -> None:
    """Warn of a dataset with the columns of pairs, of which no checked row is one."""
    logger.warning(
        f"`{name}`: 0 pairs among the {n_rows} rows that were checked, though it has a column of `"
        f"{'` or `'.join(PAIR_PROMPTS)}`: both are empty there, and such rows are trained on as plain ones."
    )


def say_where_slots_are_words(name: str, dataset: Any) -> None:
    """Warn of rows whose messages have '<image>' in their text, where it shows no image."""
    if not isinstance(dataset, Dataset):
        return
    columns = [column for column in MESSAGE_COLUMNS if column in dataset.column_names]
    head = dataset.select(range(min(len(dataset), LOOKED_AT))).select_columns(columns).with_format(None)
    rows: list[Any] = list(head) if columns else []
    found = [index for index, row in enumerate(rows) if any(_says_slot(row[column]) for column in columns)]
    if found:
        logger.warning(
            f"`{name}`: {len(found)} of the first {len(rows)} rows have {SLOT!r} in the text of their messages (row "
            f"{found[0]}), where it stands for no image: messages show an image as a part of type 'image', or before "
            "the first user's text. `trl_modality.data.read_rows` reads files with such places (LLaVA, "
            "ShareGPT), also as `--dataset_name FILE`."
        )


def _says_slot(messages: Any) -> bool:
    """Whether a message list has the place of an image in its words; in a string it is one."""
    if not isinstance(messages, list):
        return False
    return any(SLOT in text_of([{"content": m.get("content") or m.get("value") or ""}]) for m in messages)


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
