"""Predicted time of one forward with its backward of the loss on a GPU, part by part, from counts and data sheets.

    python benchmarks/roofline.py --device h100 --tokens 8192 --hidden 4096 --vocab 151936 --dtype bfloat16
    python benchmarks/roofline.py --device l4 --tokens 2048 --head frozen --tile-mib 1024

Counted are the tiles that `plan_tiles` makes, the instructions and bytes of the kernel as Triton compiles it for the
device, and the results of each matrix product, which come in blocks of 128 × 256 and in waves of a block for each
multiprocessor. Assumed is that

- matrix products run at 81 % of the data sheet's rate (800 of 989 TFLOP/s on an H100) where all multiprocessors work,
  and the last wave takes as long as a full one;
- memory gives 90 % of the data sheet's bandwidth;
- the elementwise kernel takes the longest of its memory traffic, its instructions and its special functions (at a
  quarter of the lanes or fewer), overlaps with nothing, and finds no row in the cache again;
- that rate is of products that write their result in half precision; what a sum of the head's gradient in float32
  adds to it, reading and wider writing, is not hidden by them;
- launches cost nothing, and the clock is that of the data sheet.

The ratio is that of the whole to the products at their full rate, with no multiprocessor idle. A prediction: what was
measured on the device, if anything, is printed beside it.
"""

import os


if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "0"  # before triton: an interpreted kernel cannot be compiled

import argparse
import csv
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from trl_modality.kernels.spec import accumulation_dtype
from trl_modality.kernels.tiles import plan_tiles


RESULTS = Path(__file__).parent / "results"
PRODUCT_SHARE, BANDWIDTH_SHARE = 800 / 989, 0.9
# Results of a product that a multiprocessor makes at a time
BLOCK = 128, 256
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


@dataclass(frozen=True)
class Device:
    """Data sheet of a GPU; products are dense, in half precision with float32 sums."""

    name: str
    """As in the name that torch gives it."""
    target: str
    """The target of `kernel_resources.py` whose machine code stands for it."""
    multiprocessors: int
    clock_ghz: float
    bandwidth_gb_s: float
    half_tflop_s: float
    float_tflop_s: float
    lanes: int = 128
    """Threads that a multiprocessor issues an instruction for in a clock."""
    special_lanes: int = 16
    """The same of exponentials, logarithms and reciprocals."""

    def is_called(self, name: str) -> bool:
        """Whether torch's name of a GPU is that of this one: "NVIDIA L40S" is no L4, an H100 in a PCIe slot slower."""
        is_slower = re.search(r"\b(PCIe|NVL|D)\b", name, re.IGNORECASE)
        return re.search(rf"\b{re.escape(self.name)}\b", name) is not None and not is_slower

    def product_rate(self, dtype: torch.dtype) -> float:
        """Operations a second (two for each multiplication) where every multiprocessor works."""
        tflop_s = self.float_tflop_s if dtype == torch.float32 else self.half_tflop_s
        return PRODUCT_SHARE * tflop_s * 1e12

    def seconds_of_bytes(self, n_bytes: float) -> float:
        return n_bytes / (BANDWIDTH_SHARE * self.bandwidth_gb_s * 1e9)

    def seconds_of_instructions(self, count: float, lanes: int) -> float:
        return count / (self.multiprocessors * lanes * self.clock_ghz * 1e9)


# NVIDIA: four schedulers a multiprocessor, each a warp of 32 a clock; 16 special functions a clock (CUDA programming
# guide, arithmetic throughput). AMD: four SIMDs of 16 lanes a compute unit, special functions at a quarter of the rate
# (CDNA3 instruction set). The float32 rate is that without matrix units, as torch multiplies by default.
DEVICES = {
    # H100 architecture white paper, SXM5 at its boost clock: 132 × 2,048 × 2 × 1.83 GHz = 989 TFLOP/s
    "h100": Device("H100", "sm_90", 132, 1.83, 3350, 989, 67),
    # A100 data sheet, SXM 80 GB
    "a100": Device("A100", "sm_80", 108, 1.41, 2039, 312, 19.5),
    # H200 data sheet, SXM: an H100 with other memory
    "h200": Device("H200", "sm_90", 132, 1.83, 4800, 989, 67),
    # Blackwell data sheet, HGX B200
    "b200": Device("B200", "sm_100", 148, 1.85, 7700, 2250, 75),
    # L4 data sheet (121 dense); Ada has no target of its own here: the code for sm_80 stands for it
    "l4": Device("L4", "sm_80", 58, 2.04, 300, 121, 30.3),
    # Ada architecture white paper, RTX 4090
    "4090": Device("4090", "sm_80", 128, 2.52, 1008, 165, 82.6),
    # MI300X data sheet; that its products round to half before they are summed is not counted
    "mi300x": Device("MI300X", "gfx942", 304, 2.1, 5300, 1307, 163, lanes=64),
}


