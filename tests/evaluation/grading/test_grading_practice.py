"""Answers as models word them, beyond "The answer is X": right ones are found, and several are not one."""

import pytest

from trl_modality.evaluation.grading.answers import number_in
from trl_modality.evaluation.grading.grader import Grader


LENGTHS = ["12 cm", "15 cm", "18 cm", "20 cm"]
grade = Grader()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("There are three.", "3"),
        ("There are three bars with that length.", "3"),
        ("There are Three blue bars.", "3"),
        ("68+56+71+81=276, 276/4=69", "69"),
        ("The ratio is 3:4.", "3:4"),
        ("The highest is Monday with 35 visitors.", "Monday"),
        ("The answer is Monday with 35 visitors.", "Monday"),
        ("The day with the most visitors is Monday (35).", "Monday"),
    ],
)
def test_right_answers(text, expected):
    assert grade(text, expected).is_correct


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("There are two or three.", "3"),
        ("There are thirty three.", "3"),
        ("There are twenty-three.", "3"),
        ("There are three hundred.", "3"),
        ("About three quarters.", "3"),
        ("The second one.", "1"),
        ("Answer: x = 5, x = 6", "6"),
        ("The color is red, blue or green.", "red"),
        ("The ratio is 3:4.", "4"),
    ],
)
def test_wrong_answers(text, expected):
    assert not grade(text, expected).is_correct


@pytest.mark.parametrize(
    ("text", "expected", "choices", "is_right"),
    [
        ("I think it's B, since 3*5=15.", "B", LENGTHS, True),
        ("It must be B because 3*5=15.", "B", LENGTHS, True),
        ("There is a shortage, not a surplus.", "shortage", ["shortage", "surplus"], True),
        ("There is a shortage, not a surplus.", "surplus", ["shortage", "surplus"], False),
        ("Answer: A, B, C, D", "A", LENGTHS, False),
        ("Answer: (A), (B)", "A", LENGTHS, False),
        ("Answer: A/B", "A", LENGTHS, False),
        ("A, B, C and D are all possible", "A", LENGTHS, False),
        ("Answer: B, A is wrong.", "B", LENGTHS, True),
        ("Answer: A, B", "A, B", ["A, B", "C, D"], True),
        ("Answer: B, because A is too short.", "B", LENGTHS, True),
    ],
)
def test_choices(text, expected, choices, is_right):
    assert grade(text, expected, choices).is_correct is is_right


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Altogether I count 9 in a batch", "9"),
        ("Altogether I count 9 in the box", "9"),
        ("It is 9 in", "9 in"),
        ("It is 9 in.", "9 in"),
        ("It is 9 in (about some centimeters)", "9 in"),
    ],
)
def test_in_is_not_always_inches(text, found):
    assert number_in(text) == found


def test_a_counted_thing_in_something_is_not_in_inches():
    assert grade("The cost is 9 in a batch", "$9").is_correct
