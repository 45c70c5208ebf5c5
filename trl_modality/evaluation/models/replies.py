"""Replies of `/v1/chat/completions`: the answer in them, or why there is none."""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
from collections.abc import Mapping
from typing import Any

from .requests import Generation


_SHOWN = 200  # characters of what a server says
_TOO_LONG = re.compile(
    r"maximum context length|context_length_exceeded|context (?:size|window|length)|max_model_len|"
    r"(?:prompt|input) is too long|too many (?:input )?tokens|maximum number of tokens|`inputs` tokens",
    re.IGNORECASE,
)
_FILTERED = re.compile(r"content_filter|content management policy", re.IGNORECASE)
_BUSY = (408, 425, 429)
_CUT_OFF = ("length", "model_length", "max_tokens")  # finish_reason of answers that are not whole


class Busy(Exception):
    """A reply that another try may mend: it is not whole, or says that the server is busy."""


def json_of(content: bytes, kind: str) -> Any:
    """The JSON of a reply.

    Args:
        content: Its body.
        kind: Its content type, for the error.

    Raises:
        Busy: it is not JSON, such as the page of a proxy whose server is away, or half of it.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        shown = content[:_SHOWN].decode(errors="replace")
        named = f" ({kind})" if kind and kind != "application/json" else ""
        raise Busy(f"answered what is not whole JSON{named}: {shown!r}") from None


def generation_of(reply: Any) -> Generation:
    """The answer in a reply; one with `failure` where it has none.

    Raises:
        Busy: the reply is an error with a status that another try may mend.
    """
    choices = reply.get("choices") if isinstance(reply, Mapping) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(choice, Mapping) or not isinstance(message, Mapping):
        return _failed(_without_choices(reply))
    content, reason = _text_of(message.get("content")), choice.get("finish_reason")
    ended = f"finish_reason {reason!r}"
    if reason == "error" or choice.get("error"):  # of the model behind a router; its content is what was there by then
        return _failed(f"{_without_choices({'error': choice.get('error') or 'no reason is given'})} ({ended})")
    if content is not None and not isinstance(content, str):
        return _failed(f"its content is no text but a {type(content).__name__} ({ended})")
    if reason == "content_filter":
        return _failed(f"the server's content filter took the answer away ({ended})")
    if why := next((why for field, why in _INSTEAD.items() if message.get(field)), None):
        if not content:
            return _failed(f"{why.format(shown=str(message.get('refusal'))[:_SHOWN])} ({ended})")
    elif content is None:
        more = "; set `max_new_tokens` higher" if reason in _CUT_OFF else ""
        return _failed(f"the reply has no content{more} ({ended})")
    return Generation(content, reason not in _CUT_OFF)


def _text_of(content: Any) -> Any:
    """The text of a content that is given in parts, without those of reasoning; any other content as it is."""
    if not isinstance(content, list) or not all(isinstance(part, Mapping) for part in content):
        return content
    texts = [part["text"] for part in content if part.get("type") == "text" and isinstance(part.get("text"), str)]
    return "".join(texts) if texts else None


_INSTEAD = {
    "refusal": "a refusal in place of an answer: {shown!r}",
    "tool_calls": "a call of a tool in place of an answer",
    "function_call": "a call of a function in place of an answer",
    "reasoning_content": "reasoning without an answer; set `max_new_tokens` higher if it was cut off",
    "reasoning": "reasoning without an answer; set `max_new_tokens` higher if it was cut off",
}


def _failed(why: str) -> Generation:
    return Generation("", False, failure=why)


def _without_choices(reply: Any) -> str:
    error = reply.get("error") if isinstance(reply, Mapping) else None
    if isinstance(error, Mapping):
        code = str(error.get("code"))
        if code.isdecimal() and (int(code) >= 500 or int(code) in _BUSY):
            raise Busy(f"answered an error {code}: {str(error.get('message'))[:_SHOWN]}")
        return f"the reply is an error: {str(error.get('message') or error)[:_SHOWN]}"
    if isinstance(error, str):
        return f"the reply is an error: {error[:_SHOWN]}"
    return f"the reply is none of /v1/chat/completions: {str(reply)[:_SHOWN]}"


def why_refused(code: int, text: str) -> str | None:
    """Why this one request is refused, and others may not be; `None` for an error that is not about the request."""
    shown = text[:_SHOWN]
    if code == 413 or (code in (400, 422) and _TOO_LONG.search(text)):
        return f"the prompt is too long for the server ({code}: {shown})"
    if code in (400, 403, 451) and _FILTERED.search(text):
        return f"the server's content filter refused the prompt ({code}: {shown})"
    return None


def message_of(error: urllib.error.HTTPError) -> str:
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
