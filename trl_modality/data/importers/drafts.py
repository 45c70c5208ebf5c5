"""From what a record says to the rows of a dataset: the answers that each learns, and facts before its question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...views import PAIR_PROMPTS, PairError, validate_pair, validate_plain
from .formats import IMAGES_OF, TEACHER_PROMPT, Said, answer_of, choices_of
from .image_files import ImageFinder, MissingImage
from .turns import Shown, Turn, check_order, place_images


TURNS = ("each", "last", "all")
"""Which answers of a conversation are learnt, and in how many rows; see `read_rows`."""
TEXTS = ("prompt", "messages", *PAIR_PROMPTS, TEACHER_PROMPT, "completion")
"""Columns of messages."""


class MissingImages(Exception):
    """The images of a record that are not there: their paths as the record has them."""

    def __init__(self, paths: Sequence[str]):
        super().__init__(", ".join(paths))
        self.paths = list(paths)


@dataclass
class Draft:
    """A row before its messages are written: columns of messages hold turns."""

    columns: dict[str, Any]
    where: str

    @property
    def needs_parts(self) -> bool:
        """Whether some image stands elsewhere than before the first user's text, where text alone would put it."""
        return any(_needs_parts(self.columns[name]) for name in TEXTS if name in self.columns)

    def used_columns(self) -> list[str]:
        """The columns with something in them: a file of text alone has none of images."""
        return [name for name, value in self.columns.items() if name != "images" or value]

    def row(self, in_parts: bool) -> dict[str, Any]:
        """The row, with the contents of messages as texts or as parts, checked.

        Raises:
            PairError: it is no row that can be trained on or asked.
        """
        row = {
            name: [_message(turn, in_parts) for turn in value] if name in TEXTS else value
            for name, value in self.columns.items()
        }
        if PAIR_PROMPTS[0] in row:
            validate_pair(row, self.where, needs_completion="completion" in row)
        elif "prompt" not in row or "completion" in row:
            validate_plain(row, self.where)
        return row


@dataclass
class Counts:
    """What was counted while records became rows."""

    unanswered: int = 0
    """Conversations that end with a question, which is left out."""
    not_learnt: int = 0
    """Answers that no row learns: earlier ones (`turns="last"`), or of weight 0."""


def drafts_of(said: Said, turns: str, finder: ImageFinder, where: str, counts: Counts) -> list[Draft]:
    """The rows of a record.

    Args:
        said: What the record says.
        turns: One of `TURNS`.
        finder: Of its images.
        where: What messages call the record.
        counts: Counted in.

    Raises:
        MissingImages: some of its images are not there.
        PairError: it cannot become rows.
    """
    said = _found(said, finder, where)
    if "text" in said.prompts:  # as it is: a string has its image tokens in it
        own = {name: said.labels[name] for name in ("id", "category") if name in said.labels}
        return [Draft({**_labels(own, where), **said.images, "text": said.prompts["text"][0].text}, where)]
    shared = said.images.get("images", [])
    prompts = {}
    for name, prompt in said.prompts.items():
        own = said.images.get(IMAGES_OF.get(name, ""))
        prompts[name] = place_images(prompt, shared if own is None else own, said.named or name, where)
    for turn in said.completion or ():
        if turn.images:
            raise PairError(where, "`completion` has a place for an image.", "Take it out: a model answers in words.")
    labels = _labels(said.labels, where)
    if PAIR_PROMPTS[0] in prompts:
        return [Draft(_pair_columns(said, prompts, labels), where)]
    prompt, facts = prompts["prompt"], _facts_of(said.labels, where)
    _check_words([*prompt, *(said.completion or ())], said.named or "prompt", where)
    cut: list[tuple[Sequence[Turn], Sequence[Turn] | None]] = [(prompt, said.completion or None)]
    if said.completion is None:
        cut = _cut(prompt, turns, where, counts, facts)
    drafts = []
    for number, (asked, answers) in enumerate(cut):
        name = labels.get("id")
        own_labels = {**labels, "id": f"{name}/{number}"} if name is not None and len(cut) > 1 else dict(labels)
        if number < len(cut) - 1:  # what the record is asked for is what its conversation ends with
            own_labels.pop("answer", None)
            own_labels.pop("choices", None)
        drafts.append(Draft(_columns(asked, answers, facts, own_labels, where), where))
    return drafts


def _found(said: Said, finder: ImageFinder, where: str) -> Said:
    """The same with all images as stored."""
    missing: list[str] = []

    def find(image: Any) -> Any:
        try:
            return finder.find(image, where)
        except MissingImage as error:
            missing.append(error.path)
            return None

    def in_turns(turns: Sequence[Turn]) -> list[Turn]:
        return [replace(turn, parts=tuple(map(of_part, turn.parts))) if turn.images else turn for turn in turns]

    def of_part(part: str | Shown) -> str | Shown:
        return Shown(find(part.image)) if isinstance(part, Shown) and part.image is not None else part

    images = {name: [find(image) for image in listed] for name, listed in said.images.items()}
    prompts = {name: in_turns(turns) for name, turns in said.prompts.items()}
    if missing:
        raise MissingImages(missing)
    return replace(said, images=images, prompts=prompts)


