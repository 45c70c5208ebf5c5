"""HTTP requests that end: limits on the time and the size of a whole answer, and an end from outside."""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import socket
import threading
import time
import urllib.request
import zlib
from typing import Any


class Stopped(Exception):
    """Whoever asked has been interrupted and waits for no answer any more."""


class TooLongError(ValueError):
    """The body of an answer has more bytes than are allowed."""


class Stop:
    """Ends requests in other threads: those that wait for the network at once, the others at their next step."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._sockets: set[socket.socket] = set()

    def set(self) -> None:
        """End all requests that know this object."""
        self._event.set()
        for each in list(self._sockets):
            with contextlib.suppress(OSError):  # it is closed already
                socket.socket.shutdown(each, socket.SHUT_RDWR)

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._event.is_set()

    def wait(self, seconds: float) -> None:
        """Wait so many seconds; raises `Stopped` as soon as it is set."""
        if self._event.wait(seconds):
            raise Stopped

    def watch(self, connection: socket.socket) -> None:
        """Close this connection too when it is set."""
        self._sockets.add(connection)

    def forget(self, connection: socket.socket | None) -> None:
        """The connection is closed."""
        self._sockets.discard(connection)  # pyright: ignore[reportArgumentType]  (None is not in it)


class Deadline:
    """The time that is left for an answer, all tries and pauses together.

    Args:
        seconds: From now on.
        timeout: Most seconds to wait for the next bytes.
        stop: Ends the waiting from outside.
    """

    def __init__(self, seconds: float, timeout: float, stop: Stop):
        self.stop, self._timeout = stop, timeout
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left; 0 or less once it has passed."""
        return self._end - time.monotonic()

    def next_wait(self) -> float:
        """Seconds to wait for the next bytes. Raises `TimeoutError` once the deadline has passed, or `Stopped`."""
        if self.stop.is_set():
            raise Stopped
        if (left := self.left) <= 0:
            raise TimeoutError("the deadline has passed")
        return min(self._timeout, left)


class _TimedReader(io.RawIOBase):
    """The bytes of a connection; before each read its timeout is set anew, so that a slow drip ends in time too."""

    def __init__(self, raw: Any, connection: socket.socket, deadline: Deadline):
        self._raw, self._connection, self._deadline = raw, connection, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._connection.settimeout(self._deadline.next_wait())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
            self._deadline.stop.forget(self._connection)
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, connection: socket.socket, *args: Any, deadline: Deadline, **kwargs: Any):
        super().__init__(connection, *args, **kwargs)
        raw: Any = self.fp
        self.fp = io.BufferedReader(_TimedReader(raw.detach(), connection, deadline))


def _connecting(kind: type[http.client.HTTPConnection], deadline: Deadline) -> Any:
    class Connection(kind):
        response_class: Any = functools.partial(_Response, deadline=deadline)

        def connect(self) -> None:
            self.timeout = deadline.next_wait()
            super().connect()
            deadline.stop.watch(self.sock)
            self.sock.settimeout(deadline.next_wait())

    return Connection


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: Any) -> Any:
        return self.do_open(_connecting(http.client.HTTPConnection, req.deadline), req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: Any) -> Any:
        return self.do_open(_connecting(http.client.HTTPSConnection, req.deadline), req)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


# A key is for its server alone: it must not follow a redirect to another one
_OPENER = urllib.request.build_opener(_NoRedirects, _Http, _Https)


def post(url: str, body: bytes, headers: dict[str, str], deadline: Deadline, max_bytes: int) -> tuple[bytes, str]:
    """Send a request and read its answer whole; redirects are not followed.

    Returns:
        The body of the answer, and its content type ("" where the server names none).

    Raises:
        TooLongError: the body has more than `max_bytes` bytes; no more of it is read.
        urllib.error.HTTPError: the status is not 2xx.
        OSError, http.client.HTTPException: the connection fails, times out, or ends before the body does.
        Stopped: the deadline's `stop` was set.
    """
    request: Any = urllib.request.Request(url, data=body, headers=headers)
    request.deadline = deadline
    with _OPENER.open(request, timeout=deadline.next_wait()) as response:
        content = response.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise TooLongError
        if response.length:  # `read` with a number says nothing of a body that ends early
            raise http.client.IncompleteRead(content, response.length)
        if response.headers["Content-Encoding"] == "gzip":  # not asked for, but proxies do it
            content = _unzipped(content, max_bytes)
        return content, response.headers.get_content_type() if response.headers["Content-Type"] else ""


def _unzipped(content: bytes, max_bytes: int) -> bytes:
    try:
        content = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(content, max_bytes + 1)
    except zlib.error as error:
        raise http.client.HTTPException(f"the gzip of its answer is broken: {error}") from error
    if len(content) > max_bytes:
        raise TooLongError
    return content
