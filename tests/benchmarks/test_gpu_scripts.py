"""The scripts of `make gpu`: their parts, and each of them as a whole on a fake GPU."""

import csv
import importlib
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch


ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _on_path():
    sys.path.insert(0, str(FOLDER))  # for what the scripts import
    yield
    sys.path.remove(str(FOLDER))


def script(name: str):
    return importlib.import_module(name)


@pytest.mark.parametrize(
    ("spans", "share"),
    [
        ([], None),
        ([(0, 10)], 0.0),
        ([(1, 3), (5, 7)], 0.6),
        ([(5, 7), (1, 3)], 0.6),
        ([(1, 5), (2, 3), (4, 6)], 0.5),  # streams side by side count once
        ([(0, 20)], 0.0),
    ],
)
def test_the_idle_share_is_of_the_time_that_no_span_covers(spans, share):
    assert script("gpu_step").idle_share(spans, 10) == (share if share is None else pytest.approx(share))


def test_the_rate_of_a_device_is_found_by_its_name():
    rate = script("gpu_step").peak_tflop_s
    assert rate("NVIDIA H100 80GB HBM3") == 989
    assert rate("NVIDIA GeForce RTX 4090") == 165
    for name in ("fake GPU", "NVIDIA L40S", "NVIDIA H100 PCIe", "NVIDIA A100-PCIE-40GB", "NVIDIA GeForce RTX 4090 D"):
        assert rate(name) is None


def test_a_budget_runs_down(monkeypatch):
    gpu_run = script("gpu_run")
    now = [100.0]
    monkeypatch.setattr(gpu_run.time, "monotonic", lambda: now[0])
    budget = gpu_run.Budget(540)
    now[0] += 500
    assert budget.left_s == 40
    assert budget.has(40)
    assert not budget.has(41)


def test_rows_of_dry_runs_are_kept_away_from_results(tmp_path):
    gpu_run = script("gpu_run")
    parser = gpu_run.parser_of("")
    assert gpu_run.results_folder(parser.parse_args([])) == FOLDER / "results"
    assert gpu_run.results_folder(parser.parse_args(["--dry-run", "--results", str(tmp_path)])) == tmp_path
    assert FOLDER not in gpu_run.results_folder(parser.parse_args(["--dry-run"])).parents
    with pytest.raises(SystemExit, match="its rows are no results"):
        gpu_run.results_folder(parser.parse_args(["--dry-run", "--results", str(FOLDER / "results")]))


def test_without_time_a_case_is_left_out_and_says_so(tmp_path):
    gpu_loss, gpu_run = script("gpu_loss"), script("gpu_run")
    machine = gpu_run.Machine("cuda", "some GPU")
    comparison = gpu_loss.Comparison(
        machine, gpu_run.Budget(1), gpu_run.Journal("gpu_loss", machine, tmp_path), rounds=1
    )
    comparison.run(gpu_loss.cases(dry_run=True)[0])
    rows = rows_in(tmp_path / "gpu_loss.csv")
    assert [row["implementation"] for row in rows] == list(gpu_loss.FIRST)
    assert {(row["note"], row["device"]) for row in rows} == {("no time was left", "some GPU")}


