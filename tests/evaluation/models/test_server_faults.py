"""A server that misbehaves: it hangs, drips, answers too much or not at all. Every request ends, and is named."""

import gzip
import time

import pytest
from trl import prepare_multimodal_messages  # noqa: F401 (here, so that no measured time has this import in it)

from tests.testing.serving import drip, hang, said, serving
from trl_modality.evaluation.models.requests import Request, RequestError


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


ASKED = Request([{"role": "user", "content": "How many?"}])


def raised(answer, **options):
    with serving(answer, **options) as (server, generator):
        started = time.monotonic()
        with pytest.raises(ConnectionError) as error:
            generator([ASKED])
        return str(error.value), time.monotonic() - started, len(server.bodies)


def drip_head(write):
    write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    for _ in range(600):
        write(b"X")
        time.sleep(0.1)


@pytest.mark.parametrize("reply", [(200, drip, {}), (200, hang, {}), (drip_head, b"", {}), (hang, b"", {})])
def test_an_answer_that_does_not_end_meets_the_deadline(reply):
    message, seconds, asked = raised(lambda body, count: reply, deadline=0.7, timeout=60.0)
    assert "within 0.7 s" in message
    assert "(`--deadline`)" in message
    assert seconds < 5
    assert asked == 1


def test_the_deadline_counts_all_tries():
    message, seconds, asked = raised(lambda body, count: (200, hang, {}), deadline=0.7, timeout=0.2)
    assert "within 0.7 s" in message
    assert 1 < asked <= 4
    assert seconds < 5


@pytest.mark.parametrize("wanted", ["99999", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_a_pause_beyond_the_deadline_is_not_begun(wanted):
    message, seconds, asked = raised(lambda body, count: (429, b"slow down", {"Retry-After": wanted}))
    assert "answered 429: slow down and asks to wait" in message
    assert "within 900 s" in message
    assert seconds < 5
    assert asked == 1


def test_a_pause_is_as_long_as_asked(caplog):
    asked_at = []

    def answer(body, count):
        asked_at.append(time.monotonic())
        return (503, b"", {"Retry-After": "1"}) if count == 1 else said("8")

    with serving(answer) as (_, generator):
        assert generator([ASKED])[0].text == "8"
    assert asked_at[1] - asked_at[0] >= 1
    assert "trying again in 1 s" in caplog.text


def test_a_short_pause_that_is_asked_for_does_not_end_the_tries_sooner():
    options = {"retries": 3, "pause": 0.1}
    _, seconds, asked = raised(lambda body, count: (503, b"", {"Retry-After": "0"}), **options)
    assert seconds >= 0.1 + 0.2 + 0.4
    assert asked == 4
    _, seconds, _ = raised(lambda body, count: (503, b"", {"Retry-After": "0.5"}), **{**options, "retries": 1})
    assert seconds >= 0.5


def test_an_answer_that_is_too_large_is_not_read_to_its_end():
    written = []

    def flood(write):
        for _ in range(2_000):
            write(b" " * 100_000)
            written.append(1)

    with serving(lambda body, count: (200, flood, {}), max_bytes=300_000) as (_, generator):
        answer = generator([ASKED])[0]
    assert answer.failure == "the answer has more than 300,000 bytes (`max_bytes`)"
    assert len(written) < 1_000


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (said(None), "the reply has no content (finish_reason 'stop')"),
        (said(None, "content_filter"), "the server's content filter took the answer away"),
        (said("", "content_filter"), "the server's content filter took the answer away"),
        (said(None, refusal="I cannot."), "a refusal in place of an answer: 'I cannot.' (finish_reason 'stop')"),
        (said(None, "tool_calls", tool_calls=[{"id": "1"}]), "a call of a tool in place of an answer"),
        (said(None, "length", reasoning_content="Hm"), "reasoning without an answer; set `max_new_tokens` higher"),
        (said("", "length", reasoning="Hm"), "reasoning without an answer"),
        (said(None, "length"), "the reply has no content; set `max_new_tokens` higher (finish_reason 'length')"),
        (said(["3"]), "its content is no text but a list"),
        (said([{"type": "thinking", "thinking": "Hm"}]), "the reply has no content"),
        (said("The ans", "error"), "the reply is an error: no reason is given (finish_reason 'error')"),
        ((200, {"choices": []}, {}), "the reply is none of /v1/chat/completions: {'choices': []}"),
        ((200, {"choices": [{}]}, {}), "the reply is none of /v1/chat/completions"),
        ((200, [], {}), "the reply is none of"),
        ((200, {"error": {"message": "out of credit"}}, {}), "the reply is an error: out of credit"),
        (
            (400, {"error": {"message": "This model's maximum context length is 4096 tokens. However, ..."}}, {}),
            "the prompt is too long for the server (400: This model's maximum context length is 4096 tokens.",
        ),
        ((413, b"", {}), "the prompt is too long for the server (413: "),
        ((422, {"error": "`inputs` tokens + `max_new_tokens` must be <= 9"}, {}), "the prompt is too long for the"),
        ((400, [{"error": {"message": "exceeds the maximum number of tokens allowed (9)"}}], {}), "the prompt is too"),
        (
            (400, {"error": {"message": "triggering Azure's content management policy"}}, {}),
            "the server's content filter refused the prompt",
        ),
    ],
)
def test_what_has_no_answer_is_named_and_asked_once(reply, failure):
    with serving(lambda body, count: reply) as (server, generator):
        answer = generator([ASKED])[0]
    assert failure in answer.failure
    assert (answer.text, answer.is_complete) == ("", False)
    assert len(server.bodies) == 1


