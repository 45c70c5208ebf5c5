"""The predicted time of the loss on a GPU, on cases that can be computed by hand."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch


ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "roofline.py"


@pytest.fixture(scope="module")
def roofline():
    spec = importlib.util.spec_from_file_location("roofline", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def device(roofline):
    """Four multiprocessors; effective rates of 1e12 operations, 1e9 bytes and 4e9 × lanes instructions a second."""
    return roofline.Device(
        "Toy",
        "sm_90",
        multiprocessors=4,
        clock_ghz=1.0,
        bandwidth_gb_s=1 / roofline.BANDWIDTH_SHARE,
        half_tflop_s=1 / roofline.PRODUCT_SHARE,
        float_tflop_s=0.5 / roofline.PRODUCT_SHARE,
        lanes=100,
        special_lanes=10,
    )


def test_a_product_takes_whole_waves(roofline, device):
    device = replace(device, bandwidth_gb_s=1e6)
    of_a_wave = 2 * 4 * 128 * 256 * 1000 / 1e12
    for rows, columns, waves in ((128, 1024, 1), (512, 256, 1), (128, 1025, 2), (129, 1024, 2), (1, 1, 1)):
        found = roofline.product_seconds(device, torch.bfloat16, rows, columns, 1000)
        assert found == pytest.approx(waves * of_a_wave)


def test_a_product_in_float32_takes_its_own_rate(roofline, device):
    wide, half = (
        roofline.product_seconds(device, dtype, 128, 1024, 10**6) for dtype in (torch.float32, torch.bfloat16)
    )
    assert wide > half
    assert device.product_rate(torch.float32) == pytest.approx(0.5e12)


def test_a_small_product_takes_its_bytes(roofline, device):
    """One row by a large factor: 2 bytes for each of its numbers."""
    found = roofline.product_seconds(device, torch.bfloat16, 1, 100_000, 1000)
    assert found == pytest.approx(2 * (1000 + 100_000 * 1000 + 100_000) / 1e9)


@pytest.mark.parametrize(
    ("kernel", "seconds", "bound"),
    [
        ((100, 1, 6), {"memory": 6.0, "instructions": 0.25, "special functions": 0.025}, "memory"),
        ((4000, 1, 6), {"memory": 6.0, "instructions": 10.0, "special functions": 0.025}, "instructions"),
        ((100, 400, 6), {"memory": 6.0, "instructions": 0.25, "special functions": 10.0}, "special functions"),
    ],
)
def test_the_kernel_takes_the_longest_of_what_bounds_it(roofline, device, kernel, seconds, bound):
    counts = roofline.Kernel(*kernel)
    assert roofline.kernel_seconds(device, counts, 1e9) == pytest.approx(seconds)
    case = roofline.Case(64, 256, 1000)
    prediction = roofline.predict(device, case, counts)
    assert prediction.bound == bound
    n_logits = 2 * 64 * 1000
    assert prediction.parts["elementwise kernel"] == pytest.approx(seconds[bound] * n_logits / 1e9)


def part(prediction, word: str) -> float:
    (found,) = (seconds for name, seconds in prediction.parts.items() if word in name)
    return found


def test_one_tile_by_hand(roofline, device):
    """M=64, H=256, V=1,024 in bfloat16: 128 rows, 33.6 million multiplications a product."""
    case = roofline.Case(64, 256, 1024)
    assert case.tile_rows(device) == [128]
    prediction = roofline.predict(device, case, roofline.Kernel(0, 0, 6))
    product = 2 * 128 * 256 * 1024 / 1e12
    assert prediction.products == pytest.approx(3 * product)
    # Bytes, not waves, bound products as small as these
    of_logits = 2 * (128 * 256 + 256 * 1024 + 128 * 1024) / 1e9
    assert part(prediction, "without work") == pytest.approx(3 * of_logits - 3 * product)
    assert part(prediction, "elementwise") == pytest.approx(6 * 128 * 1024 / 1e9)
    assert part(prediction, "hidden states") == pytest.approx(128 * 256 * 12 / 1e9)
    # Written once in bfloat16, as every product writes its result; then read and written by the backward
    assert part(prediction, "summed") == 0
    assert part(prediction, "scaled") == pytest.approx(4 * 256 * 1024 / 1e9)
    assert prediction.seconds == pytest.approx(sum(prediction.parts.values()))
    assert prediction.ratio == pytest.approx(prediction.seconds / prediction.products)


@pytest.mark.parametrize(("n_tiles", "bytes_each"), [(1, 0), (2, 8), (3, 14), (11, 62)])
def test_every_tile_more_reads_and_writes_the_sum(roofline, device, n_tiles, bytes_each, monkeypatch):
    case = roofline.Case(8192, 256, 1024)
    monkeypatch.setattr(roofline.Case, "tile_rows", lambda self, device: [128] * n_tiles)
    prediction = roofline.predict(device, case, roofline.Kernel(0, 0, 6))
    assert part(prediction, "summed") == pytest.approx(bytes_each * 256 * 1024 / 1e9)
    assert part(prediction, "scaled") == pytest.approx((4 if n_tiles == 1 else 6) * 256 * 1024 / 1e9)


def test_a_frozen_head_has_two_products_and_no_gradient(roofline, device):
    counts = roofline.Kernel(10, 1, 6)
    trained, frozen = (
        roofline.predict(device, roofline.Case(64, 256, 1024, trains_head=trains), counts) for trains in (True, False)
    )
    assert frozen.products == pytest.approx(2 / 3 * trained.products)
    assert not any("head gradient" in name for name in frozen.parts)


def test_a_head_in_float32_is_converted_once(roofline, device):
    counts = roofline.Kernel(10, 1, 6)
    wide = roofline.predict(device, roofline.Case(64, 256, 1024, head_dtype=torch.float32), counts)
    assert part(wide, "converted") == pytest.approx(6 * 256 * 1024 / 1e9)
    assert part(wide, "summed") == pytest.approx(2 * 256 * 1024 / 1e9)
    assert part(wide, "scaled") == pytest.approx(8 * 256 * 1024 / 1e9)


def test_tiles_are_those_of_the_loss(roofline):
    case = roofline.Case(8192, 4096, 151_936)
    rows = case.tile_rows(roofline.DEVICES["h100"])
    assert sum(rows) == 2 * 8192
    assert len(rows) > 1
    small = roofline.Case(8192, 4096, 151_936, tile_mib=512).tile_rows(roofline.DEVICES["h100"])
    assert len(small) > len(rows)


def test_an_h100_has_the_rates_that_are_known_of_it(roofline):
    device = roofline.DEVICES["h100"]
    assert device.product_rate(torch.bfloat16) == pytest.approx(800e12)
    assert device.seconds_of_instructions(132 * 128 * 1.83e9, device.lanes) == pytest.approx(1.0)


SHAPE = "n_tokens,hidden_size,vocab_size,dtype,head_dtype,head_trained"
MEASURED = f"""device,{SHAPE},implementation,p50_ms,ratio_to_floor,torch,commit
NVIDIA H100 80GB HBM3,64,256,1024,bfloat16,bfloat16,True,ours,12.34,1.1,2.11,abc
NVIDIA H100 80GB HBM3,64,256,1024,bfloat16,bfloat16,True,Liger,,,2.11,abc
NVIDIA H100 80GB HBM3,64,256,1024,bfloat16,bfloat16,False,ours,99.9,1.1,2.11,abc
NVIDIA H100 80GB HBM3,64,256,1024,bfloat16,float32,True,ours,99.9,1.1,2.11,abc
NVIDIA H100 80GB HBM3,65,256,1024,bfloat16,bfloat16,True,ours,99.9,1.1,2.11,abc
NVIDIA A100-SXM4-80GB,64,256,1024,bfloat16,bfloat16,True,ours,99.9,1.1,2.11,abc
"""


def test_beside_it_stands_what_was_measured_of_the_case(roofline, tmp_path):
    case = roofline.Case(64, 256, 1024)
    device = roofline.DEVICES["h100"]
    assert roofline.measured_ratios(device, case, tmp_path) == []
    (tmp_path / "gpu_loss.csv").write_text(MEASURED)
    (line,) = roofline.measured_ratios(device, case, tmp_path)
    assert line.startswith("ours: 12.3 ms, 1.1 × the products (NVIDIA H100 80GB HBM3")


def test_the_last_line_is_the_ratio(roofline, device):
    case, counts = roofline.Case(64, 256, 1024), roofline.Kernel(28.2, 2, 6)
    prediction = roofline.predict(device, case, counts)
    lines = roofline.report(device, case, counts, prediction, measured=[]).splitlines()
    assert lines[-1] == f"predicted ratio to the products: {prediction.ratio:.3f}"
    for name in prediction.parts:
        assert any(name in line for line in lines)
    assert any(line.startswith("measured: nothing") for line in lines)


@pytest.mark.slow
@pytest.mark.xdist_group("compiled")
def test_an_h100_is_predicted_within_15_percent_of_the_products():
    """With the kernel as it is compiled now."""
    pytest.importorskip("triton")
    shape = ["--device", "h100", "--tokens", "8192", "--hidden", "4096", "--vocab", "151936", "--dtype", "bfloat16"]
    done = subprocess.run([sys.executable, SCRIPT, *shape], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words, _, ratio = done.stdout.splitlines()[-1].rpartition(" ")
    assert words == "predicted ratio to the products:"
    assert 1.0 < float(ratio) <= 1.15
