"""A test split that shares no question and no image with training, whatever they are called."""

import random
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, List, Value

from tests.testing.tiny import MESSAGES, picture
from trl_modality.data.rows import PairRows
from trl_modality.data.test_split import split_by_content


FEATURES = Features({"id": Value("string"), "images": List(Image()), "prompt": MESSAGES, "completion": MESSAGES})


@pytest.fixture
def files(tmp_path):
    """Paths of pictures: 0 and 100 are the same bytes, as are 1 and 101, ..."""
    for seed in range(12):
        for number in (seed, seed + 100):
            picture(seed).save(tmp_path / f"{number}.png")
    return lambda number: {"path": str(tmp_path / f"{number}.png"), "bytes": None}


def rows_of(facts, files):
    """Rows of (question, images)."""
    rows = [
        {
            "id": str(index),
            "images": [files(image) for image in images],
            "prompt": [{"role": "user", "content": question}],
            "completion": [{"role": "assistant", "content": "x"}],
        }
        for index, (question, images) in enumerate(facts)
    ]
    return Dataset.from_list(rows, features=FEATURES)


def shared(halves):
    """What both splits have: questions and the bytes of images, found in the plainest way."""
    seen = []
    for name in ("train", "test"):
        rows = PairRows(halves[name])
        questions = {rows[i]["prompt"][0]["content"].casefold().strip() for i in range(len(rows))}
        images = {Path(each["path"]).read_bytes() for i in range(len(rows)) for each in rows[i]["images"]}
        seen.append(questions | images)
    return seen[0] & seen[1]


@pytest.mark.parametrize("seed", range(20))
def test_neither_is_in_both(files, seed):
    rng = random.Random(seed)
    numbers = [*range(12), *range(100, 112)]
    facts = [(f"q{rng.randrange(60)}" + " " * rng.randrange(2), [rng.choice(numbers)]) for _ in range(14)]
    dataset = rows_of(facts, files)
    halves = split_by_content(dataset, 0.5, seed=seed)
    assert 0 < len(halves["test"]) <= 0.5 * len(facts)
    assert sorted([*halves["train"]["id"], *halves["test"]["id"]]) == sorted(dataset["id"])
    assert shared(halves) == set()


def test_the_order_of_the_rows_does_not_matter(files):
    facts = [(f"q{i}", [i]) for i in range(10)]
    halves = split_by_content(rows_of(facts, files), 0.3)
    assert len(halves["test"]) == 3
    asked = {row["prompt"][0]["content"] for row in halves["test"]}
    again = split_by_content(rows_of(facts[::-1], files), 0.3)
    assert {row["prompt"][0]["content"] for row in again["test"]} == asked
    others = split_by_content(rows_of(facts, files), 0.3, seed=1)
    assert {row["prompt"][0]["content"] for row in others["test"]} != asked


def test_the_folder_of_the_images_does_not_matter(tmp_path):
    """On another machine, or from another folder, the same rows are held out: else a resumed run trains on them."""
    held_out = []
    for folder in (tmp_path / "one", tmp_path / "b" / "two"):
        folder.mkdir(parents=True)
        for i in range(20):
            picture(i).resize((16 + i, 16)).save(folder / f"{i}.png")  # files of different sizes, which are not read
        stored = [{"path": str(folder / f"{i}.png"), "bytes": None} for i in range(20)]
        rows = rows_of([(f"q{i}", [i]) for i in range(20)], stored.__getitem__)
        held_out.append(split_by_content(rows, 0.3)["test"]["id"])
    assert held_out[0] == held_out[1]


def test_the_same_bytes_under_two_names_are_one_image(files):
    facts = [("a", [0]), ("b", [100]), ("c", [1])]
    halves = split_by_content(rows_of(facts, files), 0.4)
    assert halves["test"]["id"] == ["2"]


def test_case_and_blanks_make_no_other_question(files):
    facts = [("Is it red?", [0]), ("is  it RED? ", [1]), ("Is it blue?", [2])]
    halves = split_by_content(rows_of(facts, files), 0.4)
    assert halves["test"]["id"] == ["2"]


def test_what_cannot_be_split(files):
    facts = [("Describe it.", [i]) for i in range(10)]
    with pytest.raises(
        ValueError, match=r"no group .* of 20.0% of 10 rows: 10 rows hang together .* 10 of them by the q"
    ):
        split_by_content(rows_of(facts, files), 0.2)
    with pytest.raises(ValueError, match="`test_share` must be between 0 and 1, got 1"):
        split_by_content(rows_of(facts, files), 1.0)


def test_streams_are_not_split(files):
    with pytest.raises(
        ValueError, match="`test_share` is for a dataset that is read whole, not for an IterableDataset"
    ):
        split_by_content(rows_of([("a", [0])], files).to_iterable_dataset(), 0.5)


def test_questions_of_later_turns_count():
    asked = (("one", "two"), ("two", "three"), ("four", "five"))
    roles = ("user", "assistant", "user")
    rows = [
        {"messages": [{"role": role, "content": text} for role, text in zip(roles, (a, "x", b), strict=True)]}
        for a, b in asked
    ]
    halves = split_by_content(Dataset.from_list(rows), 0.5)
    assert [row["messages"][0]["content"] for row in halves["test"]] == ["four"]
