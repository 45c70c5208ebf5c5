"""Plane geometry problems: facts, steps and answers measured anew from the coordinates, and how they are spread."""

import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

from tests.testing.geometry_check import ambiguous, errors, is_determined, leaks, sufficiency_errors
from trl_modality.problems.geometry.clauses import Draft, Linear
from trl_modality.problems.geometry.generate import TEMPLATES, plane_geometry
from trl_modality.problems.geometry.plane import Redraw
from trl_modality.problems.problem import FactKind
from trl_modality.problems.render_style import RenderStyle
from trl_modality.views import validate_pair


@pytest.fixture(scope="module")
def problems():
    return [plane_geometry(index, 3, RenderStyle(marks=8, distractors=index % 3)) for index in range(500)]


def test_facts_steps_and_answers_agree_with_the_coordinates(problems):
    assert [error for problem in problems for error in errors(problem)] == []


def test_needed_facts_fix_the_answer_and_each_condition_is_needed(problems):
    assert [error for problem in problems[:140] for error in sufficiency_errors(problem)] == []


def test_no_label_can_be_taken_for_another_and_none_is_the_answer(problems):
    assert [error for problem in problems for check in (ambiguous, leaks) for error in check(problem)] == []


def test_the_check_finds_what_is_wrong(problems):
    problem = next(p for p in problems if p.meta["template"] == "right_triangle/leg")
    assert errors(problem) == []
    assert errors(replace(problem, answer=str(int(problem.answer) + 1)))
    place = next(n for n, fact in enumerate(problem.facts) if fact.kind is FactKind.CONDITION)
    told = problem.facts[place]
    other = replace(told, words=re.sub(r"\d+", lambda m: str(int(m[0]) + 1), told.words))
    facts = (*problem.facts[:place], other, *problem.facts[place + 1 :])
    assert any(other.words in error for error in errors(replace(problem, facts=facts)))
    wrong_step = (problem.reasoning[0].replace("= ", "= 1 + ", 1), *problem.reasoning[1:])
    assert errors(replace(problem, reasoning=wrong_step))
    assert is_determined(problem)
    assert not is_determined(problem, {place})
    right = next(n for n, fact in enumerate(problem.facts) if "⊥" in fact.words)
    assert not is_determined(problem, {right})
    told = replace(problem.facts[0], words="".join(problem.meta["asked"]["points"]) + f" = {problem.answer}.")
    told = replace(told, kind=FactKind.CONDITION)
    assert list(leaks(replace(problem, facts=(*problem.facts, told))))


def test_every_template_occurs_about_as_often(problems):
    counts = Counter(problem.meta["template"] for problem in problems)
    assert set(counts) == {f"{template.kind}/{template.asked}" for template in TEMPLATES}
    assert max(counts.values()) <= 3 * len(problems) / len(TEMPLATES)


def test_answers_are_spread(problems):
    answers = Counter(problem.answer for problem in problems)
    assert len(answers) > 120
    assert max(answers.values()) < 0.05 * len(problems)
    texts = Counter(tuple(fact.words for fact in problem.facts) + (problem.question,) for problem in problems)
    assert max(texts.values()) == 1
    # The answer is not just a number that a label shows
    copied = [p for p in problems if p.answer in {re.sub(r"\D", "", text) for f in p.facts for text in f.labels}]
    assert len(copied) < 0.15 * len(problems)


def test_some_problems_take_several_steps(problems):
    steps = Counter(min(len(problem.reasoning), 5) for problem in problems)
    assert min(steps) >= 2
    assert steps[4] + steps[5] > 0.25 * len(problems)


def test_distractors_are_added_within_their_limits():
    for count in (0, 1, 3):
        problems = [plane_geometry(index, 0, RenderStyle(marks=8, distractors=count)) for index in range(60)]
        added = [
            sum(problem.facts[n].kind is FactKind.CONDITION for n in problem.meta["distractors"])
            for problem in problems
        ]
        assert max(added) == count
        assert np.mean(added) >= 0.8 * count
        assert all(len(problem.meta["points"]) <= 8 for problem in problems)


@pytest.mark.parametrize("marks", [4, 5])
def test_marks_limit_the_named_points(marks):
    for index in range(40):
        problem = plane_geometry(index, 0, RenderStyle(marks=marks, distractors=2))
        assert len(problem.meta["points"]) <= marks


def test_pure_function_of_its_arguments():
    def digest(indices):
        found = sha256()
        for index in indices:
            problem = plane_geometry(index, 7, RenderStyle(distractors=1))
            found.update(repr(problem).encode() + problem.picture(1.0).tobytes() + problem.picture(0.5).tobytes())
        return found.hexdigest()

    assert digest(range(12)) == digest(range(12))
    assert digest([3, 4]) != digest([4, 3])
    code = (
        "from hashlib import sha256\nfrom trl_modality.problems.render_style import RenderStyle\n"
        "from trl_modality.problems.geometry.generate import plane_geometry\nfound = sha256()\n"
        "for index in range(12):\n    problem = plane_geometry(index, 7, RenderStyle(distractors=1))\n"
        "    found.update(repr(problem).encode() + problem.picture(1.0).tobytes() + problem.picture(0.5).tobytes())\n"
        "print(found.hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest(range(12))
    assert plane_geometry(0, 7, RenderStyle()).facts != plane_geometry(0, 8, RenderStyle()).facts


def test_order_of_templates_has_no_short_cycle():
    """A loop over seven generators takes every seventh index: it must still meet all templates."""
    seen = {plane_geometry(index, 0, RenderStyle()).meta["template"] for index in range(0, 7 * 500, 7)}
    assert len(seen) > 0.9 * len(TEMPLATES)


def test_pairs_are_valid_and_levels_tell_less(problems):
    for problem in problems[:20]:
        row = problem.to_pair()
        validate_pair(row)
        assert row["completion"][0]["content"].endswith(f"\nAnswer: {problem.answer}")
        lengths = [len(prompt[0]["content"]) for prompt in row["level_prompts"]]
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[0] > lengths[-1]


def test_negative_index_is_refused():
    with pytest.raises(ValueError, match="`index`"):
        plane_geometry(-1, 0, RenderStyle())


def test_a_draft_refuses_what_its_drawing_belies():
    draft = Draft(np.random.default_rng(0), 6)
    A, B, C = draft.place(0, 3, 4j)
    draft.length(A + B, 3)
    with pytest.raises(ValueError, match="the drawing has 5"):
        draft.length(B + C, 6)
    draft.place(1)
    with pytest.raises(Redraw):  # the label would be taken for that of a part
        draft.length(A + B, 3)
    with pytest.raises(Redraw):
        draft.solve([Linear(2, 1)], Linear(2, 1), "Equal factors leave x open")


@pytest.mark.parametrize(
    ("expression", "text"),
    [(Linear(0, 7), "7"), (Linear(1, 0), "x"), (Linear(1, -4), "x-4"), (Linear(3, 0), "3x"), (Linear(2, 9), "2x+9")],
)
def test_expressions_in_words(expression, text):
    assert str(expression) == text
