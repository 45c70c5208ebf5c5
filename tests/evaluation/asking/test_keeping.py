"""What is kept where a batch ends early, of mixed files, and of questions without an answer."""

import json
import signal
import time

import pytest

from trl_modality.evaluation.asking.ask import Question, ask
from trl_modality.evaluation.grading.grader import Grader
from trl_modality.evaluation.models.requests import Generation, Request
from trl_modality.resumable.batches import Interrupted
from trl_modality.resumable.records import Journal, read_records


QUESTIONS = [Question(f"q{i}", Request(str(i)), str(i)) for i in range(10)]


class OneByOne:
    """Answers whose batch does not matter, as a server's; it may stop at a request, or fail there."""

    name = "one"

    def __init__(self, stops_at=(), error=KeyboardInterrupt, fails=()):
        self.stops_at, self.error, self.fails = stops_at, error, fails
        self.answered, self.asked = {}, []

    def __call__(self, requests):
        self.answered = {}
        for position in reversed(range(len(requests))):  # answers come in any order
            prompt = requests[position].prompt
            self.asked.append(prompt)
            if prompt in self.stops_at:
                raise self.error
            failure = "none" if prompt in self.fails else None
            self.answered[position] = Generation("" if failure else prompt, not failure, failure=failure)
        return [self.answered[i] for i in range(len(requests))]


def run(generator, file=None, **given):
    return ask(generator, QUESTIONS, Grader(), file, **{"batch_size": 4, "show_progress": False, **given})


@pytest.mark.parametrize("error", [KeyboardInterrupt, ConnectionError("gone")])
def test_a_part_of_a_batch_is_kept_and_the_rest_is_asked(tmp_path, error):
    file = tmp_path / "answers.jsonl"
    with pytest.raises(BaseException, match="6 of 10 are done; they are kept in|gone"):
        run(OneByOne(stops_at="5", error=error), file)
    assert [record["key"] for record in read_records(file)[1]] == ["q0", "q1", "q2", "q3", "q6", "q7"]
    again = OneByOne()
    records = run(again, file)
    assert sorted(again.asked) == ["4", "5", "8", "9"]
    assert records == run(OneByOne())
    assert [record["key"] for record in records] == [question.key for question in QUESTIONS]
    assert not list(tmp_path.glob("*before*"))


class Interrupting:
    """A grader that is interrupted at some of its calls."""

    def __init__(self, *at, error=KeyboardInterrupt):
        self.at, self.error, self.calls = at, error, 0

    def __call__(self, text, expected, choices):
        self.calls += 1
        if self.calls in self.at:
            raise self.error
        return Grader()(text, expected, choices)


@pytest.mark.parametrize(
    ("grader", "seconds", "kept"),
    [
        (Interrupting(3), 1.0, 4),  # the rest is graded at once
        (Interrupting(3), 0.0, 2),  # there is no time for that
        (Interrupting(3, 4), 1.0, 2),  # a second Ctrl-C
        (Interrupting(3, error=OSError("no worker")), 0.0, 4),
    ],
)
def test_answers_outlast_an_interruption_of_their_grading(tmp_path, monkeypatch, grader, seconds, kept):
    monkeypatch.setattr("trl_modality.evaluation.asking.ask.GRADING_LEFT", seconds)
    file = tmp_path / "answers.jsonl"
    with pytest.raises(BaseException, match=f"interrupted: {kept} of 10 are done|no worker"):
        ask(OneByOne(), QUESTIONS, grader, file, 4, show_progress=False)
    assert [record["key"] for record in read_records(file)[1]] == [f"q{i}" for i in range(kept)]
    again = OneByOne()
    assert run(again, file) == run(OneByOne())
    assert len(again.asked) == 10 - kept


def test_an_answer_that_takes_long_to_grade_does_not_hold_up_an_interruption(tmp_path, monkeypatch):
    monkeypatch.setattr("trl_modality.evaluation.asking.ask.GRADING_LEFT", 0.3)
    grader = Interrupting(2)

    def grade(text, expected, choices):
        if text == "2":
            time.sleep(30)
        return grader(text, expected, choices)

    before, started = signal.getsignal(signal.SIGALRM), time.monotonic()
    with pytest.raises(Interrupted, match="2 of 10 are done"):
        ask(OneByOne(), QUESTIONS, grade, tmp_path / "answers.jsonl", 4, show_progress=False)
    assert time.monotonic() - started < 15
    assert signal.getsignal(signal.SIGALRM) is before


