"""Scripts as processes of their own, forked from one interpreter that has loaded the hosts.

To import torch, transformers and TRL takes a process seven seconds, and a fork of one that has them none. Started as
`python -m tests.testing.forks` it reads a job a line, runs it, and answers with the exit codes; `run_script` asks it.
"""

import atexit
import functools
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NamedTuple


ROOT = Path(__file__).resolve().parents[2]


class Ended(NamedTuple):
    """What became of a script: by rank its exit code (−9: killed) and what it wrote."""

    codes: list[int]
    outputs: list[str]
    errors: list[str]

    def check(self) -> "Ended":
        assert not any(self.codes), f"exit codes {self.codes}\n" + "\n".join(text[-3000:] for text in self.errors)
        return self


def run_script(
    script, *arguments: str, ranks: int = 1, timeout: int = 300, kills_others: bool = True, **environment: str
) -> Ended:
    """Run a script on as many processes as a launcher would start.

    When one fails the others are killed, as a launcher does; without `kills_others` they are left to find out.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = {"script": str(script), "arguments": arguments, "ranks": ranks, "environment": environment}
        job["kills_others"] = kills_others
        codes = _server()({**job, "timeout": timeout, "folder": folder})
        texts = [
            [Path(folder, f"{rank}.{name}").read_text(errors="replace") for rank in range(ranks)]
            for name in ("out", "err")
        ]
    return Ended(codes, *texts)


@functools.cache
def _server():
    """The interpreter that forks, started when it is first needed; it ends with this process."""
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (open as long as the server is)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "examples")))}
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.testing.forks"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )

    def ask(job: dict) -> list[int]:
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        if not (answer := server.stdout.readline()):
            log.seek(0)
            raise RuntimeError(f"the process that forks has ended: {log.read()[-3000:]}")
        return json.loads(answer)

    @atexit.register
    def close():
        server.stdin.close()
        server.wait()

    return ask


# In the other process


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is imported may print
    import torch
    from transformers import Trainer  # noqa: F401

    from tests.testing import tiny  # noqa: F401
    from trl_modality import ModalityBalancedSFTTrainer  # noqa: F401

    torch.set_num_threads(1)
    gc.freeze()  # what is loaded stays in memory that all processes share
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), file=answers, flush=True)


def run(script, arguments, ranks, environment, timeout, folder, kills_others) -> list[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    if ranks > 1:
        environment |= {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = {}
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            if ranks > 1:
                environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            os.environ.update(environment)
            code = _run_here(script, arguments, os.path.join(folder, str(rank)))
            # Not through the end of the interpreter: to take all modules down takes longer than most scripts
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        children[child] = rank

    def kill_others(*_):
        for child in children:
            os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, kill_others)
    signal.alarm(timeout)
    codes = [0] * ranks
    while children:
        child, status = os.wait()
        rank = children.pop(child)
        codes[rank] = os.waitstatus_to_exitcode(status)
        if codes[rank] and (kills_others or len(children) == 1):
            kill_others()
    signal.alarm(0)
    return codes


def _run_here(script: str, arguments: list[str], log: str) -> int:
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{log}.{name}", os.O_WRONLY | os.O_CREAT), descriptor)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1) for n in (1, 2))
    sys.argv = [script, *arguments]
    sys.path.insert(0, os.path.dirname(script))
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve()
