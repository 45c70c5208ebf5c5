"""Exercises in words: right answers, found again from the question; splits that never meet."""

import re

import pytest

from trl_modality.problems.demo.text_skill import EXERCISES, make_text_skill


def solve(question: str) -> str:
    """The answer as a reader of the question finds it, sharing nothing with what wrote it."""
    numbers = [int(number) for number in re.findall(r"\d+", question)]
    if question.startswith("sort"):
        return " ".join(map(str, sorted(numbers)))
    if question.endswith(",?"):
        steps = {b - a for a, b in zip(numbers, numbers[1:], strict=False)}
        assert len(steps) == 1
        return str(numbers[-1] + steps.pop())
    if " gives " in question:
        return str(numbers[0] - numbers[1])
    assert "+" in question or " gets " in question
    return str(sum(numbers))


@pytest.fixture(scope="module")
def splits():
    return make_text_skill(400, 200, seed=1)


def test_answers_are_right(splits):
    for split in splits:
        for row in split:
            assert row["answer"] == solve(row["prompt"][0]["content"])
            assert row["completion"][0]["content"].rsplit(";", 1)[1] == row["answer"]


def test_splits_never_meet_whatever_the_seed(splits):
    tests = {row["prompt"][0]["content"] for row in splits[1]}
    for seed in (1, 2, 3):
        assert not tests & {row["prompt"][0]["content"] for row in make_text_skill(400, 0, seed=seed)[0]}


def test_kinds_take_turns_and_draws_repeat(splits):
    train, test = splits
    assert [train["category"].count(kind) for kind in EXERCISES] == [100] * 4
    assert len(set(train["id"]) | set(test["id"])) == 600
    again, other = make_text_skill(40, 0, seed=1)[0], make_text_skill(40, 0, seed=2)[0]
    assert again["answer"] == train["answer"][:40] != other["answer"]
