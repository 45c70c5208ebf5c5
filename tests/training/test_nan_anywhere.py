"""NaN at any step, of any origin: the run stops, names step and rows, and the last finite checkpoint is left whole."""

import itertools
import json
import math
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.testing.forks import ROOT, run_script


SCRIPT = ROOT / "tests" / "testing" / "poisoned.py"
KINDS = ("weight", "weight on one rank", "gradient", "loss")


def runs_of(ranks: int) -> list[dict]:
    """Every combination of the options, each with a step and an origin of the NaN of its own."""
    chosen = random.Random(f"steps of {ranks}")
    combinations = itertools.product((None, 1, 2), (False, True), (1, 2))
    return [
        {
            "name": f"run-{i}",
            "ranks": ranks,
            "limit": limit,
            "load_best": load_best,
            "accumulation": accumulation,
            "every": chosen.choice((1, 2)),
            "step": chosen.randint(3, 7),
            "kind": KINDS[(i + ranks) % len(KINDS)],
        }
        for i, (limit, load_best, accumulation) in enumerate(combinations)
    ]


def check_is_whole(checkpoint: Path) -> None:
    """A checkpoint that can be resumed from, with finite weights and states."""
    weights = load_file(checkpoint / "model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    optimizer = torch.load(checkpoint / "optimizer.pt", weights_only=False)["state"]
    assert all(torch.isfinite(value).all() for state in optimizer.values() for value in state.values())
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == int(checkpoint.name[11:])
    assert (checkpoint / "scheduler.pt").is_file()


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=[pytest.mark.distributed, pytest.mark.slow])])
def test_nan_at_any_step(tmp_path, ranks):
    runs = runs_of(ranks)
    assert len(runs) == 12
    run_script(SCRIPT, str(tmp_path), json.dumps(runs), ranks=ranks).check()
    by_rank = [json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(ranks)]
    for run, *seen in zip(runs, *by_rank, strict=True):
        first = seen[0]
        assert {each["message"] for each in seen} == {first["message"]}, "all ranks stop for the same reason"
        # Weights that are poisoned after a step are found when it is saved, or else by the loss of the next one
        is_weight = run["kind"].startswith("weight")
        is_saved = run["step"] % run["every"] == 0
        found_at = run["step"] + (is_weight and not is_saved)
        assert first["message"].startswith(f"Step {found_at}: "), (run, first)
        assert "id='pair-" in first["message"], (run, first)
        last_good = (run["step"] - 1) // run["every"] * run["every"]
        left = {int(path.name[11:]) for path in (tmp_path / run["name"]).glob("checkpoint-*")}
        assert max(left) == last_good, (run, left, first)
        assert f"checkpoint-{last_good}'" in first["message"]
        assert run["limit"] is None or len(left) <= max(run["limit"], 2)
        for step in left:
            check_is_whole(tmp_path / run["name"] / f"checkpoint-{step}")
        assert math.isfinite(first["best_metric"])
        check_is_whole(Path(first["best"]))
