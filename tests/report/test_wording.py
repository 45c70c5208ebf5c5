"""Sentences claim no more than the intervals do."""

import pytest

from trl_modality.report.reading.evaluations import Changes, Estimate, Evaluation, TextScores
from trl_modality.report.reading.logs import Log
from trl_modality.report.reading.runs import Run
from trl_modality.report.wording import comparison_notes, differences, headline, trained, vision_gain


def share(value, half=0.03):
    return Estimate(value, value - half, value + half, 200)


def evaluation(name, gap, text_rich=0.97, **more):
    conditions = {"text_rich": share(text_rich), "vision_centric": share(text_rich - gap.value)}
    return Evaluation(name, gap=gap, conditions=conditions, **more)


def run_of(before, after, **more):
    return Run("run", (before, after), **more)


def test_requests_without_an_answer_are_told():
    gap = Estimate(0.4, 0.3, 0.5)
    after = evaluation("after", gap, failures={"text_rich": 1200, "gsm8k": 1})
    assert comparison_notes([run_of(evaluation("before", gap), after)]) == [
        "run, after: requests without an answer (1,200 of text_rich, 1 of gsm8k) are neither right nor wrong; all "
        "figures leave them out."
    ]


def test_the_gap_went():
    first, second = Estimate(0.41, 0.352, 0.468), Estimate(0.035, 0.004, 0.066)
    said = headline(run_of(evaluation("before", first), evaluation("after", second, 0.965)))
    assert said[0] == "The gap went from 41.0 to 3.5 points (95\u00a0% intervals 35.2 to 46.8 and 0.4 to 6.6)."
    assert said[1] == (
        "text_rich accuracy, 97.0 to 96.5\u00a0%, is not distinguishable from what it was; vision_centric accuracy "
        "rose from 56.0 to 93.0\u00a0%."
    )


@pytest.mark.parametrize("second", [Estimate(0.3, 0.24, 0.36), Estimate(0.5, 0.46, 0.54), Estimate(0.41, 0.35, 0.47)])
def test_overlapping_intervals_are_no_difference(second):
    said = headline(run_of(evaluation("before", Estimate(0.41, 0.352, 0.468)), evaluation("after", second)))
    assert said[0].endswith("the intervals overlap, so the two are not distinguishable.")
    assert "went" not in said[0]


@pytest.mark.parametrize(
    ("paired", "ending"),
    [
        (Estimate(-0.06, -0.1, -0.02), "; change \u22126.0, \u221210.0 to \u22122.0)."),
        (
            Estimate(-0.06, -0.13, 0.01),
            "the change of \u22126.0, \u221213.0 to 1.0, is not distinguishable from none.",
        ),
    ],
)
def test_a_change_on_the_same_rows_decides(paired, ending):
    """It is sharper than two intervals, which overlap here."""
    first, second = evaluation("before", Estimate(0.41, 0.36, 0.46)), Estimate(0.35, 0.3, 0.4)
    said = headline(run_of(first, evaluation("after", second, comparison=Changes("before", {}, paired))))[0]
    assert said.endswith(ending)
    assert ("went from" in said) == (paired.high < 0)
    other = headline(run_of(first, evaluation("after", second, comparison=Changes("another", {}, paired))))[0]
    assert other.endswith("the intervals overlap, so the two are not distinguishable.")


def test_without_intervals_nothing_is_told_apart():
    before, after = (Evaluation(n, nats_gap=Estimate(gap)) for n, gap in (("before", 0.9), ("after", 0.1)))
    said = headline(run_of(before, after))[0]
    assert said.endswith(
        "(95\u00a0% intervals no interval and no interval): without two intervals, they are not distinguishable."
    )


def test_what_is_left_of_the_gap():
    before = evaluation("before", Estimate(0.41, 0.352, 0.468))
    none = headline(run_of(before, evaluation("after", Estimate(0.02, -0.01, 0.05))))
    assert none[1] == "What is left of it is not distinguishable from no gap."
    ahead = headline(run_of(before, evaluation("after", Estimate(-0.06, -0.1, -0.02))))
    assert ahead[0].startswith("The gap went from 41.0 to \u22126.0 points")
    assert ahead[1] == "The vision_centric view is now ahead."


def test_a_gap_that_shrank_because_text_rich_got_worse():
    before, after = Estimate(0.4, 0.35, 0.45), Estimate(0.1, 0.06, 0.14)
    said = " ".join(headline(run_of(evaluation("before", before), evaluation("after", after, 0.7))))
    assert "text_rich accuracy fell from 97.0 to 70.0\u00a0%" in said
    assert "Part of the smaller gap is accuracy that the text_rich view lost." in said
    grown = " ".join(headline(run_of(evaluation("before", after), evaluation("after", before, 0.7))))
    assert "Part of the smaller gap" not in grown


