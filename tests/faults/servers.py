"""A server that is asked in an evaluation."""

import json
import os
from contextlib import contextmanager

from tests.faults.fault import Fault, Scene
from tests.testing.answering import quiz_row
from tests.testing.serving import drip, hang, said, serving
from trl_modality.evaluation.gap import ModalityGapEvaluator
from trl_modality.evaluation.grading.grader import Grader
from trl_modality.evaluation.models.server import ServerGenerator


ASKING = "in an evaluation"
WHOLE = json.dumps({"choices": [{"message": {"content": "1"}, "finish_reason": "stop"}]}).encode()
CONDITIONS = ("text_rich", "vision_centric")


@contextmanager
def _direct():
    """No proxy of the machine between a test and its server."""
    before = os.environ.get("no_proxy")
    os.environ["no_proxy"] = "127.0.0.1"
    try:
        yield
    finally:
        os.environ.pop("no_proxy") if before is None else os.environ.update(no_proxy=before)


class InterruptedGrader(Grader):
    """A grader that gets a Ctrl-C at the second answer that it grades."""

    def __call__(self, text, expected, choices=None):
        if text:  # the others are tries before the first question
            self.graded = getattr(self, "graded", 0) + 1
            if self.graded == 2:
                raise KeyboardInterrupt
        return super().__call__(text, expected, choices)


def evaluates(answer, grader=None, **options):
    """A maker of an evaluation of three rows in both views by a server, one question after the other."""

    def provoke(scene: Scene) -> None:
        evaluate = ModalityGapEvaluator(
            [quiz_row(i) for i in range(3)], conditions=CONDITIONS, show_progress=False, batch_size=3, grader=grader
        )
        with _direct(), serving(answer, concurrency=1, **{"retries": 1, **options}) as (server, generator):
            scene.server = server
            scene.result = evaluate(generator, scene.folder / "evals")

    return provoke


def _after(count: int, reply, then=None):
    """Answers that are right, but for this reply after so many of them; `then` is what comes after it."""
    then = said("1") if then is None else then
    return lambda body, asked: said("1") if asked <= count else (reply if asked == count + 1 else then)


