"""`trl-modality data render`: a folder of pairs in one line; the same bytes however often it is killed on the way."""

import json
import os
import random
import signal
import sys
from pathlib import Path

import pytest
from datasets import load_dataset

from tests.testing.interrupts import ALLOWED, interrupted
from trl_modality.cli import main
from trl_modality.data.ocr import OcrReader
from trl_modality.data.rendering import chunks
from trl_modality.data.rows import PairRows
from trl_modality.views import validate_pair


PACKAGE = str(Path(chunks.__file__).resolve().parents[2])
POINTS = 20


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def file(tmp_path):
    rows = [{"question": f"Ann has {i} pens. How many?", "answer": f"She has {i}.\n#### {i}"} for i in range(9)]
    path = tmp_path / "gsm8k.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_gsm8k_in_one_line(file, tmp_path, capsys):
    out = tmp_path / "pairs"
    words = ["data", "render", str(file), "--out", str(out), "--split", "test[:6]", "--style", "varied", "width=400"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("test: 6 pairs\nwrote ")
    assert set(files(out)) == {"README.md", "contact_sheet.png", "data/test-00000-of-00001.parquet"}
    pairs = load_dataset(str(out), split="test")
    for index in range(6):
        validate_pair(PairRows(pairs)[index])
    assert pairs[3]["images"][0].width == 400
    card = (out / "README.md").read_text()
    assert "The question is drawn, with its choices; both views show it." in card
    assert "width=400, max_height=896, square=False, sizes=(16, 18, 20, 22, 24)" in card
    assert "license: unknown" in card


def test_pictures_that_are_not_read_are_named(tmp_path, capsys):
    (tmp_path / "vqa.csv").write_text("image,question,answer\n0.png,How many bars?,3\n")
    assert main(["data", "render", str(tmp_path / "vqa.csv"), "--out", str(tmp_path / "out")]) == 0
    said = "train: 1 pair\n`image` is not read: the pairs have pictures of words alone. Of pictures and questions, "
    assert capsys.readouterr().out.startswith(said)
    assert "| note | `image` is not read" in (tmp_path / "out" / "README.md").read_text()


def test_what_was_not_as_asked_is_said(file, tmp_path, capsys):
    with file.open("a") as rows:
        for question in ("m" * 60, "鿿", "שלום?", " ".join(["words"] * 120)):
            rows.write("\n" + json.dumps({"question": question, "answer": "1"}))
    words = ["data", "render", str(file), "--out", str(tmp_path / "out"), "--style", "faces=times", "max_height=160"]
    assert main([*words]) == 2
    assert "row 9: the question cannot become a picture: it does not fit" in capsys.readouterr().err
    assert main([*words, "--bad-rows", "skip"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "train: 10 pairs",
        "1 pair in DejaVuSans.ttf, where the typeface asked for lacks characters",
        lines[2],
    ]
    assert lines[2].startswith("2 rows left out (does not fit); the first: row 9: the question cannot")
    assert lines[3].startswith("1 row left out (characters without a glyph); the first: row 10: ")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| note | 2 rows left out (does not fit); the first: row 9" in card


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--style", "big"], "no style 'big'; there is clean, varied, scan"),
        (["--columns", "question"], "'question' is no OURS=FIELD"),
        (["--columns", "question=q"], "no column 'q' for the question; there is question, answer"),
        (["--what", "context"], "no column for the context"),
        (["--share", "2"], "`share` must be above 0 and below 1"),
    ],
)
def test_wrong_words(file, tmp_path, words, message, capsys):
    assert main(["data", "render", str(file), "--out", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty(file, tmp_path, capsys):
    assert main(["data", "render", str(file), "--out", str(tmp_path)]) == 2
    assert "is not an empty folder" in capsys.readouterr().err


def test_the_ocr_check_is_said(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(OcrReader, "__init__", lambda self: None)
    monkeypatch.setattr(OcrReader, "read", lambda self, image: "Ann has pens.")
    assert main(["data", "render", str(file), "--out", str(tmp_path / "out"), "--ocr-check", "3"]) == 0
    assert "OCR finds 55.0 % of 60 characters in 3 pictures; the least in row 0, 55.0 %" in capsys.readouterr().out


def in_a_child(words, point, way):
    """Run a command in a forked process that is killed, or interrupted, at a line of the package by its number.

    Returns the exit code, -9 for a kill. With no point: the number of lines that it runs.
    """
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        with os.fdopen(read) as pipe:
            told = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return int(told) if point is None else code
    lines = 0

    def trace(frame, event, argument):
        nonlocal lines
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        lines += event == "line"
        if lines == point:
            if way == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            lines += 1
            raise KeyboardInterrupt
        return trace

    code = 99
    try:
        sys.settrace(trace)
        code = main(words)
    except KeyboardInterrupt:
        code = 130  # before the command line has set up its answer to it
    finally:
        sys.settrace(None)
        os.write(write, str(lines).encode())
        os._exit(code)


@pytest.mark.slow
def test_interrupted_at_any_line_it_goes_on_to_the_same_bytes(file, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "ROWS", 2)
    whole, out = tmp_path / "whole", tmp_path / "out"

    def words(folder):
        return ["data", "render", str(file), "--out", str(folder), "--style", "scan"]

    lines = in_a_child(words(whole), None, "")  # also fills the cache of `datasets` with the file
    assert lines > 2000
    expected = files(whole)
    draw = random.Random(0)
    for number in range(POINTS):
        way, point = ("kill", "interrupt")[number % 2], draw.randrange(lines)
        code = in_a_child(words(out), point, way)
        assert code == (-9 if way == "kill" else 130), (point, way)
        again = in_a_child(words(out), point // 2, "kill")  # and once more, on the way of going on
        assert again in (-9, 0, 2)
        if again != 0:
            code = main(words(out))
            assert code == 0 or set(files(out)) == set(expected)  # it was whole already
        found = files(out)
        assert {name: data.replace(b"/out", b"/whole") for name, data in found.items()} == expected, (point, way)
        for path in sorted(out.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.slow
@pytest.mark.xdist_group("interrupts")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c(tmp_path, workers):
    rows = [{"question": f"Ann has {i} pens. " * 20, "answer": f"#### {i}"} for i in range(4000)]
    path, out = tmp_path / "many.jsonl", tmp_path / "out"
    path.write_text("\n".join(map(json.dumps, rows)))
    words = ["data", "render", str(path), "--out", str(out), "--num-workers", workers]
    ended = interrupted(words, lambda: len(list(out.glob(".unfinished/*.arrow"))) >= 2, whole_group=True)
    assert ended.code == 130
    assert ended.seconds < ALLOWED
    (line,) = [line for line in ended.said.splitlines() if "interrupted" in line]
    assert f"interrupted: what is rendered is kept in {out}/.unfinished. Go on with: trl-modality data render" in line
    assert "Traceback" not in ended.said
