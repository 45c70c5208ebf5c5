"""Running a model's code against tests: in processes of their own, behind what walls Linux gives to any user.

This contains mistakes and casual hostility. It is not a jail: the code runs on the same kernel, whose faults are its
doors. For code of somebody who is after you, use a virtual machine.

What holds, or else nothing is run (`SandboxError`):

- No network: an own network namespace, without even a loopback that is up. No sight of other processes:
  an own process namespace, without /proc.
- No files but Python's own and the system's libraries, read-only. The rest of the disk is not there: the root is in
  memory, of `SCRATCH_MIB`, and vanishes with the process. What is written in it is harmless. The environment is empty.
- No further processes or threads, and no signals: those system calls are refused.
- Limits on memory, processor time, the size and number of files; no core dumps. The wall clock is kept from outside,
  and ends the process group.
- The verdict is made in another process, with walls of its own, that holds the tests and never runs a line of the
  answer: arguments go and results come back as plain data. Printing, exiting, patched builtins, objects that are equal
  to everything and reading the tests out of memory do not help. What remains possible is to compute differently when
  tested: that is judged by its results.

What this costs: arguments and results must be plain data (numbers, strings, bytes, lists, tuples, sets, dicts). Any
other result, such as a generator, is equal to nothing; and what a function does to its arguments is not seen.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO


LAUNCHER = Path(__file__).with_name("_sandbox_launch.py")
WORKER = Path(__file__).with_name("_sandbox_worker.py")
STARTING = 5.0
"""Seconds that two processes may take to start, beside the time limit."""


class SandboxError(OSError):
    """The walls cannot be put up here (the system refuses them): the code was not run."""


@dataclass(frozen=True)
class Verdict:
    """`how`: "passed", "wrong" (a test failed, or the code raised or ended), or "limit" (time); `detail` says more."""

    how: str
    detail: str = ""

    @property
    def has_passed(self) -> bool:
        return self.how == "passed"


@dataclass(frozen=True)
class Limits:
    """Of each of the two processes: processor and wall-clock seconds, and memory."""

    seconds: float = 5.0
    memory_mib: int = 512


def run_tests(code: str, entry_point: str, test: str, setup: str = "", limits: Limits | None = None) -> Verdict:
    """Run a function of some code against tests; on Linux only.

    Args:
        code: Defines the function. May do anything.
        entry_point: The name of the function.
        test: Defines `check(candidate)`, which raises where the function is wrong.
        setup: Runs before the tests and not in the process of the code: what else they use.
        limits: Of time and memory.

    Raises:
        SandboxError: it cannot be run safely here; the message says which wall is missing.
        ValueError: `test` or `setup` does not run by itself, or `test` defines no `check`.
    """
    with tempfile.TemporaryFile() as refusals:
        verdict = _verdict(
            {"code": code, "entry_point": entry_point},
            {"setup": setup, "test": test, "entry_point": entry_point},
            limits or Limits(),
            refusals,
        )
    if verdict["how"] == "broken":
        raise ValueError(f"the tests of {entry_point!r} cannot be run: {verdict['detail']}")
    return Verdict(**verdict)


def require_sandbox() -> None:
    """Raise `SandboxError` unless code can be run behind all walls here."""
    verdict = run_tests("def one(): return 1", "one", "def check(candidate): assert candidate() == 1")
    if not verdict.has_passed:
        raise SandboxError(f"a right answer did not pass in the sandbox: {verdict.how} {verdict.detail}")


def _verdict(code: dict, tests: dict, limits: Limits, refusals: IO[bytes]) -> dict[str, str]:
    to_code, from_judge = os.pipe()
    to_judge, from_code = os.pipe()
    processes: list[subprocess.Popen] = []
    try:
        try:
            candidate = _start("candidate", (to_code, from_code), limits, refusals)
            processes.append(candidate)
            judge = _start("judge", (to_judge, from_judge), limits, refusals)
            processes.append(judge)
        finally:
            for end in (to_code, from_judge, to_judge, from_code):
                os.close(end)
        _give(candidate, code)
        _give(judge, tests)
        try:
            told, _ = judge.communicate(timeout=limits.seconds + STARTING)
            verdict = json.loads(told) if told else {"how": "limit", "detail": f"the tests ran out of {limits}"}
        except subprocess.TimeoutExpired:
            verdict = {"how": "limit", "detail": f"more than {limits.seconds:g} s"}
        if verdict["how"] == "gone":
            # Its pipes close a moment before it has ended
            with contextlib.suppress(subprocess.TimeoutExpired):
                candidate.wait(timeout=1)
            verdict["how"] = "wrong"
        _check_walls(processes, refusals)
    finally:
        for process in processes:
            _end(process)
    return verdict


def _start(role: str, ends: tuple[int, int], limits: Limits, refusals: IO[bytes]) -> subprocess.Popen:
    if sys.platform != "linux":
        raise SandboxError(f"code is run on Linux only, behind its namespaces; this is {sys.platform}.")
    python = os.path.realpath(sys.executable)
    worker = [python, "-I", "-S", "-c", WORKER.read_text(encoding="utf-8"), role, *map(str, ends)]
    allowed = [str(limits.memory_mib * 2**20), str(math.ceil(limits.seconds))]
    return subprocess.Popen(
        [python, "-I", "-S", str(LAUNCHER), *allowed, *worker],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=refusals,
        env={},
        pass_fds=ends,
        start_new_session=True,
    )


def _give(process: subprocess.Popen, job: dict) -> None:
    """Hand over what is to be run, and close the input. A process that is gone has its reason told elsewhere."""
    assert process.stdin
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(job).encode())
        process.stdin.close()
    process.stdin = None


def _check_walls(processes: list[subprocess.Popen], refusals: IO[bytes]) -> None:
    """Raise `SandboxError` where a launcher has failed: it ends with 0 whatever the code does."""
    if any(process.poll() for process in processes):
        refusals.seek(0)
        reason = (refusals.read().decode(errors="replace").splitlines() or ["the process was killed"])[-1]
        raise SandboxError(
            f"code cannot be run safely here, so it was not; refused: {reason}. It needs Linux 5.12 or newer with "
            "user namespaces, which containers and some distributions switch off."
        )


def _end(process: subprocess.Popen) -> None:
    """End a process with its group; its process namespace ends with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
