"""Files of each format, written by hand after its documentation, become the rows that are expected."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.testing.foreign_files import VARIANTS, Variant, write_images
from tests.testing.tiny import picture
from trl_modality.data.importers import FORMATS, read_rows
from trl_modality.data.rows import PairRows
from trl_modality.views import image_slots, validate_plain


def _expected_prompt(said: Any) -> list[dict]:
    """A prompt as the tables write it: a text, messages, or the parts of one message (`None`: an image)."""
    if isinstance(said, str):
        return [{"role": "user", "content": said}]
    if isinstance(said[0], dict):
        return [_with_parts(message) for message in said]
    parts = [{"type": "image", "text": None} if p is None else {"type": "text", "text": p} for p in said]
    return [{"role": "user", "content": parts}]


def _with_parts(message: dict) -> dict:
    if isinstance(message["content"], str):
        return message
    return {**message, "content": [{"type": kind, "text": text} for kind, text in message["content"]]}


def _text(messages: list[dict]) -> str:
    (message,) = messages
    assert message["role"] == "assistant"
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_variants(variant: Variant, tmp_path):
    said: list[str] = []
    path = variant.write(tmp_path)
    rows = read_rows(path, say=said.append, **variant.options)
    assert f"({variant.form}); " in said[0], "the format is said"
    assert FORMATS[variant.form].title in said[0]
    assert len(rows) == len(variant.rows)
    for index, (prompt, completion, n_images) in enumerate(variant.rows):
        row = PairRows(rows)[index]
        assert row["prompt"] == _expected_prompt(prompt)
        assert (None if completion is None else _text(row["completion"])) == completion
        assert len(row.get("images") or []) == n_images
        if completion is not None:
            validate_plain(row)
    for name, values in variant.columns.items():
        assert rows[name] == values
    assert set(rows.column_names) <= {"images", "prompt", "completion", *variant.columns, "id"}


def test_there_are_enough_variants():
    assert len(VARIANTS) >= 12
    assert {variant.form for variant in VARIANTS} == {"llava", "sharegpt", "messages", "prompt-completion", "csv"}


def test_images_are_those_of_the_file(tmp_path):
    for variant in VARIANTS:
        if variant.name in ("llava.json", "rows.parquet", "qwen_messages.jsonl"):
            rows = read_rows(variant.write(tmp_path))
            for index in range(2):
                assert rows[index]["images"][0].tobytes() == picture(index).tobytes()
    (openai,) = [variant for variant in VARIANTS if variant.name == "openai.jsonl"]
    assert read_rows(openai.write(tmp_path))[0]["images"][0].tobytes() == picture(0).tobytes()


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ("each", [("Red?", "1"), ("Red?|1|Sure?", "Yes.")]),
        ("last", [("Red?|1|Sure?", "Yes.")]),
    ],
)
@pytest.mark.parametrize("facts", [False, True])
def test_turns(turns, expected, facts, tmp_path):
    """Every answer is a row, or the last alone; in both views where there are facts."""
    write_images(tmp_path)
    path = tmp_path / "x.jsonl"
    said_by = (("human", "<image>\nRed?"), ("gpt", "1"), ("human", "Sure?"), ("gpt", "Yes."))
    turns_of_file = [{"from": role, "value": text} for role, text in said_by]
    record = {"id": "a", "image": "red.png", "ocr": "It is red.", "conversations": turns_of_file}
    path.write_text(json.dumps(record))
    said: list[str] = []
    rows = read_rows(path, turns=turns, columns={"facts": "ocr"} if facts else None, say=said.append)
    names = ("text_rich_prompt", "vision_centric_prompt") if facts else ("prompt",)
    for row, (prompt, completion) in zip(rows, expected, strict=True):
        texts = ["|".join(message["content"] for message in row[name]) for name in names]
        assert texts == ([f"It is red.\n\n{prompt}", prompt] if facts else [prompt])
        assert _text(row["completion"]) == completion
    assert any("not learnt: 1 answer, which no row has" in line for line in said) == (turns == "last")
    assert any("fields that are not read: ocr" in line for line in said) != facts


def test_all_turns_are_one_row(tmp_path):
    write_images(tmp_path)
    said_by = ("system", "Be brief."), ("user", "Red?"), ("assistant", "1"), ("user", "Sure?"), ("assistant", "Yes.")
    messages = [{"role": role, "content": text} for role, text in (*said_by, ("user", "Really?"))]
    (tmp_path / "x.jsonl").write_text(json.dumps({"image": "red.png", "f": "It is red.", "messages": messages}))
    said: list[str] = []
    (row,) = read_rows(tmp_path / "x.jsonl", turns="all", say=said.append)
    assert [message["content"] for message in row["messages"]] == ["Be brief.", "Red?", "1", "Sure?", "Yes."]
    assert set(row) == {"images", "messages"}
    assert "left out: the last question of 1 record, which nobody answers" in said
    (pair,) = read_rows(tmp_path / "x.jsonl", turns="all", columns={"facts": "f"})
    contents = {name: [message["content"] for message in pair[name]] for name in pair if name != "images"}
    assert contents == {
        "text_rich_prompt": ["Be brief.", "It is red.\n\nRed?"],
        "vision_centric_prompt": ["Be brief.", "Red?"],
        "completion": ["1", "Sure?", "Yes."],
    }


def test_an_image_of_a_later_question_is_only_in_the_rows_that_ask_it(tmp_path):
    write_images(tmp_path)
    (tmp_path / "x.jsonl").write_text(
        '{"images": ["red.png", "blue.png"], "messages": [{"role": "user", "content": "<image>Red?"}, {"role": '
        '"assistant", "content": "1"}, {"role": "user", "content": "And <image>?"}, {"role": "assistant", "content": '
        '"2"}]}'
    )
    first, second = read_rows(tmp_path / "x.jsonl")
    assert [len(row["images"]) for row in (first, second)] == [1, 2]
    assert first["prompt"] == _expected_prompt([None, "Red?"])
    assert second["prompt"][2] == _expected_prompt([None, "And ?"])[0]


def test_files_of_pairs_and_of_text(tmp_path):
    write_images(tmp_path)
    (tmp_path / "pairs.jsonl").write_text(
        '{"id": 3, "images": ["red.png"], "text_rich_prompt": "It is red. Red?", "vision_centric_prompt": "Red?", '
        '"completion": "yes", "answer": "yes", "choices": "[\\"yes\\", \\"no\\"]", "vision_centric_images": '
        '["blue.png"]}\n'
    )
    (pair,) = read_rows(tmp_path / "pairs.jsonl")
    assert (pair["id"], pair["answer"], pair["choices"]) == ("3", "yes", ["yes", "no"])
    assert pair["text_rich_prompt"] == [{"role": "user", "content": "It is red. Red?"}]
    assert pair["vision_centric_images"][0].tobytes() == picture(1).tobytes()
    (tmp_path / "text.jsonl").write_text('{"text": "1 + 1"}\n{"text": "2 + 2"}\n')
    assert read_rows(tmp_path / "text.jsonl").to_list() == [{"text": "1 + 1"}, {"text": "2 + 2"}]


def test_images_in_the_messages_and_in_a_column_too_are_shown_once(tmp_path):
    write_images(tmp_path)
    shown = {"type": "image", "image": "red.png"}
    messages = [{"role": "user", "content": [shown, {"type": "text", "text": "Red?"}]}]
    (tmp_path / "x.json").write_text(json.dumps([{"messages": messages, "images": ["red.png"]}]))
    assert len(read_rows(tmp_path / "x.json")[0]["images"]) == 1
    (tmp_path / "x.json").write_text(json.dumps([{"messages": messages, "images": ["blue.png"]}]))
    with pytest.raises(ValueError, match=r"has 0 places for an image beside 1 with one, and the record has 1 image"):
        read_rows(tmp_path / "x.json")


def test_words_without_an_image_stay_as_they_are(tmp_path):
    write_images(tmp_path)
    turns = [
        {"from": "system", "value": "<image>\nBe brief. "},
        {"from": "human", "value": "Write it. "},
        {"from": "gpt", "value": "    return x\n"},
        {"from": "human", "value": " Again."},
        {"from": "gpt", "value": "\treturn x "},
    ]
    (tmp_path / "x.json").write_text(json.dumps([{"image": "red.png", "conversations": turns}]))
    rows = read_rows(tmp_path / "x.json")
    assert [_text(row["completion"]) for row in rows] == ["    return x\n", "\treturn x "]
    told = ["Be brief.", "Write it.", "    return x\n", " Again."]
    assert [message["content"] for message in rows[1]["prompt"]] == told


def test_a_system_turn_that_is_an_image_alone_is_part_of_the_question(tmp_path):
    write_images(tmp_path)
    said = (("system", "<image>"), ("human", "Red?"), ("gpt", "1"))
    turns = [{"from": role, "value": text} for role, text in said]
    (tmp_path / "x.json").write_text(json.dumps([{"image": "red.png", "conversations": turns}]))
    (row,) = read_rows(tmp_path / "x.json")
    assert row["prompt"] == _expected_prompt("Red?")
    assert len(row["images"]) == 1


def test_the_final_answer_behind_the_reasoning(tmp_path):
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps({"question": "8 * 9?", "answer": "8 * 9 = 72.\n#### 72"}))
    (row,) = read_rows(tmp_path / "gsm8k.jsonl")
    assert (row["answer"], _text(row["completion"])) == ("72", "8 * 9 = 72.\n#### 72")


@pytest.mark.parametrize("text", ['[{"text": "a"},{"text":"b"}]', ' [\n {"text": "a"} ,\r\n\t{"text": "b"}\n]\n '])
def test_lists_are_read_as_json_reads_them(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    assert read_rows(tmp_path / "x.json").to_list() == json.loads(text)


@pytest.mark.parametrize(
    "text", ['[{"text": "a"} {"text": "b"}]', '[{"text": "a"}', '[{"text": "a"}]]', '[{"text": "a"},]']
)
def test_lists_that_are_not_json(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match="x.json is not valid JSON"):
        read_rows(tmp_path / "x.json")


def test_what_a_teacher_sees_of_a_pair(tmp_path):
    """Its prompt, and its images where those are not the pair's; a record may have neither."""
    pair = {"images": ["a.png"], "text_rich_prompt": "F. Q?", "vision_centric_prompt": "Q?", "completion": "A."}
    own = [
        {"teacher_prompt": "Hint. Q?"},
        {"teacher_prompt": "<image>Hint. <image>Q?", "teacher_images": ["b.png", "c.png"]},
        {"teacher_prompt": "Hint. Q?", "teacher_images": []},
        {},
    ]
    for name in "abc":
        picture(0).save(tmp_path / f"{name}.png")
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps({**pair, **each}) for each in own))
    said = []
    rows = PairRows(read_rows(tmp_path / "x.jsonl", say=said.append))
    found = [rows[i] for i in range(4)]
    shown = [row["teacher_images"] and [Path(image["path"]).name for image in row["teacher_images"]] for row in found]
    assert shown == [None, ["b.png", "c.png"], [], None]
    slots = [row["teacher_prompt"] and image_slots(row["teacher_prompt"]) for row in found]
    assert slots == [1, 2, 0, None]
    assert not any("not read" in line for line in said)
