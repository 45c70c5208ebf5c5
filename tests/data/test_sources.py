"""Datasets by name: files as they are or read, folders of files, splits and slices of them."""

import json

import pytest
from datasets import Dataset, DatasetDict, IterableDatasetDict

from tests.testing.foreign_files import write_images
from tests.testing.tiny import pair_dataset
from trl_modality.data.importers import ReadOptions
from trl_modality.data.sources import open_dataset, open_split, select_split


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def numbers(count: int, first: int = 0) -> Dataset:
    return Dataset.from_dict({"n": list(range(first, first + count))})


SPLITS = {"train": numbers(10), "test": numbers(5, 100)}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("test", [100, 101, 102, 103, 104]),
        ("test[:2]", [100, 101]),
        ("test[3:]", [103, 104]),
        ("test[-1:]", [104]),
        ("train[10%:30%]", [1, 2]),
        ("train[8:]+test[:1]", [8, 9, 100]),
        ("test[:800]", [100, 101, 102, 103, 104]),
    ],
)
def test_slices(spec, expected):
    assert select_split(SPLITS, spec, "x")["n"] == expected
    assert open_dataset(DatasetDict(SPLITS), spec)["n"] == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dev", "no split 'dev' in x; it has train, test"),
        ("dev[:3]", "no split 'dev' in x"),
        ("test[:two]", r"`test\[:two\]` is no slice of a split"),
        ("test[7:]", r"`test\[7:\]` of x has no row; test has 5"),
    ],
)
def test_slices_that_are_none(spec, message):
    with pytest.raises(ValueError, match=message):
        select_split(SPLITS, spec, "x")


def test_slices_of_streams():
    streams = IterableDatasetDict({name: rows.to_iterable_dataset() for name, rows in SPLITS.items()})
    for spec, expected in (("test[1:3]", [101, 102]), ("train[8:]", [8, 9]), ("test[:1]", [100])):
        assert [row["n"] for row in open_dataset(streams, spec)] == expected
    with pytest.raises(ValueError, match="of a stream, whose length is not known, rows are counted from 0"):
        open_dataset(streams, "test[10%:]")


def test_slices_of_folders(tmp_path):
    pair_dataset(5).to_parquet(tmp_path / "pairs" / "test.parquet")
    assert open_split(tmp_path / "pairs", "test[1:3]")["id"] == ["pair-1", "pair-2"]
    pair_dataset(5).save_to_disk(tmp_path / "saved")
    assert open_split(tmp_path / "saved", "train[:2]")["id"] == ["pair-0", "pair-1"]


RECORD = {"image": "red.png", "question": "Red?", "answer": "1"}


def test_a_file_is_read_or_taken_as_it_is(tmp_path):
    write_images(tmp_path)
    (tmp_path / "x.jsonl").write_text(f"{json.dumps(RECORD)}\n" * 3)
    said = []
    assert open_split(tmp_path / "x.jsonl", "train[:2]", say=said.append).column_names == [
        "images", "prompt", "completion", "answer",
    ]  # fmt: skip
    assert "a table of questions (csv); 3 records, 3 rows, 3 images" in said[0]
    as_it_is = open_dataset(tmp_path / "x.jsonl")
    assert as_it_is["train"].column_names == ["image", "question", "answer"]
    (tmp_path / "x.tsv").write_text("question\tanswer\nRed?\t1\n")
    assert open_dataset(str(tmp_path / "x.tsv"), "train")["answer"] == [1]
    with pytest.raises(ValueError, match=r"x.jsonl is read whole, and is neither streamed nor configured"):
        open_dataset(tmp_path / "x.jsonl", streaming=True, reading=ReadOptions())
    (tmp_path / "x.txt").write_text("a")
    with pytest.raises(ValueError, match=r"x.txt is no file of records"):
        open_split(tmp_path / "x.txt")


