"""Right answers must be accepted, wrong ones must not: tables made by hand, and gold answers of real sets."""

import json
import os
import pickle
import random
import threading
from pathlib import Path

import pytest

from trl_modality.evaluation.grading.grader import Grade, Grader


TABMWP, GSM8K = (os.environ.get(f"TRL_MODALITY_{name}") for name in ("TABMWP", "GSM8K"))

ACCEPTED = [
    # How an answer is stated
    ("The answer is 8.", "8"),
    ("the final answer is: **8**", "8"),
    ("Answer: 8", "8"),
    ("**Answer:** 8", "8"),
    ("**Answer**: 8 apples", "8"),
    ("Answer:\n\n$$8$$", "8"),
    ("The correct answer would be $8$.", "8"),
    ("The answer to the question is 8 because 3 + 5 = 8.", "8"),
    ("The answer (in cm) is 8", "8"),
    ("So 3 + 5 = 8.\n#### 8", "8"),
    ("#### 1,234", "1234"),
    (r"Thus \boxed{8}.", "8"),
    (r"Thus \fbox{8}.", "8"),
    (r"Thus $\boxed{\frac{1}{2}}$, as 2 is even.", "1/2"),
    (r"\boxed{x = 8}", "8"),
    (r"\boxed{8\text{ apples}}", "8"),
    (r"\boxed{\boxed{8}}", "8"),
    (r"\boxed 8", "8"),
    ("<answer>8</answer>", "8"),
    ("The answer is in here: <answer>8 cm</answer>, of 9", "8"),
    ("It is **8** in all, in 3 baskets.", "8"),
    ("**Step 1:** add 3 and 5.\nThis gives 8.", "8"),
    ("<think>The answer is 9. No.</think>8", "8"),
    ("First I thought the answer is 9. But the answer is 8.", "8"),
    (r"\boxed{9} was too fast. Answer: 8", "8"),
    ("Answer: 9? No.\n#### 8", "8"),
    ("The answer is not 9. It is 8.", "8"),
    ("Answer the question as follows: 3 and 5 are\n8", "8"),
    ("Answer: 3 + 5 = 8", "8"),
    ("Answer: 8 (because 3 + 5 = 8, which is less than 10)", "8"),
    ("The answer is 12. This is because 3 * 4 = 12, and 5 is not used.", "12"),
    ("Answer: The 3 boys ate 12 apples", "12"),
    ("The answer is seven.", "7"),
    ("3 + 5\n= 8", "8"),
    ("mon=3,tue=4;7", "7"),
    ("mon=3,thu=7;10", "10"),
    ("from 2 to 7;2 4 5 6 7", "2 4 5 6 7"),
    ("They have 8 apples; this is all that they have", "8"),
    ("mon=3;wed=2;5", "5"),
    ("mon=3,thu=7; The answer is 10.", "10"),
    ("mon=3,tue=66\nAnswer: 69", "69"),
    ("So it is 7-3", "3"),
    ("x=1;-4", "-4"),
    ("it costs 1,234.50 in all.", "1234.5"),
    ("mon=3,thu=5", "5"),
    ("1;tue.", "tue"),
    ("__import__('os').system('exit 1')", "1"),
    # Numbers
    ("8.0", "8"),
    ("08", "8"),
    (".5", "1/2"),
    ("0.5", r"\frac{1}{2}"),
    (r"\dfrac{1}{2}", "0.5"),
    (r"\frac12", "0.5"),
    ("1 1/2", "1.5"),
    (r"1\frac{1}{2}", "3/2"),
    ("1½", "1.5"),
    ("Answer: -6 1/2", "-6.5"),
    (r"-\frac{13}{2}", "-6.5"),
    ("−4", "-4"),
    ("Answer: minus 4", "-4"),
    ("1,000", "1000"),
    ("1 234", "1234"),
    ("12\u202f345", "12345"),
    (r"1{,}234", "1234"),
    ("3e4", "30000"),
    (r"3 \times 10^4", "30,000"),
    (r"\boxed{3\times10^{-4}}", "0.0003"),
    ("10^3", "1000"),
    ("Answer: 2.5 million", "2500000"),
    ("٣", "٣"),
    ("８", "8"),
    # Units
    ("8%", "8"),
    ("8", "8 %"),
    (r"8\%", "8%"),
    ("50%", "0.5"),
    ("8 per cent", "8%"),
    ("$8", "8"),
    ("$8.00", "8 dollars"),
    (r"\$8", "8"),
    ("-$8", "-8"),
    ("£8", "8"),
    ("8 €", "€8"),
    ("8 cm", "8"),
    ("8cm", "8 centimeters"),
    ("8", "8 cm"),
    (r"8\ \text{cm}^2", "8 square centimeters"),
    (r"90^\circ", "90"),
    ("90°", "90 degrees"),
    ("20 °C", "20 degrees Celsius"),
    ("60 miles per hour", "60 mph"),
    ("8 games per year", "8"),
    ("8 red apples", "8 apples"),
    ("Answer: about 8 km", "8 km"),
    # Words
    ("Tuesday", "tuesday"),
    ("The day with 5 sales is Tuesday.", "Tuesday"),
    ("Answer: the Rocky Port.", "Rocky Port"),
    (r"\boxed{\text{Rocky Port}}", "Rocky Port"),
    ("Answer: “Rocky Port”", "Rocky Port"),
    ("It leaves at 3:30 p.m.", "3:30 P.M."),
    ("The answer is 03:30 PM", "3:30 p.m."),
    ("Answer: 3:30", "3:30 P.M."),
    ("Yes, because 5 > 3.", "yes"),
    ("No. There are 3.", "No"),
    ("Answer: (1, 2)", "(1,2)"),
    ("Answer: 5, 6", "5,6"),
    (r"\boxed{2\sqrt{3}}", r"2\sqrt{3}"),
    ("The answer is (B).", "B"),
    ("B", "(b)"),
]