@pytest.mark.parametrize(
    ("gap", "ending"),
    [
        (Estimate(0.2, 0.1, 0.3), "The gap is 20.0 points (95\u00a0% interval 10.0 to 30.0)."),
        (Estimate(0.01, -0.03, 0.05), "interval \u22123.0 to 5.0), not distinguishable from none."),
        (Estimate(-0.2, -0.3, -0.1), "the vision_centric view is ahead."),
    ],
)
def test_one_evaluation(gap, ending):
    assert headline(Run("stock", (evaluation("stock", gap),)))[0].endswith(ending)


def test_only_losses_were_measured():
    before, after = (
        Evaluation(name, nats_gap=Estimate(gap, gap - 0.01, gap + 0.01))
        for name, gap in (("before", 0.9), ("after", 0.1))
    )
    assert headline(run_of(before, after)) == [
        "The gap went from 0.900 to 0.100 nats per token (95\u00a0% intervals 0.890 to 0.910 and 0.090 to 0.110)."
    ]


def test_nothing_was_evaluated():
    log = Log({"gap_nats": {5: 0.5, 10: float("nan"), 15: 0.25}}, 15, "trainer_state.json")
    said = headline(Run("run", log=log))
    assert said[0] == "On the rows it trained on the gap was 0.500 nats per token at step 5 and 0.250 at step 15."
    assert "without intervals" in said[1]
    log = Log({**log.series, "eval_gap_nats": {15: 0.3}}, 15, "trainer_state.json")
    assert headline(Run("run", log=log))[0] == "On the held-out rows the gap was 0.300 nats per token at step 15."
    assert headline(Run("run")) == ["The gap was not measured: there is no evaluation in this run."]


def test_text_regret():
    regret = {"a": Estimate(0.09, 0.03, 0.15), "b": Estimate(-0.02, -0.08, 0.04), "c": Estimate(-0.1, -0.15, -0.05)}
    last = Evaluation("after", text=TextScores({}, "before", regret))
    assert headline(Run("run", (last,))) == [
        "Text skill: worse in a by 9.0 points; better in c by 10.0 points; not distinguishable from its baseline in b."
    ]


def test_vision_gain():
    conditions = {"vision_centric": share(0.5), "blind": share(0.2)}
    assert vision_gain(Evaluation("e", conditions=conditions)) == "30.0 points"
    conditions["blind"] = share(0.46)
    assert vision_gain(Evaluation("e", conditions=conditions)) == "4.0 points, with intervals that overlap"
    measured = Evaluation("e", vision_gain=Estimate(0.04, -0.02, 0.1))
    assert vision_gain(measured) == "4.0 points (\u22122.0 to 10.0), not distinguishable from none"
    assert vision_gain(Evaluation("e")) == ""


def test_what_was_trained():
    last = Evaluation("after", rows=200, dataset="charts")
    log = Log({}, 500, "trainer_state.json")
    run = Run("run", (last,), log, model="llava", train_rows=8000, config={"kl_weight": 1.0, "curriculum": "none"})
    assert trained(run) == (
        "llava: trained on a set of 8,000 rows for 500 steps with kl_weight 1 and curriculum none; "
        "measured on 200 pairs of charts"
    )
    assert trained(Run("run", log=log)) == "Trained for 500 steps"
    assert trained(Run("run", model="llava")) == "llava"
    assert trained(Run("run")) == ""


def test_evaluations_that_cannot_be_compared():
    first = Evaluation("a", dataset="charts", rows=200, settings={"tolerance": 0.0, "batch_size": 1, "conditions": []})
    same = Evaluation(
        "b", dataset="charts", rows=200, settings={"tolerance": 0.0, "batch_size": 8, "conditions": ["x"]}
    )
    assert differences(first, same) == []
    rows, weights = {"rows": "abc", "weights": "1"}, {"rows": "def", "weights": "2"}
    assert differences(Evaluation("a", settings=rows), Evaluation("b", settings=weights)) == ["other rows"]
    other = Evaluation("b", dataset="tables", rows=100, confidence=0.9, settings={"tolerance": 0.01})
    assert differences(first, other) == [
        "dataset 'charts' and 'tables'",
        "rows 200 and 100",
        "confidence 0.95 and 0.9",
        "tolerance 0.0 and 0.01",
    ]
