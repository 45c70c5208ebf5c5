"""Equality of formulas by math-verify, in a worker process that can be killed.

math-verify limits its own time by SIGALRM, which raises ValueError outside the main thread, counts whole seconds, and
cannot interrupt a long step in C, such as a power of integers; its memory is not limited at all. So math-verify never
runs in this process. The worker is started when first needed, has a limit on its memory, and is killed and started
again when a comparison takes too long.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import weakref
from pathlib import Path


MAX_FORMULA = 200  # characters; longer ones are not compared
START_LIMIT = 120.0  # seconds to import math-verify and sympy on a busy machine
_WORKER = Path(__file__).with_name("_symbolic_worker.py")
_FUNCTIONS = "sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|log|ln|exp|sqrt|lim|max|min|gcd|lcm|mod|pi"
_NAME = re.compile(rf"(?<![\\a-zA-Z])(?!(?:{_FUNCTIONS})(?![a-zA-Z]))[a-zA-Z]{{2,}}+")


def is_formula(answer: str) -> bool:
    """Whether a `bare` answer may be compared as a formula.

    Words may not: a parser reads them as products of letters, by which "listen" equals "silent".
    """
    return len(answer) <= MAX_FORMULA and bool(re.search(r"\w", answer)) and not _NAME.search(answer)


class WorkerError(OSError):
    """The process that compares formulas cannot be started; nothing was compared."""


class SymbolicWorker:
    """A worker process that compares formulas for one thread at a time; other threads wait.

    It is a context manager, and the process ends with the interpreter at the latest.

    Raises:
        WorkerError: (when used) the process cannot be started; its own message is given.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._finalizer: weakref.finalize | None = None

    def __enter__(self) -> SymbolicWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Id of the process; `None` while there is none."""
        return self._process.pid if self._process else None

    def close(self) -> None:
        """End the process; a later comparison starts a new one."""
        with self._lock:
            self._end()

    def compare(self, answer: str, gold: str, time_limit: float) -> bool | None:
        """Whether two formulas are equal; `None` if that took more than `time_limit` seconds or too much memory.

        Starting the process does not count towards the limit.
        """
        with self._lock:
            if self._process is None:
                self._start()
            # The worker gives up by itself before it would be killed, which saves starting a new one
            sides = {"answer": _as_latex(answer), "gold": _as_latex(gold)}
            try:
                reply = self._ask({**sides, "seconds": 0.6 * time_limit}, 0.8 * time_limit)
            except BaseException:  # Ctrl-C: its reply would be taken for that of the next comparison
                self._end()
                raise
            if reply is None:
                self._end()
                return None
            return reply["equal"]

    def _start(self) -> None:
        # By path and with -P, so that no module of this package can shadow one of the standard library
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-B", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="ascii",
        )
        self._finalizer = weakref.finalize(self, _kill, self._process, os.getpid())
        try:
            reply = self._ask(None, START_LIMIT)
        except BaseException:
            self._end()
            raise
        if reply is None or "error" in reply:
            self._end()
            why = "no reply" if reply is None else reply["error"]
            raise WorkerError(f"The process that compares formulas did not start: {why}")

    def _end(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._process = self._finalizer = None

    def _ask(self, request: dict | None, time_limit: float) -> dict | None:
        process = self._process
        # Killing it ends the read below, on every system; there is no time-out for pipes that works on all of them
        timer = threading.Timer(time_limit, process.kill)
        timer.daemon = True
        timer.start()
        try:
            if request is not None:
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
            line = process.stdout.readline()
            return json.loads(line) if line.endswith("\n") else None
        except (OSError, ValueError):  # it has died: a broken pipe, or half a line
            return None
        finally:
            timer.cancel()


def _as_latex(answer: str) -> str:
    """A cleaned answer with the signs ×, · and ° as LaTeX commands again."""
    return answer.replace("×", r"\times ").replace("·", r"\cdot ").replace("°", r"^{\circ}")


def _kill(process: subprocess.Popen[str], owner: int) -> None:
    if os.getpid() != owner:  # a fork of the process that started it
        return
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # what was still to be written has no reader any more
            stream.close()


_shared = SymbolicWorker()


def _forget() -> None:
    global _shared
    if _shared._finalizer is not None:
        _shared._finalizer.detach()
    _shared = SymbolicWorker()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)  # its pipes and its lock belong to the parent


def are_equal(answer: str, gold: str, *, time_limit: float) -> bool | None:
    """`SymbolicWorker.compare` by the worker that this process shares and starts on first use."""
    return _shared.compare(answer, gold, time_limit)


def close() -> None:
    """End the shared worker, if there is one; the next use starts a new one."""
    _shared.close()
