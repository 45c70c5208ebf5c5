"""`trl-modality train`: every recipe of the paper from its YAML, on a tiny model, in the views that it is to train."""

import json
import re
from pathlib import Path

import pytest
import yaml
from datasets import Dataset

from tests.testing.tiny import answered_dataset, pair_dataset, tiny_llava
from trl_modality.cli import main


RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
TEXT, VISION, KL = "text_rich_tokens", "vision_centric_tokens", "kl"
# Of each recipe, what is measured in its first half, and in its second
MEASURED = {
    "full_text": ({TEXT}, {TEXT}),
    "no_text": ({VISION}, {VISION}),
    "mix": ({TEXT, VISION}, {TEXT, VISION}),
    "curriculum": ({TEXT}, {VISION}),
    "kl": ({TEXT, VISION, KL}, {TEXT, VISION, KL}),
    "kl_then_curriculum": ({TEXT, VISION, KL}, {VISION}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model, pairs and text on the disk."""
    folder = tmp_path_factory.mktemp("train")
    model, processor = tiny_llava()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    pair_dataset(16).to_parquet(folder / "pairs" / "train.parquet")
    Dataset.from_list([{"text": f"{i} + 1"} for i in range(5)]).to_parquet(folder / "text" / "train.parquet")
    return folder


@pytest.fixture
def train(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def run(recipe, *flags):
        """Run a recipe on the tiny model for 4 steps; returns what it logged for each."""
        out = tmp_path / Path(recipe).name
        base = {
            "model_name_or_path": folders / "model",
            "dtype": "float32",
            "dataset_name": folders / "pairs",
            "output_dir": out,
            "max_steps": 4,
            "warmup_steps": 0,
            "gradient_accumulation_steps": 1,
            "logging_steps": 1,
            "save_steps": 4,
            "bf16": False,
            "use_cpu": True,
            "gradient_checkpointing": False,
        }
        words = [word for name, value in base.items() for word in (f"--{name}", str(value))]
        assert main(["train", "--config", str(RECIPES / f"{recipe}.yaml"), *words, *flags]) == 0
        assert (out / "model.safetensors").is_file()
        state = json.loads((out / "checkpoint-4" / "trainer_state.json").read_text())
        return [log for log in state["log_history"] if "loss" in log]

    return run


def test_there_is_a_test_for_every_recipe():
    assert {path.stem for path in RECIPES.glob("*.yaml")} == {*MEASURED, "pairs_kl_replay"}


@pytest.mark.parametrize("recipe", MEASURED)
def test_recipes_of_the_paper(train, recipe):
    logs = train(recipe)
    assert len(logs) == 4
    for log, measured in zip(logs, [MEASURED[recipe][0]] * 2 + [MEASURED[recipe][1]] * 2, strict=True):
        assert {name for name in (TEXT, VISION, KL) if name in log} == measured
        assert log["loss"] > 0
    if recipe == "mix":
        whole = train("kl", "--kl_weight", "1")
        assert logs[0][TEXT] + logs[0][VISION] < 0.7 * (whole[0][TEXT] + whole[0][VISION])


@pytest.mark.parametrize("recipe", MEASURED)
def test_recipes_are_the_papers(recipe):
    settings = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())
    assert settings["model_name_or_path"] == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert settings["output_dir"] == f"outputs/{recipe}"
    assert (settings["kl_weight"] > 0) == recipe.startswith("kl")
    if settings["curriculum"] == "two_stage":
        assert settings["curriculum_switch"] * settings["max_steps"] == 200


def test_the_gap_is_measured_at_every_evaluation(train, folders, tmp_path):
    pairs = tmp_path / "answered"
    for split, count in (("train", 16), ("test", 5)):
        answered_dataset(count).to_parquet(pairs / f"{split}.parquet")
    recipe = tmp_path / "gap.yaml"
    settings = yaml.safe_load((RECIPES / "kl.yaml").read_text())
    measured = {"gap_eval_rows": 2, "gap_eval_max_new_tokens": 4, "eval_strategy": "steps", "eval_steps": 2}
    recipe.write_text(yaml.safe_dump({**settings, **measured}))
    train(recipe.with_suffix(""), "--dataset_name", str(pairs))
    out = tmp_path / "gap"
    state = json.loads((out / "trainer_state.json").read_text())
    logged = [log for log in state["log_history"] if "eval_accuracy_gap" in log]
    assert [log["step"] for log in logged] == [2, 4]
    assert json.loads((out / "evals" / "step-4" / "gap.json").read_text())["rows"] == 2
    record = json.loads((out / "run.json").read_text())
    assert record["model"] == str(folders / "model")
    assert record["config"]["gap_eval_rows"] == 2


def test_our_recipe_replays_text(train, folders):
    logs = train("pairs_kl_replay", "--replay_dataset_name", str(folders / "text"))
    assert all(log["replay_nll"] > 0 for log in logs[1:]), "the first step may have none yet"
    assert {log["replay_ratio"] for log in logs} == {0.2}, "4 rows of replay for 16 pairs"
    assert all({TEXT, VISION, KL} <= log.keys() and log["kl_weight"] == 1 for log in logs)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset_train_split", "all"], "no split 'all' in .*; it has train"),
        (["--eval_strategy", "epoch"], "no split 'test'"),
        (["--replay_ratio", "0.5"], "`replay_ratio` is given without `replay_dataset`"),
    ],
)
def test_what_is_missing_is_named(train, capsys, flags, message):
    with pytest.raises(AssertionError):
        train("kl", *flags)
    error = capsys.readouterr().err
    assert re.search(message, error), error
