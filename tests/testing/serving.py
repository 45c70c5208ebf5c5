"""A small server of `/v1/chat/completions`, in threads of this process or as a process of its own.

python -m tests.testing.serving KIND        # prints its port; KIND: right, hangs, drips, busy, refuses
"""

import contextlib
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from trl_modality.evaluation.models.server import ServerGenerator


class Server(ThreadingHTTPServer):
    """Answers by a function of (body, how often this server was asked) → (status, content, headers).

    A content is bytes, an object that becomes JSON, or a function that writes it, called with `write`; a status of
    `None` hangs up without a word, and one that is a function writes all of the reply.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.bodies, self.headers = answer, [], []
        self.busy, self.busiest, self.lock = 0, 0, threading.Lock()

    def handle_error(self, request, client_address):
        pass  # a client that has hung up


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.bodies.append({"path": self.path, **body})
            server.headers.append(dict(self.headers))
            server.busy += 1
            server.busiest = max(server.busiest, server.busy)
            count = len(server.bodies)
        status, content, headers = server.answer(body, count)
        with server.lock:
            server.busy -= 1
        if status is None:
            self.close_connection = True  # hangs up without a word
            return
        if callable(status):
            status(self.wfile.write)
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if callable(content):
            content(self.wfile.write)
        else:
            self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

    def log_message(self, *args):
        pass


def said(text, reason="stop", **message):
    """An answer of status 200 with this content."""
    message = {"role": "assistant", "content": text, **message}
    return 200, {"choices": [{"message": message, "finish_reason": reason}]}, {}


def drip(write):
    """A byte every tenth of a second, for ever."""
    while True:
        write(b" ")
        time.sleep(0.1)


def hang(write):
    time.sleep(3600)


@contextlib.contextmanager
def serving(answer, **options):
    """A server that answers by a function, and a generator that asks it."""
    server = Server(answer)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield server, ServerGenerator(url, "tiny", **{"pause": 0.01, "max_new_tokens": 7, **options})
    finally:
        server.shutdown()
        server.server_close()


def _first_ones_then(answer, count=3):
    return lambda body, asked: said("1") if asked <= count else answer


KINDS = {
    "right": lambda body, asked: said("1"),
    "hangs": _first_ones_then((200, hang, {})),
    "drips": _first_ones_then((200, drip, {})),
    "busy": _first_ones_then((503, b"busy", {"Retry-After": "30"})),
}


if __name__ == "__main__":
    server = Server(KINDS[sys.argv[1]])
    print(server.server_port, flush=True)
    server.serve_forever()
