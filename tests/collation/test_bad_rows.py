"""A collator with a quarantine leaves bad rows out, and makes of the others what it makes of them alone."""

import json
import multiprocessing
import pickle

import pytest
import torch

from tests.testing.tiny import pair_row, shown, tiny_llava, written_out
from trl_modality import PairedCollator, PairError
from trl_modality.data.quarantine import Quarantine, allowed_bad_rows, field_of
from trl_modality.views import BAD_COLUMN, DATASET_COLUMN, INDEX_COLUMN, View


@pytest.fixture
def collate(tmp_path):
    return PairedCollator(tiny_llava()[1], quarantine=Quarantine(tmp_path / "run" / "bad_rows.jsonl"))


def bad_row(i, **fields):
    return {**pair_row(i), "images": [{"bytes": b"no image", "path": None}], INDEX_COLUMN: i, **fields}


def assert_same_tensors(batch, other):
    assert batch.keys() == other.keys()
    for key, value in batch.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[key]), key


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_others_are_as_if_it_was_not_there(collate, place):
    rows = [pair_row(1), pair_row(2)]
    whole, layout = collate(rows), None
    with_bad = [*rows[:place], bad_row(7), *rows[place:]]
    batch = collate(with_bad)
    layout = batch["view_layout"]
    assert_same_tensors(batch, whole)
    assert layout.bad_rows == 1
    # A position is that among the rows that were read: the repeated rows of an evaluation are known by it
    assert layout.examples[View.TEXT_RICH] == tuple(i for i in range(3) if i != place)
    assert whole["view_layout"].bad_rows == 0


def test_a_row_that_was_not_read_is_marked(collate):
    error = PairError("row 3", "it cannot be read.", "Load it anew.")
    batch = collate([pair_row(1), {INDEX_COLUMN: 3, DATASET_COLUMN: "train_dataset", BAD_COLUMN: error}])
    assert_same_tensors(batch, collate([pair_row(1)]))
    (record,) = collate.quarantine.records()
    assert record == {
        "dataset": "train_dataset",
        "index": 3,
        "id": None,
        "field": None,
        "reason": "row 3: it cannot be read. Load it anew.",
    }


def test_a_batch_that_loses_its_images_gets_one_without_labels(collate):
    text = {"images": [], "text": "red=1 green=2"}
    collate([pair_row(1)])
    batch = collate([text, bad_row(7)])
    layout = batch["view_layout"]
    assert batch["pixel_values"].shape[0] == 1
    assert layout.rows == {View.TEXT_RICH: 1, View.PLAIN: 1}
    assert (batch["labels"][0] == -100).all()
    assert (batch["labels"][1] != -100).any()
    assert layout.filler_tokens > 0
    # A bad row of text costs no image
    batch = collate([text, {"images": [], "text": "", INDEX_COLUMN: 8}])
    assert "pixel_values" not in batch
    assert batch["view_layout"].bad_rows == 1


def test_a_batch_of_bad_rows_alone(collate):
    with pytest.raises(PairError, match="no row was good before it"):
        collate([bad_row(7)])
    collate([{"images": [], "text": "red=1 green=2"}])
    batch = collate([{"images": [], "text": "", INDEX_COLUMN: 8}])
    assert "pixel_values" not in batch
    assert not (batch["labels"] != -100).any()
    collate([pair_row(1)])
    for again in (collate, pickle.loads(pickle.dumps(collate))):  # as a data loader's worker has it
        batch = again([bad_row(7)])
        assert batch["pixel_values"].shape[0] == 1
        assert not (batch["labels"] != -100).any()


def test_it_keeps_what_the_step_decided(collate):
    collate([pair_row(1)])
    row = shown(bad_row(7), View.VISION_CENTRIC)
    slot = row["__slot__"]._replace(step=5, kl_factor=0.25)
    layout = collate([{**row, "__slot__": slot}])["view_layout"]
    assert (layout.step, layout.kl_factor) == (5, 0.25)


@pytest.mark.parametrize(
    "change",
    [
        {"images": "a.png"},
        {"completion": None},
        {"text_rich_prompt": [{"role": "human", "content": "red?"}]},
        {"images": [3]},
    ],
)
def test_every_kind_of_bad_row(collate, change):
    batch = collate([pair_row(1), bad_row(7, **change)])
    assert_same_tensors(batch, collate([pair_row(1)]))


def test_rows_without_a_pair(collate):
    plain = written_out([pair_row(1)])
    batch = collate([*plain, {**plain[0], "completion": [{"role": "gpt", "content": "1"}]}])
    assert_same_tensors(batch, collate(plain))


def test_without_a_quarantine_it_raises():
    with pytest.raises(PairError, match="row 7"):
        PairedCollator(tiny_llava()[1])([pair_row(1), bad_row(7)])


def write_rows(path, count):
    quarantine = Quarantine(path)
    for i in range(count):
        error = PairError(f"row {i}", "image 0 cannot be read" + "." * 5000, "Mend it.")
        quarantine.add({INDEX_COLUMN: i, DATASET_COLUMN: "train_dataset"}, error)


def test_processes_write_whole_lines_once(tmp_path):
    path = tmp_path / "bad_rows.jsonl"
    path.write_text('{"dataset": "train_dataset", "index": 0}\n{"cut off')  # by a crash
    workers = [multiprocessing.get_context("fork").Process(target=write_rows, args=(path, 20)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(record["index"] for record in Quarantine(path).records()) == list(range(20))
    lines = path.read_text().splitlines()
    assert len(lines) == 21
    assert [json.loads(line)["field"] for line in lines[2:]] == ["images"] * 19


def test_a_list_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("trl_modality.data.quarantine.logger.warning", said.append)
    (tmp_path / "file").write_text("")
    write_rows(tmp_path / "file" / "bad_rows.jsonl", 1)
    assert "cannot be written" in said[-1]
    assert "row 0: image 0 cannot be read" in said[-1]


def test_a_row_with_half_a_surrogate_pair_is_listed(tmp_path):
    quarantine = Quarantine(tmp_path / "bad_rows.jsonl")
    for _ in range(2):
        quarantine.add({INDEX_COLUMN: 3, "id": "\ud83d é"}, PairError("row 3", "it has \ud83d.", "Mend it."))
    assert [(record["id"], record["reason"]) for record in quarantine.records()] == [
        ("\ud83d é", r"row 3: it has \ud83d. Mend it.")
    ]


def test_a_system_without_locks_lists_rows_too(tmp_path, monkeypatch):
    monkeypatch.setattr("trl_modality.data.quarantine.fcntl", None)
    quarantine = Quarantine(tmp_path / "bad_rows.jsonl")
    quarantine.add({INDEX_COLUMN: 3}, PairError("row 3", "it is empty.", "Mend it."))
    assert [record["index"] for record in quarantine.records()] == [3]


def test_the_field_of_an_error():
    def of(problem):
        return field_of(PairError("row 1", problem, ""))

    assert of("`completion` is empty.") == "completion"
    assert of("message 0 of `messages` has no `content`.") == "messages"
    assert of("image 1 cannot be read.") == "images"
    assert of("the text_rich view has 9 tokens, above `max_length`=8.") is None


@pytest.mark.parametrize(
    ("limit", "n_rows", "allowed"), [(0.01, 100, 10), (0.01, 5000, 50), (0.5, 100, 50), (3, 5000, 3), (0, 5000, 0)]
)
def test_how_many_are_allowed(limit, n_rows, allowed):
    assert allowed_bad_rows(limit, n_rows) == allowed
