"""`make_pairs`: what becomes of columns and functions, that nothing is decoded, and how bad rows are named."""

import pickle
from functools import partial

import pytest
from datasets import Dataset, DatasetDict, Features, Image, IterableDataset, List, Value
from PIL import Image as PILImage

from trl_modality.data.pairs import make_pairs
from trl_modality.data.rows import PairRows
from trl_modality.views import PairError, validate_pair


def rows(count=4):
    return [
        {
            "question": f"What is {i} + 1?",
            "table": f"a = {i}",
            "steps": f"{i} + 1 = {i + 1}.",
            "result": i + 1,
            "image": PILImage.new("RGB", (8, 8), (i, 0, 0)),
            "kind": "sum",
        }
        for i in range(count)
    ]


FEATURES = Features(
    {
        **dict.fromkeys(("question", "table", "steps", "kind"), Value("string")),
        "result": Value("int64"),
        "image": Image(),
    }
)


def source(count=4):
    return Dataset.from_list(rows(count), features=FEATURES)


def table_and_question(row):
    return f"{row['table']}\n{row['question']}"


make = partial(
    make_pairs, text_rich=table_and_question, vision_centric="question", completion="steps", answer="result"
)


@pytest.fixture
def no_decoding(monkeypatch):
    def decode(*args, **kwargs):
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(Image, "decode_example", decode)


def test_columns_and_functions_become_messages():
    pairs = make(source(), id=lambda row: row["result"] * 10, keep=["kind"])
    assert pairs.column_names == [
        "id", "answer", "image", "text_rich_prompt", "vision_centric_prompt", "completion", "kind",
    ]  # fmt: skip
    row = pairs[2]
    assert row["text_rich_prompt"] == [{"role": "user", "content": "a = 2\nWhat is 2 + 1?"}]
    assert row["vision_centric_prompt"] == [{"role": "user", "content": "What is 2 + 1?"}]
    assert row["completion"] == [{"role": "assistant", "content": "2 + 1 = 3."}]
    assert (row["id"], row["answer"], row["kind"]) == ("30", "3", "sum")
    assert row["image"].getpixel((0, 0)) == (2, 0, 0)
    for index in range(4):
        validate_pair(PairRows(pairs)[index])


def test_images_are_neither_decoded_nor_changed(no_decoding):
    given = source()
    pairs = make(given)
    stored = [row["image"]["bytes"] for row in given.cast_column("image", Image(decode=False))]
    assert [PairRows(pairs)[i]["image"]["bytes"] for i in range(4)] == stored


def test_a_function_of_the_row_sees_stored_images(no_decoding):
    pairs = make(source(), images=lambda row: [row["image"], row["image"]])
    assert pairs.features["images"] == List(Image())
    assert len(PairRows(pairs)[0]["images"]) == 2
    assert set(PairRows(pairs)[0]["images"][0]) == {"bytes", "path"}


def test_lists_and_paths_of_images(tmp_path):
    path = tmp_path / "0.png"
    PILImage.new("RGB", (4, 6)).save(path)
    lists = Dataset.from_list(
        [{**row, "image": [row["image"]]} for row in rows()], features=Features({**FEATURES, "image": List(Image())})
    )
    assert make(lists, images="image").features["images"] == List(Image())
    paths = source(1).remove_columns("image").add_column("file", [str(path)])
    pairs = make(paths, images="file", vision_centric_images="file")
    assert pairs[0]["images"][0].size == (4, 6)
    assert pairs[0]["vision_centric_images"][0].size == (4, 6)


def test_streams_declare_their_columns(no_decoding):
    stream = make(source().to_iterable_dataset(), keep=["kind"])
    assert isinstance(stream, IterableDataset)
    expected = make(source(), keep=["kind"])
    assert stream.column_names == expected.column_names
    assert stream.features == {**expected.features, "image": Image(decode=False)}
    stored = PairRows(expected)
    assert list(stream) == [{name: stored[i][name] for name in stream.column_names} for i in range(4)]


def test_a_stream_of_unknown_columns_gets_known_ones():
    stream = make(IterableDataset.from_generator(lambda: iter(rows(2))))
    assert stream.column_names == ["answer", "images", "text_rich_prompt", "vision_centric_prompt", "completion"]
    assert [row["answer"] for row in stream] == ["1", "2"]


def test_every_split_or_one():
    both = DatasetDict(train=source(), test=source(2))
    made = make(both)
    assert {name: len(split) for name, split in made.items()} == {"train": 4, "test": 2}
    assert len(make(both, split="test")) == 2
    with pytest.raises(ValueError, match="no split 'dev' in .*; it has train, test"):
        make(both, split="dev")


