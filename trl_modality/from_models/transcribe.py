"""Facts of pictures in words, by a model or by OCR: pictures with questions become pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.likeness import has_word
from ..data.pairs import user
from ..evaluation.checked_rows import answer_of, choices_of
from ..evaluation.models.requests import Generation, Generator, Request
from ..views import PairError, View, describe_row, load_images, text_of
from .asked import Wanted, ask_once, content_key, identity, image_digests
from .flags import agreement, flag
from .prompts import PROMPTS
from .questions import FACTS_AND_QUESTION, Messages, Questions, as_pairs


if TYPE_CHECKING:
    from datasets import Dataset

KEEP = ("all", "answered", "agreed")
NOT_ANSWERED = "not answered rightly from the words"
NOT_AGREED = "not agreed on by a second transcription"
SECOND_SEED = 1
Grade = Callable[[str, str, Sequence[str] | None], Any]


@dataclass
class Transcription:
    """What came of transcribing pictures."""

    splits: dict[str, Dataset]
    """The pairs, by split."""
    rows: int
    """Rows that were read."""
    pictures: int
    """Different pictures (or groups of pictures of a row) that were transcribed."""
    fell_out: Counter[str]
    """Rows that were left out, by reason."""
    with_answer: int
    """Pairs in whose text_rich view the answer stands word for word."""
    answers: dict[str, dict[str, Generation]] = field(default_factory=dict)
    """Everything that models said: "transcripts", "second", "answers", by what was asked."""
    left_columns: Sequence[str] = ()
    """Columns that pairs have no use for, and that are not taken over."""

    def lines(self) -> list[str]:
        """The report, a sentence a line."""
        kept = sum(map(len, self.splits.values()))
        lines = [f"{kept:,} of {self.rows:,} rows are pairs now, from {self.pictures:,} transcriptions"]
        lines += [f"{count:,} left out: {reason}" for reason, count in self.fell_out.most_common()]
        if self.left_columns:
            lines.append(f"columns that are not taken over: {', '.join(self.left_columns)}")
        return [*lines, f"text_rich views that hold the answer word for word: {self.with_answer:,}"]


class _Row:
    """A row on its way: where it is, and what has become of it."""

    def __init__(self, questions: Questions, position: int):
        self.questions, self.position = questions, position
        row = questions.rows[position]
        self.name = describe_row(row)
        self.question = questions.fields(row)["question"]
        self.answer = None if row.get("answer") in (None, "") else answer_of(row, self.name)
        self.choices = choices_of(row, self.name)
        self.completion = text_of(row.get("completion") or "")
        questions.check_images(row)
        self.digests = image_digests(row, View.VISION_CENTRIC)
        self.facts, self.key = "", ""
        self.reason: str | None = None
        """Why it falls out."""

    @property
    def row(self) -> Mapping[str, Any]:
        return self.questions.rows[self.position]

    def prompt(self, template: str) -> Messages:
        return self.questions.with_facts(self.row, self.facts, template)


def transcribe(
    splits: Mapping[str, Dataset],
    transcriber: Generator,
    *,
    prompt: str = PROMPTS["any"],
    template: str = FACTS_AND_QUESTION,
    keep: str = "all",
    answerer: Generator | None = None,
    grade: Grade | None = None,
    second: Generator | None = None,
    min_agreement: float = 0.8,
    folder: Path | None = None,
    **how: Any,
) -> Transcription:
    """Make pairs of pictures with questions: a generator writes the facts of each picture, without its question.

    Equal pictures are transcribed once. Rows whose transcription is of no use (`flags.REASONS`) are left out, counted.

    Args:
        splits: Rows with `images` (or `image`), a question (`vision_centric_prompt`, `prompt` or `question`) and, if
            there are, `answer`, `choices` and `completion`, by the name of their split.
        transcriber: Writes the facts; see `OcrGenerator` and the generators of `trl_modality.evaluation`.
        prompt: What it is asked; it may name columns of text, `"{title}: list the values"`.
        template: The words of the text_rich view, of `{facts}`, `{question}` and columns of text.
        keep: "answered": rows that `answerer` answers rightly from those words, without the picture; "agreed": rows
            on which `second` agrees; "all": every row.
        answerer, grade: Answers, for `keep="answered"`, and grades the answers as `Grader` does.
        second: Transcribes again, for `keep="agreed"`: another generator, or the same with a temperature.
        min_agreement: Least agreement of the two (`flags.agreement`), 0 to 1.
        folder: Answers are kept there as they come, and continued.
        **how: Options of `ask_once`: `known`, `batch_size`, `settings`, `show_progress`, `restart`.

    Raises:
        ValueError: an option does not fit, a column is missing, or no row is left.
        PairError: a row has no question or picture or, for "answered", no answer.
    """
    _check(keep, answerer, grade, second, min_agreement)
    questions = _opened(splits, prompt, template)
    rows = _rows(questions, need_answers=keep == "answered")

    def ask(generator: Generator, wanted: Sequence[Wanted], name: str) -> dict[str, Generation]:
        answers[name] = ask_once(generator, wanted, file=None if folder is None else folder / f"{name}.jsonl", **how)
        return answers[name]

    answers: dict[str, dict[str, Generation]] = {}
    transcripts, is_read = ask(transcriber, _pictures(rows, transcriber, prompt), "transcripts"), _is_ocr(transcriber)
    for row in rows:
        row.facts = transcripts[row.key].text.strip()
        row.reason = flag(transcripts[row.key], row.question, row.answer, row.completion, is_read=is_read)
    left = [row for row in rows if row.reason is None]
    if keep == "agreed" and second is not None and left:
        others = ask(second, _pictures(left, second, prompt, SECOND_SEED), "second")
        for row in left:
            row.reason = None if _agrees(others[row.key], row, min_agreement) else NOT_AGREED
    if keep == "answered" and answerer is not None and grade is not None and left:
        wanted = _words_alone(left, answerer, template)
        said = ask(answerer, wanted, "answers")
        for row, asked in zip(left, wanted, strict=True):
            row.reason = None if _is_right(said[asked.key], row, grade) else NOT_ANSWERED
    return _result(questions, rows, template, answers)


def _check(keep: str, answerer: Any, grade: Any, second: Any, min_agreement: float) -> None:
    if keep not in KEEP:
        raise ValueError(f"`keep` must be one of {', '.join(KEEP)}, got {keep!r}.")
    if keep == "answered" and (answerer is None or grade is None):
        raise ValueError("`keep='answered'` needs an `answerer` and a `grade`: who answers, and who grades it.")
    if keep == "agreed" and second is None:
        raise ValueError("`keep='agreed'` needs `second`, which transcribes a second time.")
    if not 0 <= min_agreement <= 1:
        raise ValueError(f"`min_agreement` must be from 0 to 1, got {min_agreement}.")


def _is_ocr(generator: Generator) -> bool:
    return not getattr(generator, "reads_prompt", True)


def _agrees(other: Generation, row: _Row, least: float) -> bool:
    return not other.failure and agreement(row.facts, other.text) >= least


def _is_right(said: Generation, row: _Row, grade: Grade) -> bool:
    return not said.failure and grade(said.text, row.answer or "", row.choices).is_correct


def check_questions(splits: Mapping[str, Dataset], prompt: str, template: str, keep: str) -> None:
    """Raise what `transcribe` raises of columns and templates, before a model is loaded for it."""
    for each in _opened(splits, prompt, template):
        if keep == "answered" and "answer" not in each.dataset.column_names:
            raise ValueError(
                f"split {each.name!r} has no column `answer`, and `keep='answered'` needs one; add it, or keep "
                "'agreed' or 'all'."
            )


def _opened(splits: Mapping[str, Dataset], prompt: str, template: str) -> list[Questions]:
    """The splits, where their rows have what prompt and template name."""
    questions = [Questions(dataset, name) for name, dataset in splits.items()]
    for each in questions:
        each.check_template(prompt, "prompt")
        each.check_template(template, "template", ("facts",))
    return questions


def _rows(questions: Sequence[Questions], need_answers: bool) -> list[_Row]:
    rows = [_Row(each, position) for each in questions for position in range(len(each))]
    for row in rows:
        if need_answers and not row.answer:
            raise PairError(
                row.name, "it has no `answer`.", "`keep='answered'` needs one in each row; or keep 'agreed' or 'all'."
            )
    return rows


def _pictures(rows: Sequence[_Row], generator: Generator, prompt: str, seed: int | None = None) -> list[Wanted]:
    """The request for the pictures of each row, whose key the row is told."""
    wanted, model = [], identity(generator)
    if _is_ocr(generator):
        prompt = ""
    for row in rows:
        words = prompt.format_map(row.questions.fields(row.row)) if "{" in prompt or "}" in prompt else prompt
        row.key = content_key(model, words, row.digests, seed)

        def make(row: _Row = row, words: str = words) -> Request:
            return Request(user(words), tuple(load_images(row.row, View.VISION_CENTRIC)), seed)

        wanted.append(Wanted(row.key, make, row.name))
    return wanted


def _words_alone(rows: Sequence[_Row], generator: Generator, template: str) -> list[Wanted]:
    """The request for the answer to each row, from its words without its pictures."""
    wanted, model = [], identity(generator)
    for row in rows:
        prompt = [
            message
            if isinstance(message["content"], str)
            else {**message, "content": [part for part in message["content"] if part.get("type") == "text"]}
            for message in row.prompt(template)
        ]
        wanted.append(Wanted(content_key(model, prompt), lambda prompt=prompt: Request(prompt), row.name))
    return wanted


def _result(
    questions: Sequence[Questions], rows: Sequence[_Row], template: str, answers: dict[str, dict[str, Generation]]
) -> Transcription:
    fell_out: Counter[str] = Counter(row.reason for row in rows if row.reason is not None)
    kept = [row for row in rows if row.reason is None]
    made = {}
    for each, own in _by_split(questions, kept):
        if not own:
            raise ValueError(
                f"no row of split {each.name!r} is left of {len(each):,}: "
                + "; ".join(f"{count:,} {reason}" for reason, count in fell_out.most_common())
                + ". The answers are kept; look at them, or give another prompt, model or `keep`."
            )
        made[each.name] = as_pairs(each, [row.position for row in own], [row.prompt(template) for row in own])
    with_answer = sum(bool(row.answer) and has_word(row.facts, row.answer or "") for row in kept)
    read = dict.fromkeys(column for each in questions for column in each.dataset.column_names)
    taken = {column for each in made.values() for column in each.column_names} | {each.column for each in questions}
    left = [column for column in read if column not in taken]
    return Transcription(made, len(rows), len(answers["transcripts"]), fell_out, with_answer, answers, left)


def _by_split(questions: Sequence[Questions], rows: Sequence[_Row]) -> Iterator[tuple[Questions, list[_Row]]]:
    for each in questions:
        yield each, [row for row in rows if row.questions is each]
