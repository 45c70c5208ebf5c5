"""How much of the letters is found, counted by hand; with RapidOCR, where it is installed, on real pictures."""

from importlib.util import find_spec

import pytest
from datasets import Dataset

from trl_modality.data.rendering.legibility import characters_found, check_legibility, comparable
from trl_modality.data.rendering.pairs import render_pairs
from trl_modality.data.rendering.style import TextRenderStyle


QUESTIONS = ["Ann’s pens: how many?", "A robe takes 2 bolts of blue fiber.", "He pays $80,000 – or 150%."]


@pytest.fixture
def pairs(tmp_path):
    rows = Dataset.from_list([{"question": text, "answer": "1"} for text in QUESTIONS])
    return render_pairs(rows, words=True, work_folder=tmp_path)


def test_what_is_compared():
    assert comparable("Ann’s\n pens – “x”") == 'Ann\'spens-"x"'
    assert comparable("e\u0301") == comparable("é")


@pytest.mark.parametrize(
    ("text", "seen", "found"),
    [
        ("abc", "abc", 3),
        ("abc", "axc", 2),
        ("abc", "", 0),
        ("abc", "xxabcxx", 3),
        ("aab", "baa", 2),
        ("abc", "ABC", 0),
    ],
)
def test_characters_found(text, seen, found):
    assert characters_found(text, seen) == found


def test_shares(pairs):
    seen = iter(["Ann's pens: how many?", "A robe", ""])
    found = check_legibility(pairs, 3, lambda image: next(seen))
    assert found.characters == (18, 28, 21)
    assert found.found == (18, 5, 0)
    assert found.share == 23 / 67
    assert found.worst == (2, 0.0)
    assert found.line() == "OCR finds 34.3 % of 67 characters in 3 pictures; the least in row 2, 0.0 %"


def test_a_sample_is_spread(pairs):
    many = pairs.select([0, 1, 2] * 4)
    assert check_legibility(many, 4, lambda image: "").rows == (0, 3, 6, 9)
    assert check_legibility(many, 99, lambda image: "").rows == tuple(range(12))


def test_what_cannot_be_checked(pairs):
    with pytest.raises(ValueError, match="`sample` must be 1 or more, got 0"):
        check_legibility(pairs, 0)
    with pytest.raises(ValueError, match="no column `words`: render the pairs with `words=True`"):
        check_legibility(pairs.remove_columns("words"), 2)


@pytest.mark.skipif(find_spec("rapidocr_onnxruntime") is not None, reason="it is installed")
def test_the_extra_is_named(pairs):
    with pytest.raises(ImportError, match=r"rapidocr_onnxruntime`, which is not installed: .*trl-modality\[ocr\]"):
        check_legibility(pairs, 2)


@pytest.mark.skipif(find_spec("rapidocr_onnxruntime") is None, reason="needs the extra `ocr`")
@pytest.mark.slow
@pytest.mark.parametrize("face", ["sans", "times", "mono"])
def test_clean_pictures_are_legible(tmp_path, face):
    rows = Dataset.from_list([{"question": " ".join(QUESTIONS), "answer": "1"}])
    drawn = render_pairs(rows, style=TextRenderStyle(faces=(face,)), words=True, work_folder=tmp_path)
    assert check_legibility(drawn, 1).share >= 0.97
