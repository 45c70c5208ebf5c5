"""The two processes inside the sandbox, run by `sandbox.py`: the judge runs the tests, the candidate runs the code.

    python -I -S -c SOURCE judge|candidate READ_FD WRITE_FD     (what to run: JSON on stdin)

Only plain data passes between them, so the code under test never runs in the process that judges it.
Only the standard library is imported: modules of the package are out of reach.
"""

import builtins
import json
import os
import sys
from typing import Any


LONGEST_LINE = 8 * 2**20
PLAIN = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


class Opaque:
    """A result that is not plain data; it is equal to nothing."""

    def __eq__(self, other: object) -> bool:
        return False


class Gone(Exception):
    """The candidate's process ended in the middle."""


def encode(value):
    """Plain data as JSON that tells tuples, sets and dict keys apart; subclasses become the type they derive from."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    for name, kind in PLAIN.items():
        if isinstance(value, kind):
            return {name: [encode(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    return {"opaque": None}


def decode(value):
    if not isinstance(value, dict):
        return value
    ((name, content),) = value.items()
    if name in PLAIN:
        return PLAIN[name](map(decode, content))
    if name == "dict":
        return {decode(key): decode(item) for key, item in content}
    if name == "bytes":
        return bytes.fromhex(content)
    return complex(*content) if name == "complex" else Opaque()


def send(stream, message) -> None:
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def receive(stream):
    line = stream.readline(LONGEST_LINE)
    if not line.endswith(b"\n"):
        raise Gone("the code ended its process, ran out of time or gave back too much")
    return json.loads(line)


def candidate(job, reader, writer) -> None:
    """Run the code, then call its function once for each line of arguments from `reader`."""
    namespace: dict[str, Any] = {"__name__": "candidate"}
    function = problem = None
    try:
        exec(compile(job["code"], "<answer>", "exec"), namespace)
        if job["entry_point"] not in namespace:
            raise NameError(f"the code defines no {job['entry_point']}")
        function = namespace[job["entry_point"]]
    except BaseException as error:
        problem = error
    while True:
        args, kwargs = receive(reader)
        try:
            if function is None:
                raise problem or TypeError("the function is None")
            result = function(*map(decode, args), **{name: decode(value) for name, value in kwargs.items()})
            answer = {"result": encode(result)}
        except BaseException as error:
            answer = {"error": type(error).__name__, "message": str(error)[:500]}
        send(writer, answer)


def judge(job, reader, writer) -> dict:
    """Run the tests on a function that passes its arguments to the candidate's process and returns its results."""

    def function(*args, **kwargs):
        send(writer, [[encode(arg) for arg in args], {name: encode(value) for name, value in kwargs.items()}])
        answer = receive(reader)
        if "result" in answer:
            return decode(answer["result"])
        kind: Any = getattr(builtins, answer["error"], None)
        # A `UnicodeError` cannot be made from a message alone
        is_error = isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, UnicodeError)
        raise (kind if is_error else Exception)(str(answer["message"]))

    # The tests may use what the problem defines besides the function
    namespace: dict[str, Any] = {"__name__": "judge"}
    try:
        exec(compile(job["setup"], "<problem>", "exec"), namespace)
        namespace[job["entry_point"]] = function
        exec(compile(job["test"], "<test>", "exec"), namespace)
        check = namespace["check"]
    except BaseException as error:
        return {"how": "broken", "detail": describe(error)}
    try:
        check(function)
    except Gone as error:
        return {"how": "gone", "detail": str(error)}
    except BaseException as error:
        return {"how": "wrong", "detail": describe(error)}
    return {"how": "passed", "detail": ""}


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500].rstrip(": ")


def main() -> None:
    role, read_fd, write_fd = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    job = json.load(sys.stdin)
    # Integers of any length may be arguments and results
    sys.set_int_max_str_digits(0)
    reader, writer = os.fdopen(read_fd, "rb"), os.fdopen(write_fd, "wb")
    verdicts = os.dup(1) if role == "judge" else None
    os.dup2(2, 1)
    if verdicts is None:
        candidate(job, reader, writer)
    else:
        verdict = judge(job, reader, writer)
        os.write(verdicts, json.dumps(verdict).encode())


main()
