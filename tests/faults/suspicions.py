"""Mistakes that are in nearly all pairs."""

from datasets import Dataset, Features

from tests.faults.fault import Fault, Scene
from tests.testing.tiny import MESSAGES, PAIR_FEATURES, pair_dataset, pair_row
from tests.testing.tiny_families import build
from trl_modality.views import PAIR_PROMPTS


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


def _plain(scene: Scene) -> None:
    scene.trainer(pair_dataset(4).remove_columns("text_rich_prompt").rename_column("vision_centric_prompt", "prompt"))


def _empty_prompts(scene: Scene) -> None:
    rows = [{**pair_row(i), "text_rich_prompt": None, "vision_centric_prompt": None, "prompt": USER} for i in range(4)]
    scene.trainer(Dataset.from_list(rows, features=Features({**PAIR_FEATURES, "prompt": MESSAGES})))


def _slots_in_words(scene: Scene) -> None:
    """A processor whose own image token is another: nothing else would say a word."""
    model, processor = build("qwen2_5_vl")
    rows = pairs(lambda row: {name: _with_slot(row[name]) for name in PAIR_PROMPTS})
    scene.trainer(rows, model=model.float(), processing_class=processor)


def _with_slot(messages: list[dict]) -> list[dict]:
    return [{**messages[0], "content": "<image>\n" + messages[0]["content"]}]


USER = [{"role": "user", "content": "red?"}]
SOON = "before the first step"

FAULTS = [
    Fault(
        "a dataset without one pair",
        SOON,
        r"0 pairs: no dataset has `text_rich_prompt` and `vision_centric_prompt` \(`train_dataset` has id, images",
        _plain,
        warns=True,
    ),
    Fault(
        "the columns of pairs, empty in every row",
        SOON,
        r"`train_dataset`: 0 pairs among the 4 rows that were checked, .*both are empty there",
        _empty_prompts,
        warns=True,
    ),
    Fault(
        "`<image>` in the texts of messages, of a model with another image token",
        SOON,
        r"`train_dataset`: 8 of the first 8 rows have '<image>' in the text of their messages \(row 0\)",
        _slots_in_words,
        warns=True,
    ),
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
