"""The steps of `examples/from_pictures.sh`, on few rows: the base's own facts and completions are the true ones."""

import os
import subprocess
import sys

import pytest
from datasets import load_dataset

from tests.testing.forks import ROOT
from trl_modality.views import text_of


pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("example")]


def test_from_pictures_to_a_measured_model(tmp_path):
    """As a user starts it: every command of the script, to the evaluations."""
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "examples")]),
        "PYTHON": sys.executable,
        "MODALITY": f"{sys.executable} -m trl_modality.cli",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
        "ROWS": "60",
        "HELD_OUT": "20",
        "STEPS": "2",
    }
    out = tmp_path / "out"
    done = subprocess.run(
        ["sh", "examples/from_pictures.sh", str(out)], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    made, true = (load_dataset(str(out / name), split="train") for name in ("traces", "true_pairs"))
    by_id = {row["id"]: row for row in true}
    assert len(made) >= 54  # the base transcribes without a mistake, and answers 99.5 % from words
    for row in made:
        for column in ("text_rich_prompt", "vision_centric_prompt"):
            assert text_of(row[column]) == text_of(by_id[row["id"]][column])
        assert text_of(row["completion"]).endswith(f";{row['answer']}")
    assert not set(load_dataset(str(out / "questions"), split="train").column_names) & {
        "text_rich_prompt",
        "completion",
    }
    assert {each.name for each in (out / "evals").iterdir()} == {"before", "from_pictures", "from_true_facts"}
