"""The recipe study: its data, its budgets, what is said of its rows."""

import sys
from pathlib import Path

import pytest


pytest.importorskip("vega_datasets")
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def study():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def facts_of(row: dict) -> str:
    return row["text_rich_prompt"][0]["content"].split("\n")[1]


def test_wrong_labels_are_as_many_as_said_and_of_the_same_question():
    from recipe_data import training_pairs

    clean, noisy = training_pairs(200, 0), training_pairs(200, 0, wrong_labels=0.3)
    assert clean["text_rich_prompt"] == noisy["text_rich_prompt"]
    changed = [a != b for a, b in zip(clean["completion"], noisy["completion"], strict=True)]
    # Other facts may give the same completion now and then
    assert 50 <= sum(changed) <= 60
    for before, after in zip(clean["completion"], noisy["completion"], strict=True):
        names = [[part.split("=")[0] for part in c[0]["content"].split(";")[0].split(",")] for c in (before, after)]
        assert names[0] == names[1]


def test_no_facts_of_a_test_occur_in_training():
    from recipe_data import held_out_sets, training_pairs

    seen = {facts_of(row) for row in training_pairs(2000, 3)}
    for name, pairs in held_out_sets(3).items():
        assert len(pairs) >= 200, name
        assert not seen & {facts_of(row) for row in pairs}, name


def test_the_tests_are_unlike_training():
    from recipe_data import held_out_sets

    sets = held_out_sets(0)
    kinds = {name: {category.split(", ")[1] for category in pairs["category"]} for name, pairs in sets.items()}
    forms = {name: {category.split(", ")[0] for category in pairs["category"]} for name, pairs in sets.items()}
    assert kinds["other_questions"] == {"sum_of_three", "spread"}
    assert not kinds["other_questions"] & kinds["held_out"]
    assert forms["other_styles"] == {"columns", "dark_table"}
    assert forms["other_tables"] == forms["held_out"] == {"chart", "table"}


def test_equal_tokens_are_steps_by_tokens_of_a_step():
    from recipes import STEPS, Run, _steps

    per_step = {("main", "pairs_kl"): 2000, ("main", "mix"): 1250}
    assert _steps(Run("main", "mix", "tokens", 1), per_step) == round(STEPS * 1.6)
    assert _steps(Run("main", "mix", "steps", 1), per_step) == STEPS
    assert _steps(Run("main", "base", "none", 0), {}) == 0


def test_every_recipe_of_a_setting_is_known_and_seeds_are_whole():
    from recipe_book import RECIPES, SETTINGS
    from recipes import runs

    assert {recipe for setting in SETTINGS.values() for recipe in setting.recipes} <= set(RECIPES)
    found = list(runs(SETTINGS, None, 2))
    assert len(set(found)) == len(found)
    assert [run.seed for run in found] == sorted(run.seed for run in found)
    seeds = {name: set() for name in SETTINGS}
    for run in runs(SETTINGS, None, None):
        if run.recipe != "base":
            seeds[run.setting].add(run.seed)
    assert seeds == {name: set(range(setting.seeds)) for name, setting in SETTINGS.items()}


def test_differences_are_of_the_same_seed():
    from recipe_tables import COLUMNS, _differences

    scores = {"mix": {"0": 0.5, "1": 0.9}, "pairs": {"0": 0.6, "1": 1.0}, "kl": {"1": 0.8}}
    rows = [
        {"recipe": recipe, "seed": seed, **dict.fromkeys(COLUMNS.values(), str(score))}
        for recipe, by_seed in scores.items()
        for seed, score in by_seed.items()
    ]
    cells = [[cell.strip() for cell in line.split("|")[1:3]] for line in _differences(rows, "mix")[2:]]
    # The spread between seeds is in both, and leaves the difference
    assert cells == [["kl", "-10.0"], ["pairs", "+10.0 ± 0.0"]]


def test_intervals_are_students():
    from recipe_tables import interval
    from scipy.stats import t

    values = [80.0, 90.0, 85.0, 95.0, 75.0]
    low, high = t.interval(0.95, 4, loc=85.0, scale=(62.5 / 5) ** 0.5)
    assert interval(values) == f"85.0 ± {(high - low) / 2:.1f}"
    assert interval([50.0]) == "50.0"
