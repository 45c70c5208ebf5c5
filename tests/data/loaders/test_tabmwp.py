"""TabMWP in its official layout, and the real problems where their folder is known."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from trl_modality.data import make_pairs
from trl_modality.data.loaders import LOADERS, load_tabmwp
from trl_modality.data.rows import PairRows
from trl_modality.evaluation import Grader
from trl_modality.views import validate_pair


FREE = {
    "question": "How many more games were won in 2015 than in 2014?",
    "choices": None,
    "answer": "9",
    "unit": "games",
    "table_title": "Games won",
    "table": "Year | Games\n2014 | 8\n2015 | 17",
    "solution": "17 - 8 = 9.\nThe answer is 9.",
    "ques_type": "free_text",
    "ans_type": "integer_number",
    "split": "dev",
}
CHOICE = {
    **FREE,
    "question": "Is the function linear?",
    "choices": ["yes", "no"],
    "answer": "no",
    "unit": None,
    "table_title": None,
    "ans_type": "boolean_text",
    "split": "test",
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tables").mkdir()
    for name in ("7", "12"):
        Image.new("RGB", (20, 10)).save(tmp_path / "tables" / f"{name}.png")
    (tmp_path / "problems_dev1k.json").write_text(json.dumps({"7": FREE, "12": CHOICE}))
    return tmp_path


def test_views_and_completion(folder):
    free, choice = load_tabmwp(folder, "dev1k")
    question = "How many more games were won in 2015 than in 2014?\n(Unit: games)"
    assert free["vision_centric_prompt"] == [{"role": "user", "content": question}]
    assert free["text_rich_prompt"][0]["content"] == f"Games won\nYear | Games\n2014 | 8\n2015 | 17\n{question}"
    assert free["completion"] == [{"role": "assistant", "content": "17 - 8 = 9.\nThe answer is 9.\nAnswer: 9"}]
    assert (free["id"], free["answer"], free["category"]) == ("tabmwp-7", "9", "integer_number")
    assert free["images"][0].size == (20, 10)
    assert choice["vision_centric_prompt"][0]["content"] == "Is the function linear?\nOptions: (A) yes (B) no"
    assert choice["text_rich_prompt"][0]["content"].startswith("Year | Games\n")
    assert choice["answer"] == "no"
    assert (free["choices"], choice["choices"]) == (None, ["yes", "no"])


@pytest.mark.parametrize("says", ["B", "no", "(B) no"])
@pytest.mark.parametrize("again", [False, True], ids=["loader", "make_pairs"])
def test_choices_are_graded_by_letter_and_by_text(folder, says, again):
    pairs = load_tabmwp(folder, "dev1k")
    if again:
        columns = {"text_rich": "text_rich_prompt", "vision_centric": "vision_centric_prompt"}
        pairs = make_pairs(pairs, **columns, completion="completion", answer="answer", choices="choices")
    row = pairs[1]
    assert Grader()(f"Answer: {says}", row["answer"], row["choices"]).is_correct
    assert not Grader()("Answer: A", row["answer"], row["choices"]).is_correct


def test_sets_without_choices_have_no_such_column(folder):
    (folder / "problems_dev1k.json").write_text(json.dumps({"7": FREE}))
    assert "choices" not in load_tabmwp(folder, "dev1k").column_names


def test_one_file_of_problems_is_read_by_split(folder):
    (folder / "problems_dev1k.json").rename(folder / "problems.json")
    assert load_tabmwp(folder, "dev1k")["id"] == ["tabmwp-7"]
    assert load_tabmwp(folder, "test")["id"] == ["tabmwp-12"]
    with pytest.raises(ValueError, match="no problem of the split 'train'"):
        load_tabmwp(folder, "train")


def test_what_is_missing_is_named(folder):
    with pytest.raises(FileNotFoundError, match=r"problems_train.json. TabMWP is laid out as .*github.com/lupantech"):
        load_tabmwp(folder, "train")
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere. TabMWP is laid out as"):
        load_tabmwp(folder / "nowhere")
    with pytest.raises(ValueError, match="`split` must be one of train, dev, test, dev1k, test1k, got 'val'"):
        load_tabmwp(folder, "val")
    (folder / "tables" / "12.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"12.png. TabMWP is laid out as"):
        load_tabmwp(folder, "dev1k")
    (folder / "problems_dev1k.json").write_text(json.dumps({"7": {**FREE, "table": None}}))
    with pytest.raises(ValueError, match="problem '7' of TabMWP has no `table`"):
        load_tabmwp(folder, "dev1k")
    (folder / "problems_dev1k.json").write_text("[1]")
    with pytest.raises(ValueError, match="does not hold problems by their ids"):
        load_tabmwp(folder, "dev1k")
    (folder / "problems_dev1k.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        load_tabmwp(folder, "dev1k")


@pytest.mark.skipif("TRL_MODALITY_TABMWP" not in os.environ, reason="TRL_MODALITY_TABMWP names no folder of TabMWP")
def test_real_problems():
    folder = Path(os.environ["TRL_MODALITY_TABMWP"])
    pairs = LOADERS["tabmwp"].load(folder, "dev1k")
    assert len(pairs) == len(set(pairs["id"])) == 1000
    rows = PairRows(pairs)
    for index in range(len(rows)):
        row = rows[index]
        validate_pair(row)
        texts = {name: row[name][0]["content"] for name in ("text_rich_prompt", "vision_centric_prompt", "completion")}
        assert texts["text_rich_prompt"].endswith(texts["vision_centric_prompt"])
        assert len(texts["text_rich_prompt"]) > len(texts["vision_centric_prompt"])
        assert texts["completion"].endswith(f"\nAnswer: {row['answer']}")
        for place, choice in enumerate(row["choices"] or ()):  # by letter, by text, by both
            for says in (chr(65 + place), choice, f"({chr(65 + place)}) {choice}"):
                is_right = Grader()(f"Answer: {says}", row["answer"], row["choices"]).is_correct
                assert is_right == (choice == row["answer"]), (row["id"], says)
    assert all(image.size[0] > 50 for row in pairs.select(range(0, 1000, 100)) for image in row["images"])