def answers(scene: Scene) -> list[dict]:
    """The records in the file of answers; each line of it is whole."""
    lines = (scene.folder / "evals" / "answers.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[1:]]


def _kept(count: int):
    def check(scene: Scene) -> None:
        assert len(answers(scene)) == count

    return check


def _one_failure(scene: Scene) -> None:
    records = answers(scene)
    assert [bool(record.get("failure")) for record in records] == [False, True, *[False] * 4]
    summary = scene.result.summary
    assert (summary.noted, summary.conditions["text_rich"].total) == ({"failures": {"text_rich": 1}}, 2)
    assert summary.gap.total == 2  # the rows that have an answer in both views
    asked = len(scene.server.bodies)
    evaluate = ModalityGapEvaluator(
        [quiz_row(i) for i in range(3)], conditions=CONDITIONS, show_progress=False, batch_size=3
    )
    generator = ServerGenerator(f"http://127.0.0.1:{scene.server.server_port}", "tiny", max_new_tokens=7)
    assert evaluate(generator, scene.folder / "evals") == scene.result  # nothing is asked: the server is gone
    assert len(scene.server.bodies) == asked


def _fails(name: str, reply, why: str) -> Fault:
    return Fault(
        name,
        ASKING,
        rf"1 of 6 questions have no graded answer, and count as neither right nor wrong; the first is "
        rf"1/text_rich: {why}",
        evaluates(_after(1, reply)),
        "the other answers; the failed one has its reason in the file, is counted apart and not asked again",
        _one_failure,
        warns=True,
    )


def _ends(name: str, reply, seen: str, left="what was answered before", kept=1, **options) -> Fault:
    return Fault(name, ASKING, seen, evaluates(_after(1, reply, reply), **options), left, _kept(kept), ConnectionError)


FAULTS = [
    _fails("`content: null` from a server", said(None), r"the reply has no content \(finish_reason 'stop'\)"),
    _fails("an answer that a server's filter took away", said(None, "content_filter"), "the server's content filter"),
    _fails("a refusal in place of an answer", said(None, refusal="No."), "a refusal in place of an answer: 'No.'"),
    _fails("a call of a tool in place of an answer", said(None, "tool_calls", tool_calls=[1]), "a call of a tool"),
    _fails("reasoning without an answer", said(None, "length", reasoning="Hm"), "reasoning without an answer; set"),
    _fails("a reply with empty `choices`", (200, {"choices": []}, {}), "the reply is none of /v1/chat/completions"),
    _fails("a reply of reasoning in parts, without a text", said([{"type": "thinking"}]), "the reply has no content"),
    _fails("an answer that a router broke off", said("Half", "error"), "the reply is an error: no reason is given"),
    _fails("an error with the status 200", (200, {"error": {"message": "no"}}, {}), "the reply is an error: no"),
    _fails(
        "a prompt beyond a server's context",
        (400, {"error": {"message": "This model's maximum context length is 9 tokens."}}, {}),
        r"the prompt is too long for the server \(400: This model's maximum context length",
    ),
    _fails(
        "a prompt that a server's filter refuses",
        (400, {"error": {"code": "content_filter", "message": "content management policy"}}, {}),
        "the server's content filter refused the prompt",
    ),
    Fault(
        "an answer without an end, by its size",
        ASKING,
        r"1/text_rich: the answer has more than 300,000 bytes \(`max_bytes`\)",
        evaluates(_after(1, (200, b" " * 3_000_000, {})), max_bytes=300_000),
        "the other answers; the failed one is counted apart",
        _one_failure,
        warns=True,
    ),
    _ends(
        "a server that hangs",
        (200, hang, {}),
        r"/v1/chat/completions did not answer in time; .* a whole answer must be there within 0.6 s.*`--deadline`",
        deadline=0.6,
    ),
    _ends(
        "a server that sends a byte now and then",
        (200, drip, {}),
        "a whole answer must be there within 0.6 s",
        deadline=0.6,
    ),
    _ends(
        "a server that asks to wait for a day",
        (429, b"slow down", {"Retry-After": "99999"}),
        "answered 429: slow down and asks to wait 99999 s; gave up after 1 try, since a whole answer must be there",
    ),
    _ends("a proxy's page in place of JSON", (200, b"<html>", {"Content-Type": "text/html"}), r"\(text/html\): '<htm"),
    _ends("half of a reply", (200, WHOLE[:20], {}), "answered what is not whole JSON"),
    _ends(
        "a reply that ends before its length",
        (200, WHOLE[:20], {"Content-Length": "70"}),
        r"cannot be reached \(IncompleteRead",
    ),
    _ends("a server that hangs up", (None, b"", {}), "cannot be reached .*gave up after 2 tries"),
    Fault(
        "Ctrl-C while the answers of a server are graded",
        ASKING,
        r"interrupted: 3 of 6 are done; they are kept in \S+answers.jsonl, and the same call goes on from there",
        evaluates(lambda body, asked: said("1"), grader=InterruptedGrader()),
        "all answers that had come",
        _kept(3),
        KeyboardInterrupt,
    ),
    Fault(
        "a key that a server does not take",
        ASKING,
        "1/text_rich: .* answered 401: no such key",
        evaluates(_after(1, (401, b"no such key", {}))),
        "what was answered before",
        _kept(1),
        ValueError,
    ),
    Fault(
        "a server that has no answer to anything",
        ASKING,
        "tiny: not one of the 6 questions asked so far has a graded answer; 0/vision_centric: the reply has no con",
        evaluates(lambda body, asked: said(None)),
        "the failures of full batches before it, which are not asked again",
        lambda scene: None,
        ValueError,
    ),
]