@dataclass(frozen=True)
class Kernel:
    """Counts of the elementwise kernel for each logit of a tile, from its machine code."""

    instructions: float
    special: float
    bytes: float


@dataclass(frozen=True)
class Case:
    """M tokens in both views under one head."""

    tokens: int
    hidden_size: int
    vocab_size: int
    dtype: torch.dtype = torch.bfloat16
    """Of the products."""
    head_dtype: torch.dtype = torch.bfloat16
    trains_head: bool = True
    tile_mib: float | None = None

    @property
    def n_products(self) -> int:
        return 3 if self.trains_head else 2

    def tile_rows(self, device: Device) -> list[int]:
        """Rows of each tile, both views together."""
        plan = plan_tiles(
            n_tokens=self.tokens,
            n_views=2,
            n_scratch=0,
            head=torch.empty(self.vocab_size, self.hidden_size, dtype=self.head_dtype, device="meta"),
            dtype=self.dtype,
            tile_mib=self.tile_mib,
            filters=False,
            trains_head=self.trains_head,
            n_multiprocessors=device.multiprocessors,
        )
        n_full, rest = divmod(self.tokens, plan.tokens)
        return [2 * plan.tokens] * n_full + [2 * rest] * (rest > 0)


@dataclass(frozen=True)
class Prediction:
    """Seconds by part, and of the products at their full rate."""

    parts: dict[str, float]
    products: float
    tiles: list[int]
    bound: str
    """What the elementwise kernel waits for."""

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())

    @property
    def ratio(self) -> float:
        return self.seconds / self.products


