"""The wheel: what is in it, and that it runs where the repository is not."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]

RUN = """
import trl_modality
from pathlib import Path
assert Path(trl_modality.__file__).is_relative_to({site!r}), trl_modality.__file__
from trl_modality import ModalityBalancedSFTTrainer, PairedCollator
from trl_modality.problems.demo.pairs import make_demo_pairs
print(len(make_demo_pairs(20, 5)[0]), trl_modality.__version__)
"""


@pytest.mark.slow
def test_wheel_installs_and_runs_elsewhere(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    dist, site = tmp_path / "dist", tmp_path / "site"
    # Without isolation and dependencies: offline
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", dist, ROOT], check=True)
    (wheel,) = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"trl_modality/py.typed", "trl_modality/trainer.py", "trl_modality/kernels/reference.py"} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"trl_modality"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(site=str(site))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "20"
