"""`trl-modality data make --from FORM --file FILE`: folders of rows from files as people have them."""

import json
import re

import pytest
from datasets import load_dataset

from tests.testing.foreign_files import VARIANTS, write_images
from tests.testing.tiny import picture
from trl_modality.cli import main
from trl_modality.data.rows import PairRows
from trl_modality.views import validate_pair


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def record(number, question="", **fields):
    said = [{"from": "human", "value": f"<image>\n{question or f'{number} + 1?'}"}, {"from": "gpt", "value": "x"}]
    return {"id": f"q{number}", "image": f"{number}.png", "conversations": said, **fields}


@pytest.fixture
def file(tmp_path):
    """A LLaVA file of ten records with facts, its images in a folder of their own."""
    (tmp_path / "pictures").mkdir()
    for number in range(10):
        picture(number).save(tmp_path / "pictures" / f"{number}.png")
    path = tmp_path / "own.json"
    path.write_text(json.dumps([record(number, ocr=f"grey={number}") for number in range(10)]))
    return path


def test_plain_rows(file, tmp_path, capsys):
    out, root = tmp_path / "out", str(tmp_path / "pictures")
    words = ["--from", "llava", "--file", str(file), "--image-root", root, "--licence", "mit"]
    assert main(["data", "make", str(out), *words]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{file}: LLaVA conversations (llava); 10 records, 10 rows, 10 images"
    assert printed[1:3] == ["fields that are not read: ocr", "train: 10 rows"]
    assert printed[3].startswith("0 pairs: `--columns facts=FIELD` makes pairs of a file")
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "data"], "no sheet of what are no pairs"
    rows = load_dataset(str(out), split="train")
    assert rows.column_names == ["id", "images", "prompt", "completion"]
    assert rows[3]["images"][0].tobytes() == picture(3).tobytes(), "the images are inside"
    card = (out / "README.md").read_text()
    assert "license: mit" in card
    assert re.search(r"Read from `own.json` \(sha256 [0-9a-f]{16}\)\.", card)
    assert "own.json: LLaVA conversations (llava); 10 records" in card
    assert "makes pairs of them" in card


def test_pairs_with_a_test_split(file, tmp_path, capsys):
    out, root = tmp_path / "out", str(tmp_path / "pictures")
    words = ["--file", str(file), "--image-root", root, "--columns", "facts=ocr"]  # its form is recognised
    assert main(["data", "make", str(out), *words, "--test-share", "0.2"]) == 0
    assert "train: 8 pairs\ntest: 2 pairs\n" in capsys.readouterr().out
    read = load_dataset(str(out))
    for split in read.values():
        for index in range(len(split)):
            validate_pair(PairRows(split)[index])
    row = read["test"][0]
    facts = f"grey={row['id'].removeprefix('q')}"
    assert row["text_rich_prompt"][0]["content"] == f"{facts}\n\n{row['vision_centric_prompt'][0]['content']}"
    assert (out / "contact_sheet.png").is_file()
    assert "The 2 test rows have no question and no image of the training rows." in (out / "README.md").read_text()
    assert main(["data", "make", str(tmp_path / "again"), *words, "--test-share", "0.2"]) == 0
    for name in ("train", "test"):
        one, two = (folder / "data" / f"{name}-00000-of-00001.parquet" for folder in (out, tmp_path / "again"))
        assert one.read_bytes() == two.read_bytes(), "the same command writes the same bytes"


def test_files_of_splits(tmp_path, capsys):
    write_images(tmp_path)
    for name, question in (("a", "red?"), ("b", "blue?")):
        (tmp_path / f"{name}.csv").write_text(f"image,question,answer\nred.png,{question},1\n")
    files = [str(tmp_path / "a.csv"), f"test={tmp_path / 'b.csv'}"]
    assert main(["data", "make", str(tmp_path / "out"), "--from", "csv", "--file", *files]) == 0
    read = load_dataset(str(tmp_path / "out"))
    assert {name: rows[0]["prompt"][0]["content"] for name, rows in read.items()} == {"train": "red?", "test": "blue?"}
    (tmp_path / "b.csv").rename(tmp_path / "test.csv")
    (tmp_path / "a.csv").rename(tmp_path / "train.csv")
    assert main(["data", "make", str(tmp_path / "more"), "--from", "csv", "--file", str(tmp_path)]) == 0
    assert set(load_dataset(str(tmp_path / "more"))) == {"train", "test"}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_each_format_becomes_a_folder(variant, tmp_path, capsys):
    file = variant.write(tmp_path / "data")
    words = [f"{ours}={field}" for ours, field in variant.options.get("columns", {}).items()]
    words = ["--from", variant.form, "--file", str(file), *(["--columns", *words] if words else [])]
    assert main(["data", "make", str(tmp_path / "out"), *words]) == 0
    assert len(load_dataset(str(tmp_path / "out"), split="train")) == len(variant.rows)


def test_show_and_stats_of_a_file(file, tmp_path, capsys):
    words = [str(file), "--image-root", str(tmp_path / "pictures")]
    assert main(["data", "show", *words, "--rows", "2"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("row 2, id='q2'; images 32 x 32\n  prompt\n    2 + 1?\n  completion\n    x\n")
    assert main(["data", "show", *words, "--out", str(tmp_path / "sheet.png")]) == 2
    assert "`--out` draws pairs, and none of these rows is one" in capsys.readouterr().err
    assert main(["data", "stats", *words]) == 0
    assert "10 rows, 0 pairs\nfound id, images, prompt, completion. `--columns facts=FIELD`" in capsys.readouterr().out
    assert main(["data", "stats", *words, "--columns", "facts=ocr", "--split", "train[:4]"]) == 0
    assert capsys.readouterr().out.startswith("4 rows, 4 pairs\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "what is it made of? Give `--file`, `--from SET` with `--folder`, or `--generators`"),
        (["--from", "llava"], "`--from llava` needs `--file`"),
        (["--from", "lava", "--file", "x.json"], "`--from lava`: `--file` needs one of auto, pairs, messages, llava"),
        (["--from", "lava"], "`--from` must be one of tabmwp, geometry3k, pgps9k, mathverse, auto, pairs"),
        (["--from", "llava", "--file", "/nowhere.json"], "no file /nowhere.json"),
        (["--from", "llava", "--file", "x.json", "--count", "3"], "are for `--generators`"),
        (["--from", "llava", "--file", "FILE"], "10 images of 10 of 10 records (100.0 %) are not there: '0.png'"),
        (["--from", "llava", "--file", "FILE", "--columns", "facts"], "'facts' is no OURS=FIELD"),
        (["--from", "llava", "--file", "FILE", "--turns", "first"], "`turns` must be one of each, last, all"),
        (["--from", "auto", "--file", "../x=FILE"], "'../x' is no name for a split"),
        (
            ["--generators", "bar", "--count", "2", "--columns", "facts=x"],
            "`--columns` is for rows of a file: `--from",
        ),
        (["--from", "tabmwp", "--folder", "x", "--image-root", "x"], "`--image-root` is for rows of a file"),
        (["--generators", "bar", "--count", "2", "--test-share", "0.1"], "`--generators` has `--test-count`"),
        (["--from", "tabmwp", "--folder", "x", "--file", "FILE"], "`--from tabmwp`: `--file` needs one of auto"),
    ],
)
def test_what_is_wrong_is_named(words, message, file, tmp_path, capsys):
    words = [word.replace("FILE", str(file)) for word in words]
    assert main(["data", "make", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
