"""A model behind an OpenAI-compatible server: what is sent, what is understood, what is tried again."""

import base64
import contextlib
import io
import subprocess
import sys
import time

import pytest
from PIL import Image

from tests.testing.answering import number_of, quiz_row
from tests.testing.serving import said, serving
from tests.testing.tiny import picture
from trl_modality.evaluation.conditions import Condition, make_request
from trl_modality.evaluation.gap import ModalityGapEvaluator
from trl_modality.evaluation.models.requests import Request, RequestError
from trl_modality.evaluation.models.server import ServerGenerator


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with contextlib.ExitStack() as servers:
        yield lambda answer, **options: servers.enter_context(serving(answer, **options))


def words(text):
    return Request([{"role": "user", "content": text}])


def test_what_is_sent(serve):
    server, generator = serve(lambda body, count: said("8"), seed=3)
    row = quiz_row(4)
    generator([make_request(row, Condition.VISION_CENTRIC)])
    body = server.bodies[0]
    assert body["path"] == "/v1/chat/completions"
    assert (body["model"], body["temperature"], body["seed"], body["max_tokens"]) == ("tiny", 0, 3, 7)
    shown, text = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "row 4. Which?"}
    head, data = shown["image_url"]["url"].split(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.tobytes() == row["images"][0].tobytes()
    assert "Authorization" not in server.headers[0]


def test_images_stand_where_they_belong(serve):
    server, generator = serve(lambda body, count: said("8"))
    content = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}, {"type": "image"}]
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    generator([Request(prompt, (picture(1, 8), picture(2, 8)))])
    system, user = server.bodies[0]["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "text", "image_url"]
    urls = [part["image_url"]["url"] for part in user["content"] if part["type"] == "image_url"]
    assert urls[0] != urls[1]


def test_answers_in_order_and_at_the_same_time(serve):
    def answer(body, count):
        time.sleep(0.05 if count % 2 else 0.01)
        return said(body["messages"][0]["content"], "length" if "3" in body["messages"][0]["content"] else "stop")

    server, generator = serve(answer, concurrency=4)
    generations = generator([words(f"q{i}") for i in range(8)])
    assert [each.text for each in generations] == [f"q{i}" for i in range(8)]
    assert [each.is_complete for each in generations] == [i != 3 for i in range(8)]
    assert 2 <= server.busiest <= 4


@pytest.mark.parametrize("failure", [(429, b"slow down", {"Retry-After": "0"}), (503, b"", {}), (None, b"", {})])
def test_failures_are_tried_again(serve, failure):
    server, generator = serve(lambda body, count: said("8") if count > 3 else failure)
    assert generator([words("q")])[0].text == "8"
    assert len(server.bodies) == 4


def test_a_failure_whose_message_is_cut_off_is_tried_again(serve):
    def answer(body, count):
        return (503, b"bus", {"Content-Length": "100"}) if count == 1 else said("seven")

    server, generator = serve(answer)
    assert generator([words("a")])[0].text == "seven"
    assert len(server.bodies) == 2


def test_timeouts_are_tried_again_and_given_up(serve):
    def answer(body, count):
        time.sleep(0.3 if count == 1 or body["messages"][0]["content"] == "slow" else 0)
        return said("8")

    _, generator = serve(answer, timeout=0.1, retries=1)
    assert generator([words("q")])[0].text == "8"
    with pytest.raises(
        ConnectionError, match=r"127.0.0.1:\d+/v1/chat/completions did not answer in time; gave up after 2 tries"
    ):
        generator([words("slow")])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"error": {"message": "no model `tiny`"}}, "no model `tiny`"),
        ({"message": "too long", "object": "error"}, "too long"),
        (b"<html>", "<html>"),
    ],
)
def test_refusals_say_what_the_server_says(serve, content, said):
    server, generator = serve(lambda body, count: (400, content, {}))
    with pytest.raises(RequestError, match=rf"/v1/chat/completions answered 400: {said}"):
        generator([words("q")])
    assert len(server.bodies) == 1


def test_key_goes_to_the_server_and_nowhere_else(serve, monkeypatch):
    elsewhere, _ = serve(lambda body, count: said("8"))
    target = f"http://127.0.0.1:{elsewhere.server_port}/v1/chat/completions"
    server, generator = serve(lambda body, count: (307, b"", {"Location": target}), api_key="secret")
    with pytest.raises(RequestError, match="answered 307"):
        generator([words("q")])
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert not elsewhere.bodies
    assert "secret" not in str(generator.settings)
    monkeypatch.setenv("OPENAI_API_KEY", "from the environment")
    server, generator = serve(lambda body, count: said("8"))
    generator([words("q")])
    assert server.headers[0]["Authorization"] == "Bearer from the environment"


def test_bad_use(serve):
    _, generator = serve(lambda body, count: said("8"))
    with pytest.raises(RequestError, match="'<user>q<end>' is a string.*message lists"):
        generator([words("q"), Request("<user>q<end>")])
    with pytest.raises(ValueError, match="http"):
        ServerGenerator("file:///etc/passwd", "tiny")
    with pytest.raises(ValueError, match="concurrency"):
        ServerGenerator("http://localhost", "tiny", concurrency=0)
    with pytest.raises(ValueError, match="api_key") as error:
        ServerGenerator("http://me:secret@localhost/v1", "tiny")
    assert "secret" not in str(error.value)


def test_a_gap_over_a_server(serve):
    def answer(body, count):
        content = body["messages"][0]["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        number = number_of(Request([{"role": "user", "content": text}]))
        return said(str(number if text.startswith("facts") or number % 2 else 99))

    _, generator = serve(answer)
    evaluate = ModalityGapEvaluator([quiz_row(i) for i in range(10)], show_progress=False)
    result = evaluate(generator)
    assert {name: each.correct for name, each in result.conditions.items()} == {
        "text_rich": 10,
        "vision_centric": 5,
        "blind": 5,
        "shuffled": 5,
        "text_only": 10,
    }


def test_the_first_requests_of_a_process_go_out_together(serve):
    """The threads must not be the first to import from `trl`, whose lazy loading fails in several at once."""
    server, _ = serve(lambda body, count: said("3"))
    code = (
        "import sys\n"
        "from trl_modality.evaluation.models.requests import Request\n"
        "from trl_modality.evaluation.models.server import ServerGenerator\n"
        "asked = [Request([{'role': 'user', 'content': 'How many?'}])] * 8\n"
        "print([answer.text for answer in ServerGenerator(sys.argv[1], 'tiny')(asked)])\n"
    )
    url = f"http://127.0.0.1:{server.server_port}"
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == str(["3"] * 8), done.stderr[-2000:]
