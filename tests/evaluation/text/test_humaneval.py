"""Code in answers of all forms, and its grade."""

import pytest

from tests.testing.namespaces import needs_namespaces
from tests.testing.text_sets import DOUBLE, DOUBLE_TEST
from trl_modality.evaluation.text.humaneval import complete, extract_code, fenced, humaneval_grader
from trl_modality.evaluation.text.task import Example


WHOLE = "def double(x: int) -> int:\n    return 2 * x\n"
RIGHT = {
    "whole, in a block": f"Sure:\n\n```python\n{WHOLE}```\nIt doubles.",
    "whole, after a try": f"```python\ndef double(x):\n    return 3 * x\n```\nNo:\n```py\n{WHOLE}```",
    "whole, and a block of use": f"```python\n{WHOLE}```\nUse it:\n```python\nprint(double(2))\n```",
    "the block is not closed": f"```python\n{WHOLE}",
    "no block": f"Here is the function.\n\n{WHOLE}\nThis returns twice x, as asked.",
    "with an import and a constant": f"import math\nTWO = 2\n\n{WHOLE.replace('2 *', 'TWO *')}",
    "the prompt again": fenced(DOUBLE + "    return 2 * x\n"),
    "a continuation": "    return 2 * x\n",
    "and goes on": "    y = 2\n    return y * x\n\n\ndef other(x):\n    return None\nprint(double",
    "and tests": "    return 2 * x\n\nif __name__ == '__main__':\n    main()",
    "a body without its margin": "y = 2\nreturn y * x",
    "a loop without its margin": "for y in (2,):\n    return y * x",
    "the first line lost its margin": "y = 2\n    return y * x",
    "and it opens a block": "for y in (2,):\n        z = y\n    return z * x",
    "a body in a block": "```python\n    return 2 * x\n```",
    "windows": f"```python\r\n{WHOLE}```".replace("\n", "\r\n").replace("\r\r", "\r"),
}
WRONG = {
    "wrong": "    return 3 * x",
    "prose": "I would multiply by two.",
    "other name": "```python\ndef twice(x):\n    return 2 * x\n```",
    "exits": "```python\nimport os\nos._exit(0)\ndef double(x): pass\n```",
    "prints": "    print('passed')\n    raise SystemExit(0)",
    "does not parse": "```python\ndef double(x):\n    return 2 *\n```",
    "zeros": "\x00",
}


@pytest.fixture(scope="module")
def grade():
    fields = {"code": DOUBLE, "entry_point": "double", "test": DOUBLE_TEST}
    return humaneval_grader([Example("HumanEval/0", "", "", "HumanEval/0", fields=fields)])


@needs_namespaces
@pytest.mark.parametrize("name", RIGHT)
def test_right_code_in_any_form_is_right(grade, name):
    graded = grade(RIGHT[name], "HumanEval/0", None)
    assert (graded.is_correct, graded.how) == (True, "passed"), graded.answer


@needs_namespaces
@pytest.mark.parametrize("name", WRONG)
def test_wrong_code_is_wrong(grade, name):
    assert not grade(WRONG[name], "HumanEval/0", None).is_correct


@needs_namespaces
def test_no_code_is_none(grade):
    for empty in ("", "  \n", "```python\n```"):
        assert (grade(empty, "HumanEval/0").is_correct, grade(empty, "HumanEval/0").how) == (False, "none")


def test_extracted_code_is_that_of_the_function():
    assert extract_code(RIGHT["whole, after a try"], "double") == WHOLE
    assert extract_code(RIGHT["no block"], "double").strip() == WHOLE.strip()
    assert extract_code(RIGHT["and goes on"], "double") == "    y = 2\n    return y * x\n\n"


def test_the_prompt_stays_where_the_function_is_given_anew():
    namespace = {}
    exec(complete(DOUBLE, WHOLE.replace("2 *", "helper(2) *"), "double"), namespace)
    assert namespace["double"](4) == 8


def test_hostile_text_takes_no_time():
    for text in ("```" * 50_000, "\n" * 10**6, "def double(" * 50_000, "x = " * 100_000, "[" * 10**6):
        extract_code(text, "double")
        complete(DOUBLE, extract_code(text, "double"), "double")
