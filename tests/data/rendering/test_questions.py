"""Rows as GSM8K, MMLU and others have them become questions, and questions become views."""

import pytest

from trl_modality.data.rendering.questions import Columns, Question, find_columns, read_question
from trl_modality.data.rendering.views_of_text import split_middle, split_views
from trl_modality.views import PairError


GSM8K = {"question": "How many?\n", "answer": "There are 2*2=<<2*2=4>>4.\nAnd 1,000 more.\n#### 1,004"}
MMLU = {"question": "Which?", "choices": ["up", " down", "B"], "answer": 1, "subject": "abstract_algebra"}


def read(row, needs_context=False, **columns):
    return read_question(row, find_columns(list(row), columns, needs_context=needs_context), "row 7")


def test_gsm8k():
    assert read(GSM8K) == Question(
        "How many?", "There are 2*2=4.\nAnd 1,000 more.\nAnswer: 1004", "1004", None, (), None, None
    )


@pytest.mark.parametrize(
    ("answer", "letter", "text"),
    [(1, "B", "down"), ("A", "A", "up"), ("up", "A", "up"), ("2", "C", "B"), ("B", "C", "B")],
)
def test_mmlu(answer, letter, text):
    """An index, a letter or a text; a text comes first where the choices are letters themselves."""
    question = read({**MMLU, "answer": answer})
    assert (question.completion, question.answer) == (f"Answer: {letter}", text)
    assert question.listed_choices == "A. up\nB. down\nC. B"
    assert question.category == "abstract_algebra"


@pytest.mark.parametrize(
    ("choices", "answer", "text"),
    [
        ({"text": ["up", "down", "left"], "label": ["1", "2", "3"]}, "1", "up"),  # ARC has both kinds of labels
        ({"text": ["up", "down", "left"], "label": ["A", "B", "C"]}, "C", "left"),
        ([1, 2, 3], 2, "2"),  # a number among numbers is no index
        ([10, 20, 30], 2, "30"),
        (["1", "2", "3"], 2, "3"),  # as MMLU on the hub has them
    ],
)
def test_names_of_choices_come_before_indices(choices, answer, text):
    assert read({"question": "q", "choices": choices, "answer": answer}).answer == text


def test_an_instruction_has_its_input():
    """As Alpaca has them: without its input, most instructions cannot be answered."""
    row = {"instruction": "Add the numbers.", "input": "3 and 4", "output": "7"}
    assert read(row).text == "Add the numbers.\n\n3 and 4"
    assert read({**row, "input": ""}).text == read({**row, "input": None}).text == "Add the numbers."
    assert read(row, question="instruction").text == "Add the numbers."
    assert read(row, context="input").text == "Add the numbers."


def test_a_context_that_is_not_drawn_is_told_of_and_may_be_empty(caplog):
    assert read({"question": "q", "answer": "a", "context": None}).context is None
    assert "`context` is the context of questions, and stands in neither view" in caplog.text


def test_other_names_and_functions():
    row = {"problem": "p", "solution": "s \\boxed{3}", "answer": 3, "id": 9}
    assert read(row) == Question("p", "s \\boxed{3}", "3", None, (), "9", None)
    assert read({"q": "p", "a": "x"}, question="q", answer=lambda row: row["a"] * 2).answer == "xx"
    messages = {"prompt": [{"role": "user", "content": "p"}], "completion": [{"role": "assistant", "content": "c"}]}
    assert (read(messages).text, read(messages).completion, read(messages).answer) == ("p", "c", None)


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        (
            ["q", "answer"],
            {},
            r"no column for the question: looked for question, problem.*has q, answer.*question=COL",
        ),
        (["question"], {}, r"no column for the answer: .* `columns` \(`--columns answer=COLUMN`\)"),
        (["question", "answer"], {"answer": "key"}, r"no column 'key' for the answer; there is question, answer"),
        (["question", "answer"], {"reply": "x"}, r"no field 'reply'; there is question, answer, completion"),
    ],
)
def test_columns_that_are_not_there(names, given, message):
    with pytest.raises(ValueError, match=message):
        find_columns(names, given, needs_context=False)


def test_a_context_is_needed_where_it_is_drawn():
    with pytest.raises(ValueError, match="no column for the context: looked for context, passage"):
        find_columns(["question", "answer"], {}, needs_context=True)
    assert find_columns(["question", "answer", "passage"], {}, needs_context=True) == Columns(
        "question", "answer", None, "passage"
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**GSM8K, "question": " "}, r"row 7: `question` is empty\. Fill it in"),
        ({**GSM8K, "question": None}, r"row 7: `question` is empty\. Fill it in"),
        (
            {**GSM8K, "question": 3},
            r"row 7: `question` must be a text, got int\. Name another column for the question",
        ),
        ({**GSM8K, "answer": None}, r"row 7: `answer` is empty"),
        ({**GSM8K, "answer": ["3"]}, r"row 7: `answer` must be a text or a number, got \['3'\]"),
        ({**GSM8K, "answer": "so ####"}, r"row 7: `answer` has nothing after `####`"),
        ({**MMLU, "answer": 3}, r"row 7: `answer` names none of the 3 choices: 3\. Give its index from 0, its letter"),
        ({**MMLU, "answer": None}, r"row 7: `answer` names none of the 3 choices: None"),
        ({**MMLU, "choices": "up"}, r"row 7: `choices` must be a list of 2 to 26 choices, got 'up'"),
        ({**MMLU, "choices": ["up"]}, r"row 7: `choices` must be a list of 2 to 26 choices, got \['up'\]"),
    ],
)
def test_fields_that_cannot_be_used(row, message):
    with pytest.raises(PairError, match=message):
        read(row)


ENDING = 'End with a line "Answer: " and the answer alone.'


def test_the_question_is_drawn():
    views = split_views(read(GSM8K), "question")
    assert views.drawn == "How many?"
    assert views.text_rich == f"How many?\n\n{ENDING}"
    assert views.vision_centric == f"Answer the question in the image. {ENDING}"
    with_choices = split_views(read(MMLU), "question", ending="")
    assert with_choices.drawn == with_choices.text_rich == "Which?\n\nA. up\nB. down\nC. B"
    assert with_choices.vision_centric == "Answer the question in the image."
    assert "the letter of the right choice alone" in split_views(read(MMLU), "question").vision_centric


def test_the_context_is_drawn():
    row = {"context": "It rained.", "question": "Why?", "answer": "rain"}
    views = split_views(read(row, needs_context=True), "context", ending="Be brief.")
    assert views.drawn == "It rained."
    assert views.vision_centric == "Why?\n\nBe brief."
    assert views.text_rich == "It rained.\n\nWhy?\n\nBe brief."


def test_the_middle_is_drawn():
    row = {"question": "one two three four five six", "answer": "7"}
    views = split_views(read(row), "middle", ending="")
    assert views.drawn == "two three four"
    assert views.vision_centric == "one [...] five six\n\nThe words at [...] are in the image."
    assert views.text_rich == "one two three four five six"


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("text", ["a b c", "If $x + y = 3$, what\nis  it?  Now.", "a b\n| c | d |\n| e | f |\ng h"])
def test_a_middle_and_its_sides_are_the_text(text, share):
    before, middle, after = split_middle(text, share)
    assert before + middle + after == text
    assert before.strip()
    assert middle.strip() == middle != ""
    assert after.strip()
    for whole in ("$x + y = 3$", "| c | d |\n| e | f |"):
        assert whole not in text or any(whole in part for part in (before, middle, after))
