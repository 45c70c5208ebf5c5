"""How alike views are, and answers in their words, against counts made by hand; and how they are printed."""

import re

import pytest
from datasets import Dataset, Features, Image, List, Value

from tests.testing.serving import said, serving
from tests.testing.tiny import PAIR_FEATURES, picture
from trl_modality.cli import main
from trl_modality.cli.text_tables import likeness_text
from trl_modality.data.likeness import Likeness, has_word


FEATURES = Features({**PAIR_FEATURES, "answer": Value("string"), "text_rich_images": List(Image())})


def row(rich: str, plain: str, answer: str | None = None, **extra) -> dict:
    return {
        "id": None,
        "images": [picture(len(plain))],
        "text_rich_prompt": [{"role": "user", "content": rich}],
        "vision_centric_prompt": [{"role": "user", "content": plain}],
        "completion": [{"role": "assistant", "content": "so"}],
        "answer": answer,
        "text_rich_images": None,
        **extra,
    }


ROWS = [
    row("How many?", "How many?", "4"),
    row("red is 3, blue is 4. How many?", "How many?", "4"),
    row("red is 3, blue is 44. How many?", "How many? A: 4", "4", text_rich_images=[]),
    row("what?", "what?", None, text_rich_images=[]),
]


def test_counts():
    likeness = Likeness()
    for each in ROWS[:2]:
        likeness.count(each)
    later = Likeness()
    for each in ROWS[2:]:
        later.count(each)
    likeness.add(later)
    assert (likeness.pairs, likeness.same_views, likeness.same_prompts, likeness.words_alone) == (4, 1, 2, 2)
    assert likeness.overlaps == [100, 25, 25, 100]
    assert (likeness.with_answer, likeness.answer_in_text_rich, likeness.answer_in_vision_centric) == (3, 1, 1)
    lines = "\n".join(likeness_text(likeness))
    assert "the same, prompt and images: 1 (25.0 %), from which nothing is learnt" in lines
    assert "the other has too: 100 % (median), 100 % (95 %)" in lines
    assert "stand in the text_rich prompt, word for word: 1 (33.3 %)" in lines


def test_a_letter_stands_for_its_option():
    """Not for the article in nearly every question."""
    likeness = Likeness()
    options = "Which is a colour? (A) red (B) blue"
    likeness.count(row(f"It is blue. {options}", "Which is a colour?", "A", choices=["red", "blue"]))
    likeness.count(row(f"It is A. {options}", "A or B?", "A", choices=["A", "B"]))
    assert (likeness.with_answer, likeness.answer_in_text_rich, likeness.answer_in_vision_centric) == (2, 2, 1)
    likeness.count(row("It is a dog", "What is it?", "B", choices=["a", "cat"]))
    assert (likeness.with_answer, likeness.answer_in_text_rich) == (3, 2)


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("it is 12 cm", "12", True),
        ("(12)", "12", True),
        ("12.", "12", True),
        ("120", "12", False),
        ("3.12", "12", False),
        ("1,120 and 1,12", "12", False),
        ("12.5", "12", False),
        ("The Blue Bar", "blue bar", True),
        ("blueish", "blue", False),
        ("x+y (a)", "x+y", True),
        ("costs $4.50 now", "$4.50", True),
        ("tue | 1,200", "1200", True),
        ("tue | 12000", "1200", False),
        ("mon=1,tue=4", "4", True),
    ],
)
def test_an_answer_stands_as_a_whole(text, answer, found):
    assert has_word(text, answer) is found


def test_stats_prints_them_and_what_a_model_answers_without_pictures(tmp_path, capsys):
    Dataset.from_list(ROWS[:3], features=FEATURES).to_parquet(tmp_path / "pairs" / "train.parquet")
    seen = []

    def answer(body, asked):
        seen.append(str(body))
        return said("Answer: 4" if "blue" in str(body) else "Answer: 9")

    with serving(answer) as (server, _):
        url = f"http://127.0.0.1:{server.server_port}/v1"
        words = ["data", "stats", str(tmp_path / "pairs"), "--model", "any", "--server", url]
        words += ["--output", str(tmp_path / "answers")]
        assert main(words) == 0
        asked = len(seen)
        assert main(words) == 0
    assert len(seen) == asked == 6  # the answers were kept
    out = capsys.readouterr().out
    assert not any("image_url" in each for each in seen)
    assert "pairs whose text_rich view is words alone: 1 (33.3 %)" in out
    assert "answered rightly without a picture by any, of 3 pairs" in out
    assert re.search(r"from the question alone: 0 \(0.0 %\), 95 % interval 0.0 to 56.\d", out)
    assert "from the words of the text_rich view alone: 2 (66.7 %)" in out


def test_stats_of_rows_without_pairs_say_what_was_found(tmp_path, capsys):
    Dataset.from_dict({"question": ["a?"], "answer": ["1"]}).to_parquet(tmp_path / "rows" / "train.parquet")
    assert main(["data", "stats", str(tmp_path / "rows")]) == 0
    out = capsys.readouterr().out
    assert "1 row, 0 pairs" in out
    assert "found question, answer" in out


def test_a_server_without_its_model_is_refused(tmp_path, capsys):
    assert main(["data", "stats", str(tmp_path), "--server", "http://localhost:1"]) == 2
    assert "name it with `--model`" in capsys.readouterr().err
    assert main(["data", "stats", str(tmp_path), "--model", "m", "--deadline", "3"]) == 2
    assert "`--deadline` is for answers of a `--server`" in capsys.readouterr().err
