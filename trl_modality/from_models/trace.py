"""Completions in the model's own words: sampled from what it reads, graded, and the right ones kept."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.pairs import assistant
from ..data.rows import PairRows
from ..evaluation.checked_rows import answer_of, choices_of
from ..evaluation.conditions import Condition, make_request, view_of
from ..evaluation.grading.grader import Grader
from ..evaluation.models.requests import Generation, Generator
from ..views import PROMPT_COLUMN, PairError, View, describe_row, text_of, without_none
from .asked import Wanted, ask_once, content_key, identity, image_digests
from .votes import agreed_answer


if TYPE_CHECKING:
    from datasets import Dataset, Features

FROM_VIEWS = (str(Condition.TEXT_RICH), str(Condition.TEXT_ONLY))
TAKE = ("shortest", "first", "all")
ELSE = ("keep", "drop")
LEAST_VOTES = 3  # samples of a row that can agree


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
    """Samples by outcome: "right", "wrong", "cut off", "failed", and "not agreed" where no answer is known."""
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
            lines.append(f"rows without a right sample, which keep their old completion: {self.kept_old:,}")
        if self.dropped:
            lines.append(f"rows without a right sample, which are left out: {self.dropped:,}")
        return [*lines, f"{len(self.dataset):,} pairs are written"]


def trace(
    dataset: Dataset,
    generator: Generator,
    grade: Grader,
    *,
    samples: int = 1,
    agreed: float | None = None,
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
        grade: Grades the answers.
        samples: Samples for a row.
        agreed: For rows without `answer`: the share of a row's samples, above 0.5, that has to agree on an answer. It
            becomes the row's `answer`, and those samples are right. `None`: every row needs its `answer`.
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
        PairError: a row has no `answer`, and `agreed` is not given.
        Interrupted: by Ctrl-C; what is there is in `folder`.
    """
    _check(dataset, generator, samples, agreed, from_view, take, otherwise, name)
    rows, model = PairRows(dataset, name), identity(generator)
    old = [_old_completion(rows[position], otherwise) for position in range(len(rows))]
    expected = _answers(rows, agreed)
    wanted = [
        sample for position in range(len(rows)) for sample in _wanted(rows, position, model, from_view, seed, samples)
    ]
    file = None if folder is None else folder / "samples.jsonl"
    answers = ask_once(generator, wanted, file=file, **how)
    drawn = [[answers[each.key] for each in wanted[i : i + samples]] for i in range(0, len(wanted), samples)]
    right, outcomes = _graded(rows, drawn, expected, grade, agreed)
    return _result(dataset, rows, None if agreed is None else expected, right, take, old, outcomes, answers)


def _check(
    dataset: Dataset,
    generator: Generator,
    samples: int,
    agreed: float | None,
    from_view: str,
    take: str,
    otherwise: str,
    name: str,
) -> None:
    given = {"from_view": (from_view, FROM_VIEWS), "take": (take, TAKE), "otherwise": (otherwise, ELSE)}
    for option, (value, allowed) in given.items():
        if value not in allowed:
            raise ValueError(f"`{option}` must be one of {', '.join(allowed)}, got {value!r}.")
    if samples < 1:
        raise ValueError(f"`samples` must be at least 1, got {samples}.")
    check_votes(samples, agreed)
    if samples > 1 and not getattr(generator, "settings", {}).get("temperature", 1):
        raise ValueError(f"{samples} samples at temperature 0 are all the same; set a `temperature` above 0.")
    check_columns(dataset, agreed, from_view, otherwise, name)


def check_votes(samples: int, agreed: float | None) -> None:
    """Raise `ValueError` where several answers could have the share `agreed` of the samples, or one too easily."""
    if agreed is not None and not (0.5 < agreed <= 1 and samples >= LEAST_VOTES):
        raise ValueError(
            f"`agreed` must be above 0.5 and at most 1, of {LEAST_VOTES} samples or more; got {agreed:g} of {samples}."
        )


