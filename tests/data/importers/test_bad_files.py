"""What is wrong with a file is named with its file, record, field and remedy; nothing is left out without a word."""

import json
import os
import re

import pytest

from tests.testing.foreign_files import VARIANTS, write_images
from trl_modality.data.importers import read_rows


HUMAN, GPT = {"from": "human", "value": "<image>\nRed?"}, {"from": "gpt", "value": "1"}
GOOD = {"id": "a", "image": "red.png", "conversations": [HUMAN, GPT]}


def conversation(*turns, **fields):
    return {**GOOD, "conversations": list(turns), **fields}


def say(role, text):
    return {"from": role, "value": text}


@pytest.fixture
def read(tmp_path):
    write_images(tmp_path / "data")

    def read(*records, name="x.json", **options):
        path = tmp_path / "data" / name
        path.write_text(records[0] if isinstance(records[0], str) else json.dumps(records), encoding="utf-8")
        return read_rows(path, **options)

    return read


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (conversation(GPT, HUMAN), "message 0 of `conversations`, of the assistant, comes first: the turns are"),
        (conversation(HUMAN, say("human", "Red?"), GPT), "message 1 .*, of the user, follows one of the user: the"),
        (conversation(HUMAN, GPT, GPT), "message 2 of .*of the assistant, follows one of the assistant.*or the tool"),
        (conversation(HUMAN, say("someone", "1")), "message 1 of `conversations` has the role 'someone'. Known are"),
        (conversation(HUMAN, {"from": "gpt"}), "message 1 of `conversations` has no `content`"),
        (conversation(HUMAN, say("gpt", " ")), "turn 1 of `conversations`, of the assistant, is empty"),
        (conversation(say("human", "Red?"), say("gpt", "<image>")), "an answer .* has a place for an image"),
        (conversation(say("human", "<image><image>?"), GPT), "`conversations` has 2 places for an image, and "),
        (conversation(HUMAN, GPT, image=["red.png", "blue.png"]), "has 1 place for an image, and .* has 2 image"),
        (conversation(HUMAN, GPT, image=None), "has 1 place for an image, and the record has 0 images.*Give each"),
        (conversation(say("human", "<video>\nRed?"), GPT), "has a place for '<video>'. Only images are read"),
        (conversation(HUMAN, GPT, image="https://a.org/red.png"), "is on the web. Download the images once"),
        (conversation(HUMAN, GPT, image="data:image/png,x"), "`data:` URL that cannot be read"),
        (conversation(HUMAN, GPT, image=3), "an image is int"),
        ({"id": "b", "image": "red.png"}, "it has no `conversations`. It has id, image: give all"),
        (conversation(HUMAN), "it has no answer, and others have"),
    ],
)  # fmt: skip
def test_records_are_named(read, record, message):
    with pytest.raises(ValueError, match=message) as raised:
        read(GOOD, {**record, "id": "bad"})
    assert re.search(r"x.json: 1 of 2 records cannot be used. record 1, id='bad': ", str(raised.value))


def test_equal_faults_are_one_line(read):
    bad = [conversation(GPT, HUMAN, id=str(i)) for i in range(300)]
    other = conversation(say("human", "<image><image>"), GPT, id="o")
    with pytest.raises(ValueError, match="x.json: 301 of 302 records cannot be used:\n") as raised:
        read(*bad, GOOD, other)
    first, *lines = str(raised.value).split("\n")
    assert len(lines) == 2
    assert lines[0].startswith(
        "  record 0, id='0'; record 1, id='1'; record 2, id='2'; record 3, id='3'; record 4, id='4'"
    )
    assert "; and 295 more: message 0 of `conversations`" in lines[0]
    assert lines[1].startswith("  record 301, id='o': `conversations` has 2 places for an image, and the record has 1")


def test_what_differs_among_faults_of_one_kind_is_said_of_the_first(read):
    bad = [conversation(HUMAN, GPT, image=images, id="o") for images in (["red.png"] * 2, ["red.png"] * 3)]
    with pytest.raises(ValueError, match="record 1, id='o'; record 2, id='o': in the first, .* has 2 images"):
        read(GOOD, *bad)


