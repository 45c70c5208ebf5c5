"""Rows of a stream: in its own order over its epochs, and from any place on."""

import json

import pytest
from datasets import Dataset, IterableDataset

from trl_modality._compat import HAS_EXACT_STREAM_STATES
from trl_modality.curriculum.stream import StreamRows
from trl_modality.views import INDEX_COLUMN


N = 37


def plain():
    return Dataset.from_dict({"x": list(range(N))}).to_iterable_dataset(num_shards=4)


STREAMS = {
    "shards": plain,
    "mapped and filtered": lambda: plain().map(lambda row: {"y": row["x"]}).filter(lambda row: row["x"] % 3),
    "shuffled shards": lambda: plain().shuffle(seed=3, buffer_size=1),
    "shuffled in a buffer": lambda: plain().shuffle(seed=3, buffer_size=10),
    "of a generator": lambda: IterableDataset.from_generator(lambda: ({"x": i} for i in range(N))),
}


def taken(rows, count):
    return [row["x"] for row in rows.take(count)]


@pytest.mark.parametrize("name", STREAMS)
def test_goes_on_from_any_place_by_its_state_or_by_reading(name):
    whole = taken(StreamRows(STREAMS[name](), "train_dataset"), 3 * N)
    assert len(set(whole)) in (N, N - 13)
    for place in (1, 9, N - 1, N, N + 1, 2 * N + 5):
        rows = StreamRows(STREAMS[name](), "train_dataset")
        assert taken(rows, place) == whole[:place]
        state = json.loads(json.dumps(rows.state()))
        assert (state is None) == (name == "shuffled in a buffer" or not HAS_EXACT_STREAM_STATES)
        for known in (state, None):
            later = StreamRows(STREAMS[name](), "train_dataset")
            later.start(place, known)
            assert taken(later, 2 * N - place) == whole[place : 2 * N]
            rows.start(place, known)
            assert taken(rows, 3) == whole[place : place + 3], "the same object too"
            rows.start(0, None)
            assert taken(rows, 3) == whole[:3], "and from the beginning again"


@pytest.mark.skipif(not HAS_EXACT_STREAM_STATES, reason="these `datasets` have none that could be trusted")
def test_a_state_spares_reading():
    read = []
    shards = Dataset.from_dict({"x": list(range(4000))}).to_iterable_dataset(num_shards=8)
    seen = shards.map(lambda row: read.append(row["x"]) or row)
    rows = StreamRows(seen, "train_dataset")
    rows.take(3000)
    state = rows.state()
    read.clear()
    rows.start(3000, state)
    assert taken(rows, 5) == [3000, 3001, 3002, 3003, 3004]
    assert len(read) < 1010, "no more than what the host reads at a time"


def test_rows_are_numbered_within_their_epoch():
    rows = StreamRows(plain(), "train_dataset").take(N + 3)
    assert [row[INDEX_COLUMN] for row in rows] == [*range(N), 0, 1, 2]


def test_a_filler_is_the_first_row_with_an_image():
    rows = [{"x": i, "image": "a.png" if i == 5 else None} for i in range(9)]
    stream = StreamRows(Dataset.from_list(rows).to_iterable_dataset(), "train_dataset")
    assert stream.filler()["x"] == 5
    stream.start(2, None)
    assert taken(stream, 3) == [2, 3, 4]
    assert StreamRows(plain(), "train_dataset").filler() is None


def test_a_filler_is_no_bad_row():
    """Which may be left out (`bad_rows='skip'`), and is named with its number when its turn comes."""

    def rows():
        yield {"x": 0, "images": "a.png"}
        yield {"x": 1, "images": ["a.png"]}

    assert StreamRows(IterableDataset.from_generator(rows), "train_dataset").filler()["x"] == 1


def test_a_stream_without_rows_is_an_error():
    with pytest.raises(ValueError, match="`train_dataset` is a stream without rows"):
        StreamRows(plain().filter(lambda row: False), "train_dataset").take(1)