def _cut(
    turns: Sequence[Turn], how: str, where: str, counts: Counts, facts: str | None
) -> list[tuple[Sequence[Turn], Sequence[Turn] | None]]:
    """What is asked and what is learnt in each row of a conversation; the latter is `None` where nobody answers, and
    empty where the whole conversation is one document."""
    answers = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
    learnt = [place for place in answers if turns[place].is_learnt]
    if not answers:
        return [(turns, None)]
    counts.unanswered += turns[-1].role != "assistant"
    if not learnt:
        raise PairError(
            where, "all its answers are marked as not learnt (`weight` 0, `loss` false).", "Leave the record out."
        )
    if how == "all":
        if len(learnt) < len(answers):
            problem = "it has an answer that is not learnt (`weight` 0, `loss` false), and `turns='all'` learns all."
            raise PairError(where, problem, "Read it with `turns='each'`.")
        if facts is None:
            return [(turns[: answers[-1] + 1], [])]
        return [(turns[: answers[0]], turns[answers[0] : answers[-1] + 1])]
    rows = learnt if how == "each" else learnt[-1:]
    counts.not_learnt += len(answers) - len(rows)
    return [(turns[:place], [turns[place]]) for place in rows]


def _columns(
    asked: Sequence[Turn], answers: Sequence[Turn] | None, facts: str | None, labels: dict[str, Any], where: str
) -> dict[str, Any]:
    """The columns of a row: a pair where there are facts, else a plain row."""
    if any(turn.images for turn in answers or ()):
        problem = "a later question shows an image of its own, which a completion cannot."
        raise PairError(where, problem, "Read it with `turns='each'` or `turns='last'`.")
    images = {"images": [shown.image for turn in asked for shown in turn.images]}
    learnt = {"completion": list(answers)} if answers else {}
    if facts is None:
        return {**labels, **images, ("prompt" if answers or answers is None else "messages"): list(asked), **learnt}
    if not images["images"]:
        problem = "it has facts in words, and no image in the question of an answer or before it."
        raise PairError(where, problem, "Leave the record out, or read the last answer alone (`turns='last'`).")
    views = zip(PAIR_PROMPTS, (_with_facts(asked, facts), list(asked)), strict=True)
    return {**labels, **images, **dict(views), **learnt}


def _facts_of(labels: Mapping[str, Any], where: str) -> str | None:
    """The facts of a record as a text, a list of them one a line; `None` where it has none."""
    facts = labels.get("facts")
    if facts is None:
        return None
    lines = facts if isinstance(facts, list) else [facts]
    if not all(isinstance(line, str | int | float) for line in lines):
        kind = type(next(line for line in lines if not isinstance(line, str | int | float))).__name__
        raise PairError(where, f"its facts have {kind} in them.", "Give a text, or a list of texts.")
    if not (text := "\n".join(map(str, lines))).strip():
        raise PairError(where, "its facts are empty.", "Fill them in, or leave the record out.")
    return text


def _with_facts(turns: Sequence[Turn], facts: str) -> list[Turn]:
    """The turns with the facts and a blank line before the text of the first user's."""
    first = next(place for place, turn in enumerate(turns) if turn.role == "user")
    parts = list(turns[first].parts)
    text = next((place for place, part in enumerate(parts) if isinstance(part, str)), len(parts))
    parts[text : text + 1] = ["\n\n".join([facts.strip(), *map(str, parts[text : text + 1])])]
    return [*turns[:first], replace(turns[first], parts=tuple(parts)), *turns[first + 1 :]]


def _pair_columns(said: Said, prompts: Mapping[str, list[Turn]], labels: dict[str, Any]) -> dict[str, Any]:
    """The columns of a record that is a pair itself."""
    shown = {name: [each.image for turn in turns for each in turn.images] for name, turns in prompts.items()}
    text, vision = (shown[name] for name in PAIR_PROMPTS)
    images = {"images": said.images.get("images") or (text if "text_rich_images" not in said.images else vision)}
    for name, own in (("vision_centric_images", vision), ("text_rich_images", text)):
        if name in said.images:
            images[name] = own
    if vision != text and not {"vision_centric_images", "text_rich_images"} & said.images.keys():
        images["vision_centric_images"] = vision
    if TEACHER_PROMPT in prompts and ("teacher_images" in said.images or shown[TEACHER_PROMPT] != images["images"]):
        images["teacher_images"] = shown[TEACHER_PROMPT]
    return {**labels, **images, **prompts, **({"completion": list(said.completion)} if said.completion else {})}


def _labels(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    labels: dict[str, Any] = {name: str(given[name]) for name in ("id", "category") if name in given}
    if "answer" in given:
        labels["answer"] = str(answer_of(given, where))
    if "choices" in given:
        labels["choices"] = choices_of(given["choices"])
        if labels["choices"] is None:
            problem = f"its choices are {str(given['choices'])[:40]!r}."
            raise PairError(where, problem, "Give a list of texts (in CSV as JSON), in the order of their letters.")
    return labels


def _check_words(turns: Sequence[Turn], field: str, where: str) -> None:
    """Refuse turns that say nothing."""
    check_order(turns, field, where)
    for place, turn in enumerate(turns):
        if not turn.text.strip() and (turn.role != "user" or not turn.images):
            problem = f"turn {place} of `{field}`, of the {turn.role}, is empty."
            raise PairError(where, problem, "Fill it in, or leave it out.")


def _needs_parts(turns: Sequence[Turn]) -> bool:
    first = next((turn for turn in turns if turn.role == "user"), None)
    for turn in turns:
        n_first = len(turn.images) if turn is first else 0
        if any(isinstance(part, Shown) for part in turn.parts[n_first:]):
            return True
    return False


def _message(turn: Turn, in_parts: bool) -> dict[str, Any]:
    if not in_parts:
        return {"role": turn.role, "content": turn.text}
    blocks = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "text": None}
        for part in turn.parts
    ]
    return {"role": turn.role, "content": blocks}
