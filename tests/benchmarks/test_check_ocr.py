"""The figures about OCR's words: numbers found, why a question fails, and the checks for text of the answer key."""

import sys
from fractions import Fraction
from pathlib import Path

import pytest


sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from check_ocr import (
    FELL_OUT,
    NAMES,
    NUMBERS,
    SIX_NINE,
    Question,
    leak_lines,
    number_counts,
    read_questions,
    swapped,
    why_failed,
)
from datasets import Dataset, DatasetDict


PROBLEM = {
    "question": "How many more plums fell on Monday than on Tuesday?",
    "choices": None,
    "answer": "1,190",
    "table_title": "Plums in 2011",
    "table": "Day | Plums\nMonday | 1,206\nTuesday | 16",
    "solution": "Find the numbers in the table. Now subtract: 1,206 - 16 = 1,190. More plums fell on Monday.",
}


def question(words: str | None) -> Question:
    return Question("7", PROBLEM, words)


def test_counts_the_numbers_that_words_have_and_those_beyond():
    true, found, beyond = number_counts(question("Plumsin 2011\nMonday | 1206\nTuesday 19 | 4"))
    assert (true.total(), found, beyond) == (2, {1206: 1}, {19: 1, 4: 1})
    assert [swapped(Fraction(number)) for number in ("16", "906", "1.5")] == [19, 609, Fraction(3, 2)]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (None, FELL_OUT),
        ("Monday | 1,206\nTuesday | 19", SIX_NINE),
        ("Monday | 1,206", NUMBERS),
        ("Monday | 1,206\nTuesday | 76", NUMBERS),
        ("Monday | 1,206\n| 16", NAMES),
    ],
)
def test_tells_why_a_question_fails(words, reason):
    assert why_failed(question(words)) == reason
    assert not words or not question(words).is_solved(words)


@pytest.mark.parametrize(
    ("added", "found"),
    [
        ("", [0, 0, 0]),
        ("Plums in 2011 | 2011", [0, 0, 0]),
        ("Nowsubtract: 1,206 - 16 =", [1, 0, 0]),
        ("The answer is 12", [0, 1, 0]),
        ("1190", [0, 0, 1]),
        ("Answer: 1,190", [0, 1, 1]),
    ],
)
def test_finds_text_of_the_answer_key(added, found):
    lines, finds_all = leak_lines([question(f"{PROBLEM['table']}\n{added}"), question(None)])
    assert [int(line.split(": ")[1].split()[0]) for line in lines[::2]] == found
    assert finds_all


def test_what_the_true_table_has_is_no_leak():
    told = PROBLEM | {"answer": "16", "solution": "The row of Tuesday is Day Plums Monday 1,206 Tuesday 16."}
    lines, _ = leak_lines([Question("7", told, f"{told['table']}\n16")])
    assert [int(line.split(": ")[1].split()[0]) for line in lines[::2]] == [0, 0, 0]


def test_words_are_the_text_rich_view_without_its_question(tmp_path):
    (tmp_path / "problems.json").write_text('{"7": {"table": "a | 1"}, "8": {"table": "b | 1"}}')
    asked = [{"role": "user", "content": "Which?\n(Unit: m)"}]
    view = [{"role": "user", "content": "a | 1\n\nWhich?\n(Unit: m)"}]
    row = {"id": "tabmwp-7", "text_rich_prompt": view, "vision_centric_prompt": asked}
    facts = str(tmp_path / "facts")
    DatasetDict({"train": Dataset.from_list([row])}).save_to_disk(facts)
    assert [(each.key, each.words) for each in read_questions(tmp_path, facts)] == [("7", "a | 1"), ("8", None)]
    other = row | {"vision_centric_prompt": [{"role": "user", "content": "Who?"}]}
    DatasetDict({"train": Dataset.from_list([other])}).save_to_disk(f"{facts}2")
    with pytest.raises(ValueError, match="tabmwp-7: its text_rich view does not end"):
        read_questions(tmp_path, f"{facts}2")
    with pytest.raises(FileNotFoundError, match="problems_dev1k.json"):
        read_questions(tmp_path / "facts", facts)