REFUSED = [
    ("", "0"),
    ("mon=3;", "3"),
    ("18", "8"),
    ("-8", "8"),
    ("8", "-8"),
    ("8.01", "8"),
    ("80%", "8"),
    ("1,2345", "12345"),
    ("1234", "1.234"),
    ("Answer: I do not know, 5 or 8", "5"),
    ("It may be 8. Answer: unknown", "8"),
    ("The answer is 5 or 8", "5"),
    ("The answer is 5 or 8", "8"),
    ("Answer: 5, 6, 7, 8", "5"),
    ("Answer: 5, 6, 7, 8", "8"),
    ("Answer: 5 to 8", "8"),
    ("Answer: 3 + 5", "3"),
    ("Answer: 3 + 5", "5"),
    ("Answer: 8x", "8"),
    ("Answer: 8 x", "8"),
    ("Answer: 8 halves", "8"),
    (r"\boxed{2\sqrt{3}}", "2"),
    (r"\boxed{\sqrt{2}}", "2"),
    (r"\boxed{x^2}", "2"),
    (r"\boxed{5!}", "5"),
    (r"\boxed{\frac{1}{2}\pi}", "0.5"),
    (r"\boxed{8} no: \boxed{9}", "8"),
    ("#### 8\nAnswer: 9", "8"),
    ("The answer is not 8", "9"),
    ("5 m", "5 cm"),
    ("5 km", "5000 m"),
    ("5 square cm", "5 cm"),
    ("$5", "5 cents"),
    ("$5", "5 €"),
    ("5 km per hour", "5 mph"),
    ("Answer: 5 million", "5"),
    ("20 °C", "20 °F"),
    ("1/0", "0"),
    ("3:30 A.M.", "3:30 P.M."),
    ("3:30", "3:31"),
    ("3:30", "3.5"),
    ("Not Tuesday", "Tuesday"),
    ("It is not Tuesday.", "Tuesday"),
    ("Answer: Tuesday or Wednesday", "Tuesday"),
    ("Answer: silent", "listen"),
    ("nonlinear", "linear"),
    ("No", "yes"),
    ("There is no answer, yes, none", "yes"),
    ("Answer: (1, 3)", "(1,2)"),
    ("Answer: X", "x + 1"),
    ("9**9**9**9", "387420489"),
    ("1e400", "10"),
    ("1e999999999", "1"),
    ("inf", "1"),
    ("nan", "nan nan"),
    ("A dog is there", "A"),
    ("Answer: C", "B"),
    ("Answer: $x = 7$ or $x=8$", "8"),
    ("Answer: 5 cm x 3", "5"),
    ("The answer is 5 - wait, 6", "5"),
    ("The answer is between 5 and 8", "8"),
    ("Answer: 5:8", "5"),
    ("The difference is 3,5", "5"),
    ("The ratio is 5:8", "8"),
    ("Answer: 5/8/9", "9"),
    ("Answer: 5.8.9", "5.8"),
    ("Answer: 1,2,3", "3"),
]


@pytest.mark.parametrize(("text", "expected"), ACCEPTED)
def test_accepts(text, expected):
    assert Grader()(text, expected).is_correct


@pytest.mark.parametrize(("text", "expected"), REFUSED)
def test_refuses(text, expected):
    grade = Grader()(text, expected)
    assert not grade.is_correct
    assert grade.how == ("wrong" if grade.answer else "none")


