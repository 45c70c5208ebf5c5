"""Completions in the model's own words: sampled from what it reads, graded, and the right ones kept."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.pairs import assistant
from ..data.rows import PairRows
from ..evaluation.checked_rows import answer_of, choices_of
from ..evaluation.conditions import Condition, make_request, view_of
from ..evaluation.models.requests import Generation, Generator
from ..views import PROMPT_COLUMN, PairError, View, describe_row, images_of, text_of, without_none
from .asked import Wanted, ask_once, content_key, identity, image_digest


if TYPE_CHECKING:
    from datasets import Dataset

FROM_VIEWS = (str(Condition.TEXT_RICH), str(Condition.TEXT_ONLY))
TAKE = ("shortest", "first", "all")
ELSE = ("keep", "drop")
NO_SAMPLE = "no right sample"
Grade = Callable[[str, str, Sequence[str] | None], Any]


@dataclass
class Trace:
    """What came of sampling completions."""

    dataset: Dataset
    """The rows with their completions."""
    rows: int
    """Rows that were read."""
    samples: int
    """Samples that were drawn."""
    outcomes: Counter[str]
    """Samples by outcome: "right", "wrong", "cut off", "failed"."""
    yielded: int
    """Rows with a right sample at least."""
    kept_old: int
    """Rows without one that keep their old completion."""
    dropped: int
    """Rows without one that are left out."""
    lengths: Mapping[str, Sequence[int]]
    """Characters of completions: "old", "right" (all right samples), "taken"."""
    answers: dict[str, Generation]
    """All samples, by what was asked."""

    def lines(self) -> list[str]:
        """The report, a sentence a line."""
        outcomes = ", ".join(f"{count:,} {name}" for name, count in self.outcomes.most_common())
        lines = [
            f"{self.yielded:,} of {self.rows:,} rows ({self.yielded / self.rows:.1%}) have a right sample",
            f"{self.samples:,} samples: {outcomes}",
        ]
        for name, lengths in self.lengths.items():
            if lengths:
                lines.append(f"{name} completions: median {statistics.median(lengths):,.0f} characters")
        if self.kept_old:
            lines.append(f"{self.kept_old:,} rows without a right sample keep their old completion")
        if self.dropped:
            lines.append(f"{self.dropped:,} rows without a right sample are left out")
        return [*lines, f"{len(self.dataset):,} pairs are written"]


def trace(
    dataset: Dataset,
    generator: Generator,
    grade: Grade,
    *,
    samples: int = 1,
    from_view: str = "text_rich",
    take: str = "shortest",
    otherwise: str = "drop",
    seed: int = 0,
    name: str = "train",
    folder: Path | None = None,
    **how: Any,
) -> Trace:
    """Replace the completions of pairs by those that a model writes itself, where it is right.

    A sample counts where the model ended it and `grade` finds the right answer in it. Sample j of a row has a seed of
    its own, a hash of (`seed`, j, what is asked): the same samples come whatever the batches, and k + 1 samples begin
    with the k.

    Args:
        dataset: Pairs with `answer` (and `choices` where the questions have them).
        generator: The model, usually the one that is going to be trained; it samples where its temperature is above 0.
        grade: Grades an answer, as `Grader` does.
        samples: Samples for a row.
        from_view: What the model is shown: "text_rich", or "text_only" (the same without the picture).
        take: Of the right samples of a row: the "shortest" (in characters, the first of several), the "first", or
            "all" different ones, each in a row of its own (`id` ends with "#2", "#3", ...).
        otherwise: What becomes of rows without a right sample: "keep" the old completion, or "drop" the row.
        seed: Of all draws.
        name: Name of the dataset in messages.
        folder: Samples are kept there as they come, and continued.
        **how: Options of `ask_once`: `known`, `batch_size`, `settings`, `show_progress`, `restart`.

    Raises:
        ValueError: an option does not fit, a column is missing, or no row is left.
        PairError: a row has no `answer`.
        Interrupted: by Ctrl-C; what is there is in `folder`.
    """
    _check(dataset, generator, samples, from_view, take, otherwise, name)
    rows, model = PairRows(dataset, name), identity(generator)
    old = [_old_completion(rows[position], otherwise) for position in range(len(rows))]
    wanted = [
        sample for position in range(len(rows)) for sample in _wanted(rows, position, model, from_view, seed, samples)
    ]
    file = None if folder is None else folder / "samples.jsonl"
    answers = ask_once(generator, wanted, file=file, **how)
    right: list[list[str]] = []
    outcomes: Counter[str] = Counter()
    for position in range(len(rows)):
        drawn = [answers[each.key] for each in wanted[position * samples : (position + 1) * samples]]
        graded = [_outcome(each, rows[position], grade) for each in drawn]
        outcomes.update(graded)
        right.append([each.text for each, outcome in zip(drawn, graded, strict=True) if outcome == "right"])
    return _result(dataset, rows, right, take, old, len(wanted), outcomes, answers)


def _check(
    dataset: Dataset, generator: Generator, samples: int, from_view: str, take: str, otherwise: str, name: str
) -> None:
    given = {"from_view": (from_view, FROM_VIEWS), "take": (take, TAKE), "otherwise": (otherwise, ELSE)}
    for option, (value, allowed) in given.items():
        if value not in allowed:
            raise ValueError(f"`{option}` must be one of {', '.join(allowed)}, got {value!r}.")
    if samples < 1:
        raise ValueError(f"`samples` must be at least 1, got {samples}.")
    if samples > 1 and not getattr(generator, "settings", {}).get("temperature", 1):
        raise ValueError(f"{samples} samples at temperature 0 are all the same; set a `temperature` above 0.")
    if not len(dataset):
        raise ValueError(f"`{name}` has no row.")
    needed = (PROMPT_COLUMN[view_of(from_view)], "answer")
    if missing := [column for column in needed if column not in dataset.column_names]:
        why = "the samples are graded by it" if missing[0] == "answer" else "`data transcribe` makes it of pictures"
        raise ValueError(f"`{name}` has no column `{missing[0]}`; {why}. It has {', '.join(dataset.column_names)}.")
    if otherwise == "keep" and "completion" not in dataset.column_names:
        raise ValueError(f"`{name}` has no `completion` that could be kept; leave out rows without a right sample.")


def _wanted(
    rows: PairRows, position: int, model: Sequence[Any], from_view: str, seed: int, samples: int
) -> list[Wanted]:
    row = rows[position]
    answer_of(row, describe_row(row))
    choices_of(row, describe_row(row))
    view = view_of(from_view)
    shown = [] if from_view == Condition.TEXT_ONLY else [image_digest(image) for image in images_of(row, view)]
    prompt = without_none(row[PROMPT_COLUMN[view]])

    asked = content_key(model, [from_view, prompt], shown)

    def wanted(sample: int) -> Wanted:
        # Of the question too, so that two rows do not share their random numbers
        drawn = int(hashlib.sha256(f"{seed} {sample} {asked}".encode()).hexdigest()[:8], 16) >> 1
        return Wanted(
            content_key(model, [from_view, prompt], shown, drawn),
            lambda: replace(make_request(rows[position], from_view), seed=drawn),
            f"{describe_row(row)}, sample {sample}",
        )

    return [wanted(sample) for sample in range(samples)]


def _outcome(sample: Generation, row: Mapping[str, Any], grade: Grade) -> str:
    if sample.failure is not None:
        return "failed"
    if not sample.is_complete:
        return "cut off"
    name = describe_row(row)
    is_correct = grade(sample.text, answer_of(row, name), choices_of(row, name)).is_correct
    return "right" if is_correct else "wrong"


def _chosen(right: Sequence[str], take: str) -> list[str]:
    if take == "all":
        return list(dict.fromkeys(right))
    if not right:
        return []
    return [min(right, key=len) if take == "shortest" else right[0]]


def _result(
    dataset: Dataset,
    rows: PairRows,
    right: Sequence[Sequence[str]],
    take: str,
    old: Sequence[list[dict[str, Any]] | None],
    samples: int,
    outcomes: Counter[str],
    answers: dict[str, Generation],
) -> Trace:
    positions, completions, ids, taken = [], [], [], []
    without = kept_old = 0
    for position, samples_of_row in enumerate(right):
        chosen = _chosen(samples_of_row, take)
        taken += chosen
        made = [assistant(text) for text in chosen]
        if not made:
            without += 1
            made = [kept] if (kept := old[position]) else []
            kept_old += len(made)
        own_id = rows[position].get("id")
        for number, completion in enumerate(made, 1):
            positions.append(position)
            completions.append(completion)
            ids.append(own_id if number == 1 or own_id is None else f"{own_id}#{number}")
    if not positions:
        raise ValueError(
            f"not one of {len(rows):,} rows has a right sample ({dict(outcomes)}); look at the answers, which are "
            "kept, and at what the model is asked."
        )
    texts = (text_of(rows[position].get("completion")) for position in range(len(rows)))
    lengths = {
        "old": [len(text) for text in texts if text],
        "right": [len(text) for texts in right for text in texts],
        "taken": [len(text) for text in taken],
    }
    return Trace(
        dataset=_with_completions(dataset, positions, completions, ids),
        rows=len(rows),
        samples=samples,
        outcomes=outcomes,
        yielded=len(rows) - without,
        kept_old=kept_old,
        dropped=without - kept_old,
        lengths=lengths,
        answers=answers,
    )


def _old_completion(row: Mapping[str, Any], otherwise: str) -> list[dict[str, Any]] | None:
    """What a row without a right sample keeps; `None` for nothing.

    Raises:
        PairError: it has several turns, of which one sample would write the first alone.
    """
    completion = without_none(row.get("completion"))
    if not completion:
        return None
    if not isinstance(completion, str) and len(completion) > 1:
        raise PairError(
            describe_row(row),
            f"its completion has {len(completion)} messages, and a sample is one.",
            "Make a pair of each answer (`turns='each'`, `--turns each`).",
        )
    return _as_messages(completion) if otherwise == "keep" else None


def _as_messages(completion: Any) -> list[dict[str, Any]]:
    messages = assistant(completion) if isinstance(completion, str) else completion
    if any(message.get("tool_calls") for message in messages):
        raise ValueError("a completion that is kept has calls of tools, which are not words; use `otherwise='drop'`.")
    return messages


def with_old_completions(dataset: Dataset, name: str) -> Dataset:
    """A split that is not traced, its completions in the form of those that are."""
    rows = PairRows(dataset, name)
    old = [_as_messages(each) if (each := without_none(rows[i]["completion"])) else None for i in range(len(rows))]
    return _with_completions(dataset, list(range(len(rows))), old, [rows[i].get("id") for i in range(len(rows))])


def _with_completions(dataset: Dataset, positions: list[int], completions: list[Any], ids: list[Any]) -> Dataset:
    """The rows at these positions with other completions; images are joined on as they are stored.

    A dataset whose prompts are strings gets strings, for the views of a pair have one form.
    """
    from datasets import Dataset, Features, List, Value, concatenate_datasets

    prompt = dataset.features.get(PROMPT_COLUMN[View.TEXT_RICH])
    if isinstance(prompt, Value):
        feature, texts = Value("string"), [None if each is None else text_of(each) for each in completions]
    else:
        feature = List({"role": Value("string"), "content": Value("string")})
        texts = [
            None if each is None else [{"role": m["role"], "content": text_of(m["content"])} for m in each]
            for each in completions
        ]
    made: dict[str, Any] = {"completion": texts}
    features: dict[str, Any] = {"completion": feature}
    if "id" in dataset.column_names:
        made["id"], features["id"] = ids, Value("string")
    others = [column for column in dataset.column_names if column not in made]
    kept = dataset.with_format(None).select(positions).select_columns(others)
    whole = concatenate_datasets([kept, Dataset.from_dict(made, features=Features(features))], axis=1)
    order = [*dataset.column_names, *(column for column in made if column not in dataset.column_names)]
    return whole.select_columns(order)