def test_none_of_the_formats(read):
    with pytest.raises(
        ValueError, match="x.json is in none of the known forms. Its records have a, bild. Looked for: "
    ):
        read({"bild": 1, "a": 2})
    with pytest.raises(
        ValueError, match="`conversations` with `image` .llava.; .*Name fields .* `--columns question=F"
    ):
        read({"bild": 1, "a": 2})
    with pytest.raises(ValueError, match="`format` must be one of auto, pairs, messages, .*, got 'lava'"):
        read(GOOD, format="lava")
    with pytest.raises(ValueError, match="2 of 2 records cannot be used. record 0, id='a'; record 1, .*no `messages`"):
        read(GOOD, GOOD, format="messages")
    with pytest.raises(ValueError, match="`columns`: no field 'quiz'; there is id, image"):
        read(GOOD, columns={"quiz": "a"})
    with pytest.raises(ValueError, match="`columns`: facts=ocr: .*x.json has no field 'ocr'; it has id, image, conv"):
        read(GOOD, columns={"facts": "ocr"})
    with pytest.raises(ValueError, match="`turns` must be one of each, last, all, got 'first'"):
        read(GOOD, turns="first")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.json", "{", "x.json is not valid JSON"),
        ("x.json", "", "x.json is not valid JSON"),
        ("x.json", "[]", "x.json has no record"),
        ("x.json", "3", "x.json holds int, not a list of records"),
        ("x.json", "[1]", "x.json, record 0: it is int, not a record"),
        ("x.jsonl", '{"text": "a"}\n{"text"', "x.jsonl, line 2: it is not valid JSON"),
        ("x.jsonl", "\n", "x.jsonl has no record"),
        (
            "x.csv",
            "question,answer\na,b,c\n",
            "x.csv, line 2: it has 3 fields, and the header 2 .question, answer., with",
        ),
        ("x.csv", "question,question\na,b\n", "x.csv has several columns 'question'"),
        ("x.csv", "question,answer\n", "x.csv has no record"),
        ("x.parquet", "PAR1", "x.parquet is not a valid Parquet file"),
        ("x.yaml", "a", "x.yaml is no file of records: its name ends in none of .json, "),
    ],
)
def test_files_that_are_not_what_their_names_say(read, name, text, message):
    with pytest.raises(ValueError, match=message):
        read(text, name=name)


@pytest.mark.parametrize(("written", "place", "end"), [("windows-1252", 17, None), ("utf-16", 44, -1)])
def test_text_that_is_not_utf8(tmp_path, written, place, end):
    (tmp_path / "x.csv").write_bytes("question,answer\nfünf,1".encode(written)[:end])
    message = rf"x.csv is not UTF-8 .byte {place}.; save it as UTF-8: .* `iconv -f {written} -t utf-8 OLD > NEW`"
    with pytest.raises(ValueError, match=message):
        read_rows(tmp_path / "x.csv")


def test_json_lines_under_another_name_and_packed(tmp_path, read):
    import gzip

    write_images(tmp_path)
    line = json.dumps(GOOD)
    assert len(read(f"{line}\n{line}\n")) == 2
    with gzip.open(tmp_path / "x.jsonl.gz", "wt") as file:
        file.write(f"{line}\n")
    assert len(read_rows(tmp_path / "x.jsonl.gz")) == 1


def test_missing_images_are_counted(read):
    records = [conversation(HUMAN, GPT, id=str(i), image=f"no{i}.png" if i % 2 else "red.png") for i in range(30)]
    with pytest.raises(
        ValueError, match=r"x.json: 15 images of 15 of 30 records .50.0 %. are not there: 'no1.png'"
    ) as raised:
        read(*records)
    assert "'no19.png' (record 19, id='19'); and 5 more. They are looked for in" in str(raised.value)
    assert "--image-root" in str(raised.value)
    assert "--skip-missing" in str(raised.value)
    said = []
    rows = read(*records, skip_missing=True, say=said.append)
    assert rows["id"] == [str(i) for i in range(0, 30, 2)]
    assert any(
        line.startswith("left out: 15 records (50.0 %) whose images are not there ('no1.png', ") for line in said
    )
    with pytest.raises(ValueError, match=r"1 of 1 record .100.0 %. are not there"):
        read(records[1], skip_missing=True)


def test_images_below_a_root(read, tmp_path):
    for root in ("one", "two"):
        write_images(tmp_path / root)
    (tmp_path / "one" / "red.png").unlink()
    rows = read(GOOD, image_root=[tmp_path / "one", str(tmp_path / "two")])
    assert rows.cast_column("images", _stored())[0]["images"][0]["path"] == str(tmp_path / "two" / "red.png")
    absolute = conversation(HUMAN, GPT, image=str(tmp_path / "two" / "red.png"))
    assert len(read(absolute, image_root=tmp_path / "two")) == 1
    assert len(read(conversation(HUMAN, GPT, image="images\\red.png"))) == 1
    with pytest.raises(ValueError, match="`image_root`: .*three is no folder"):
        read(GOOD, image_root=tmp_path / "three")


def _stored():
    from datasets import Image, List

    return List(Image(decode=False))


