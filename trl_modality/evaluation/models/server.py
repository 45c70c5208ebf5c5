"""A generator for a model behind an OpenAI-compatible server, such as vLLM."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import http.client
import io
import json
import logging
import os
import time
import urllib.error
import urllib.parse
from collections.abc import Sequence
from typing import Any

from .bounded_http import Deadline, Stop, Stopped, TooLongError, post
from .replies import Busy, generation_of, json_of, message_of, why_refused
from .requests import Generation, Request, RequestError
from .threads import in_threads


logger = logging.getLogger(__name__)

API_KEY_VARIABLE = "OPENAI_API_KEY"
RETRIED = (408, 409, 425, 429)
LONGEST_PAUSE = 60.0
MAX_BYTES = 8 << 20
"""Default limit on the size of an answer: 8 MiB, some two million tokens."""


class ServerGenerator:
    """Answers requests over `/v1/chat/completions`, several at a time.

    Images are sent as PNG at their places in the content of a message. A request is repeated where the server is busy,
    fails (429, 5xx), does not answer in time or answers what is not JSON. The pauses before that double, and are not
    shorter than the server asks for by `Retry-After`; all is within `deadline`. Where the server has no answer for a
    request (it is filtered, refused, broken off, longer than the model's context or than `max_bytes`, has no content,
    or ends in 500 each time while others are answered), its `Generation` has `failure` set. The server's own batching
    may change floating point, and with it an answer.

    Args:
        url: URL of the server, with or without `/v1`.
        model: The server's name for the model.
        max_new_tokens: Largest number of tokens in an answer.
        api_key: Key for the server; by default the environment variable `OPENAI_API_KEY`, if it is set.
        concurrency: Number of requests at the same time.
        seed: Seed that is sent with every request that has none of its own.
        temperature, top_p: Of sampling; by default the likeliest token is taken every time. Not every server keeps to
            a seed.
        timeout: Seconds to wait for the next bytes of an answer.
        deadline: Seconds for one answer to its last byte, with all repetitions and pauses, also those that the server
            asks for by `Retry-After`.
        max_bytes: Most bytes of an answer.
        retries: How often a request is repeated.
        pause: Seconds before the first repetition.
        name: Name of the model in reports; by default `model`.

    Raises:
        ValueError: the URL is not http or https or holds a password, or a number is below 1.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        max_new_tokens: int = 256,
        api_key: str | None = None,
        concurrency: int = 8,
        seed: int = 0,
        temperature: float = 0.0,
        top_p: float = 1.0,
        timeout: float = 300.0,
        deadline: float = 900.0,
        max_bytes: int = MAX_BYTES,
        retries: int = 6,
        pause: float = 1.0,
        name: str | None = None,
    ):
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"the URL of a server begins with http:// or https://, got {url!r}.")
        if "@" in urllib.parse.urlsplit(url).netloc:
            # The URL is written into results and reports
            raise ValueError("the URL of a server must hold no name or password; give `api_key`, or OPENAI_API_KEY.")
        if max_new_tokens < 1 or concurrency < 1:
            raise ValueError(
                f"`max_new_tokens` and `concurrency` must be at least 1, got {max_new_tokens} and {concurrency}."
            )
        if not (timeout > 0 and deadline > 0 and max_bytes > 0):
            raise ValueError(
                f"`timeout`, `deadline` (seconds) and `max_bytes` must be above 0, got {timeout}, {deadline} and "
                f"{max_bytes}."
            )
        base = url.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
        self.url = f"{base}/v1/chat/completions"
        self.model_id = model
        self.name = name or model
        self.max_new_tokens = max_new_tokens
        if not temperature >= 0 or not 0 < top_p <= 1:
            raise ValueError(f"`temperature` must be 0 or more and `top_p` in (0, 1], got {temperature} and {top_p}.")
        self.concurrency, self.seed = concurrency, seed
        self.sampling = {"temperature": temperature, "top_p": top_p} if temperature else {}
        self.timeout, self.deadline, self.max_bytes = timeout, deadline, max_bytes
        self.retries, self.pause = retries, pause
        self._key = api_key or os.environ.get(API_KEY_VARIABLE)
        self.answered: dict[int, Generation] = {}
        self._n_answers = 0

    @property
    def settings(self) -> dict[str, Any]:
        """What the answers depend on."""
        fixed = {"server": self.url, "max_new_tokens": self.max_new_tokens, "server_seed": self.seed}
        return {**fixed, **self.sampling}

    def __call__(self, requests: Sequence[Request]) -> list[Generation]:
        """The answers, in order. Ctrl-C ends the call at once; what was answered by then is in `answered`.

        Raises:
            RequestError: the server refuses a request (4xx); with its URL and message.
            ConnectionError: it cannot be reached, goes on failing, or does not answer within the deadline.
        """
        # Not in the threads: the first import from `trl`, which loads its modules when asked, fails in several at once
        from trl import prepare_multimodal_messages  # noqa: F401

        self.answered = {}
        stop = Stop()

        def answer(position: int, request: Request) -> Generation:
            generation = self._answer(position, request, stop)
            self._n_answers += 1
            return generation

        in_threads(answer, requests, self.concurrency, self.answered, stop)
        return [self.answered[i] for i in range(len(requests))]

    def _answer(self, position: int, request: Request, stop: Stop) -> Generation:
        body = {
            "model": self.model_id,
            "messages": _messages(position, request),
            "temperature": 0,
            **self.sampling,
            "seed": self.seed if request.seed is None else request.seed,
            "max_tokens": self.max_new_tokens,
        }
        return self._ask(position, json.dumps(body).encode(), Deadline(self.deadline, self.timeout, stop))

    def _ask(self, position: int, body: bytes, deadline: Deadline) -> Generation:
        headers = {
            "Content-Type": "application/json",
            **({"Authorization": f"Bearer {self._key}"} if self._key else {}),
        }
        problem, failure, n_answers = "", None, self._n_answers
        for attempt in range(self.retries + 1):
            failure, wanted = None, None
            try:
                content, kind = post(self.url, body, headers, deadline, self.max_bytes)
                return generation_of(json_of(content, kind))
            except TooLongError:
                failure = f"the answer has more than {self.max_bytes:,} bytes (`max_bytes`)"
                return Generation("", False, failure=failure)
            except urllib.error.HTTPError as error:
                text = message_of(error)
                problem = f"{self.url} answered {error.code}: {text}"
                if refused := why_refused(error.code, text):
                    return Generation("", False, failure=refused)
                if error.code < 500 and error.code not in RETRIED:
                    raise RequestError(position, problem) from error
                failure = f"the server fails on it ({error.code}: {text[:200]})" if error.code == 500 else None
                wanted = _seconds(error.headers.get("Retry-After"))
            except Busy as error:
                problem = f"{self.url} {error}"
            except TimeoutError:  # one of connecting comes as a `URLError`
                problem = f"{self.url} did not answer in time"
            except (OSError, http.client.HTTPException) as error:
                problem = f"{self.url} cannot be reached ({getattr(error, 'reason', None) or repr(error)})"
            if deadline.stop.is_set():
                raise Stopped
            if attempt < self.retries:
                n_answers = self._n_answers
                self._pause(attempt, wanted, problem, deadline)
        if failure is not None and self._n_answers > n_answers:
            # It has answered others since the try before: what it fails on is this request, and would be again
            return Generation("", False, failure=failure)
        raise ConnectionError(f"{problem}; gave up after {_tries(self.retries + 1)}.")

    def _pause(self, attempt: int, wanted: float | None, problem: str, deadline: Deadline) -> None:
        """Wait before the next try; `ConnectionError` where it would begin after the deadline."""
        # A server that says "in 1 s" each time is not given up on sooner than one that says nothing
        seconds = max(min(self.pause * 2**attempt, LONGEST_PAUSE), wanted or 0.0)
        if seconds >= deadline.left:
            asked = f" and asks to wait {wanted:g} s" if wanted else ""
            raise ConnectionError(
                f"{problem}{asked}; gave up after {_tries(attempt + 1)}, since a whole answer must be there within "
                f"{self.deadline:g} s. Try again later, or set `deadline` (`--deadline`) higher."
            )
        logger.warning(f"{problem}; trying again in {seconds:g} s")
        deadline.stop.wait(seconds)


def _tries(count: int) -> str:
    return "1 try" if count == 1 else f"{count} tries"


def _seconds(retry_after: str | None) -> float | None:
    """The pause that a `Retry-After` asks for, a number of seconds or a date; `None` for what is neither."""
    if retry_after is None:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(retry_after))
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _messages(position: int, request: Request) -> list[dict[str, Any]]:
    from trl import prepare_multimodal_messages

    if isinstance(request.prompt, str):
        raise RequestError(
            position,
            f"the prompt starting {request.prompt[:60]!r} is a string, but a server applies its own chat template. "
            "Give the prompts as message lists.",
        )
    try:
        messages = prepare_multimodal_messages(request.prompt, images=list(request.images))
    except ValueError as error:
        raise RequestError(position, str(error)) from error
    return [{**message, "content": _content(message.get("content") or [])} for message in messages]


def _content(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)  # some servers take words in no other form
    return [
        {"type": "image_url", "image_url": {"url": _data_url(part["image"])}} if part["type"] == "image" else part
        for part in parts
    ]


def _data_url(image: Any) -> str:
    file = io.BytesIO()
    image.convert("RGB").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
