"""A script on several processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch


def launch(tmp_path, worker, name, processes, *arguments):
    """Run a worker under torchrun; returns what it saved as `<name>.pt`."""
    script = tmp_path / "worker.py"
    script.write_text(worker)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = Path(__file__).resolve().parents[2]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (root, root / "examples"))),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
    }
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
    command = [sys.executable, *launcher, str(script), str(tmp_path / name), *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(tmp_path / f"{name}.pt", weights_only=False)
