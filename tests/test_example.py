"""The example from the command line, as a user starts it, on a few steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor


ROOT = Path(__file__).resolve().parents[1]
FEW = ["--train_pairs", "300", "--accuracy_pairs", "10", "--logging_steps", "5", "--check_rows", "8"]


def launch(*options: str) -> str:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "examples/llava_kl.py"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *FEW, *options], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run of the example: what it printed and the folder it wrote."""
    folder = tmp_path_factory.mktemp("example") / "llava_kl"
    return launch("--max_steps", "12", "--output_dir", str(folder)), folder


@pytest.mark.slow
def test_example_prints_writes_and_reloads(base):
    printed, folder = base
    table = [line.split() for line in printed.splitlines() if line.startswith(("text_rich", "vision_centric", "gap"))]
    assert [line[0] for line in table] == ["text_rich", "vision_centric", "gap"]
    for view in table[:2]:
        assert float(view[2]) < float(view[1]), "the loss of both views falls, even in twelve steps"
    report = json.loads((folder / "gap.json").read_text())
    assert report["steps"] == 12
    assert report["after"]["gap"]["nats"] == pytest.approx(
        report["after"]["vision_centric"]["nll"] - report["after"]["text_rich"]["nll"]
    )
    assert report["after"]["text_rich"]["graded"] == 10
    assert report["tokens"] > report["tokens_saved"] > 0.2 * report["tokens"]
    assert f"{report['tokens_saved']:,} of {report['tokens']:,} tokens" in printed
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    assert processor.chat_template
    batch = processor(images=torch.zeros(3, 64, 64), text="<image>wind?", return_tensors="pt")
    assert torch.isfinite(model(**batch).logits).all()


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--load_in_4bit"]], ids=["lora", "qlora"])
def test_example_trains_adapters_from_the_same_script(base, tmp_path, options):
    targets = ["--use_peft", "--lora_target_modules", "q_proj", "v_proj", "up_proj", "--learning_rate", "1e-2"]
    steps = ["--max_steps", "12", "--per_device_train_batch_size", "16", "--gradient_checkpointing", "False"]
    out = tmp_path / "adapter"
    launch("--model_name_or_path", str(base[1]), *targets, *steps, *options, "--output_dir", str(out))
    report = json.loads((out / "gap.json").read_text())
    for view in ("text_rich", "vision_centric"):
        assert report["after"][view]["nll"] < report["before"][view]["nll"]
    assert (out / "adapter_model.safetensors").is_file()
    assert not (out / "model.safetensors").exists()


@pytest.mark.slow
def test_example_takes_a_yaml_recipe_and_the_command_line_wins(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("kl_weight: 0.25\ncurriculum: two_stage\nmax_steps: 4\n")
    launch("--config", str(recipe), "--max_steps", "2", "--output_dir", str(tmp_path / "out"))
    report = json.loads((tmp_path / "out" / "gap.json").read_text())
    assert (report["kl_weight"], report["curriculum"], report["steps"]) == (0.25, "two_stage", 2)
