"""Training that is killed at any moment and resumed is the training that was not: rows, views and losses, exactly."""

import json
import signal
from collections import Counter

import pytest

from tests.testing.forks import ROOT, run_script


SCRIPT = ROOT / "tests" / "testing" / "crashes.py"
# 6 rows a step, 24 % of the epoch's slots replay: epochs end inside of the run, and in a short step
OPTIONS = {
    "max_steps": 13,
    "curriculum": "linear",
    "kl_weight": 0.5,
    "kl_schedule": "until",
    "kl_schedule_at": 0.5,
    "replay_ratio": 0.25,
}
# Micro-batches after which each life of a run ends: mostly in the middle of an accumulation of three, the first before
# its first checkpoint. Every kind of dataset has its own, so that there are a dozen different ones
DEATHS = {False: (4, 8, 7, 11), True: (5, 10, 8, 13), "shuffled": (2, 9, 10, 12)}


def do(folder, *runs):
    """The runs, in order; each leaves `<name>.jsonl`."""
    for run in runs:
        ended = run_script(SCRIPT, str(folder), json.dumps(run), ranks=run["ranks"])
        if "dies_at" in run:
            assert set(ended.codes) == {-signal.SIGKILL}, f"run {run['name']} was to die: {ended}"
        else:
            ended.check()


def run_of(name, ranks, micro_batch, accumulation, stream, **more):
    cut = {"per_device_train_batch_size": micro_batch, "gradient_accumulation_steps": accumulation}
    return {"name": name, "output": name, "ranks": ranks, "stream": stream, "options": OPTIONS | cut, **more}


def read(folder, name):
    """(rows of each micro-batch by step and rank, losses by step); a step that was done again has several."""
    rows, losses = {}, {}
    for line in (folder / f"{name}.jsonl").read_text().splitlines():
        line = json.loads(line)
        if "rows" in line:
            rows.setdefault((line["step"], line["rank"]), []).append(line["rows"])
        else:
            losses.setdefault(line["step"], []).append((line["loss"], line["grad_norm"]))
    return rows, losses


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("stream", [False, True, "shuffled"], ids=["stored", "stream", "shuffled stream"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path, stream, ranks):
    cut = (ranks, 2 // ranks, 3, stream)
    deaths = [run_of("killed", *cut, dies_at=n, resume=i > 0) for i, n in enumerate(DEATHS[stream])]

    do(tmp_path, run_of("whole", *cut), *deaths, run_of("killed", *cut, resume=True))
    rows, losses = read(tmp_path, "whole")
    killed_rows, killed_losses = read(tmp_path, "killed")
    assert sorted(losses) == sorted(killed_losses) == list(range(13))
    for step, (loss,) in losses.items():
        assert set(killed_losses[step]) == {loss}, step
    assert rows.keys() == killed_rows.keys()
    n_repeated = 0
    for place, micro_batches in rows.items():
        lives = killed_rows[place]
        assert lives[-len(micro_batches) :] == micro_batches, place
        n_repeated += len(lives) > len(micro_batches)
    assert n_repeated >= ranks * len(deaths) // 2, "no life ended after its last checkpoint"


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("stream", [False, True], ids=["stored", "stream"])
def test_resuming_with_other_ranks_or_another_cut_keeps_the_rows_of_a_step(tmp_path, stream):
    whole = run_of("whole", 2, 1, 3, stream)
    first = {**whole, "name": "first", "output": "others", "dies_at": 3 * 5}
    cuts = {"one by one": (1, 1, 6), "at once": (1, 6, 1), "three ranks": (3, 2, 1)}
    runs = [whole]
    for name, (ranks, micro_batch, accumulation) in cuts.items():
        other = run_of(name, ranks, micro_batch, accumulation, stream, resume=True)
        runs += [{**first, "name": f"{name}, first", "output": name}, other]
    do(tmp_path, *runs)

    def by_step(name):
        rows, losses = read(tmp_path, name)
        steps = {}
        for (step, _), micro_batches in rows.items():
            steps.setdefault(step, Counter()).update(row for batch in micro_batches for row in batch)
        return steps, losses

    steps, losses = by_step("whole")
    for name in cuts:
        other_steps, other_losses = by_step(name)
        assert sorted(other_steps) == list(range(4, 13)), name
        for step, rows in other_steps.items():
            assert rows == steps[step], (name, step)
            assert other_losses[step][0][0] == pytest.approx(losses[step][0][0], rel=1e-5), (name, step)
