"""Mistakes that are in nearly all pairs."""

from datasets import Dataset

from tests.faults.fault import Fault, Scene
from tests.testing.tiny import PAIR_FEATURES, pair_dataset, pair_row


def pairs(change, count: int = 8) -> Dataset:
    """Pairs, each changed."""
    return Dataset.from_list([{**(row := pair_row(i)), **change(row)} for i in range(count)], features=PAIR_FEATURES)


def changed(change):
    return lambda scene: scene.trainer(pairs(change))


def _swapped(row):
    return {"text_rich_prompt": row["vision_centric_prompt"], "vision_centric_prompt": row["text_rich_prompt"]}


def _told(row):
    answer = "red is 1, so green is 2 and blue 3"
    return {
        "completion": [{"role": "assistant", "content": answer + row["id"]}],
        "vision_centric_prompt": [{"role": "user", "content": f"red? {answer}{row['id']}"}],
        "text_rich_prompt": [
            {"role": "user", "content": "red=1 green=2 blue=3 grey=4. What is red, what is blue? 1 2 3"}
        ],
    }


def _double_ids(scene: Scene) -> None:
    rows = pair_dataset(8)
    scene.trainer(eval_dataset=Dataset.from_list([*rows, rows[3]], features=PAIR_FEATURES))


def _found(what: str) -> str:
    return rf"`train_dataset`: all or nearly all of the 8 pairs that were checked {what}"


SOON = "before the first step"

FAULTS = [
    Fault(
        "views that are the same",
        SOON,
        _found("have the same prompt and the same images in both views, so that the divergence is 0"),
        changed(lambda row: {"vision_centric_prompt": row["text_rich_prompt"]}),
        warns=True,
    ),
    Fault(
        "views that are swapped",
        SOON,
        _found("have a `text_rich_prompt` that is shorter"),
        changed(_swapped),
        warns=True,
    ),
    Fault(
        "completions that the picture's view is told",
        SOON,
        _found("have their `completion` in their `vision_centric_prompt`, which teaches to copy it"),
        changed(_told),
        warns=True,
    ),
    Fault(
        "one completion in all pairs",
        SOON,
        _found("have one and the same `completion`"),
        changed(lambda row: {"completion": [{"role": "assistant", "content": "1"}]}),
        warns=True,
    ),
    Fault(
        "an id that two pairs of an evaluation have",
        SOON,
        r"`eval_dataset`: 1 `id`\(s\) are those of several of the 9 pairs that were checked \('pair-3'\)",
        _double_ids,
        warns=True,
    ),
]
