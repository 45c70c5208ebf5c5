"""Whatever a model writes is graded, quickly. The long run is `benchmarks/fuzz_grading.py`."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_modality.evaluation.grading.answers import MAX_TEXT, tail_of
from trl_modality.evaluation.grading.grader import Grader
from trl_modality.evaluation.grading.normalize import clean, parse_quantity


PARTS = st.sampled_from(
    [
        *("\\boxed{", "}", "\\frac{1}{2}", "\\text{", "answer is "),
        *("Answer:", "#### ", "**", "$", "%", "=", ";", "\n"),
        *("1,234", "-", "9**9", "1e999", ".5", "3:30", "(B)", "A"),
        *("not ", " or ", "\x00", "\ud800", "\u202e", "½", "−"),
        *(" cm", "/", "^", "{", "(", "yes", "Monday"),
    ]
)
TEXTS = st.one_of(st.text(st.characters(), max_size=200), st.lists(PARTS, max_size=40).map("".join))


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.sampled_from(["8", "1/2", "Monday", "3:30", "B", r"2\sqrt{3}", "5 cm"]))
def test_any_text_is_graded(text, expected):
    grade = Grader(tolerance=0.01)(text, expected)
    assert grade.is_correct == (grade.how in ("words", "number", "choice"))
    assert Grader()(text, "Monday", ["Sunday", "Monday"]).how in ("choice", "wrong", "none")


@settings(max_examples=300, deadline=None)
@given(st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=1000))
def test_numbers_survive_their_forms(value):
    assert parse_quantity(str(value)).value == value
    latex = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    assert parse_quantity(clean(latex).strip()).value == value
    assert Grader()(f"so it is {value}", str(value)).is_correct
    assert Grader()(rf"\boxed{{{latex}}}", str(value)).is_correct
    assert not Grader()(f"The answer is {value}", str(value + 1)).is_correct
    if value.denominator == 1:
        assert Grader()(f"The answer is {value.numerator:,} dollars.", str(value)).is_correct


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_cleaning_settles(text):
    # A wrapper inside three others is opened by the next cleaning only: beyond that, once is enough
    for _ in range(12):
        text = clean(text)
    assert clean(text) == text


HOSTILE = [
    *("(", "\\boxed{", "{", "1,234", "1", "9 ", "1/", "answer is "),
    *("Answer:", "#### ", "**a", "*`", '."', "- ", "$", "="),
    *("\\frac{1}{", "\\text{", "\\frac{1}{2}", " or 5", "1e9"),
    *("^{9", "3:30", "~", "\\left", "(A) ", "A ", "a.", " ", "\n"),
    *(";", "not ", "answer to ", "\ufdfa", "½", "\u202e", "<think>", "answer (", "option ", "5 m ", "½½", "-", "€"),
    *("A, ", "(A), ", "three ", "with 1 ", "1+1=2, ", " in ", "A since "),
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_time_does_not_grow_with_the_square(unit):
    text = unit * (2 * MAX_TEXT // len(unit))
    grader = Grader()
    start = time.process_time()
    grader(text, "8")
    grader(text, "Monday")
    grader(text, "Monday", ["Sunday", "Monday", "8"])
    grader(text, "5", ["8", "5"])
    assert time.process_time() - start < 1.5
    assert len(tail_of(text)) <= MAX_TEXT
