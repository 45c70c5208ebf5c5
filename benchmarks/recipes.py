"""
The recipe study: from the base of the demo, every recipe at equal steps and at equal processed tokens, by seeds.

    python benchmarks/recipes.py                                   # all of it: hours on two cores
    python benchmarks/recipes.py --settings main --recipes mix kl  # a part; what is in the CSV is not run again

Writes a row for each run to results/recipes.csv as it ends, and then results/recipes.md and recipes.png of all rows.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from recipe_book import RECIPES, SETTINGS
from recipe_tables import write_tables
from rows import RESULTS, origin_of_cpu_run


FILE = RESULTS / "recipes.csv"
STEPS = 120
PROBE = 10  # steps, to count their tokens
# What costs most in a step; the others get as many steps as its tokens allow them
DEAREST = "pairs_kl"
SEEDS = 5


class Run(NamedTuple):
    setting: str
    recipe: str
    budget: str
    seed: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, help="by default those of each setting")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at the same time, one thread each")
    args = parser.parse_args()
    done = {run_of(row) for row in read_rows()}
    todo = [run for run in runs(args.settings, args.recipes, args.seeds) if run not in done]
    pool = ThreadPoolExecutor(args.jobs)
    try:
        failed = _run_all(todo, pool)
    finally:
        pool.shutdown(cancel_futures=True)  # an interruption ends what runs, and begins nothing else
    if rows := read_rows():
        write_tables(rows, RESULTS)
    if failed:
        raise SystemExit(f"{len(failed)} of {len(todo)} runs failed; this command tries them again: {failed}")


def _run_all(todo: list[Run], pool: ThreadPoolExecutor) -> list[Run]:
    """Runs that failed. The row of each other one is written as it ends, whatever becomes of the rest."""
    probed = sorted(
        {(run.setting, recipe) for run in todo for recipe in (run.recipe, DEAREST) if run.budget == "tokens"}
    )
    per_step = dict(
        zip(probed, pool.map(lambda pair: _start(pair[0], pair[1], "probe", PROBE, 0)["tokens"], probed), strict=True)
    )
    running: dict[Future, Run] = {
        pool.submit(_start, run.setting, run.recipe, run.budget, _steps(run, per_step), run.seed): run for run in todo
    }
    failed = []
    for number, future in enumerate(as_completed(running), 1):
        if (error := future.exception()) is not None:
            failed.append(running[future])
            print(f"{number}/{len(todo)} failed: {error}", file=sys.stderr, flush=True)
            continue
        _append(future.result())
        print(f"{number}/{len(todo)}: {json.dumps(future.result())}", flush=True)
    return failed


def runs(settings: Iterable[str], recipes: list[str] | None, seeds: int) -> Iterator[Run]:
    """Those of one seed after those of another, so that an early end leaves whole seeds."""
    for seed in range(seeds):
        yield Run("main", "base", "none", seed)
        for setting in settings:
            for recipe in SETTINGS[setting].recipes:
                if recipes is None or recipe in recipes:
                    yield from (Run(setting, recipe, budget, seed) for budget in SETTINGS[setting].budgets)


def _steps(run: Run, per_step: dict[tuple[str, str], int]) -> int:
    """For the budget of tokens, steps that process as many as `STEPS` of the dearest recipe."""
    if run.budget == "none":
        return 0
    if run.budget == "steps":
        return STEPS
    return round(STEPS * per_step[run.setting, DEAREST] / per_step[run.setting, run.recipe])


def _start(setting: str, recipe: str, budget: str, steps: int, seed: int) -> dict[str, Any]:
    """The run in a process of its own, on one thread."""
    command = [sys.executable, str(Path(__file__).with_name("recipe_run.py"))]
    done = subprocess.run(
        [*command, setting, recipe, budget, str(steps), str(seed)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{setting}, {recipe}, seed {seed}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_of(row: dict[str, str]) -> Run:
    return Run(row["setting"], row["recipe"], row["budget"], int(row["seed"]))


def read_rows() -> list[dict[str, str]]:
    if not FILE.exists():
        return []
    with FILE.open(newline="") as file:
        return list(csv.DictReader(file))


def _append(row: dict[str, Any]) -> None:
    row = row | origin_of_cpu_run("recipes")
    columns = list(row)
    if FILE.exists():
        with FILE.open(newline="") as file:
            columns = next(csv.reader(file), columns)
        if set(columns) != set(row):
            raise ValueError(f"{FILE} has other columns than this run ({set(columns) ^ set(row)}): move it away.")
    is_new = not FILE.exists()
    with FILE.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if is_new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
