"""What is seen of a transcription: flags, agreement of two, and the order of words that OCR finds."""

import pytest

from trl_modality.data.ocr import Word, in_reading_order, spread_digits
from trl_modality.evaluation.models.requests import Generation
from trl_modality.from_models import flags
from trl_modality.from_models.flags import agreement, flag, numbers, tells_answer


def said(text, complete=True, failure=None):
    return Generation(text, complete, failure=failure)


@pytest.mark.parametrize(
    ("transcription", "reason"),
    [
        (said("mon=3, tue=4"), None),
        (said("", False, "it is filtered"), flags.FAILED),
        (said(" \n |-"), flags.EMPTY),
        (said("mon=3, tu", complete=False), flags.CUT),
        (said("星期一 三 星期二 四"), flags.OTHER_SCRIPT),
        (said("понедельник 3, tue 4"), flags.OTHER_SCRIPT),
        (said("price in €: 3, 4 天"), None),  # a letter of another script is no other language
        (said("mon=3, tue=4. The answer is 7."), flags.TELLS_ANSWER),
        (said("7"), flags.TELLS_ANSWER),
        (said("mon=3, tue=7"), None),  # a fact that is the answer is no leak
    ],
)
def test_flags(transcription, reason):
    assert flag(transcription, "How much is mon and tue?", "7") == reason


def test_what_ocr_reads_stands_in_the_picture():
    assert flag(said("STOP"), "What does the sign say?", "stop", is_read=True) is None
    assert flag(said("Sales 12"), "销售额是多少？", "12", is_read=True) is None
    assert flag(said(""), "What?", "7", is_read=True) == flags.EMPTY


@pytest.mark.parametrize(
    ("text", "question", "reason"),
    [
        ("トヨタ ホンダ ー", "いちばん大きいのは何？", None),
        ("三 月 四 日", "いちばん大きいのは何？", None),
        ("ホンダ トヨタ", "最大的是什么？", flags.OTHER_SCRIPT),
        ("ＡＢＣ １２", "What is ABC?", None),
        ("Answers | Yes | 7 | No | 9", "How many said yes?", None),
        ("Correct answers 7", "How many are right?", None),
    ],
)
def test_what_is_no_other_language_and_no_answer(text, question, reason):
    assert flag(said(text), question, "7") == reason


def test_a_question_of_numbers_alone_has_no_script():
    assert flag(said("一 二"), "1 + 2?", None) is None


def test_the_answer_is_told_by_a_sentence_or_by_the_reasoning():
    assert tells_answer("Answer: (B) 1,200", "1200")
    assert not tells_answer("answer sheet of 1,200 pupils", "7")
    assert not tells_answer("The answer is 17", "7")
    completion = "Subtract the cost of mon from the one of tue.\nAnswer: 1"
    assert tells_answer("Notes: subtract the cost of mon from the one of tue", "1", completion)
    assert not tells_answer("mon tue", "1", completion)


def test_agreement_is_that_of_words_or_of_numbers():
    assert agreement("mon 3 tue 4", "Mon: 3.0, Tue: 4") == 1
    assert agreement("mon 3 tue 4", "mon 3 tue 5") == 0.5  # half of the numbers
    assert agreement("mon 3", "wed 3") == 0
    assert agreement("", "") == 1
    assert numbers("1,200 and 3.50, 4") == [1200, 3.5, 4]


def word(text, left, top, width=20, height=10):
    return Word(text, left, top, left + width, top + height, 0.9)


def test_rows_of_a_table_stay_rows():
    words = [word("4", 101, 33), word("tue", 0, 31), word("mon", 0, 16), word("3", 100, 14), word("Sales", 30, 0)]
    assert in_reading_order(words) == "Sales\nmon | 3\ntue | 4"
    assert in_reading_order([word("two", 22, 0), word("words", 47, 1)]) == "two words"
    assert in_reading_order([]) == ""


def test_digits_that_are_printed_apart_are_numbers_of_their_own():
    assert spread_digits("066", ["0", "6", "6"], [0, 12, 24], 15) == "0 6 6"
    assert spread_digits("2013", list("2013"), [0, 9, 18, 27], 17) == "2013"
    assert spread_digits("3 12", list("312"), [0, 30, 45], 15) == "3 1 2"
    assert spread_digits("ab 12", list("ab12"), [0, 9, 30, 45], 15) == "ab 12"
    assert spread_digits("12", ["1"], [0], 15) == "12"  # OCR does not tell where each is
