"""`trl-modality data`: folders that read back, the same for the same command; rows as text; counts as text."""

import json
import shutil
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset
from PIL import Image

from tests.testing.tiny import PAIR_FEATURES, pair_dataset, pair_row
from trl_modality.cli import main
from trl_modality.cli.data_make import _move, parse_look
from trl_modality.cli.data_show import row_text
from trl_modality.data.rows import PairRows
from trl_modality.problems.render_style import RenderStyle
from trl_modality.views import validate_pair


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


MAKE = ["--generators", "bar", "table", "--count", "6", "--test-count", "3", "--seed", "4", "--look", "image_size=224"]


def test_make_from_generators(tmp_path, capsys):
    out = tmp_path / "made"
    assert main(["data", "make", str(out), *MAKE]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("train: 6 pairs\ntest: 3 pairs\nwrote ")
    read = load_dataset(str(out))
    assert {name: len(split) for name, split in read.items()} == {"train": 6, "test": 3}
    for split in read.values():
        for index in range(len(split)):
            validate_pair(PairRows(split)[index])
    assert len({name for split in read.values() for name in split["id"]}) == 9
    assert read["train"][0]["images"][0].size == (224, 224)
    card = (out / "README.md").read_text()
    assert f"trl-modality data make {out} {' '.join(MAKE)}" in card
    assert "bar, table with seed 4 and RenderStyle(image_size=224" in card
    assert "license: cc0-1.0" in card
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width > 208


def test_the_same_command_makes_the_same_files(tmp_path):
    for name in ("a", "b"):
        assert main(["data", "make", str(tmp_path / name), *MAKE]) == 0
    for file in ("data/train-00000-of-00001.parquet", "contact_sheet.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_views_as_asked_for(tmp_path):
    ratios = ["--text-rich", "text_lite", "--vision-centric", "1"]
    assert main(["data", "make", str(tmp_path / "out"), *MAKE, *ratios]) == 0
    row = load_dataset(str(tmp_path / "out"), split="train")[0]
    assert row["vision_centric_prompt"][0]["content"] == "Answer the question in the image."
    assert row["vision_centric_images"][0].size == (224, 224)


def test_make_from_a_real_set(tmp_path, capsys):
    problem = {"question": "q?", "choices": None, "answer": "3", "unit": None, "table": "a | 3", "ans_type": "int"}
    (tmp_path / "set" / "tables").mkdir(parents=True)
    for split in ("dev1k", "test1k"):
        (tmp_path / "set" / f"problems_{split}.json").write_text(json.dumps({"1": problem}))
    Image.new("RGB", (20, 10)).save(tmp_path / "set" / "tables" / "1.png")
    folder, out = str(tmp_path / "set"), str(tmp_path / "out")
    assert main(["data", "make", out, "--from", "tabmwp", "--folder", folder, "--split", "dev1k", "test1k"]) == 0
    (tmp_path / "set" / "tables" / "1.png").unlink()
    read = load_dataset(out)
    assert read["test1k"][0]["images"][0].size == (20, 10)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: cc-by-nc-sa-4.0" in card
    assert "https://github.com/lupantech/PromptPG (arXiv 2209.14610)" in card


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--generators", "bar"], "needs `--count` of at least 1"),
        (["--generators", "bar", "--count", "0"], "needs `--count` of at least 1"),
        (["--generators", "bars", "--count", "2"], "'bars'"),
        (["--generators", "bar", "--count", "2", "--folder", "x"], "are for `--from`"),
        (["--generators", "bar", "--count", "2", "--look", "size=3"], "no field 'size'; there is image_size, "),
        (["--generators", "bar", "--count", "2", "--look", "marks=few"], "`marks` must be a whole number, got 'few'"),
        (["--generators", "bar", "--count", "2", "--text-rich", "some"], "text_dominant"),
        (["--from", "tabwmp", "--folder", "x"], "`--from` must be one of tabmwp, geometry3k, pgps9k, mathverse"),
        (["--from", "tabmwp", "--split", "dev"], "needs `--folder`; the set is at https://github.com"),
        (["--from", "tabmwp", "--folder", "x"], "needs `--split`: of train, dev"),
        (["--from", "tabmwp", "--folder", "x", "--count", "3"], "are for `--generators`"),
        (["--from", "mathverse", "--folder", "/nowhere"], "no folder /nowhere. MathVerse is laid out as"),
    ],
)
def test_make_says_what_is_wrong(words, message, tmp_path, capsys):
    assert main(["data", "make", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("trl_modality.problems.generate.generate_pairs", None)  # it is told before the work
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["data", "make", str(tmp_path), *MAKE]) == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_look():
    assert parse_look([]) == RenderStyle()
    assert parse_look(["marks=4", "label_size=20"]) == RenderStyle(marks=4, label_size=20)


def test_show(tmp_path, capsys):
    rows = [{**pair_row(0), "answer": "7"}, pair_row(1)]
    Dataset.from_list([{**row, "answer": row.get("answer")} for row in rows]).cast_column(
        "images", PAIR_FEATURES["images"]
    ).to_parquet(tmp_path / "pairs" / "dev.parquet")
    sheet = tmp_path / "sheet.png"
    assert main(["data", "show", str(tmp_path / "pairs"), "--out", str(sheet)]) == 0
    printed = capsys.readouterr().out
    first, second = printed.split("\n\n")[:2]
    question = rows[0]["vision_centric_prompt"][0]["content"]
    assert first.startswith("row 0, id='pair-0'; images 32 x 32\n  text_rich_prompt\n")
    assert f"\n  vision_centric_prompt\n    {question}\n" in first
    assert first.endswith("\n  answer\n    7")
    assert "answer" not in second
    with Image.open(sheet) as opened:
        assert opened.width > 64
    assert main(["data", "show", str(tmp_path / "pairs"), "--rows", "1"]) == 0
    assert capsys.readouterr().out.startswith("row 1, id='pair-1'")
    assert main(["data", "show", str(tmp_path / "pairs"), "--rows", "2"]) == 2
    assert "`--rows`: no row 2; the dataset has rows 0 to 1" in capsys.readouterr().err


def test_show_says_who_speaks():
    turns = [("system", "Be brief."), ("user", "Red?"), ("assistant", "No."), ("user", "Blue?")]
    prompt = [{"role": role, "content": text} for role, text in turns]
    prompt[1]["content"] = [{"type": "text", "text": "Is "}, {"type": "image"}, {"type": "text", "text": " red?"}]
    shown = row_text({"prompt": prompt, "completion": [{"role": "assistant", "content": "Yes."}]})
    assert "\n    system: Be brief.\n    user: Is <image> red?\n    assistant: No.\n    user: Blue?\n" in shown
    assert shown.endswith("\n  completion\n    Yes.")


def test_splits(tmp_path, capsys):
    for name in ("dev", "test"):
        pair_dataset(2 if name == "dev" else 5).to_parquet(tmp_path / "pairs" / f"{name}.parquet")
    assert main(["data", "stats", str(tmp_path / "pairs")]) == 2
    assert "has the splits validation, test; say which one" in capsys.readouterr().err
    assert main(["data", "stats", str(tmp_path / "pairs"), "--split", "test"]) == 0
    assert capsys.readouterr().out.startswith("5 rows, 5 pairs\n")


def test_stats(tmp_path, capsys):
    Dataset.from_list([pair_row(i % 3) for i in range(4)], features=PAIR_FEATURES).to_parquet(
        tmp_path / "pairs" / "train.parquet"
    )
    assert main(["data", "stats", str(tmp_path / "pairs")]) == 0
    printed = capsys.readouterr().out
    assert "4 images, 3 distinct\n" in printed
    assert "pairs without `answer`: 4 (100.0 %)" in printed
    assert "same question and images as an earlier row: 1 (25.0 %)\n  row 3 as row 0\n" in printed
    assert "same `id` as an earlier row: 1 (25.0 %)\n  row 3 as row 0\n" in printed


def test_files_are_moved_all_or_none(tmp_path, monkeypatch):
    """Where another command has ended between the look into the folder and the move, or Ctrl-C comes in between."""
    folder = tmp_path / ".unfinished-a"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("mine")
    rename = Path.rename

    def others_first(path, target):
        if path == folder / "data":
            (target / "theirs").mkdir(parents=True)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", others_first)
    with pytest.raises(OSError, match="not empty"):
        _move(folder, tmp_path)
    assert not (tmp_path / "README.md").exists()
    shutil.rmtree(tmp_path / "data")

    def interrupted(path, target):
        if path == folder / "README.md":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _move(folder, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "data"]
    assert list(tmp_path.iterdir()) == [folder]