def check_columns(dataset: Dataset, agreed: float | None, from_view: str, otherwise: str, name: str) -> None:
    """Raise what `trace` raises of a dataset's columns, before a model is loaded for it."""
    if not len(dataset):
        raise ValueError(f"`{name}` has no row.")
    needed = (PROMPT_COLUMN[view_of(from_view)], *(["answer"] if agreed is None else []))
    if missing := [column for column in needed if column not in dataset.column_names]:
        why = "`data transcribe` makes it of pictures"
        if missing[0] == "answer":
            why = "the samples are graded by it; where there are no answers, let them agree (`agreed`, `--agreed`)"
        raise ValueError(f"`{name}` has no column `{missing[0]}`; {why}. It has {', '.join(dataset.column_names)}.")
    if otherwise == "keep" and "completion" not in dataset.column_names:
        raise ValueError(f"`{name}` has no `completion` that could be kept; leave out rows without a right sample.")


def _wanted(
    rows: PairRows, position: int, model: Sequence[Any], from_view: str, seed: int, samples: int
) -> list[Wanted]:
    row = rows[position]
    view = view_of(from_view)
    shown = [] if from_view == Condition.TEXT_ONLY else image_digests(row, view)
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


def _answers(rows: PairRows, agreed: float | None) -> list[str | None]:
    """The `answer` of each row; `None` where it has none and samples may agree on one. Raises `PairError`."""
    answers = []
    for row in (rows[position] for position in range(len(rows))):
        name = describe_row(row)
        choices_of(row, name)
        is_open = agreed is not None and row.get("answer") in (None, "")
        answers.append(None if is_open else answer_of(row, name))
    return answers


def _graded(
    rows: PairRows,
    drawn: Sequence[Sequence[Generation]],
    expected: list[str | None],
    grade: Grader,
    agreed: float | None,
) -> tuple[list[list[str]], Counter[str]]:
    """The texts of the right samples of each row, and what became of all; fills in what samples agree on."""
    right: list[list[str]] = []
    outcomes: Counter[str] = Counter()
    for position, samples in enumerate(drawn):
        row = rows[position]
        choices = choices_of(row, describe_row(row))
        if expected[position] is None and agreed is not None:
            expected[position] = agreed_answer(samples, grade, choices, agreed)
        graded = [_outcome(each, expected[position], choices, grade) for each in samples]
        outcomes.update(graded)
        right.append([each.text for each, outcome in zip(samples, graded, strict=True) if outcome == "right"])
    return right, outcomes


def _outcome(sample: Generation, expected: str | None, choices: Sequence[str] | None, grade: Grader) -> str:
    if sample.failure is not None:
        return "failed"
    if not sample.is_complete:
        return "cut off"
    if expected is None:
        return "not agreed"
    return "right" if grade(sample.text, expected, choices).is_correct else "wrong"


def _chosen(right: Sequence[str], take: str) -> list[str]:
    if take == "all":
        return list(dict.fromkeys(right))
    if not right:
        return []
    return [min(right, key=len) if take == "shortest" else right[0]]


def _result(
    dataset: Dataset,
    rows: PairRows,
    expected: Sequence[str | None] | None,
    right: Sequence[Sequence[str]],
    take: str,
    old: Sequence[list[dict[str, Any]] | None],
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
        dataset=_with_completions(dataset, positions, completions, ids, expected),
        rows=len(rows),
        samples=sum(outcomes.values()),
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


def with_old_completions(dataset: Dataset, name: str, features: Features) -> Dataset:
    """A split that is not traced, its columns in the form of one that is, whose features are given."""
    rows = PairRows(dataset, name)
    old = [_as_messages(each) if (each := without_none(rows[i]["completion"])) else None for i in range(len(rows))]
    ids, answers = ([rows[i].get(column) for i in range(len(rows))] for column in ("id", "answer"))
    texts = None
    if "answer" in features:  # which samples may have agreed on, as text
        texts = [None if answer is None else str(answer) for answer in answers]
    made = _with_completions(dataset, list(range(len(rows))), old, ids, texts)
    return made.select_columns(list(features)).cast(features)


def _with_completions(
    dataset: Dataset,
    positions: list[int],
    completions: list[Any],
    ids: list[Any],
    answers: Sequence[str | None] | None = None,
) -> Dataset:
    """The rows at these positions with other completions, and answers if given; images are joined on as stored.

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
    if answers is not None:
        made["answer"], features["answer"] = [answers[position] for position in positions], Value("string")
    others = [column for column in dataset.column_names if column not in made]
    kept = dataset.with_format(None).select(positions).select_columns(others)
    whole = concatenate_datasets([kept, Dataset.from_dict(made, features=Features(features))], axis=1)
    order = [*dataset.column_names, *(column for column in made if column not in dataset.column_names)]
    return whole.select_columns(order)
