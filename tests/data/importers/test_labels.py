"""Options, answers, facts and messages in the shapes that files have them in, and which row an answer belongs to."""

import base64
import json
from io import BytesIO

import pytest

from tests.testing.foreign_files import VARIANTS, write_images
from tests.testing.tiny import picture
from trl_modality.data.importers import read_rows


@pytest.fixture
def read(tmp_path):
    write_images(tmp_path)

    def read(content, name="x.json", **options):
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return read_rows(tmp_path / name, **options)

    return read


def human(text):
    return {"from": "human", "value": text}


def gpt(text):
    return {"from": "gpt", "value": text}


@pytest.mark.parametrize(
    ("choices", "answer", "expected"),
    [
        (["red", "blue"], 1, "blue"),
        (["red", "blue"], "B", "B"),
        (["3", "1"], "1", "1"),
        (["3.0", "1.0"], "1", "1"),
        ({"A": "red", "B": "blue", "C": None}, "B", "B"),  # a struct of Parquet has all names in all rows
        ({"1": "red", "2": "blue"}, "2", "blue"),
        ({"b": "red", "a": "blue"}, "a", "blue"),
        ({"label": ["A", "B"], "text": ["red", "blue"]}, "B", "B"),  # ARC
        ({"label": ["1", "2"], "text": ["red", "blue"]}, "1", "red"),  # ARC too
        ("['red', 'blue']", "A", "A"),  # MMMU
        ('["red", "blue"]', "1", "blue"),
    ],
)
def test_options(read, choices, answer, expected):
    (row,) = read([{"question": "Which?", "choices": choices, "answer": answer}])
    texts = row["choices"]
    assert row["prompt"][0]["content"] == f"Which?\nOptions: (A) {texts[0]} (B) {texts[1]}"
    assert set(texts) <= {"red", "blue", "3", "1", "3.0", "1.0"}
    assert len(texts) == 2
    assert (row["answer"], row["completion"][0]["content"]) == (expected, expected)


@pytest.mark.parametrize("choices", [["red", None], {"A": ["red"], "B": "blue"}, "red or blue"])
def test_options_that_are_none(read, choices):
    with pytest.raises(ValueError, match="its choices are .*Give a list of texts"):
        read([{"question": "Which?", "choices": choices, "answer": "A"}])


@pytest.mark.parametrize("text", ["{}", '"{}"'])
def test_lists_of_a_table_as_python_prints_them(read, text):
    images = text.format(["red.png", "blue.png"])
    (row,) = read(f"image\tquestion\tanswer\n{images}\tRed?\t1\n", "x.tsv")
    assert len(row["images"]) == 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_images_in_base64(read, kind):
    """As MMBench's tables have them."""
    buffer = BytesIO()
    picture(0).resize((64, 64)).save(buffer, kind)
    (row,) = read([{"image": base64.b64encode(buffer.getvalue()).decode(), "question": "Red?", "answer": "1"}])
    assert row["images"][0].size == (64, 64)


@pytest.mark.parametrize("write", [json.dumps, str])
def test_messages_of_a_table(read, write):
    said = write([human("<image>\nRed?"), gpt("1")]).replace('"', '""')
    (row,) = read(f'image,conversations\nred.png,"{said}"\n', "x.csv")
    assert (row["prompt"][0]["content"], row["completion"][0]["content"]) == ("Red?", "1")
    with pytest.raises(ValueError, match="`conversations` is a text, not a list of messages. In a table, write"):
        read("image,conversations\nred.png,Red?\n", "x.csv")


def test_images_inside_of_a_file_become_columns_in_small_chunks(tmp_path, monkeypatch):
    """An array of Arrow holds 2 GiB, which 4,096 rows with a photograph each are beyond."""
    (parquet,) = [variant for variant in VARIANTS if variant.name == "rows.parquet"]
    rows = read_rows(parquet.write(tmp_path))
    monkeypatch.setattr("trl_modality.data.importers.read.BYTES_AT_ONCE", 1)
    again = read_rows(tmp_path / "rows.parquet")
    assert [len(each.data.column("images").chunks) for each in (rows, again)] == [1, 2]
    assert again.with_format("arrow")[:] == rows.with_format("arrow")[:]


def test_what_is_empty_is_not_there(read):
    text = {"id": "a", "image": "", "conversations": [human("1 + 1?"), gpt("2")]}
    shown = {"id": "b", "image": "red.png", "conversations": [human("<image>\nRed?"), gpt("1")]}
    assert [len(row["images"]) for row in read([text, shown])] == [0, 1]
    (row,) = read([{"images": [], "image": "red.png", "question": "Red?", "choices": [], "answer": "1"}])
    assert len(row["images"]) == 1
    said = []
    read([{"images": [], "question": "1 + 1?", "choices": "", "answer": "2"}], say=said.append)
    assert not any("not read" in line for line in said)
    assert "choices" not in row


def test_the_answer_of_a_record_is_that_of_its_last_turn(read):
    said = [human("<image>\nHi."), gpt("Hello."), human("Which? (A) red (B) blue"), gpt("It is blue.")]
    record = {"id": "a", "image": "red.png", "answer": ["B"], "choices": ["red", "blue"], "conversations": said}
    rows = read([record])
    assert rows["answer"] == [None, "B"]
    assert rows["choices"] == [None, ["red", "blue"]]
    assert read([record], turns="last")["answer"] == ["B"]
    with pytest.raises(ValueError, match="its answer is a list of 2"):
        read([{**record, "answer": ["A", "B"]}])


def test_facts_of_several_lines(read):
    record = {"image": "red.png", "question": "Red?", "answer": "1", "ocr": ["red: 1", "blue: 2"]}
    (row,) = read([record], columns={"facts": "ocr"})
    assert row["text_rich_prompt"][0]["content"] == "red: 1\nblue: 2\n\nRed?"
    for facts, what in (({"red": 1}, "have dict in them"), ([["red", 1]], "have list in them"), ([""], "are empty")):
        with pytest.raises(ValueError, match=f"its facts {what}"):
            read([{**record, "ocr": facts}], columns={"facts": "ocr"})


def test_fields_that_begin_late_in_a_file(read):
    """A format is recognised by the first records; fields are those of all."""
    records = [
        {"question": f"{i}?", "answer": "1", **({"opts": ["1", "2"], "x": 0} if i > 40 else {})} for i in range(50)
    ]
    said = []
    rows = read(records, columns={"choices": "opts"}, say=said.append)
    assert rows["choices"][40:42] == [None, ["1", "2"]]
    assert said[-1] == "fields that are not read: x"