DAYS = ["Sunday", "Monday", "Tuesday"]
NUMBERS = ["5", "15", "1.5", "8"]
SPANS = ["45 minutes", "1 hour and 15 minutes", "1 hour", "30 minutes"]
CHOICES = [
    # text, choices, right answer, accepted?
    ("B", DAYS, "Monday", True),
    ("B", DAYS, "B", True),
    ("(b)", DAYS, "Monday", True),
    ("B.", DAYS, "Monday", True),
    ("B. Monday", DAYS, "Monday", True),
    ("**B) Monday**", DAYS, "Monday", True),
    (r"\boxed{B}", DAYS, "Monday", True),
    (r"\boxed{\text{(B) Monday}}", DAYS, "Monday", True),
    ("Monday", DAYS, "B", True),
    ("the answer is option B, as it rained", DAYS, "Monday", True),
    ("The correct option is B", DAYS, "Monday", True),
    ("The answer is B because it rained.", DAYS, "Monday", True),
    ("The answer is monday.", DAYS, "Monday", True),
    ("It rained most on Monday.", DAYS, "Monday", True),
    ("Sunday had 3, Tuesday had 4.\nSo the answer is Monday", DAYS, "Monday", True),
    ("I choose (B).", DAYS, "Monday", True),
    ("The answer is B. Sunday", DAYS, "Monday", False),
    ("The answer is B. Sunday", DAYS, "Sunday", False),
    ("Sunday or Monday", DAYS, "Monday", False),
    ("(A) Sunday (B) Monday (C) Tuesday", DAYS, "Tuesday", False),
    ("A and B", DAYS, "Monday", False),
    ("A day in spring", DAYS, "Sunday", False),
    ("The answer is a day in spring", DAYS, "Sunday", False),
    ("The answer is A day in spring", DAYS, "Sunday", False),
    ("D", DAYS, "Monday", False),
    ("I think it's B", DAYS, "Monday", True),
    ("I think it's B.", DAYS, "Monday", True),
    ("Sunday had 3.\nSo it must be Monday", DAYS, "Monday", True),
    ("Sunday had 3.\nSo it must be Monday", DAYS, "Sunday", False),
    ("It is not Monday.", DAYS, "Monday", False),
    ("Not Monday", DAYS, "Monday", False),
    ("It is not (B)", DAYS, "Monday", False),
    ("It is A or B", DAYS, "Monday", False),
    ("5 or 8", NUMBERS, "8", False),
    ("", DAYS, "Monday", False),
    ("The answer is A.\nNo: the answer is C.", DAYS, "Sunday", False),
    ("15", NUMBERS, "15", True),
    ("The answer is 15.", NUMBERS, "B", True),
    ("The answer is 5.", NUMBERS, "15", False),
    ("The answer is 1.5", NUMBERS, "5", False),
    ("3 + 5 = 8", NUMBERS, "8", True),
    ("The answer is 8.0 cm", NUMBERS, "8", True),
    ("D", NUMBERS, "8", True),
    ("The answer is 1 hour and 15 minutes.", SPANS, "1 hour and 15 minutes", True),
    ("It took 1 hour and 15 minutes.", SPANS, "1 hour and 15 minutes", True),
    ("It took 1 hour and 15 minutes.", SPANS, "1 hour", False),
    ("The function is nonlinear.", ["linear", "nonlinear"], "nonlinear", True),
    ("The function is nonlinear.", ["linear", "nonlinear"], "linear", False),
    ("2:10 PM", ["2:50 P.M.", "2:10 P.M.", "2:10 A.M."], "2:10 P.M.", True),
    ("C", ["C", "A", "B"], "C", True),
    ("The point is C.", ["C", "A", "B"], "C", True),
    ("(C)", ["C", "A", "B"], "B", True),
    ("B", ["A. 5", "B. 7"], "7", True),
    ("7", ["A. 5", "B. 7"], "B", True),
    ("A", ["A dog", "a cat"], "A dog", True),
    ("a cat", ["A dog", "a cat"], "A dog", False),
    ("yes", ["yes", "no"], "no", False),
]


@pytest.mark.parametrize(("text", "choices", "expected", "accepted"), CHOICES)
def test_choices(text, choices, expected, accepted):
    grade = Grader()(text, expected, choices)
    assert grade.is_correct is accepted
    assert not accepted or grade.how == "choice"


@pytest.mark.parametrize(
    ("text", "expected", "accepted"),
    [
        ("101", "100", True),
        ("99", "100", True),
        ("101.0000001", "100", False),
        ("98.99", "100", False),
        ("-99.5", "-100", True),
        ("99.5", "-100", False),
        ("0.001", "0", False),
        ("0.333", "1/3", True),
        ("3:31", "3:30", False),
        ("2014", "2015", True),  # the protocol knows no years
    ],
)
def test_tolerance_is_relative_to_the_expected_number(text, expected, accepted):
    assert Grader(tolerance=0.01)(text, expected).is_correct is accepted
    assert not Grader()(text, expected).is_correct


