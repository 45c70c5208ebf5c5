"""Completions by a model: graded, taken by rule, the same in any batches, with seeds of their own."""

import pytest
from datasets import Dataset, Features, List, Value

from tests.testing.answering import FakeGenerator, number_of, quiz_row
from tests.testing.tiny import MESSAGES, PAIR_FEATURES
from trl_modality.evaluation.grading.grader import Grader
from trl_modality.evaluation.models.requests import Generation
from trl_modality.from_models import trace
from trl_modality.from_models.asked import known_answers, write_answers
from trl_modality.from_models.trace import with_old_completions
from trl_modality.from_models.votes import agreed_answer
from trl_modality.views import PairError, text_of, validate_pair


FEATURES = Features({**PAIR_FEATURES, "answer": Value("string"), "choices": List(Value("string"))})


def pairs(count=4, **columns):
    return Dataset.from_list([quiz_row(i, choices=None, **columns) for i in range(10, 10 + count)], features=FEATURES)


class Sampler(FakeGenerator):
    """Row n has, sample by sample: a long right answer, a short right one, a wrong one, one cut off; row 13 only
    wrong ones. Which sample a request is, is known by the order of its seeds."""

    def __init__(self, temperature=0.7):
        super().__init__(self.say, "sampler", {"temperature": temperature})
        self.seeds: dict[int, list[int]] = {}

    def say(self, request):
        number = number_of(request)
        seeds = self.seeds.setdefault(number, [])
        if request.seed not in seeds:
            seeds.append(request.seed)
        right = "Answer: 0" if number == 13 else f"Answer: {number}"
        return (f"We look. {right}", right, "Answer: 99", f"{right} ...")[seeds.index(request.seed)]


def completions(made):
    return [text_of(row["completion"]) for row in made.dataset]


def traced(dataset, generator, **options):
    return trace(dataset, generator, Grader(), show_progress=False, **options)


@pytest.mark.parametrize(
    ("take", "of_a_row"),
    [("shortest", ["Answer: {}"]), ("first", ["We look. Answer: {}"]), ("all", ["We look. Answer: {}", "Answer: {}"])],
)
def test_right_samples_are_taken(take, of_a_row):
    made = traced(pairs(), Sampler(), samples=4, take=take)
    assert completions(made) == [each.format(n) for n in (10, 11, 12) for each in of_a_row]
    ids = [f"quiz-{n}{mark}" for n in (10, 11, 12) for mark in ("", "#2")[: len(of_a_row)]]
    assert made.dataset["id"] == ids
    assert made.outcomes == {"right": 6, "wrong": 6, "cut off": 4}
    assert (made.rows, made.samples, made.yielded, made.dropped, made.kept_old) == (4, 16, 3, 1, 0)
    assert made.lines()[0] == "3 of 4 rows (75.0%) have a right sample"
    for row in made.dataset:
        validate_pair(row)


def test_rows_without_a_right_sample_keep_their_completion_or_go():
    kept = traced(pairs(), Sampler(), samples=2, otherwise="keep")
    assert completions(kept)[3] == "It is 13."
    assert (len(kept.dataset), kept.kept_old, kept.dropped) == (4, 1, 0)
    assert len(traced(pairs(), Sampler(), samples=2, otherwise="drop").dataset) == 3
    with pytest.raises(ValueError, match="not one of 4 rows has a right sample"):
        traced(pairs(), FakeGenerator(lambda request: "Answer: 99"))
    # One that has none to keep goes, and is counted
    some = pairs().map(lambda row: {"completion": row["completion"] if row["answer"] != "13" else None})
    kept = traced(some, Sampler(), samples=2, otherwise="keep")
    assert (len(kept.dataset), kept.kept_old, kept.dropped) == (3, 0, 1)
    assert with_old_completions(some, "test", some.features)[3]["completion"] is None


@pytest.mark.parametrize("from_view", ["text_rich", "text_only"])
def test_what_the_model_is_shown(from_view):
    generator = Sampler()
    traced(pairs(2), generator, from_view=from_view)
    asked = [request for batch in generator.batches for request in batch]
    assert [text_of(request.prompt) for request in asked] == ["facts of 10. Which?", "facts of 11. Which?"]
    assert [len(request.images) for request in asked] == [0, 0] if from_view == "text_only" else [1, 1]


def test_seeds_differ_by_row_sample_and_seed_and_more_samples_begin_with_fewer():
    generators = [Sampler() for _ in range(3)]
    traced(pairs(2), generators[0], samples=2)
    traced(pairs(2), generators[1], samples=3, batch_size=1)
    traced(pairs(2), generators[2], samples=2, seed=1)
    first, more, other = (each.seeds for each in generators)
    assert all(more[row][:2] == first[row] for row in (10, 11))
    drawn = [seed for seeds in (more, other) for of_row in seeds.values() for seed in of_row]
    assert len(set(drawn)) == len(drawn) == 10


def test_known_samples_are_not_drawn_again(tmp_path):
    made = traced(pairs(2), Sampler(), samples=2)
    write_answers(made.answers, tmp_path / "samples.jsonl")
    generator = Sampler()
    again = traced(pairs(3), generator, samples=2, known=known_answers([tmp_path / "samples.jsonl"]))
    assert [number_of(request) for batch in generator.batches for request in batch] == [12, 12]
    assert completions(again)[:2] == completions(made)


