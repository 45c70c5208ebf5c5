"""The recipe study keeps what its runs found: a failing run costs itself alone, and nothing is run twice."""

import importlib
import sys
import time
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
    return recipes


def started(calls, fails=()):
    def start(setting, recipe, budget, steps, seed):
        calls.append((recipe, budget, steps, seed))
        if budget == "probe":
            return {"tokens": 2000 if recipe == "pairs_kl" else 1000}
        if recipe == "base":
            time.sleep(0.2)
        if recipe in fails:
            raise RuntimeError("no more memory")
        return {"setting": setting, "recipe": recipe, "budget": budget, "seed": seed, "steps": steps}

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
    assert {call[0] for call in calls if call[1] != "probe"} == {"mix"}
    # At equal tokens it gets twice the steps of what costs twice as much
    assert {(call[1], call[2]) for call in calls if call[1] != "probe"} == {
        ("steps", recipes.STEPS),
        ("tokens", 2 * recipes.STEPS),
    }
    assert len(recipes.read_rows()) == 10


def test_a_row_is_written_as_its_run_ends(recipes, monkeypatch):
    monkeypatch.setattr(recipes, "_start", started([]))
    run(recipes, monkeypatch, "--recipes", "mix", "--seeds", "1")
    assert recipes.read_rows()[-1]["recipe"] == "base"  # the slowest, though the first to start


def test_rows_follow_the_head_of_the_file(recipes):
    recipes._append({"a": 1, "b": 2})
    recipes._append({"b": 4, "a": 3})
    assert [(row["a"], row["b"]) for row in recipes.read_rows()] == [("1", "2"), ("3", "4")]
    with pytest.raises(ValueError, match="other columns"):
        recipes._append({"a": 1, "c": 2})