def test_tolerance_never_moves_to_a_neighbouring_choice():
    choices = ["100", "100.5", "103"]
    assert not Grader(tolerance=0.01)("100.5", "A", choices).is_correct
    assert Grader(tolerance=0.01)("103.4", "C", choices).is_correct
    assert not Grader(tolerance=0.01)("100.2", "A", choices).is_correct  # as near to the second


def test_grade_shows_what_decided():
    grader = Grader()
    assert grader("So $8.00", "8") == Grade(True, "$8.00", "number")
    assert grader("Tuesday.", "tuesday") == Grade(True, "Tuesday", "words")
    assert grader("b", "Monday", DAYS) == Grade(True, "Monday", "choice")
    assert grader("It is 9 cm long", "8") == Grade(False, "9 cm", "wrong")
    assert grader(" \n", "8") == Grade(False, "", "none")


def test_only_the_end_is_read():
    assert Grader()("Answer: 7\n" + "x" * 30_000, "7").is_correct is False
    assert Grader()("x" * 10_000_000 + "\nAnswer: 7", "7").is_correct


def test_bad_arguments():
    with pytest.raises(ValueError, match="tolerance"):
        Grader(tolerance=1)
    with pytest.raises(ValueError, match="tolerance"):
        Grader(tolerance=float("nan"))
    with pytest.raises(ValueError, match="time_limit"):
        Grader(time_limit=0)
    with pytest.raises(ValueError, match="expected"):
        Grader()("8", " ")
    with pytest.raises(ValueError, match="exactly one of the choices"):
        Grader()("8", "Friday", DAYS)
    with pytest.raises(ValueError, match="26"):
        Grader()("8", "1", [str(number) for number in range(27)])


def test_is_a_value():
    grader = Grader(tolerance=0.01, time_limit=1)
    assert pickle.loads(pickle.dumps(grader)) == grader
    assert len({grader, Grader(tolerance=0.01, time_limit=1), Grader()}) == 2
    assert grader.settings == {"tolerance": 0.01, "symbolic": False}
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(grader("8", "8").is_correct)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 4


@pytest.mark.skipif(not GSM8K, reason="TRL_MODALITY_GSM8K names no file of GSM8K (test.jsonl)")
def test_gold_of_gsm8k():
    lines = Path(GSM8K).read_text().splitlines()
    solutions = [json.loads(line)["answer"] for line in lines]
    golds = [solution.rsplit("####", 1)[1].strip() for solution in solutions]
    grader = Grader()
    assert all(grader(solution, gold).is_correct for solution, gold in zip(solutions, golds, strict=True))
    phrased = [f"We get {gold} in the end, with 2 left.\nThe answer is {gold} dollars." for gold in golds]
    assert all(grader(text, gold).is_correct for text, gold in zip(phrased, golds, strict=True))
    shuffled = random.Random(0).sample(solutions, len(solutions))
    got = [grader(text, gold).is_correct for text, gold in zip(shuffled, golds, strict=True)]
    same = [_number(text) == _number(gold) for text, gold in zip(shuffled, golds, strict=True)]
    assert got == same
    assert sum(got) < 0.05 * len(got)


def _number(text):
    return float(text.rsplit("####", 1)[-1].replace(",", ""))


@pytest.mark.skipif(not TABMWP, reason="TRL_MODALITY_TABMWP names no folder of TabMWP")
def test_gold_of_tabmwp():
    rows = [row for path in Path(TABMWP).glob("problems*.json") for row in json.loads(path.read_text()).values()]
    assert rows
    grader = Grader()
    forms = ("{}", "The answer is {}.", r"So \boxed{{{}}}", "Add up.\n**{}**", "#### {}", "Look at row 7.\nIt is {}.")
    for row in rows:
        for form in forms:
            text = form.format(row["answer"])
            assert grader(text, row["answer"], row["choices"]).is_correct, text
        if row["choices"]:
            letter = chr(ord("A") + row["choices"].index(row["answer"]))
            assert grader(f"({letter})", row["answer"], row["choices"]).is_correct
            for wrong in set(row["choices"]) - {row["answer"]}:
                assert not any(grader(f.format(wrong), row["answer"], row["choices"]).is_correct for f in forms)
    free = [row["answer"] for row in rows if not row["choices"]]
    shuffled = random.Random(0).sample(free, len(free))
    got = [grader(text, gold).is_correct for text, gold in zip(shuffled, free, strict=True)]
    assert sum(got) < 0.05 * len(got)