@pytest.mark.parametrize("content", ["", "3"])
def test_an_answer_is_an_answer(content):
    """An empty one too; with reasoning beside it; without `usage` or a reason."""
    reply = {"choices": [{"message": {"content": content}}]}
    with serving(lambda body, count: (200, reply, {})) as (_, generator):
        assert generator([ASKED])[0] == generator([ASKED])[0]
        assert (generator.answered[0].text, generator.answered[0].failure) == (content, None)
    with serving(lambda body, count: said("3", reasoning_content="1 + 2")) as (_, generator):
        assert (generator([ASKED])[0].text, generator.answered[0].failure) == ("3", None)


WHOLE = b'{"choices": [{"message": {"content": "8"}, "finish_reason": "stop"}]}'
# As a router says that the model behind it failed, with the half of an answer
ROUTER = {
    "message": {"content": "The ans"},
    "finish_reason": "error",
    "error": {"code": 502, "message": "the provider failed"},
}
BROKEN_OFF = (200, {"choices": [ROUTER]}, {})


@pytest.mark.parametrize(
    ("first", "said_of_it"),
    [
        ((200, b"<html>Bad gateway</html>", {"Content-Type": "text/html"}), "(text/html): '<html>Bad gateway"),
        ((200, WHOLE[:30], {}), "is not whole JSON"),
        ((200, WHOLE[:30], {"Content-Length": str(len(WHOLE))}), "cannot be reached (IncompleteRead"),
        ((200, b"\xff\xfe{", {}), "is not whole JSON"),
        ((200, {"error": {"code": 429, "message": "slow down"}}, {}), "answered an error 429: slow down"),
        ((200, {"error": {"code": "429", "message": "slow down"}}, {}), "answered an error 429: slow down"),
        ((200, gzip.compress(WHOLE)[:-20], {"Content-Encoding": "gzip"}), "is not whole JSON"),
        ((200, b"\x1f\x8bno", {"Content-Encoding": "gzip"}), "the gzip of its answer is broken"),
        (BROKEN_OFF, "answered an error 502: the provider failed"),
    ],
)
def test_what_is_not_whole_is_asked_for_again(first, said_of_it, caplog):
    with serving(lambda body, count: first if count == 1 else (200, WHOLE, {})) as (server, generator):
        assert generator([ASKED])[0].text == "8"
    assert said_of_it in caplog.text
    assert len(server.bodies) == 2
    message, _, asked = raised(lambda body, count: first, retries=1)
    assert said_of_it in message
    assert asked == 2


@pytest.mark.parametrize(
    "reply",
    [
        said([{"type": "text", "text": "8"}]),
        said([{"type": "thinking", "thinking": [{"type": "text", "text": "5 + 3"}]}, {"type": "text", "text": "8"}]),
        (200, gzip.compress(WHOLE), {"Content-Encoding": "gzip"}),
        (200, b"\n\n \n" + WHOLE, {}),
    ],
    ids=["in parts", "after reasoning", "zipped", "after blank lines that keep the connection"],
)
def test_an_answer_in_another_form_is_one(reply):
    with serving(lambda body, count: reply) as (_, generator):
        answer = generator([ASKED])[0]
    assert (answer.text, answer.is_complete, answer.failure) == ("8", True, None)


def test_a_zipped_answer_meets_the_limit_too():
    reply = (200, gzip.compress(b" " * 1_000_000), {"Content-Encoding": "gzip"})
    with serving(lambda body, count: reply, max_bytes=300_000) as (_, generator):
        assert generator([ASKED])[0].failure == "the answer has more than 300,000 bytes (`max_bytes`)"


@pytest.mark.parametrize("reason", ["length", "model_length", "max_tokens"])
def test_an_answer_that_is_cut_off_is_not_complete(reason):
    with serving(lambda body, count: said("8", reason)) as (_, generator):
        assert not generator([ASKED])[0].is_complete


def test_a_wrong_content_type_alone_is_no_fault():
    with serving(lambda body, count: (200, WHOLE, {"Content-Type": "text/plain"})) as (_, generator):
        assert generator([ASKED])[0].text == "8"


def test_what_was_answered_before_an_error_is_kept():
    def answer(body, count):
        return (401, b"no key", {}) if body["messages"][0]["content"] == "3" else said("8")

    with serving(answer, concurrency=1) as (_, generator):
        with pytest.raises(RequestError, match="answered 401: no key"):
            generator([Request([{"role": "user", "content": str(i)}]) for i in range(6)])
        assert sorted(generator.answered) == [0, 1, 2]


@pytest.mark.parametrize("option", [{"deadline": 0}, {"timeout": -1}, {"max_bytes": 0}])
def test_bad_limits(option):
    with (
        pytest.raises(ValueError, match="`timeout`, `deadline` .* and `max_bytes` must be above 0"),
        serving(None, **option),
    ):
        pass


def test_a_request_that_a_server_always_fails_on_is_a_failure_while_it_answers_others():
    def answer(body, count):
        is_bad = "Bad?" in str(body["messages"])
        return (500, b"a worker died", {}) if is_bad else said("8")

    def ask(*texts):
        with serving(answer, retries=2, concurrency=2, pause=0.05) as (_, generator):
            return generator([Request([{"role": "user", "content": text}]) for text in texts])

    bad, *others = ask("Bad?", *["Good?"] * 400)
    assert bad.failure == "the server fails on it (500: a worker died)"
    assert all(each.text == "8" for each in others)
    with pytest.raises(ConnectionError, match="answered 500: a worker died; gave up after 3 tries"):
        ask("Bad?")  # a server that answers nothing is at fault itself
