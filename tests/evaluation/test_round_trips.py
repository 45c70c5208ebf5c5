"""What an evaluation writes, it reads: the same objects, and clear errors for files that are broken."""

import json
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.testing.answering import FakeGenerator, is_rich, number_of, quiz_row
from trl_modality.evaluation import GapResult, ModalityGapEvaluator
from trl_modality.evaluation.intervals import (
    Accuracy,
    GapChange,
    Interval,
    MeanDifference,
    PairedDifference,
    accuracy_of,
    gap_change,
    mean_difference,
    paired_difference,
)
from trl_modality.evaluation.nats import NatsGap
from trl_modality.evaluation.results import Comparison, Summary, summarize
from trl_modality.evaluation.text.results import TextRegret, TextResult, TextSkill
from trl_modality.evaluation.worst_pairs import ShownAnswer, WorstPair


RIGHT = [True, True, False, True, False, True]
WRONG = [True, False, False, True, False, False]
DIFFERENCE = paired_difference(RIGHT, WRONG)
CHANGE = gap_change(RIGHT, WRONG, WRONG, RIGHT)
NATS = mean_difference([1.0, 2.5, 0.5, 1.5, 2.0, 3.0], [0.5, 1.0, 0.5, 1.0, 0.0, 2.0])
WITHOUT_INTERVAL = mean_difference([1.0, 2.0], [0.5, 1.5])
SUMMARY = Summary(
    {"text_rich": accuracy_of(RIGHT), "zoom": accuracy_of(WRONG)}, {"text_rich": 2, "zoom": 0}, {"zoom": 3}, DIFFERENCE
)
PAIR = WorstPair(
    row=3,
    id="pair-3",
    category=None,
    expected="é\ud800",
    prompts={"text_rich": "facts", "vision_centric": "which?"},
    answers={"text_rich": ShownAnswer("It is 3.", "3", True), "blind": ShownAnswer("", "", False)},
    images=["examples/3-0.png"],
)
SKILL = TextSkill("after", "llava", {"gsm8k": accuracy_of(RIGHT), "mmlu": accuracy_of(WRONG)}, {"gsm8k": 1, "mmlu": 0})
REGRET = TextRegret("before", {"gsm8k": 4 / 6}, {"gsm8k": DIFFERENCE})
RESULT = GapResult(
    name="after",
    model="llava",
    dataset="charts, test",
    rows=6,
    confidence=0.9,
    settings={"tolerance": 0.01, "conditions": ["text_rich"], "zoom": {"scale": None}},
    summary=SUMMARY,
    groups={"category": {"bar": SUMMARY, "(none)": SUMMARY}, "level": {}},
    nats=NatsGap({"text_rich": 0.5, "blind": 2.5}, {"text_rich": 20, "blind": 21}, NATS, WITHOUT_INTERVAL),
    examples=[PAIR, WorstPair(0, 7, "bar", "1", {}, {})],
    baseline=Comparison("before", {"text_rich": DIFFERENCE}, CHANGE),
    versions={"torch": "2.9.0"},
)


@pytest.mark.parametrize(
    "value",
    [
        Interval(0.1, 0.9),
        accuracy_of(RIGHT),
        DIFFERENCE,
        CHANGE,
        NATS,
        WITHOUT_INTERVAL,
        SUMMARY,
        Summary({}, {}),
        RESULT.nats,
        NatsGap({}, {}, None, None),
        RESULT.baseline,
        Comparison("before", {}, None),
        *RESULT.examples,
        RESULT,
        GapResult("a", "b", "", 1, 0.95, {}, Summary({}, {})),
        SKILL,
        REGRET,
        TextResult(SKILL, REGRET),
        TextResult(SKILL, None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_written_is_read(value):
    content = value.to_dict()
    stored = json.loads(json.dumps(content))
    assert type(value).from_dict(stored) == value
    assert type(value).from_dict(stored).to_dict() == stored


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_any_answers_are_read_as_they_were(answers):
    records = [
        {"row": row, "condition": condition, "is_correct": is_correct, "is_complete": not is_correct}
        for row, both in enumerate(answers)
        for condition, is_correct in zip(("text_rich", "vision_centric"), both, strict=True)
    ]
    summary = summarize(records)
    assert Summary.from_dict(json.loads(json.dumps(summary.to_dict()))) == summary


def test_a_file_of_an_evaluation_is_its_result(tmp_path):
    rows = [quiz_row(i, category="ab"[i % 2], level=[None, 3][i % 2]) for i in range(12)]
    generator = FakeGenerator(
        lambda r: str(number_of(r)) if is_rich(r) or random.Random(number_of(r)).random() < 0.5 else "99"
    )
    evaluate = ModalityGapEvaluator(rows, show_progress=False)
    evaluate(generator, tmp_path / "before")
    result = evaluate(generator, tmp_path / "after", baseline=tmp_path / "before")
    found = GapResult.read(tmp_path / "after" / "gap.json")
    assert found == result
    assert result.examples
    assert result.answers
    assert found.answers == []


def test_a_file_of_before_the_counts_of_fallbacks_and_without_later_parts_is_read():
    content = RESULT.to_dict()
    for absent in ("nats", "groups", "examples", "baseline", "versions"):
        del content[absent]
    for entry in content["conditions"].values():
        entry.pop("fallbacks", None)
        del entry["unfinished"]
    found = GapResult.from_dict(content)
    assert found.conditions == RESULT.conditions
    assert (found.summary.unfinished, found.summary.fallbacks) == ({}, {})
    assert (found.nats, found.groups, found.examples, found.baseline) == (None, {}, [], None)
    assert found.metrics()["text_rich_unfinished"] == 0


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (Accuracy, {"total": 0}, "`total` must be at least 1, got 0"),
        (Accuracy, {"correct": 7}, "`correct` must be a count from 0 to 6, got 7"),
        (Accuracy, {"accuracy": 0.25}, "`accuracy` must be 4 of 6, got 0.25"),
        (PairedDifference, {"p_value": 1.5}, "`p_value` must be a share from 0 to 1, got 1.5"),
        (PairedDifference, {"only_first": -1}, "`only_first` must be a count from 0, got -1"),
        (PairedDifference, {"only_second": None}, "`only_second` is missing"),
        (GapChange, {"low": -2.5}, "`low` must be a share from -2 to 2, got -2.5"),
        (MeanDifference, {"low": None}, "`low` is missing"),
    ],
)
def test_what_cannot_be_is_named(kind, content, message):
    whole = {Accuracy: accuracy_of(RIGHT), PairedDifference: DIFFERENCE, GapChange: CHANGE, MeanDifference: NATS}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        kind.from_dict(whole[kind].to_dict() | content)


def test_errors_name_the_file_and_the_way_to_the_field(tmp_path):
    content = RESULT.to_dict()
    content["groups"]["category"]["bar"]["conditions"]["zoom"] |= {"high": "much"}
    path = tmp_path / "gap.json"
    path.write_text(json.dumps(content))
    where = (
        "`groups.category.bar.conditions.zoom.high` must be a number, got 'much'. Write the file again, or remove it."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {where}')}$"):
        GapResult.read(path)
    with pytest.raises(ValueError, match="`kind` must be 'text', got 'gap'"):
        TextResult.read(path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match=r"gap\.json is not whole JSON .*; it may be half written"):
        GapResult.read(path)