def product_seconds(device: Device, dtype: torch.dtype, rows: int, columns: int, depth: int) -> float:
    """Seconds of `[rows, depth]` by `[depth, columns]` in whole waves, or of its factors' and results' bytes."""
    blocks = -(-rows // BLOCK[0]) * -(-columns // BLOCK[1])
    waves = -(-blocks // device.multiprocessors)
    in_a_wave = 2 * device.multiprocessors * BLOCK[0] * BLOCK[1] * depth
    n_bytes = dtype.itemsize * (rows * depth + depth * columns + rows * columns)
    return max(waves * in_a_wave / device.product_rate(dtype), device.seconds_of_bytes(n_bytes))


def kernel_seconds(device: Device, kernel: Kernel, n_logits: float) -> dict[str, float]:
    """Seconds of the elementwise work by what could bound it."""
    return {
        "memory": device.seconds_of_bytes(n_logits * kernel.bytes),
        "instructions": device.seconds_of_instructions(n_logits * kernel.instructions, device.lanes),
        "special functions": device.seconds_of_instructions(n_logits * kernel.special, device.special_lanes),
    }


def predict(device: Device, case: Case, kernel: Kernel) -> Prediction:
    """The parts of one forward with its backward."""
    h, v, tiles = case.hidden_size, case.vocab_size, case.tile_rows(device)
    rows = sum(tiles)
    full_rate = 2 * case.n_products * rows * h * v / device.product_rate(case.dtype)
    in_waves = 0.0
    for n in tiles:
        in_waves += product_seconds(device, case.dtype, n, v, h) + product_seconds(device, case.dtype, n, h, v)
        in_waves += product_seconds(device, case.dtype, v, h, n) if case.trains_head else 0.0
    bounds = kernel_seconds(device, kernel, rows * v)
    bound = max(bounds, key=bounds.__getitem__)
    sum_itemsize = accumulation_dtype(case.dtype).itemsize
    # Copied into the tile; their gradients written wider by the product, read, and written in the model's dtype
    hidden_bytes = rows * h * 2 * (case.dtype.itemsize + sum_itemsize)
    parts = {
        "products at full rate": full_rate,
        "products: multiprocessors without work": in_waves - full_rate,
        "elementwise kernel": bounds[bound],
        "hidden states and their gradients": device.seconds_of_bytes(hidden_bytes),
    }
    if case.head_dtype != case.dtype:
        parts["head converted once"] = device.seconds_of_bytes(
            v * h * (case.head_dtype.itemsize + case.dtype.itemsize)
        )
    if case.trains_head:
        parts |= _of_head_gradient(device, case, len(tiles), sum_itemsize)
    return Prediction(parts, full_rate, tiles, bound)


def _of_head_gradient(device: Device, case: Case, n_tiles: int, sum_itemsize: int) -> dict[str, float]:
    """Seconds of the gradient's traffic beside the products, which each write a result in their own dtype.

    Every tile writes the sum, all but the first read it too; the backward scales it and rounds it to the head's dtype.
    """
    size = case.vocab_size * case.hidden_size
    # A single tile writes a bfloat16 head's gradient as it is, without a sum
    is_written_once = n_tiles == 1 and case.head_dtype == case.dtype == torch.bfloat16
    itemsize = case.dtype.itemsize if is_written_once else sum_itemsize
    of_sum = n_tiles * (itemsize - case.dtype.itemsize) + (n_tiles - 1) * itemsize
    return {
        "head gradient, summed over tiles": device.seconds_of_bytes(of_sum * size),
        "head gradient, scaled and cast": device.seconds_of_bytes((itemsize + case.head_dtype.itemsize) * size),
    }


def compiled_counts(device: Device, dtype: torch.dtype) -> Kernel:
    """The counts of the kernel for pairs with the forward KL, compiled for the device; takes some seconds."""
    import kernel_resources  # Triton, uninterpreted

    variant = kernel_resources.Variant(
        views="both",
        divergence="forward_kl",
        gradient="both",
        kl="yes",
        tempered="no",
        softcap=False,
        columns="16n",
    )
    dtype_name = DTYPES[str(dtype).removeprefix("torch.")]
    found = kernel_resources.compile_variant(device.target, dtype_name, variant)
    return Kernel(found.instructions, found.special, found.bytes)


def measured_ratios(device: Device, case: Case, folder: Path = RESULTS) -> list[str]:
    """What `gpu_loss.py` measured of this case on such a device: one line a row, none where there is none."""
    path = folder / "gpu_loss.csv"
    if not path.exists():
        return []
    wanted = {
        "n_tokens": str(case.tokens),
        "hidden_size": str(case.hidden_size),
        "vocab_size": str(case.vocab_size),
        "head_trained": str(case.trains_head),
        "dtype": str(case.dtype).removeprefix("torch."),
        "head_dtype": str(case.head_dtype).removeprefix("torch."),
    }
    with path.open(newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if device.is_called(row["device"]) and all(row[key] == value for key, value in wanted.items())
        ]
    return [
        f"{row['implementation']}: {float(row['p50_ms']):.1f} ms, {row['ratio_to_floor'] or '?'} × the products "
        f"({row['device']}, torch {row['torch']}, commit {row['commit']})"
        for row in rows
        if row["p50_ms"]
    ]


def report(device: Device, case: Case, kernel: Kernel, prediction: Prediction, measured: list[str]) -> str:
    """The table of the parts; its last line is `predicted ratio to the products: X`."""
    head = "trained" if case.trains_head else "frozen"
    dtype = str(case.dtype).removeprefix("torch.")
    rate = device.product_rate(case.dtype) / 1e12
    lines = [
        f"{device.name}: {device.multiprocessors} multiprocessors at {device.clock_ghz} GHz, products at {rate:.0f} "
        f"TFLOP/s, memory at {BANDWIDTH_SHARE * device.bandwidth_gb_s:,.0f} GB/s (machine code of {device.target})",
        f"M={case.tokens:,} in both views, H={case.hidden_size:,}, V={case.vocab_size:,}, {dtype}, head {head}; "
        f"{len(prediction.tiles)} tile{'s' * (len(prediction.tiles) > 1)} of {prediction.tiles[0]:,} rows",
        f"kernel: {kernel.instructions:.1f} instructions a logit, {kernel.special:.2f} of them special, "
        f"{kernel.bytes:.1f} bytes; bound by {prediction.bound}",
        "",
        f"  {'predicted':<44}{'ms':>9}{'of the whole':>15}",
        *(
            f"  {name:<44}{1e3 * seconds:>9.2f}{seconds / prediction.seconds:>15.1%}"
            for name, seconds in prediction.parts.items()
        ),
        f"  {'together':<44}{1e3 * prediction.seconds:>9.2f}",
        "",
        "measured: " + ("\n          ".join(measured) or f"nothing of this shape on this device in {RESULTS.name}/"),
        f"predicted ratio to the products: {prediction.ratio:.3f}",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=DEVICES, default="h100")
    parser.add_argument("--tokens", type=int, default=8192, help="M, each in both views")
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of the products")
    parser.add_argument("--head", choices=("trained", "frozen"), default="trained")
    parser.add_argument("--head-dtype", choices=DTYPES, help="of the head, as float32 under autocast")
    parser.add_argument("--tile-mib", type=float, help="instead of the default")
    options = parser.parse_args()
    device, dtype = DEVICES[options.device], getattr(torch, options.dtype)
    case = Case(
        tokens=options.tokens,
        hidden_size=options.hidden,
        vocab_size=options.vocab,
        dtype=dtype,
        head_dtype=getattr(torch, options.head_dtype or options.dtype),
        trains_head=options.head == "trained",
        tile_mib=options.tile_mib,
    )
    kernel = compiled_counts(device, dtype)
    print(report(device, case, kernel, predict(device, case, kernel), measured_ratios(device, case)))


if __name__ == "__main__":
    main()
