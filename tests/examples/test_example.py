"""The example from the command line, as a user starts it, on a few steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.testing.forks import ROOT, run_script
from trl_modality.problems.demo.pairs import make_demo_pairs


SCRIPT = ROOT / "examples" / "llava_kl.py"
# One after another: each starts a process of its own from what the first one wrote
pytestmark = pytest.mark.xdist_group("example")
FEW = ["--train_pairs", "300", "--test_pairs", "20", "--logging_steps", "2", "--check_rows", "8"]


def launch(*options: str) -> str:
    """As `accelerate launch` starts it, but for the seconds of the imports."""
    return run_script(SCRIPT, *FEW, *options).check().outputs[0]


def read(folder: Path, name: str, file: str = "gap.json") -> dict:
    return json.loads((folder / "evals" / name / file).read_text())


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run of the example, started as users do: what it printed and the folder it wrote."""
    folder = tmp_path_factory.mktemp("example") / "llava_kl"
    options = ["--max_steps", "6", "--eval_steps", "3", "--gap_eval_rows", "10", "--gap_eval_max_new_tokens", "12"]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", str(SCRIPT), *FEW, *options]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--output_dir", str(folder)], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, folder


@pytest.mark.slow
def test_example_measures_prints_and_reports(base):
    printed, folder = base
    before, after = read(folder, "before"), read(folder, "after")
    assert before["rows"] == after["rows"] == 20
    assert list(before["conditions"]) == ["text_rich", "vision_centric", "blind", "shuffled", "text_only"]
    # The base reads and does not answer from what it sees, be it of twenty rows
    assert before["conditions"]["text_rich"]["accuracy"] >= 0.85
    assert before["gap"]["estimate"] >= 0.3
    assert after["baseline"]["name"] == "before"
    table = {line.split("  ")[0]: line for line in printed.splitlines()}
    for name, found in after["conditions"].items():
        assert table[name].split()[-3] == f"{100 * found['accuracy']:.1f}"
    assert f"{100 * after['gap']['estimate']:+.1f}" in table["gap, points"]
    skill = read(folder, "after", "text.json")
    assert skill["tasks"]["exercises"]["total"] == 200
    assert (
        skill["regret"]["tasks"]["exercises"]["baseline_accuracy"]
        == (read(folder, "before", "text.json")["tasks"]["exercises"]["accuracy"])
    )
    assert {path.name for path in (folder / "evals").iterdir()} == {"before", "step-3", "step-6", "after"}
    page = (folder / "report.html").read_text()
    assert "exercises" in page
    assert f"{100 * before['gap']['estimate']:.1f}" in page
    assert (folder / "report" / "report.md").is_file()


@pytest.mark.slow
def test_example_writes_a_model_that_reloads(base):
    folder = base[1]
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    assert processor.chat_template
    batch = processor(images=torch.zeros(3, 64, 64), text="<image>wind?", return_tensors="pt")
    assert torch.isfinite(model(**batch).logits).all()


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--load_in_4bit"]], ids=["lora", "qlora"])
def test_example_trains_adapters_from_the_same_script(base, tmp_path, options):
    targets = ["--use_peft", "--lora_target_modules", "q_proj", "v_proj", "up_proj", "--learning_rate", "1e-2"]
    steps = ["--max_steps", "8", "--per_device_train_batch_size", "16", "--gradient_checkpointing", "False"]
    out = tmp_path / "adapter"
    launch("--model_name_or_path", str(base[1]), *targets, *steps, *options, "--output_dir", str(out))
    log = [entry for entry in json.loads((out / "trainer_state.json").read_text())["log_history"] if "loss" in entry]
    assert log[-1]["vision_centric_nll"] < log[0]["vision_centric_nll"]
    assert read(out, "after")["rows"] == 20
    assert not (out / "evals" / "after" / "text.json").exists()
    assert (out / "adapter_model.safetensors").is_file()
    assert not (out / "model.safetensors").exists()


@pytest.mark.slow
def test_example_measures_the_loss_of_pairs_without_answers(base, tmp_path):
    pairs = make_demo_pairs(40, 6, 0)
    for split, rows in zip(("train", "test"), pairs, strict=True):
        rows.remove_columns("answer").to_parquet(tmp_path / "pairs" / f"{split}.parquet")
    options = ["--dataset_name", str(tmp_path / "pairs"), "--per_device_train_batch_size", "4"]
    options += ["--model_name_or_path", str(base[1]), "--gradient_checkpointing", "False"]
    printed = launch(*options, "--max_steps", "2", "--output_dir", str(tmp_path / "out"))
    assert [line.split("  ")[0] for line in printed.splitlines() if ", nats" in line] == [
        "text_rich, nats",
        "vision_centric, nats",
        "blind, nats",
        "shuffled, nats",
        "text_only, nats",
        "gap, nats",
    ]


@pytest.mark.slow
def test_example_takes_a_yaml_recipe_and_a_run_that_had_ended_goes_on(tmp_path):
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text("kl_weight: 0.25\ndivergence: jsd\nmax_steps: 4\neval_strategy: 'no'\ngap_eval_rows: 0\n")
    options = ["--config", str(recipe), "--save_strategy", "steps", "--save_steps", "2", "--output_dir", str(out)]
    launch(*options, "--max_steps", "2")
    config = json.loads((out / "run.json").read_text())["config"]
    # The command line wins
    assert (config["kl_weight"], config["divergence"], config["max_steps"]) == (0.25, "jsd", 2)
    first = (out / "model.safetensors").read_bytes()
    longer = ["--max_steps", "3", "--resume_overrides", "max_steps"]
    launch(*options, *longer, "--resume_from_checkpoint", str(out / "checkpoint-2"))
    assert json.loads((out / "run.json").read_text())["config"]["max_steps"] == 3
    assert (out / "model.safetensors").read_bytes() != first


@pytest.mark.slow
def test_the_base_transcribes_every_real_record():
    from trl_modality.evaluation.models.generation import TransformersGenerator
    from trl_modality.evaluation.models.requests import Request
    from trl_modality.problems.demo.draw import DRAWINGS
    from trl_modality.problems.real_tables import load_records

    folder = ROOT / "examples" / "base_model"
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    read = TransformersGenerator(model, processor, max_new_tokens=24)
    records = load_records()
    for draw in DRAWINGS.values():
        answers = read([Request([{"role": "user", "content": "list"}], (draw(record.facts),)) for record in records])
        assert [answer.text for answer in answers] == [
            ",".join(f"{name}={value}" for name, value in record.facts) for record in records
        ]
