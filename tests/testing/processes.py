"""A script on several processes."""

import os
import socket
import subprocess
import sys

import torch

from tests.testing.forks import ROOT, run_script


def launch(tmp_path, worker, name, processes, *arguments, torchrun=False):
    """Run a worker on some processes, with torchrun or (seconds faster) without; returns what it saved as `<name>.pt`.

    Its first argument is `<tmp_path>/<name>`.
    """
    script = tmp_path / "worker.py"
    script.write_text(worker)
    arguments = (str(tmp_path / name), *arguments)
    if torchrun:
        _torchrun(script, processes, *arguments)
    else:
        run_script(script, *arguments, ranks=processes, DS_ACCELERATOR="cpu").check()
    return torch.load(tmp_path / f"{name}.pt", weights_only=False)


def _torchrun(script, processes, *arguments) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "examples"))),
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
    }
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
    command = [sys.executable, *launcher, str(script), *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
