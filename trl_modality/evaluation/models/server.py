"""A generator for a model behind an OpenAI-compatible server, such as vLLM."""

from __future__ import annotations

import base64
import http.client
import io
import json
import logging
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .requests import Generation, Request, RequestError


logger = logging.getLogger(__name__)

API_KEY_VARIABLE = "OPENAI_API_KEY"
RETRIED = (408, 409, 425, 429)
LONGEST_PAUSE = 60.0


class ServerGenerator:
    """Answers requests over `/v1/chat/completions`, at temperature 0, several at a time.

    Images are sent as PNG at their places in the content of a message. A request is repeated, after pauses that
    double, where the server is busy, fails (429, 5xx) or does not answer in time. The server's own batching may change
    floating point, and with it an answer.

    Args:
        url: URL of the server, with or without `/v1`.
        model: The server's name for the model.
        max_new_tokens: Largest number of tokens in an answer.
        api_key: Key for the server; by default the environment variable `OPENAI_API_KEY`, if it is set.
        concurrency: Number of requests at the same time.
        seed: Seed that is sent with every request.
        timeout: Seconds to wait for an answer.
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
        timeout: float = 300.0,
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
        base = url.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
        self.url = f"{base}/v1/chat/completions"
        self.model_id = model
        self.name = name or model
        self.max_new_tokens = max_new_tokens
        self.concurrency, self.seed = concurrency, seed
        self.timeout, self.retries, self.pause = timeout, retries, pause
        self._key = api_key or os.environ.get(API_KEY_VARIABLE)
        # The key is for this server: it must not follow a redirect to another one
        self._opener = urllib.request.build_opener(_NoRedirects)

    @property
    def settings(self) -> dict[str, Any]:
        """What the answers depend on."""
        return {"server": self.url, "max_new_tokens": self.max_new_tokens, "server_seed": self.seed}

    def __call__(self, requests: Sequence[Request]) -> list[Generation]:
        """The answers, in order.

        Raises:
            RequestError: the server refuses a request (4xx); with its URL and message.
            ConnectionError: it cannot be reached, or goes on failing.
        """
        # Not in the threads: the first import from `trl`, which loads its modules when asked, fails in several at once
        from trl import prepare_multimodal_messages  # noqa: F401

        with ThreadPoolExecutor(self.concurrency) as pool:
            futures = [pool.submit(self._answer, i, request) for i, request in enumerate(requests)]
            try:
                return [future.result() for future in futures]
            finally:
                pool.shutdown(wait=True, cancel_futures=True)  # after an error, the rest is not asked

    def _answer(self, position: int, request: Request) -> Generation:
        body = {
            "model": self.model_id,
            "messages": _messages(position, request),
            "temperature": 0,
            "seed": self.seed,
            "max_tokens": self.max_new_tokens,
        }
        answer = self._post(position, json.dumps(body).encode())
        try:
            choice = answer["choices"][0]
            text = choice["message"]["content"] or ""
            if not isinstance(text, str):
                raise TypeError("its content is no text")
            return Generation(text, choice["finish_reason"] != "length")
        except (KeyError, IndexError, TypeError) as error:
            raise RequestError(
                position, f"{self.url} gave no answer of /v1/chat/completions: {str(answer)[:200]}"
            ) from error

    def _post(self, position: int, body: bytes) -> Any:
        headers = {
            "Content-Type": "application/json",
            **({"Authorization": f"Bearer {self._key}"} if self._key else {}),
        }
        problem = ""
        for attempt in range(self.retries + 1):
            wanted: str | None = None
            try:
                request = urllib.request.Request(self.url, data=body, headers=headers)
                with self._opener.open(request, timeout=self.timeout) as response:
                    return _decoded(position, self.url, response.read())
            except urllib.error.HTTPError as error:
                problem = f"{self.url} answered {error.code}: {_message_of(error)}"
                if error.code < 500 and error.code not in RETRIED:
                    raise RequestError(position, problem) from error
                wanted = error.headers.get("Retry-After")
            except (OSError, http.client.HTTPException) as error:
                problem = f"{self.url} cannot be reached ({getattr(error, 'reason', None) or repr(error)})"
            if attempt < self.retries:
                seconds = self._pause_before(attempt, wanted)
                logger.warning(f"{problem}; trying again in {seconds:g} s")
                time.sleep(seconds)
        raise ConnectionError(f"{problem}; gave up after {self.retries + 1} tries.")

    def _pause_before(self, attempt: int, wanted: str | None) -> float:
        seconds = float(wanted) if wanted and wanted.isdigit() else self.pause * 2**attempt
        return min(seconds, LONGEST_PAUSE)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
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


def _decoded(position: int, url: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise RequestError(position, f"{url} answered what is not JSON: {content[:200]!r}") from error


def _message_of(error: urllib.error.HTTPError) -> str:
    """The server's own description of an error: the `message` in its JSON, or the text of its reply."""
    try:
        text = error.read(10_000).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):  # it is cut off
        text = ""
    finally:
        error.close()
    try:
        content = json.loads(text)
        content = content.get("error", content)
        return str(content["message"] if isinstance(content, dict) else content)
    except (ValueError, KeyError, AttributeError):
        return text[:500] or str(error.reason)
