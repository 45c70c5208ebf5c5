"""Examples of the gap for people: pairs that are right with the facts in words and wrong with them in the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..resumable.batches import Processes
from ..views import PROMPT_COLUMN, View, load_images, text_of
from .conditions import VIEWS
from .json_fields import Fields, JsonObject


N_EXAMPLES = 12


@dataclass(frozen=True)
class ShownAnswer:
    """What the model wrote (`text`), the final answer found in it ("" where there is none), and its grade."""

    text: str
    answer: str
    is_correct: bool

    @classmethod
    def from_dict(cls, data: JsonObject) -> ShownAnswer:
        """The answer of a dict of its three fields; `ValueError` names a field that is wrong."""
        fields = Fields.of(data)
        return cls(fields.text("text", ""), fields.text("answer", ""), fields.truth("is_correct"))


@dataclass(frozen=True)
class WorstPair:
    """A pair that the model answers right in the text_rich view and wrong in the vision_centric one."""

    row: int | None
    """Position in the evaluated dataset; `None` in a file that does not say so."""
    id: Any
    """The pair's `id`, a text or a number; `None` where it has none."""
    category: str | None
    expected: str
    """The right answer."""
    prompts: dict[str, str]
    """The text of the prompt in each view."""
    answers: dict[str, ShownAnswer]
    """By condition."""
    images: list[str] | None = None
    """Files with the pictures of the vision_centric view, relative to the evaluation's folder; `None`: not written."""

    def to_dict(self) -> dict[str, Any]:
        """An entry of `examples` in `gap.json`; `images` where they were written."""
        content = asdict(self)
        if self.images is None:
            del content["images"]
        return content

    @classmethod
    def from_dict(cls, data: JsonObject) -> WorstPair:
        """The pair of a dict as `to_dict` gives it; `ValueError` names a field that is wrong.

        Prompts may be message lists too, whose text is taken, and a category may be a number.
        """
        fields = Fields.of(data)
        category = fields.data.get("category")
        if category is not None:
            category = str(category) if isinstance(category, int) else fields.text("category")
        images = fields.items("images") if fields.has("images") else None
        if images is not None and (wrong := [name for name in images if not isinstance(name, str)]):
            raise fields.error("images", f"must be names of files, got {wrong[0]!r}")
        return cls(
            row=fields.integer("row") if fields.has("row") else None,
            id=fields.data.get("id"),
            category=category,
            expected=fields.text("expected", ""),
            prompts={name: _read_prompt(fields.inner("prompts"), name) for name in fields.inner("prompts").data},
            answers={name: ShownAnswer.from_dict(entry) for name, entry in fields.objects("answers")},
            images=images,
        )


def _read_prompt(prompts: Fields, name: str) -> str:
    value = prompts.data[name] or ""
    if not isinstance(value, str | Sequence):
        raise prompts.error(name, "must be a text or a list of messages")
    return text_of(value)


def pick_examples(
    answers: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], folder: Path | None
) -> list[WorstPair]:
    """At most `N_EXAMPLES` pairs with a gap, spread evenly over all that have one.

    Args:
        answers: Graded answers, as in `answers.jsonl`.
        rows: The evaluated pairs, as stored.
        folder: Folder of the evaluation, where the pictures of the vision_centric view are written as
            `examples/{row}-{position}.png`; `None`: no pictures are written.
    """
    of_row: dict[int, dict[str, Mapping[str, Any]]] = {}
    for record in answers:
        if record.get("failure"):
            continue
        of_row.setdefault(record["row"], {})[record["condition"]] = record
    read, seen = VIEWS
    found = [
        (row, own)
        for row, own in of_row.items()
        if {read, seen} <= own.keys() and own[read]["is_correct"] and not own[seen]["is_correct"]
    ]
    count = min(N_EXAMPLES, len(found))
    return [
        WorstPair(
            row=row,
            id=own[read]["id"],
            category=own[read]["category"],
            expected=own[read]["expected"],
            prompts={str(view): text_of(rows[row][PROMPT_COLUMN[View(view)]]) for view in VIEWS},
            answers={
                name: ShownAnswer(record["text"], record["answer"], record["is_correct"])
                for name, record in own.items()
            },
            images=None if folder is None else _save_images(row, rows[row], folder),
        )
        for row, own in (found[i * len(found) // count] for i in range(count))
    ]


def _save_images(row: int, stored: Mapping[str, Any], folder: Path) -> list[str]:
    names = []
    for place, image in enumerate(load_images(stored, View.VISION_CENTRIC)):
        names.append(f"examples/{row}-{place}.png")
        if Processes().rank == 0:
            (folder / "examples").mkdir(exist_ok=True)
            image.convert("RGB").save(folder / names[-1])
    return names
