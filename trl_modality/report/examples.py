"""The section of worst examples: what the model saw, what it was asked, and what it answered in each view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..evaluation.worst_pairs import ShownAnswer
from .charts import VIEWS
from .pictures import MOST_BYTES, data_uri
from .reading.evaluations import Evaluation, Example
from .reading.runs import Run
from .sections import Section


MOST_EXAMPLES = 12
"""Examples in a report, of all its runs together."""
_TINY = 96  # pixels: a picture whose sides are no longer is shown larger


class Picture(NamedTuple):
    """A picture of an example; without a `uri` it cannot be shown."""

    file: str
    """Name of its file."""
    uri: str = ""
    """The picture itself, as a `data:` address."""
    width: int = 0
    height: int = 0
    is_tiny: bool = False
    """So small that it is shown larger."""


class Card(NamedTuple):
    """An example as it is shown."""

    example: Example
    pictures: Sequence[Picture]
    question: str
    """The text of the vision_centric prompt, or of another one where that is missing."""
    views: Mapping[str, ShownAnswer]
    """The answers in the two views."""
    others: Mapping[str, ShownAnswer]
    """The answers in other conditions, which are folded away."""


class ShownExamples(NamedTuple):
    """The examples of one run."""

    run: str
    """Its name; empty where it is the only run."""
    evaluation: str
    how_many: str
    """How many pairs are shown, in words."""
    cards: Sequence[Card]


def examples_section(runs: Sequence[Run]) -> tuple[Section | None, list[str]]:
    """Examples of each run, and a note for each picture that cannot be shown.

    They are those of the last evaluation or, where it has none because training left no gap, of the first one.
    """
    states = [(run, [e for e in (run.last, run.before) if e is not None and e.examples]) for run in runs]
    shown = [(run, evaluations[0]) for run, evaluations in states if evaluations]
    found, notes = [], []
    for run, evaluation in shown:
        cards = []
        for example in evaluation.examples[: max(MOST_EXAMPLES // len(shown), 1)]:
            pictures, missing = _pictures(example)
            cards.append(_card(example, pictures))
            notes += missing
        name = "" if len(runs) == 1 else run.name
        found.append(ShownExamples(name, evaluation.name, _count(evaluation, len(cards)), cards))
    section = Section("examples", "Worst examples", "examples.html.j2", {"runs": found}) if found else None
    return section, notes


def _count(evaluation: Evaluation, count: int) -> str:
    kept = len(evaluation.examples)
    return f"{count} of {kept} kept pairs" if count < kept else f"{count} pair{'' if count == 1 else 's'}"


def _card(example: Example, pictures: Sequence[Picture]) -> Card:
    views, others = (
        {name: answer for name, answer in example.answers.items() if (name in VIEWS) == is_view}
        for is_view in (True, False)
    )
    question = example.prompts.get("vision_centric") or next(iter(example.prompts.values()), "")
    return Card(example, pictures, question, views, others)


def _pictures(example: Example) -> tuple[list[Picture], list[str]]:
    pictures, notes = [], []
    for path in example.images:
        try:
            uri, width, height = data_uri(path, MOST_BYTES // len(example.images))
        except (OSError, ValueError) as error:
            notes.append(f"Example {example.name}: the image {path.name} cannot be shown ({type(error).__name__}).")
            pictures.append(Picture(path.name))
        else:
            pictures.append(Picture(path.name, uri, width, height, max(width, height) <= _TINY))
    return pictures, notes