@pytest.mark.parametrize("kind", ["..", "absolute", "symlink", "folder", "inside"])
def test_no_path_leads_out_of_the_root(read, tmp_path, kind):
    """Nothing but what is below the root is opened, whatever a file says."""
    write_images(tmp_path / "secret")
    data = tmp_path / "data"
    os.symlink(tmp_path / "secret" / "red.png", data / "link.png")
    os.symlink(tmp_path / "secret", data / "folder")
    os.symlink(data / "red.png", data / "own.png")
    image = {
        "..": "images/../../secret/red.png",
        "absolute": str(tmp_path / "secret" / "red.png"),
        "symlink": "link.png",
        "folder": "folder/red.png",
        "inside": "images/../own.png",
    }[kind]
    record = conversation(HUMAN, GPT, image=image)
    if kind == "inside":
        assert len(read(record)) == 1
        return
    for options in ({}, {"skip_missing": True}):
        with pytest.raises(
            ValueError, match=r"the image '.*' leads out of '.*data' .to '.*secret/red.png'.. Name the"
        ):
            read(record, **options)
    assert len(read(record, image_root=[data, tmp_path / "secret"])) == 1


def test_a_path_out_of_the_root_that_is_not_there_says_nothing_about_it(read):
    """Whether files elsewhere exist is none of a data file's business: both are the same error."""
    with pytest.raises(ValueError, match="leads out of"):
        read(conversation(HUMAN, GPT, image="../nothing.png"))
    with pytest.raises(ValueError, match="zero byte"):
        read(conversation(HUMAN, GPT, image="a\0.png"))


@pytest.mark.parametrize("image", ["a" * 60_000, "/" + "a/" * 30_000, "https://a.org/" + "a" * 60_000])
def test_a_name_as_long_as_a_file_is_not_printed_whole(read, image):
    with pytest.raises(ValueError, match=r"\.\.\. \(60,0\d\d characters\)") as raised:
        read(conversation(HUMAN, GPT, image=image))
    assert len(str(raised.value)) < 1000


def test_facts_and_choices(read):
    with pytest.raises(ValueError, match="its facts are empty"):
        read({**GOOD, "facts": " "})
    with pytest.raises(ValueError, match="record 1, id='a': it has no facts in words, and others have. Fill in"):
        read({**GOOD, "facts": "It is red."}, GOOD)
    with pytest.raises(ValueError, match="its choices are 'red or blue'. Give a list"):
        read({**GOOD, "choices": "red or blue"})
    with pytest.raises(ValueError, match="its answer is a list of 2. Name the field of the one right answer"):
        read({"question": "Red?", "answer": ["a", "b"], "image": "red.png"})
    for mark in ({"weight": 0}, {"loss": False}):
        with pytest.raises(ValueError, match="all its answers are marked as not learnt"):
            read({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", **mark}]})
    later = {"images": ["red.png"], "facts": "It is red.", "conversations": [say("human", "Hi"), GPT, HUMAN, GPT]}
    for options in ({}, {"turns": "each"}):
        with pytest.raises(ValueError, match=r"no image in the question of an answer or before it. .*`turns='last'`"):
            read(later, **options)
    assert len(read(later, turns="last")[0]["images"]) == 1
    with pytest.raises(ValueError, match="a later question shows an image"):
        read(later, turns="all")


def test_parquet_that_is_damaged(tmp_path):
    (good,) = [variant for variant in VARIANTS if variant.name == "rows.parquet"]
    path = good.write(tmp_path)
    content = path.read_bytes()
    for end in (8, len(content) // 2, len(content) - 20):
        path.write_bytes(content[:end] + content[-8:])
        with pytest.raises(ValueError, match="rows.parquet is not a valid Parquet file"):
            read_rows(path)
    with pytest.raises(FileNotFoundError):
        read_rows(tmp_path / "none.parquet")


def test_history_and_text_of_other_types(read):
    with pytest.raises(ValueError, match="`history` is no list of questions with answers"):
        read({"question": "Red?", "answer": "1", "history": 3})
    with pytest.raises(ValueError, match="`text` is list, not a string"):
        read({"text": ["a"]})
    with pytest.raises(ValueError, match="its text is not valid Unicode: it has half of a surrogate pair"):
        read({"question": "\ud800", "answer": "1"})


def test_bad_records_are_left_out_where_that_is_asked_for(read):
    records = [
        GOOD,
        conversation(GPT, HUMAN, id="b"),
        conversation(say("human", "<image>\n\ud800?"), GPT, id="c"),
        conversation(HUMAN, id="d"),  # without an answer, which the others have
        conversation(HUMAN, GPT, image="no.png", id="e"),
        conversation(HUMAN, GPT, say("human", "Blue?"), say("gpt", "2"), id="f"),
    ]
    with pytest.raises(ValueError, match=r"(?s)3 of 6 records cannot be used:.*`--skip-bad`"):
        read(*records, skip_missing=True)
    said = []
    rows = read(*records, skip_missing=True, skip_bad=True, say=said.append)
    assert rows["id"] == ["a", "f/0", "f/1"]
    assert said[0].endswith("6 records, 3 rows, 3 images")
    assert said[2].startswith("left out: 3 of 6 records cannot be used:\n  record 1, id='b': message 0")
    assert "half of a surrogate pair" in said[2]
    assert "it has no answer, and others have" in said[2]
    with pytest.raises(ValueError, match="1 of 1 record cannot be used"):
        read(records[1], skip_bad=True)
