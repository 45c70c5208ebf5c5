"""The demo pairs: answers recomputed from what the view says, a clean split, and reproducibility."""

import re
from collections import Counter

import numpy as np
import pytest


pytest.importorskip("vega_datasets")

from trl_modality.problems.demo.draw import DRAWINGS, SHIFTED_DRAWINGS
from trl_modality.problems.demo.pairs import draw_problems, make_demo_pairs, to_dataset
from trl_modality.problems.demo.problem import FURTHER_FACTS
from trl_modality.problems.real_tables import load_records
from trl_modality.views import validate_pair


@pytest.fixture(scope="module")
def splits():
    return make_demo_pairs(300, 100, seed=3)


def _read(row):
    """(facts, question) as a reader of the text_rich view finds them."""
    _, facts, question = row["text_rich_prompt"][0]["content"].split("\n")
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d)", facts)}, question


def test_answers_follow_from_the_text_view(splits):
    kinds = Counter()
    for split in splits:
        for row in split:
            facts, question = _read(row)
            assert len(facts) == 4
            if question in ("largest?", "smallest?"):
                kind, expected = question, sorted(facts.values())[-1 if question == "largest?" else 0]
            elif "+" in question:
                left, right = question[:-1].split("+")
                kind, expected = "sum", facts[left] + facts[right]
            elif " to " in question:
                left, right = question[:-1].split(" to ")
                kind, expected = "difference", max(facts[left] - facts[right], facts[right] - facts[left])
            else:
                kind, expected = "look_up", facts[question[:-1]]
            kinds[kind] += 1
            assert row["answer"] == str(expected)
            assert row["completion"][0]["content"].endswith(f";{expected}")
    assert set(kinds.values()) == {80}


def test_views_and_image_say_the_same(splits):
    for row in splits[1]:
        validate_pair(row)
        facts, question = _read(row)
        title = row["text_rich_prompt"][0]["content"].split("\n")[0]
        assert row["vision_centric_prompt"][0]["content"] == f"{title}\n{question}"
        form = row["id"].split("-")[1]
        assert row["images"][0].tobytes() == DRAWINGS[form](list(facts.items())).tobytes()


def test_no_facts_of_the_test_occur_in_training(splits):
    train, test = ({tuple(_read(row)[0].items()) for row in split} for split in splits)
    assert train
    assert test
    assert not train & test


def test_ids_are_unique_and_both_forms_occur(splits):
    ids = [name for split in splits for name in split["id"]]
    assert len(set(ids)) == 400
    assert {name.split("-")[1] for name in ids} == set(DRAWINGS)


def test_reproducible_and_seeded(splits):
    again, other = make_demo_pairs(30, 100, seed=3), make_demo_pairs(30, 100, seed=4)
    assert again[0]["id"] == make_demo_pairs(30, 100, seed=3)[0]["id"]
    assert again[0]["id"] != other[0]["id"]


def test_questions_of_another_step():
    _, test = make_demo_pairs(1, 40, seed=3, kinds=FURTHER_FACTS)
    for row in test:
        facts, question = _read(row)
        if question == "spread?":
            expected = max(facts.values()) - min(facts.values())
        else:
            expected = sum(facts[name] for name in question[:-1].split("+"))
            assert question.count("+") == 2
        assert row["answer"] == str(expected)
    assert set(test["category"]) == {f"{form}, {kind}" for form in DRAWINGS for kind in FURTHER_FACTS}


def test_shifted_tables_and_forms_are_others():
    records = dict(enumerate(load_records(shifted=True)))
    assert not {record.facts for record in records.values()} & {record.facts for record in load_records()}
    problems = draw_problems(records, 60, np.random.default_rng(0), forms=tuple(SHIFTED_DRAWINGS))
    for row, (problem, form) in zip(to_dataset(problems), problems, strict=True):
        validate_pair(row)
        own = row["images"][0].tobytes()
        assert own == SHIFTED_DRAWINGS[form](problem.facts).tobytes()
        assert own not in [draw(problem.facts).tobytes() for draw in DRAWINGS.values()]
    # The first month of 2000 that all four companies have: IBM at 100.52 of 130.32 at most
    stocks = {record.facts for record in records.values() if record.title == "Stock, tenth of max"}
    assert any(facts[0] == ("ibm", 8) for facts in stocks)


def test_too_many_pairs():
    with pytest.raises(ValueError, match="distinct"):
        make_demo_pairs(10**6, 1)


def test_records_are_true_to_the_tables():
    records = load_records()
    assert len({record.facts for record in records}) == len(records) > 400
    facts = {record.facts: record.title for record in records}
    # 2012-01-02 to 05, a Monday to a Thursday: wind of 4.5, 2.3, 4.7, 6.1 m/s in seattle-weather.csv.
    assert facts[("mon", 5), ("tue", 2), ("wed", 5), ("thu", 6)] == "Seattle wind, m/s"
    # The first iris: 5.1, 3.5, 1.4, 0.2 cm.
    assert facts[("sl", 5), ("sw", 4), ("pl", 1), ("pw", 0)] == "Iris, cm"


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr("trl_modality._extras.find_spec", lambda package: None)
    with pytest.raises(ImportError, match=r"trl-modality\[examples\]"):
        load_records()