def test_folders_of_both_kinds(tmp_path):
    source().save_to_disk(tmp_path / "saved")
    assert len(make(str(tmp_path / "saved"))) == 4
    source().to_parquet(tmp_path / "parquet" / "train.parquet")
    streamed = make(str(tmp_path / "parquet"), split="train", streaming=True)
    assert [row["answer"] for row in streamed] == ["1", "2", "3", "4"]


def test_rows_that_were_selected():
    assert make(source().select([3, 1]))["answer"] == ["4", "2"]


def test_messages_with_parts():
    def parts(row, facts=""):
        return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": facts + row["question"]}]}]

    pairs = make(source(), text_rich=partial(parts, facts="a = 1\n"), vision_centric=parts)
    assert pairs[1]["text_rich_prompt"][0]["content"][1] == {"type": "text", "text": "a = 1\nWhat is 1 + 1?"}
    assert pairs[1]["completion"] == [{"role": "assistant", "content": "1 + 1 = 2."}]
    with pytest.raises(PairError, match="row 2: .*'<lambda>', for `text_rich_prompt`, has contents in parts in some"):
        make(source(), text_rich=lambda row: parts(row) if row["result"] < 3 else "text", vision_centric=parts)


def test_processes():
    assert make(source(), num_workers=2)["answer"] == ["1", "2", "3", "4"]
    error = PairError("row 3", "`completion` is empty.", "Fill it in.")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"vision_centric": "query"}, ValueError, "`vision_centric`: no column 'query'; the dataset has question, "),
        ({"answer": "x"}, ValueError, "`answer`: no column 'x'"),
        ({"keep": ["x"]}, ValueError, "`keep`: no column 'x'"),
        ({"streaming": True}, ValueError, "`streaming` is for a dataset given by its name"),
        ({"text_rich": lambda row: row["x"]}, PairError, "row 0: .* fails on it, for `text_rich_prompt` .KeyError"),
        (
            {"id": "question", "completion": lambda row: "" if row["result"] == 3 else "x"},
            PairError,
            r"row 2, id='What is 2 \+ 1\?': the function '<lambda>', for `completion`, is empty",
        ),
        ({"completion": "result"}, PairError, "row 0: column 'result', for `completion`, is int. Give a string or"),
        ({"choices": "kind"}, PairError, "row 0: column 'kind', for `choices`, is 'sum'. Give a list with the text"),
        ({"text_rich": "question"}, ValueError, "same prompt in all 4 rows, so that both views are the same"),
        ({"images": lambda row: None}, PairError, "row 0: the function '<lambda>' has no image"),
        ({"images": lambda row: 3}, PairError, "row 0: image 0 of the text_rich view is int"),
        ({"vision_centric": lambda row: "<image>\nx"}, PairError, "row 0: .* has '<image>' in its text"),
    ],
)
def test_what_is_wrong_is_named(change, error, message):
    with pytest.raises(error, match=message):
        make(source(), **change)


def test_choices_are_texts():
    pairs = make(source(), choices=lambda row: [1, 2, 3] if row["result"] < 3 else None)
    assert pairs["choices"] == [["1", "2", "3"], ["1", "2", "3"], None, None]
    assert make(source().to_iterable_dataset(), choices=lambda row: [1]).features["choices"] == List(Value("string"))


def test_some_views_that_are_the_same_are_said(caplog):
    pairs = make(source(), text_rich=lambda row: row["question"] if row["result"] == 3 else table_and_question(row))
    assert len(pairs) == 4
    assert "1 of 4 pairs have the same prompt and images in both views (row 2)" in caplog.text


def test_views_that_differ_in_their_images_alone(caplog):
    """The same question, with marks in the teacher's picture, say, or without a picture."""
    for own in ("image", lambda row: []):
        made = make_pairs(
            source(), text_rich="question", vision_centric="question", completion="steps", text_rich_images=own
        )
        assert "text_rich_images" in made.column_names
    assert "same prompt" not in caplog.text


def test_images_of_one_view_in_some_rows():
    given = {"text_rich": "table", "vision_centric": "question", "completion": "steps"}
    alone = make_pairs(source(2), **given, text_rich_images=lambda row: [] if row["result"] == 1 else None)
    assert alone["text_rich_images"] == [[], None]
    marked = source(2).map(lambda row, place: {"marked": [row["image"]] if place else None}, with_indices=True)
    made = make_pairs(marked.cast_column("marked", List(Image())), **given, vision_centric_images="marked")
    assert [images is None for images in made["vision_centric_images"]] == [True, False]


def test_no_image_column_and_no_row():
    with pytest.raises(ValueError, match="`images`: no column `images` or `image`; name one of question"):
        make(source().remove_columns("image"))
    with pytest.raises(ValueError, match="no row"):
        make(source().select([]))
