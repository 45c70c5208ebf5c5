"""The worker process of `symbolic.py`, which compares formulas: JSON lines in, JSON lines out.

It is run by path and imports nothing of the package.

Parsing a formula can execute code (math-verify 0.9, latex2sympy2_extended 1.11, sympy 1.14): `sympify` of a string
calls sympy's `parse_expr`, which calls `eval`. math-verify's path for plain expressions calls it on runs of digits and
operators. Its LaTeX path is an ANTLR grammar, yet hands numerals to `sympy.Number`, which is `sympify`, and the
arguments of a function like f(x) as raw text. So only the LaTeX path is used, `parse_expr` is replaced by one that
reads numerals and nothing else, and once everything is imported an audit hook refuses compiled text, processes, files
for writing and sockets, whatever leads there.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any


MEMORY_LIMIT = 1 << 30  # bytes of address space; imports take a third
CACHE_LIFE = 500  # comparisons after which sympy's caches are emptied
_REFUSED = (
    *("os.", "subprocess.", "socket.", "shutil.", "ctypes."),
    *("pty.", "fcntl.", "ftplib.", "http.", "urllib.", "smtplib."),
    *("webbrowser.", "pickle.", "code.__new__", "tempfile.", "signal.pthread_kill", "winreg.", "msvcrt."),
)
_ALLOWED = ("os.listdir", "os.scandir")  # an import that sympy has put off looks into folders
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class OutOfTime(BaseException):
    """The time is up. A `BaseException`, since sympy and math-verify catch every `Exception` and go on."""


def is_refused(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an audit event is to be refused, because comparing formulas does not need it."""
    if event == "open":
        path, mode, flags = arguments
        return bool((flags or 0) & _WRITING) or any(letter in (mode or "") for letter in "wax+")
    if event == "exec":  # an import runs the code of a file; text has a name in angle brackets
        return arguments[0].co_filename.startswith("<") and not arguments[0].co_filename.startswith("<frozen ")
    if event == "compile":
        return str(arguments[1] or "<").startswith("<")
    return event.startswith(_REFUSED) and event not in _ALLOWED


def _limit_resources() -> None:
    try:
        import resource
    except ImportError:  # Windows: time is bounded by the parent, memory is not
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":  # elsewhere address space is not counted so
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))


def load() -> Callable[[str, str], bool]:
    """A function that tells whether (gold, answer) are equal; trial comparisons have imported all that it needs."""
    import logging

    import sympy.parsing.sympy_parser
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    configuration = (LatexExtractionConfig(boxed_match_priority=0),)

    def equal(gold: str, answer: str) -> bool:
        # Time is bounded from outside, to fractions of a second: 0 turns math-verify's own SIGALRM off
        sides = [
            parse(f"\\boxed{{{side}}}", configuration, fallback_mode="no_fallback", parsing_timeout=0)
            for side in (gold, answer)
        ]
        return all(sides) and bool(verify(sides[0], sides[1], timeout_seconds=0))

    formulas = (r"\frac{\sqrt{2}}{2}", r"\sin(\frac{\pi}{4})"), ("x^2-1", "(x-1)(x+1)")
    for gold, answer in (*formulas, ("(1,2)", "1,2"), ("x<1", "1>x")):
        if not equal(gold, answer):
            raise RuntimeError(f"math-verify finds {gold} and {answer} different; its version is not one known here")
    # Only now: modules of sympy that are imported when first needed hand strings of their own to `sympify`
    sympy.parsing.sympy_parser.parse_expr = read_numeral
    return equal


def read_numeral(text: str, *_: Any, **__: Any) -> Any:
    """In the place of sympy's `parse_expr`: an Integer or a Float of at most 300 characters, else `SympifyError`."""
    import sympy

    if re.fullmatch(r"[0-9]{1,300}", text):
        return sympy.Integer(int(text))
    if re.fullmatch(r"(?=.{1,300}$)[0-9]*+\.?[0-9]*+(?:[eE][-+]?[0-9]{1,3})?", text):
        return sympy.Float(text)
    raise sympy.SympifyError(text)


def _raise(*_: object) -> None:
    raise OutOfTime


def _judge(equal: Callable[[str, str], bool], request: dict[str, Any]) -> bool | None:
    has_timer = hasattr(signal, "setitimer")
    try:
        if has_timer:
            signal.setitimer(signal.ITIMER_REAL, request["seconds"])
        return equal(request["gold"], request["answer"])
    except (OutOfTime, MemoryError):
        return None
    except Exception:  # what math-verify does not catch itself is a formula that cannot be read
        return False
    finally:
        if has_timer:
            signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  a library that prints must not write replies
    _limit_resources()
    try:
        equal = load()
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=replies, flush=True)
        return
    from sympy.core.cache import clear_cache

    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, _raise)

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if is_refused(event, arguments):
            raise PermissionError(f"{event} is refused where formulas are compared")

    sys.addaudithook(refuse)
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for count, line in enumerate(sys.stdin, start=1):
        print(json.dumps({"equal": _judge(equal, json.loads(line))}), file=replies, flush=True)
        if count % CACHE_LIFE == 0:
            clear_cache()


if __name__ == "__main__":
    main()