def test_folders_of_files(tmp_path):
    folder = tmp_path / "data"
    write_images(folder)
    for name in ("train.jsonl", "train_more.json", "val.csv"):
        text = "image,question,answer\nred.png,Red?,1\n" if name == "val.csv" else json.dumps(RECORD)
        (folder / name).write_text(text)
    opened = open_dataset(folder, reading=ReadOptions())
    assert {name: len(rows) for name, rows in opened.items()} == {"train": 2, "validation": 1}
    (folder / "other.json").write_text(json.dumps(RECORD))
    with pytest.raises(
        ValueError, match="has files of splits .train.jsonl, .* beside other.json, whose split is unkn"
    ):
        open_dataset(folder, reading=ReadOptions())


def test_folders_of_other_files_are_left_to_datasets(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "1 + 1"}\n')
    assert open_split(folder)["text"] == ["1 + 1"]
    pair_dataset(2).to_parquet(tmp_path / "pairs" / "train.parquet")
    (tmp_path / "pairs" / "run.json").write_text('{"messages": []}')
    assert len(open_split(tmp_path / "pairs", "train[:1]")) == 1
    with pytest.raises(ValueError, match="nobody/nothing is no file or folder; how files are read is an option for"):
        open_split("nobody/nothing", reading=ReadOptions(skip_missing=True))


def test_folders_of_pairs_are_what_they_were(tmp_path):
    """Their columns are all kept, and their strings are no messages."""
    folder = tmp_path / "data"
    folder.mkdir()
    texts = dict.fromkeys(("text_rich_prompt", "vision_centric_prompt"), "USER: <image>\nRed? ASSISTANT: ")
    pair = {**texts, "completion": "1", "images": ["/elsewhere/red.png"], "level": "text_lite", "level_prompts": []}
    (folder / "train.jsonl").write_text(json.dumps(pair))
    assert open_split(folder).to_list() == [pair]


@pytest.mark.parametrize("kind", ["nested", "saved"])
def test_options_of_files_are_refused_where_no_file_is_read(kind, tmp_path):
    if kind == "nested":  # as `data make` writes
        pair_dataset(2).to_parquet(tmp_path / "data" / "data" / "train.parquet")
    else:
        pair_dataset(2).save_to_disk(tmp_path / "data")
    assert len(open_split(tmp_path / "data")) == 2
    with pytest.raises(ValueError, match="data has no file of records directly in it; how files are read"):
        open_split(tmp_path / "data", reading=ReadOptions(columns={"facts": "ocr"}))


def test_files_of_one_split_have_the_same_columns(tmp_path):
    folder = tmp_path / "data"
    write_images(folder)
    (folder / "a.json").write_text(json.dumps(RECORD))
    (folder / "b.json").write_text(json.dumps({"messages": [{"role": "user", "content": "Hi"}]}))
    with pytest.raises(
        ValueError, match=r"a.json and .*b.json become rows of different columns .images, prompt, compl"
    ):
        open_split(folder)


def test_files_of_a_dataset_have_the_same_columns_where_they_can(tmp_path):
    """Shards and splits of which one alone has labels, images, or an image among words."""
    folder = tmp_path / "data"
    write_images(folder)
    asked = [{"from": "human", "value": "<image> or <image>?"}, {"from": "gpt", "value": "1"}]
    shards = {
        "train-0.json": {"image": ["red.png", "blue.png"], "conversations": asked},
        "train-1.json": {"id": 7, "conversations": [{**asked[0], "value": "1 + 1?"}, asked[1]]},
        "test.json": {"image": "red.png", "conversations": [{**asked[0], "value": "<image>Red?"}, asked[1]]},
    }
    for name, record in shards.items():
        (folder / name).write_text(json.dumps([record]))
    opened = open_dataset(folder, reading=ReadOptions())
    assert opened["train"].features == opened["test"].features
    assert opened["train"]["id"] == [None, "7"]
    assert [len(row["images"]) for row in opened["train"]] == [2, 0]
    assert opened["train"][1]["prompt"] == [{"role": "user", "content": [{"type": "text", "text": "1 + 1?"}]}]


def test_folders_are_streamed_by_datasets(tmp_path):
    folder = tmp_path / "data"
    write_images(folder)
    (folder / "train.jsonl").write_text(json.dumps(RECORD))
    assert next(iter(open_dataset(folder, "train", streaming=True, reading=ReadOptions()))) == RECORD