def test_an_interruption_without_a_file_says_that_nothing_is_kept():
    with pytest.raises(Interrupted, match="^interrupted: 6 of 10 are done; nothing is kept, since no folder"):
        run(OneByOne(stops_at="5"))


def test_a_whole_batch_of_a_generator_that_pads_is_all_or_nothing(tmp_path):
    file = tmp_path / "answers.jsonl"
    generator = OneByOne(stops_at="5")
    del generator.answered

    class Padding:
        name = "pads"

        def __call__(self, requests):
            return generator(requests)

    with pytest.raises(Interrupted, match="4 of 10 are done"):
        run(Padding(), file)
    assert len(read_records(file)[1]) == 4


def test_failures_are_kept_and_not_asked_again(tmp_path, caplog):
    file = tmp_path / "answers.jsonl"
    records = run(OneByOne(fails="7"), file)
    assert "1 of 10 questions have no graded answer" in caplog.text
    assert "the first is q7: none." in caplog.text
    assert [record["key"] for record in records if "failure" in record] == ["q7"]
    again = OneByOne()
    assert run(again, file) == records
    assert again.asked == []


def test_a_call_that_goes_on_knows_of_the_answers_before(tmp_path):
    """Else it would end at the first batch without an answer."""
    file = tmp_path / "answers.jsonl"
    with pytest.raises(Interrupted):
        run(OneByOne(stops_at="89"), file, batch_size=8)
    records = run(OneByOne(fails="89"), file, batch_size=8)
    assert sum("failure" in record for record in records) == 2


def journal(file, **given):
    return Journal(file, {"a": 1}, **given)


def filled(file, keys):
    own = journal(file)
    own.resume([])
    own.add([{"key": key} for key in keys])
    return own


BATCHES = [["a", "b"], ["c", "d"], ["e"]]


@pytest.mark.parametrize(
    ("keys", "kept", "kept_of_any_order", "is_noted"),
    [
        ("abcde", "abcde", "abcde", False),
        ("abc", "ab", "abc", False),  # what a crash leaves
        ("a", "", "a", False),
        ("abab", "ab", "ab", True),
        ("abcc", "ab", "abc", True),
        ("abdc", "ab", "abdc", True),
        ("abce", "ab", "abce", True),
        ("cdab", "", "cdab", True),
        ("abx", "ab", "ab", True),
        ("abcdee", "abcde", "abcde", True),
    ],
)
def test_what_does_not_follow_is_left_out_and_kept_beside(tmp_path, keys, kept, kept_of_any_order, is_noted, caplog):
    for any_order, wanted in ((False, kept), (True, kept_of_any_order)):
        file = tmp_path / f"{any_order}.jsonl"
        filled(file, keys)
        content = file.read_bytes()
        records = journal(file).resume(BATCHES, any_order)
        assert "".join(record["key"] for record in records) == wanted
        assert [record["key"] for record in read_records(file)[1]] == list(wanted)
        beside = tmp_path / f"{file.name}.before-1"
        assert beside.exists() == (is_noted and wanted != keys)
        if beside.exists():
            assert beside.read_bytes() == content
            assert "does not follow there" in caplog.text


def test_old_results_are_never_written_over(tmp_path):
    file = tmp_path / "answers.jsonl"
    for number in range(3):
        Journal(file, {"a": number}, restart=True).resume([])
    settings = [read_records(tmp_path / name)[0]["a"] for name in ("answers.jsonl.before-1", "answers.jsonl.before-2")]
    assert settings == [0, 1]
    assert read_records(file)[0]["a"] == 2


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 1, "settings": {"a"'])
def test_half_a_header_is_begun_anew(tmp_path, content):
    file = tmp_path / "answers.jsonl"
    file.write_bytes(content)
    assert journal(file).resume(BATCHES) == []
    assert json.loads(file.read_text())["settings"] == {"a": 1}
