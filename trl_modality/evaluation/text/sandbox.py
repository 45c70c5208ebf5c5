"""A sandbox that runs a model's code against tests, in processes isolated by what Linux offers to any user.

The sandbox contains mistakes and casual hostility. It is no protection against an attacker: the code runs on the same
kernel, and a fault of the kernel is a way out. For code of an attacker use a virtual machine.

Each of these walls stands, or nothing is run (`SandboxError`):

- No network: a network namespace of its own, in which even the loopback device is down. No other processes are
  visible: a process namespace of its own, without /proc.
- No files but Python's own and the system's libraries, read-only. The root folder is a tmpfs in memory of
  `SCRATCH_MIB`, which vanishes with the process; nothing else of the disk is visible. The environment is empty.
- No further processes or threads, and no signals: those system calls are refused.
- Limits on memory, processor time, size and number of files; no core dumps. The parent process limits the wall-clock
  time and kills the process group.
- The tests run in a second process behind the same walls, the judge, which never runs a line of the answer: arguments
  are sent and results returned as plain data. So an answer gains nothing by printing, exiting, patching builtins,
  returning objects that are equal to everything, or looking for the tests in memory.

The price: arguments and results must be plain data (numbers, strings, bytes, lists, tuples, sets, dicts). Any other
result, such as a generator, is equal to nothing, and changes that a function makes to its arguments are not seen.
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
"""Seconds for starting the two processes, in addition to the time limit."""


class SandboxError(OSError):
    """The system refuses an isolation that the sandbox needs; the code was not run."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of running code against tests.

    `how` is "passed", "wrong" (a test failed, or the code raised an error or ended its process) or "limit" (out of
    time); `detail` says more.
    """

    how: str
    detail: str = ""

    @property
    def has_passed(self) -> bool:
        """Whether all tests passed."""
        return self.how == "passed"


@dataclass(frozen=True)
class Limits:
    """Limits for each of the two processes: seconds of processor time and of wall-clock time, and memory in MiB."""

    seconds: float = 5.0
    memory_mib: int = 512


def run_tests(code: str, entry_point: str, test: str, setup: str = "", limits: Limits | None = None) -> Verdict:
    """Run a function that untrusted code defines against tests; on Linux only.

    Args:
        code: Source that defines the function; it may try to do anything.
        entry_point: Name of the function.
        test: Source that defines `check(candidate)`, which raises an error where the function is wrong.
        setup: Source that the tests need; it runs before them, in the judge's process.
        limits: Limits on time and memory; by default `Limits()`.

    Raises:
        SandboxError: the code cannot be run safely here; the message names what is missing.
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
    """Try the sandbox on a trivial function; `SandboxError` where it does not work on this machine."""
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
            # The candidate's pipes close a moment before its process ends
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
    """Send a process its job as JSON and close its input; why a process has ended already is found out elsewhere."""
    assert process.stdin
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(job).encode())
        process.stdin.close()
    process.stdin = None


def _check_walls(processes: list[subprocess.Popen], refusals: IO[bytes]) -> None:
    """Raise `SandboxError` where a launcher failed, by its exit code: that is 0 whatever the code under test does."""
    if any(process.poll() for process in processes):
        refusals.seek(0)
        reason = (refusals.read().decode(errors="replace").splitlines() or ["the process was killed"])[-1]
        raise SandboxError(
            f"code cannot be run safely here, so it was not; refused: {reason}. It needs Linux 5.12 or newer with "
            "user namespaces, which containers and some distributions switch off."
        )


def _end(process: subprocess.Popen) -> None:
    """Kill a process and its group, and with it all processes of its namespace."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
