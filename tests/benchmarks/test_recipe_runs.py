"""The recipe study keeps what its runs found: a failing run costs itself alone, and nothing is run twice."""

import importlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest


BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def recipes(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    recipes: Any = importlib.import_module("recipes")
    monkeypatch.setattr(recipes, "FILE", tmp_path / "recipes.csv")
    monkeypatch.setattr(recipes, "write_tables", lambda rows, folder: None)
    monkeypatch.setattr(recipes, "_pool", ThreadPoolExecutor)
    return recipes


def started(calls, fails=()):
    def start(setting, recipe, steps, seed, *, measures=True):
        if not measures:
            return {"tokens": 2000 if recipe == "pairs_kl" else 1000}
        calls.append((recipe, steps))
        if recipe == "base":
            time.sleep(0.2)
        if recipe in fails:
            raise RuntimeError("no more memory")
        return {"setting": setting, "recipe": recipe, "seed": seed, "steps": steps}

    return start


def run(recipes, monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["recipes.py", "--settings", "main", "--jobs", "2", *options])
    recipes.main()


def test_a_failing_run_costs_itself_alone(recipes, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(recipes, "_start", started(calls, fails=("mix",)))
    with pytest.raises(SystemExit, match="4 of 10 runs failed.*'mix'"):
        run(recipes, monkeypatch, "--recipes", "mix", "pairs_kl", "--seeds", "2")
    assert "no more memory" in capsys.readouterr().err
    assert sorted({row["recipe"] for row in recipes.read_rows()}) == ["base", "pairs_kl"]
    assert len(recipes.read_rows()) == 6

    calls.clear()
    monkeypatch.setattr(recipes, "_start", started(calls))
    run(recipes, monkeypatch, "--recipes", "mix", "pairs_kl", "--seeds", "2")
    # At equal tokens it gets twice the steps of what costs twice as much
    assert sorted(calls) == sorted([("mix", recipes.STEPS), ("mix", 2 * recipes.STEPS)] * 2)
    assert len(recipes.read_rows()) == 10


def test_a_row_is_written_as_its_run_ends(recipes, monkeypatch):
    monkeypatch.setattr(recipes, "_start", started([]))
    run(recipes, monkeypatch, "--recipes", "mix", "--seeds", "1")
    assert recipes.read_rows()[-1]["recipe"] == "base"  # the slowest, though the first to start


def test_one_run_stands_for_both_budgets_where_they_are_equal(recipes, monkeypatch):
    calls = []
    monkeypatch.setattr(recipes, "_start", started(calls))
    run(recipes, monkeypatch, "--recipes", "pairs_kl", "--seeds", "1")
    assert sorted(calls) == [("base", 0), ("pairs_kl", recipes.STEPS)]
    assert sorted(row["budget"] for row in recipes.read_rows()) == ["none", "steps", "tokens"]


def test_runs_of_other_steps_are_not_mixed_in(recipes, monkeypatch):
    recipes._append({"setting": "main", "recipe": "mix", "budget": "steps", "seed": 0, "steps": 120})
    with pytest.raises(SystemExit, match=f"has runs of 120 steps, and these are of {recipes.STEPS}: move it away"):
        run(recipes, monkeypatch)


def test_rows_follow_the_head_of_the_file(recipes):
    recipes._append({"a": 1, "b": 2})
    recipes._append({"b": 4, "a": 3})
    assert [(row["a"], row["b"]) for row in recipes.read_rows()] == [("1", "2"), ("3", "4")]
    with pytest.raises(ValueError, match="other columns"):
        recipes._append({"a": 1, "c": 2})
