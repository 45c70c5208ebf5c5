"""Asking in batches: what is written, and that an interrupted run ends as if it had not been."""

import functools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.testing.answering import FakeGenerator
from trl_modality.evaluation.asking.ask import Question, ask
from trl_modality.evaluation.grading.grader import Grader
from trl_modality.evaluation.models.requests import Request, RequestError
from trl_modality.resumable.batches import cut
from trl_modality.resumable.records import read_records


def prompt_of(text):
    return Request([{"role": "user", "content": text}])


QUESTIONS = [
    Question(f"q{i}", prompt_of(f"q{i}"), str(i), fields={"row": i}, group="ab"[i % 3 == 0]) for i in range(11)
]


def by_batch(requests_seen):
    """Answers that depend on the batch, as floating point does on padding."""

    def answer(request):
        return f"In a batch of {len(requests_seen[-1])}; the answer is {request.prompt[0]['content'][1:]}"

    return answer


def fake(**options):
    generator = FakeGenerator(lambda request: by_batch(generator.batches)(request), **options)
    return generator


def run(generator, file=None, questions=QUESTIONS, **options):
    return ask(generator, questions, Grader(), file, **{"batch_size": 3, "show_progress": False, **options})


def contents(generator):
    return [[request.prompt[0]["content"] for request in batch] for batch in generator.batches]


def test_batches_are_of_one_group_and_answers_in_order(tmp_path):
    generator = fake()
    records = run(generator, tmp_path / "answers.jsonl")
    assert contents(generator) == [["q0", "q3", "q6"], ["q9"], ["q1", "q2", "q4"], ["q5", "q7", "q8"], ["q10"]]
    assert [record["key"] for record in records] == [f"q{i}" for i in range(11)]
    assert list(records[9]) == ["key", "row", "expected", "text", "answer", "is_correct", "how", "is_complete"]
    assert records[9]["text"] == "In a batch of 1; the answer is 9"
    assert (records[9]["answer"], records[9]["is_correct"], records[9]["is_complete"]) == ("9", True, True)
    header, written = read_records(tmp_path / "answers.jsonl")
    assert sorted(written, key=lambda record: record["row"]) == records
    assert (header["model"], header["batch_size"], header["max_new_tokens"]) == ("fake", 3, 8)


@functools.cache
def whole(folder):
    run(fake(), folder / "whole.jsonl")
    return (folder / "whole.jsonl").read_bytes()


@settings(max_examples=150, deadline=None)
@given(share=st.floats(0, 1))
def test_a_file_cut_anywhere_is_continued_to_the_same_bytes(tmp_path_factory, share):
    content = whole(tmp_path_factory.getbasetemp())
    file = tmp_path_factory.mktemp("cut") / "answers.jsonl"
    kept = int(share * len(content))
    file.write_bytes(content[:kept])
    generator = fake()
    records = run(generator, file)
    assert file.read_bytes() == content
    assert records == run(fake())
    asked = sum(map(len, generator.batches))
    assert asked <= 11
    if kept == len(content):
        assert not generator.batches


def test_an_interrupted_run_keeps_its_batches(tmp_path):
    file = tmp_path / "answers.jsonl"

    class Stop(Exception):
        pass

    def stop_at_third(request):
        if len(generator.batches) == 3:
            raise Stop
        return "1"

    generator = FakeGenerator(stop_at_third)
    with pytest.raises(Stop):
        run(generator, file)
    assert len(read_records(file)[1]) == 4
    again = FakeGenerator(lambda request: "1")
    run(again, file)
    assert contents(again) == [["q1", "q2", "q4"], ["q5", "q7", "q8"], ["q10"]]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"generator": fake(name="other")}, "`model` was 'fake' and is 'other'"),
        ({"generator": fake(settings={"max_new_tokens": 9})}, "`max_new_tokens` was 8 and is 9"),
        ({"batch_size": 4}, "`batch_size` was 3 and is 4"),
        ({"settings": {"tolerance": 0.01}}, "`tolerance` was None and is 0.01"),
        ({"questions": QUESTIONS[:5]}, "`questions` was"),
        (
            {"questions": [*QUESTIONS[:10], Question("q10", prompt_of("q10!"), "10")]},
            "`questions`",
        ),
    ],
)
def test_other_settings_are_an_error_and_change_nothing(tmp_path, change, named):
    file = tmp_path / "answers.jsonl"
    run(fake(), file)
    content = file.read_bytes()
    change = {"generator": fake(), **change}
    with pytest.raises(ValueError, match=f"answers.jsonl has results of other settings: {named}"):
        run(file=file, **change)
    assert file.read_bytes() == content


def test_what_is_no_file_of_ours_is_left_alone(tmp_path):
    file = tmp_path / "answers.jsonl"
    for content in ("notes\n", json.dumps({"format": 99, "settings": {}}) + "\n", "[]\n"):
        file.write_text(content)
        with pytest.raises(ValueError, match="answers.jsonl does not begin with a header"):
            run(fake(), file)
        assert file.read_text() == content


def test_requests_may_be_made_late():
    made = []

    def make(i):
        made.append(i)
        return prompt_of(f"q{i}")

    class Watching(FakeGenerator):
        def __call__(self, requests):
            assert len(made) <= 3 * (len(self.batches) + 1)
            return super().__call__(requests)

    questions = [Question(f"q{i}", functools.partial(make, i), str(i)) for i in range(7)]
    records = run(Watching(lambda request: request.prompt[0]["content"][1:]), questions=questions)
    assert all(record["is_correct"] for record in records)
    assert made == list(range(7))


def test_bad_requests_are_named():
    def refuse(requests):
        raise RequestError(1, "too long.")

    generator = fake()
    generator.__class__ = type("Refusing", (FakeGenerator,), {"__call__": lambda self, requests: refuse(requests)})
    with pytest.raises(ValueError, match="^q3: too long"):
        run(generator)
    with pytest.raises(ValueError, match="two questions have the key 'q1'"):
        run(fake(), questions=[QUESTIONS[1], QUESTIONS[2], QUESTIONS[1]])
    with pytest.raises(ValueError, match="not a single question"):
        run(fake(), questions=[])
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        run(fake(), batch_size=0)


def test_cut():
    assert cut("aabab", 2) == [[0, 1], [3], [2, 4]]
    assert cut("", 2) == []
