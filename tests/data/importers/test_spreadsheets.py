"""Tables and packed files as Excel, PowerShell and broken downloads leave them."""

import gzip
import json

import pytest

from trl_modality.data.importers import read_rows


@pytest.fixture
def read(tmp_path):
    def read(content, name="x.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_rows(path)

    return read


def asked(rows):
    return [(row["prompt"][0]["content"], row["completion"][0]["content"]) for row in rows]


@pytest.mark.parametrize(
    "text",
    [
        "question,answer\r\nRed?,1\r\n,\r\n",
        "\ufeffquestion;answer;;\r\nRed?;1;;\r\n;;;\r\n",
        "question\tanswer\rRed?\t1\r",
        'question,answer\nRed?,"1"\n\n',
    ],
)
def test_empty_rows_and_columns_of_a_spreadsheet(read, text):
    assert asked(read(text)) == [("Red?", "1")]


@pytest.mark.parametrize("name", ["x.csv", "x.json"])
def test_utf_16(read, name):
    text = "question,answer\nGrün?,ü\n" if name == "x.csv" else json.dumps([{"question": "Grün?", "answer": "ü"}])
    assert asked(read(text.encode("utf-16"), name)) == [("Grün?", "ü")]


def test_a_quotation_mark_within_a_field_is_text(read):
    assert asked(read('question,answer\nA 5" pipe?,"a ""b"""\n')) == [('A 5" pipe?', 'a "b"')]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('question,answer\nA?,"5 inch\nB?,2\nC?,3\n', 4),
        ('question,answer\nA?,"5" inch\nB?,2\n', 2),
    ],
)
def test_a_field_that_is_not_closed_does_not_swallow_the_rows_behind_it(read, text, line):
    with pytest.raises(ValueError, match=rf"x.csv, line {line}: .*A quotation mark opens a field that is not closed"):
        read(text)


@pytest.mark.parametrize("damage", [lambda packed: packed[:-12], lambda packed: packed[:20] + b"\0" + packed[21:]])
def test_packed_files_that_are_damaged_are_named(read, damage):
    packed = gzip.compress(json.dumps([{"question": "a" * 50, "answer": "b"}]).encode())
    with pytest.raises(ValueError, match="x.json.gz is no whole gzip file"):
        read(damage(packed), "x.json.gz")


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_endless_nesting_is_no_json(read, name):
    with pytest.raises(ValueError, match=f"{name}.* not valid JSON"):
        read("[" * 100_000, name)