def test_refusals_of_a_server_are_counted():
    class Server(FakeGenerator):
        def __call__(self, requests):
            said = super().__call__(requests)
            return [
                Generation("", False, failure="it is filtered") if number_of(r) == 11 else g
                for r, g in zip(requests, said, strict=True)
            ]

    made = traced(pairs(3), Server(lambda request: f"Answer: {number_of(request)}"))
    assert made.dataset["id"] == ["quiz-10", "quiz-12"]
    assert made.outcomes == {"right": 2, "failed": 1}


def test_choices_are_graded():
    dataset = Dataset.from_list([quiz_row(10, choices=["10", "20"])], features=FEATURES)
    assert traced(dataset, FakeGenerator(lambda request: "Answer: (A)")).yielded == 1


def test_answers_may_be_numbers():
    made = traced(pairs().cast_column("answer", Value("float32")), Sampler(), samples=2)
    assert made.outcomes == {"right": 6, "wrong": 2}


def test_weights_are_read_once():
    class Large(FakeGenerator):
        read = 0

        @property
        def settings(self):
            self.read += 1
            return {"temperature": 0.7}

        @settings.setter
        def settings(self, value):
            pass

    few, many = (Large(lambda request: f"Answer: {number_of(request)}") for _ in range(2))
    traced(pairs(1), few, samples=2)
    traced(pairs(20), many, samples=2)
    assert many.read == few.read


def test_strings_stay_strings():
    row = {**quiz_row(10), "text_rich_prompt": "facts of 10. Which?", "vision_centric_prompt": "Which?"}
    strings = {name: Value("string") for name in ("text_rich_prompt", "vision_centric_prompt", "completion", "answer")}
    features = Features({"id": Value("string"), "images": PAIR_FEATURES["images"], **strings})
    dataset = Dataset.from_list([{**row, "completion": "old"}], features=features)
    made = traced(dataset, FakeGenerator(lambda request: "Answer: 10"))
    assert made.dataset[0]["completion"] == "Answer: 10"


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="4 samples at temperature 0 are all the same"):
        traced(pairs(), Sampler(temperature=0), samples=4)
    with pytest.raises(ValueError, match=r"`train` has no column `answer`; the samples are graded by it"):
        traced(pairs().remove_columns("answer"), Sampler())
    with pytest.raises(ValueError, match=r"no column `text_rich_prompt`; `data transcribe` makes it"):
        traced(pairs().remove_columns("text_rich_prompt"), Sampler())
    with pytest.raises(ValueError, match="no `completion` that could be kept"):
        traced(pairs().remove_columns("completion"), Sampler(), otherwise="keep")
    with pytest.raises(ValueError, match="`take` must be one of shortest, first, all, got 'last'"):
        traced(pairs(), Sampler(), take="last")
    with pytest.raises(PairError, match=r"`train` row 0, id='quiz-10': `answer` is missing"):
        traced(pairs(answer=None), Sampler())
    several = [{"role": role, "content": "a"} for role in ("assistant", "user", "assistant")]
    with pytest.raises(PairError, match="its completion has 3 messages, and a sample is one. Make a pair of each"):
        traced(pairs(completion=several), Sampler())
    assert FEATURES["completion"] == MESSAGES


def test_samples_agree_on_the_answer_of_a_row_without_one():
    given = pairs().to_list()
    for row in given[:3]:
        row["answer"] = None
    rows = Dataset.from_list(given, features=FEATURES)

    def say(request):
        number, say.calls = number_of(request), say.calls + 1
        # Row 10: three of four agree; row 11: two of four; row 12: all do not know; row 13 has its answer
        turn = say.calls % 4
        return {
            10: f"{'so ' * turn}Answer: {7 if turn else 8}",
            11: f"Answer: {5 + turn // 2}",
            12: f"{'hm ' * turn}Answer: I do not know",
            13: f"{'so ' * turn}Answer: 13",
        }[number]

    say.calls = -1
    made = traced(rows, FakeGenerator(say, settings={"temperature": 1}), samples=4, agreed=0.75)
    assert made.dataset["answer"] == ["7", "13"]
    assert completions(made) == ["so Answer: 7", "Answer: 13"]
    assert made.outcomes == {"right": 7, "wrong": 1, "not agreed": 8}
    assert made.dropped == 2
    without = traced(
        rows.remove_columns("answer"),
        FakeGenerator(lambda r: f"{r.seed} Answer: 3", settings={"temperature": 1}),
        samples=3,
        agreed=1.0,
    )
    assert without.dataset["answer"] == ["3"] * 4


@pytest.mark.parametrize(("agreed", "samples"), [(0.5, 4), (1.1, 4), (0.9, 2)])
def test_a_share_that_several_answers_could_have(agreed, samples):
    with pytest.raises(ValueError, match="above 0.5 and at most 1, of 3 samples or more"):
        traced(pairs(), Sampler(), samples=samples, agreed=agreed)


@pytest.mark.parametrize(
    ("texts", "choices", "share", "answer"),
    [
        (["Answer: 1/2", "so 0.5", "Answer: 3"], None, 0.6, "1/2"),
        (["Answer: (B)", "It is blue.", "red"], ["red", "blue"], 0.6, "blue"),
        (["Answer: 4", "Answer: 4", "Answer: 4 ..."], None, 0.7, None),  # the last was cut off
        (["", "", ""], None, 0.6, None),
        (["Answer: Friday", "Friday", "**friday**"], None, 1.0, "Friday"),
        (["It cannot be said."] * 3, None, 0.6, None),
    ],
)
def test_votes(texts, choices, share, answer):
    samples = [Generation(text, not text.endswith("...")) for text in texts]
    assert agreed_answer(samples, Grader(), choices, share) == answer
