"""
The recipe study: train the demo's base by every recipe, at equal steps and at equal processed tokens, by seed.

    python benchmarks/recipes.py                                   # all of it: hours on two cores
    python benchmarks/recipes.py --settings main --recipes mix kl  # a part; what is in the CSV is not run again

Writes a row for each run to results/recipes.csv as it ends, and then results/recipes.md and three pictures.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import multiprocessing
import os
import sys
import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from typing import Any, NamedTuple

from recipe_book import RECIPES, SETTINGS
from recipe_tables import write_tables
from rows import RESULTS, commit, origin_of_cpu_run


FILE = RESULTS / "recipes.csv"
STEPS = 200
PROBE = 10  # steps, to count their tokens
# The recipe with most tokens a step; at equal tokens the others get more steps
DEAREST = "pairs_kl"


class Run(NamedTuple):
    setting: str
    recipe: str
    budget: str
    seed: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, help="by default those of each setting")
    parser.add_argument("--seeds", type=int, help="by default as many as each setting says")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at the same time, one thread each")
    args = parser.parse_args()
    done = {run_of(row) for row in read_rows()}
    if other := {row["steps"] for row in read_rows() if row["budget"] == "steps"} - {str(STEPS)}:
        raise SystemExit(f"{FILE} has runs of {other.pop()} steps, and these are of {STEPS}: move it away.")
    todo = [run for run in runs(args.settings, args.recipes, args.seeds) if run not in done]
    pool = _pool(args.jobs)
    try:
        failed = _run_all(todo, pool)
    finally:
        pool.shutdown(cancel_futures=True)  # an interruption ends what runs, and begins nothing else
    if rows := read_rows():
        write_tables(rows, RESULTS)
    if failed:
        raise SystemExit(f"{len(failed)} of {len(todo)} runs failed; this command tries them again: {failed}")


def _pool(jobs: int) -> Executor:
    """A pool of processes that are reused: starting one takes longer than many runs train."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"))


def _run_all(todo: list[Run], pool: Executor) -> list[Run]:
    """Make all runs, and write the row of each as it ends; returns the runs that failed."""
    probed = sorted(
        {(run.setting, recipe) for run in todo for recipe in (run.recipe, DEAREST) if run.budget == "tokens"}
    )
    found = [pool.submit(_start, *pair, PROBE, 0, measures=False) for pair in probed]
    per_step = {pair: probe.result()["tokens"] for pair, probe in zip(probed, found, strict=True)}
    # The dearest recipe has equal tokens at equal steps: one run stands for both
    same: dict[tuple[str, str, int, int], list[Run]] = defaultdict(list)
    for run in todo:
        same[run.setting, run.recipe, _steps(run, per_step), run.seed].append(run)
    running: dict[Future, list[Run]] = {pool.submit(_start, *task): runs for task, runs in same.items()}
    failed = []
    for number, future in enumerate(as_completed(running), 1):
        if (error := future.exception()) is not None:
            failed += running[future]
            reason = "".join(traceback.format_exception(error))[-3000:]
            print(f"{number}/{len(running)} failed, {running[future]}:\n{reason}", file=sys.stderr, flush=True)
            continue
        for run in running[future]:
            _append({"budget": run.budget, **future.result()})
        print(f"{number}/{len(running)}: {json.dumps(future.result())}", flush=True)
    return failed


def runs(settings: Iterable[str], recipes: list[str] | None, seeds: int | None) -> Iterator[Run]:
    """All runs, ordered by seed, so that an early end leaves complete seeds."""
    wanted = {name: SETTINGS[name].seeds if seeds is None else seeds for name in settings}
    for seed in range(max(wanted.values())):
        yield Run("main", "base", "none", seed)
        for setting in (name for name, count in wanted.items() if seed < count):
            for recipe in SETTINGS[setting].recipes:
                if recipes is None or recipe in recipes:
                    yield from (Run(setting, recipe, budget, seed) for budget in SETTINGS[setting].budgets)


def _steps(run: Run, per_step: dict[tuple[str, str], int]) -> int:
    """Steps of a run; for the budget of tokens, as many as process the tokens of `STEPS` steps of `DEAREST`."""
    if run.budget == "none":
        return 0
    if run.budget == "steps":
        return STEPS
    return round(STEPS * per_step[run.setting, DEAREST] / per_step[run.setting, run.recipe])


def _start(setting: str, recipe: str, steps: int, seed: int, *, measures: bool = True) -> dict[str, Any]:
    """Make a run in a process of the pool, without what training prints."""
    from recipe_run import run

    commit()  # of the code that this process has loaded, before there is another
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return run(setting, recipe, steps, seed, measures=measures) | origin_of_cpu_run("recipes")


def run_of(row: dict[str, str]) -> Run:
    return Run(row["setting"], row["recipe"], row["budget"], int(row["seed"]))


def read_rows() -> list[dict[str, str]]:
    if not FILE.exists():
        return []
    with FILE.open(newline="") as file:
        return list(csv.DictReader(file))


def _append(row: dict[str, Any]) -> None:
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
