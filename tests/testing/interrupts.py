"""A command of this package as a process of its own, to be interrupted."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


ALLOWED = 20.0
"""Seconds within which a process has to end after a signal; a machine that has nothing else to do takes two."""
ROOT = Path(__file__).resolve().parents[2]
# A shell that runs the tests in the background has its children ignore SIGINT
START = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
COMMAND = START + "from trl_modality.cli import main; sys.exit(main(sys.argv[1:]))"


@contextmanager
def obeying_ctrl_c() -> Iterator[None]:
    """A context in which SIGINT interrupts this process, even where a shell told it to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Interrupted(NamedTuple):
    code: int
    """Exit code."""
    said: str
    """Everything that it wrote."""
    seconds: float
    """From the signal to the end of the process."""


def interrupted(
    arguments: list[str],
    when: Callable[[], bool],
    code: str = COMMAND,
    number: signal.Signals = signal.SIGINT,
    whole_group: bool = False,
    limit: float = 30.0,
) -> Interrupted:
    """Run a command, send it a signal as soon as `when()` is so, and wait for its end.

    Args:
        arguments: Of the command.
        when: Is called until it is true.
        code: What the process runs, with the arguments in `sys.argv`.
        number: The signal.
        whole_group: Send it to the processes that it started too, as a terminal does for Ctrl-C.
        limit: Seconds after which it is killed, and an error raised.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "examples")))}
    environment |= {"no_proxy": "127.0.0.1", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryFile("w+") as written:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdout=written,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            give_up = time.monotonic() + 120
            while not when():
                ended = process.poll() is not None
                written.seek(0)
                if ended or time.monotonic() > give_up:
                    raise AssertionError(f"it came not so far: {written.read()[-3000:]}")
                time.sleep(0.05)
            start = time.monotonic()
            os.killpg(process.pid, number) if whole_group else process.send_signal(number)
            code_ = process.wait(limit)
            seconds = time.monotonic() - start
            written.seek(0)
            return Interrupted(code_, written.read(), seconds)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