def test_beside_a_real_gpu_the_fake_one_of_the_kernels_tests_is_skipped(monkeypatch):
    """`gpu_check.py` runs the tests of that folder on the GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(pytest.skip.Exception):
        runpy.run_path(str(ROOT / "tests" / "kernels" / "test_on_fake_gpu.py"))


def test_wheels_leave_out_what_belongs_to_torch():
    names = ["torch", "triton", "nvidia_cudnn_cu12", "trl", "huggingface_hub", "torchvision"]
    report = {"install": [{"metadata": {"name": name, "version": "1.0"}} for name in names]}
    pins_of = script("gpu_wheels").pins_of
    assert pins_of(report, keeps=set()) == ["huggingface-hub==1.0", "trl==1.0"]
    assert "torchvision==1.0" in pins_of(report, keeps={"torchvision"})


def test_the_environment_for_a_gpu_sees_the_torch_of_its_python(tmp_path):
    """Also where that Python belongs to an environment itself, as the one of the tests does."""
    done = subprocess.run(
        ["make", "-n", f"PYTHON={sys.executable}", f"GPU_VENV={tmp_path}/venv", f"{tmp_path}/venv/.ready"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    make_it, add_packages = (line for line in done.stdout.splitlines() if line.startswith(sys.executable))
    for command in (make_it + " --without-pip", add_packages):
        subprocess.run(command, shell=True, cwd=ROOT, check=True)
    subprocess.run([f"{tmp_path}/venv/bin/python", "-c", "import torch"], cwd=tmp_path, check=True)


@pytest.mark.parametrize("trained", ["full", "lora"])
def test_products_are_those_that_torch_counts(trained, monkeypatch):
    """Of padded rows, but for LoRA's own factors and the embedding of patches, large in a model as small as this."""
    from torch.utils.flop_counter import FlopCounterMode

    gpu_models, gpu_run = script("gpu_models"), script("gpu_run")
    machine = gpu_run.Machine("cpu", "CPU", is_dry=True)
    monkeypatch.setattr(gpu_models, "LORA_RANK", 1)
    size, layout = gpu_models.TINY, gpu_models.TINY_LAYOUT
    model = gpu_models.build(size, machine, trained)
    model.gradient_checkpointing_disable()
    run = gpu_models.ways(model, size, layout, machine)[gpu_models.ROWS]()
    with FlopCounterMode(display=False) as counted:
        run().backward()
    expected = 2 * gpu_models.products(size, layout, trained == "full")[gpu_models.ROWS]
    assert counted.get_total_flops() == pytest.approx(expected, rel=0.2)


def rows_in(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def dry_run(name: str, folder: Path, *options: str) -> list[dict]:
    """The rows of a script on a fake GPU."""
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--dry-run", "--results", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = rows_in(folder / f"{name}.csv")
    assert {row["device"] for row in rows} == {"fake GPU"}
    assert all(row["torch"] and row["commit"] and row["timestamp"] for row in rows)
    return rows


def left_out(rows: list[dict]) -> dict[str, str]:
    """Why what is left out is left out, but for packages that are not installed."""
    return {
        row["implementation"]: row["note"] for row in rows if row["note"] and "cannot be imported" not in row["note"]
    }


@pytest.mark.slow
@pytest.mark.xdist_group("fake_gpu_scripts")
def test_the_loss_on_a_fake_gpu(tmp_path):
    gpu_loss = script("gpu_loss")
    rows = dry_run("gpu_loss", tmp_path)
    assert left_out(rows) == {}
    found = [(row["case"], row["implementation"]) for row in rows]
    expected = [(case.name, name) for case in gpu_loss.cases(dry_run=True) for name in case.implementations]
    assert sorted(found) == sorted(expected)


@pytest.mark.slow
@pytest.mark.xdist_group("fake_gpu_scripts")
def test_the_step_on_a_fake_gpu(tmp_path):
    gpu_step, gpu_models = script("gpu_step"), script("gpu_models")
    rows = dry_run("gpu_step", tmp_path)
    assert left_out(rows) == {}
    names = (gpu_models.OURS, gpu_models.ROWS, gpu_models.TRL, gpu_models.TRL_TUNED)
    found = [(row["trained"], int(row["n_pairs"]), row["implementation"]) for row in rows]
    expected = [(case.trained, case.layout.n_pairs, name) for case in gpu_step.cases(dry_run=True) for name in names]
    assert sorted(found) == sorted(expected)


@pytest.mark.slow
@pytest.mark.xdist_group("fake_gpu_scripts")
def test_the_check_on_a_fake_gpu(tmp_path):
    rows = dry_run("gpu_check", tmp_path)
    outcomes = {row["outcome"] for row in rows}
    assert outcomes == {"fact", "passed", "skipped"}
    assert not [row for row in rows if row["outcome"] == "fact" and row["note"].startswith("failed")]
    for name in ("test_attention", "test_families", "test_wrappers", "test_loss"):
        assert any(name in row["name"] for row in rows if row["outcome"] == "passed"), name
