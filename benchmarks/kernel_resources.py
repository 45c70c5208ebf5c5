"""Resources of the Triton kernel: compiles every variant ahead of time, on a machine without a GPU.

    python benchmarks/kernel_resources.py [--target sm_90 gfx942] [--dtype bf16] [--divergence jsd] [--json]

The table has one line for each (target, dtype, variant). The whole table takes half an hour; a run without options
writes it to `results/kernel_resources.csv`. Pairs of which one view alone has a gradient are in it for sm_90 in bf16,
and elsewhere with `--gradient`; of what has a feature, elsewhere in bf16 what trains at another temperature than 1,
and all with `--feature`. A variant is: which views a token has, the divergence, whose gradients are
computed (none in evaluation), whether the divergence is part of them, whether the temperature is other than 1 (then it
has exponentials of its own), whether logits are soft-capped, whether the vocabulary is a multiple of 16, which
Triton is told (otherwise the mask of the last block may end anywhere), and a `feature`, one at a time: clipped
entries, a teacher's top tokens, both, a share of the divergence's weight, or a teacher with logits soft-capped by
itself. With a feature, or a divergence from the label alone, there are not all the others, but those of
`feature_variants`. The other columns:

- `registers` of a thread (AMD: VGPRs), and `occupancy`, the share of a multiprocessor's warps that can be resident
  with so many registers.
- `local_bytes`: local memory of a thread; `spills`: accesses to it in the code (AMD: spilled VGPRs and SGPRs). Both
  must be 0.
- `shared_bytes` of a program, which has `num_warps` warps.
- `instructions` that a thread issues for each logit it processes, and the `special` ones among them (exponentials,
  logarithms, reciprocals), which a multiprocessor issues at a quarter of the rate or less.
- `once`: instructions outside of loops, for each logit of a row of 151,936; at 32,000 they are five times as many:
  the last block of each pass, sums over the block, and what is made of these.
- `width`: bytes of the narrowest access of a thread to the logits; `widest`: the widest access that is possible.
- `loads`, `stores`: how often a logit is read from memory and written to it, the mean over the views; `bytes`: their
  bytes; `minimum_bytes`: the bytes that the scheme needs, see `Variant.passes`.

The columns from `instructions` on are counted in the machine code (SASS, amdgcn): but for `once` instructions inside
loops, divided by the logits of one iteration. Accesses outside loops (the last block, which alone has a mask) are few
in a long row.
"""

import os


if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "0"  # before triton: an interpreted kernel cannot be compiled

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import machine_code
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.cache import get_cache_manager

from trl_modality.kernels.spec import DIVERGENCES, SAMPLED, LossSpec
from trl_modality.kernels.triton_kernels import PER_TOKEN, rows_kernel
from trl_modality.kernels.triton_rows import MASKS, launch_options


RESULTS = Path(__file__).parent / "results" / "kernel_resources.csv"
VOCAB_SIZE = 151936
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
ITEMSIZES = {"bf16": 2, "fp16": 2, "fp32": 4}
ROWS = ("text_ptr", "vision_ptr")
INTEGERS = ("stride", "n_columns", "n_top")
FLOATS = ("scale", "softcap", "text_scale", "text_softcap", "inv_tau", "beta", "clip", "confidence", "importance_clip")
FULL = tuple(divergence for divergence in DIVERGENCES if divergence not in SAMPLED)
# As many as two warps have threads; a server gives no more, and most give 20
TOP_PLACES = 64
CHOICES = {
    "views": ("text", "vision", "both"),
    "divergence": ("none", *DIVERGENCES),
    "gradient": ("both", "text", "vision", "none"),
    "kl": ("yes", "no"),
    "tempered": ("no", "yes"),
    "columns": ("16n", "any"),
    "feature": ("none", "clip", "top", "top_clip", "share", "rules"),
}


class CompileError(Exception):
    """A variant does not compile."""


@dataclass(frozen=True)
class Variant:
    """One kernel of those that `TritonRows` launches."""

    views: str
    """`text`, `vision` or `both`."""
    divergence: str
    """`none` for one view."""
    gradient: str
    """Views whose gradients are computed: `text`, `vision`, `both` or `none`."""
    kl: str
    """Whether the divergence has a part in the gradient, `yes` or `no`."""
    tempered: str
    """Whether the temperature is other than 1: `yes`, or `no`, as for one view."""
    softcap: bool
    columns: str
    """`16n` or `any`."""
    feature: str = "none"
    """`clip`, `top`, `top_clip`, `share`, `rules`, or `none`."""

    @property
    def has_top(self) -> bool:
        return self.feature in ("top", "top_clip")

    @property
    def is_special(self) -> bool:
        return self.feature != "none" or self.divergence in SAMPLED

    @property
    def n_views(self) -> int:
        return 2 if self.views == "both" else 1

    def passes(self) -> tuple[int, int]:
        """The fewest loads and stores of a logit, summed over the views, for a scheme that keeps no row on the chip.

        Every view is loaded once for the statistics (the JSD needs a second look, as its mixture needs both sums; so
        do clipped entries), and once for the gradient that is then stored. That of the divergence takes the text_rich
        view's logits too, unless it is a multiple of the student's distribution.
        """
        stored = {"none": 0, "both": 2}.get(self.gradient, 1)
        is_of_student = self.has_top or self.divergence in SAMPLED
        text_is_compared = self.kl == "yes" and self.gradient == "vision" and not is_of_student
        looks_again = self.feature == "clip" or (self.divergence == "jsd" and not self.has_top)
        loads = self.n_views * (2 if looks_again else 1) + stored + text_is_compared
        return loads, stored

    def launch_options(self, target: str, dtype: str) -> dict[str, int]:
        """Columns of a block and of a lane, warps, and more, as `TritonRows` launches the kernel."""
        divergence = DIVERGENCES[0] if self.divergence == "none" else self.divergence
        spec = LossSpec(
            divergence,
            logit_softcap=30.0 if self.softcap or self.feature == "rules" else None,
            kl_clip=0.05 if self.feature in ("clip", "top_clip") else None,
        )
        platform = "nvidia" if target.startswith("sm_") else "amd"
        return launch_options(spec, ITEMSIZES[dtype], VOCAB_SIZE + (self.columns == "any"), platform)

    def constants(self) -> dict[str, bool | int]:
        return {
            "HAS_TEXT": self.views != "vision",
            "HAS_VISION": self.views != "text",
            "DIVERGENCE": CHOICES["divergence"].index(self.divergence),
            "HAS_CLIP": self.feature in ("clip", "top_clip"),
            "TOP": TOP_PLACES if self.has_top else 0,
            "HAS_SHARE": self.feature == "share",
            "MASK": MASKS.index("visual_advantage") if self.feature == "share" else 0,
            "HAS_BLIND": self.feature == "share",
            "IS_IMPORTANCE_WEIGHTED": self.feature == "share",
            "TEXT_STATS": self.views != "vision",
            "VISION_STATS": self.views != "text",
            "TEXT_GRADIENT": self.gradient in ("text", "both"),
            "VISION_GRADIENT": self.gradient in ("vision", "both"),
            "KL_GRADIENT": self.kl == "yes",
            "IS_TEMPERED": self.tempered == "yes",
            "HAS_SOFTCAP": self.softcap,
            "HAS_TEXT_RULES": self.feature == "rules",
            "TEXT_SOFTCAP": self.softcap or self.feature == "rules",
        }


@dataclass(frozen=True)
class Resources:
    """Resources of one compiled variant; the docstring of this module has the units."""

    registers: int
    occupancy: float
    local_bytes: int
    spills: int
    shared_bytes: int
    num_warps: int
    block: int
    instructions: float
    special: float
    once: float
    width: int
    widest: int
    loads: float
    stores: float
    bytes: float
    minimum_bytes: float

    def complaints(self) -> list[str]:
        found = {
            "spills": self.local_bytes or self.spills,
            "above the minimum": self.bytes > self.minimum_bytes,
            # No scheme can do with less: then it is the count that is wrong
            "miscounted": self.bytes < self.minimum_bytes,
            "narrow accesses": self.width < self.widest,
        }
        return [name for name, is_so in found.items() if is_so]


def variants() -> Iterator[Variant]:
    """Every kernel that can be launched: two views always have a divergence, even where its weight is 0."""
    cases = [(view, "none", gradient, "no") for view in ("text", "vision") for gradient in (view, "none")]
    cases += [
        ("both", divergence, gradient, kl)
        for divergence, gradient, kl in product(FULL, CHOICES["gradient"], CHOICES["kl"])
        if kl == "no" or gradient in ("both", "vision")
    ]
    for case, tempered, softcap, columns in product(cases, CHOICES["tempered"], (False, True), CHOICES["columns"]):
        if case[0] == "both" or tempered == "no":
            yield Variant(*case, tempered, softcap, columns)
    yield from feature_variants()


def feature_variants() -> Iterator[Variant]:
    """Of each feature, and of the divergences from the label, the kernels of training and of evaluation."""
    cases = [("both", divergence, "none") for divergence in SAMPLED]
    cases += [("both", divergence, feature) for divergence in FULL for feature in ("clip", "share", "rules")]
    cases += [("vision", divergence, feature) for divergence in FULL for feature in ("top", "top_clip")]
    for (views, divergence, feature), tempered, softcap in product(cases, CHOICES["tempered"], (False, True)):
        # A teacher of its own has no gradient
        trained = "both" if views == "both" and feature != "rules" else "vision"
        for gradient in (trained, "none"):
            yield Variant(
                views, divergence, gradient, "no" if gradient == "none" else "yes", tempered, softcap, "16n", feature
            )


def compile_variant(
    target: str, dtype: str, variant: Variant, block: int | None = None, num_warps: int | None = None, **options: int
) -> Resources:
    """Compile, and read the resources from the machine code.

    `block` and `num_warps`: others than are launched; `options`: more of Triton's. Raises CompileError.
    """
    launch = variant.launch_options(target, dtype)
    usual_block = launch.pop("BLOCK")
    launch |= {"num_warps": num_warps or launch["num_warps"], **options}
    block, num_warps = block or usual_block, launch["num_warps"]
    compiled = compiled_kernel(target, dtype, variant, block, **launch)
    if target.startswith("sm_"):
        sass, usage = _dumped(compiled.asm["cubin"])
        code = machine_code.parse(sass)
        registers, local_bytes, spills = machine_code.nvidia_registers(usage, code)
    else:
        code = machine_code.parse(compiled.asm["amdgcn"])
        registers, local_bytes, spills = machine_code.amd_registers(compiled.asm["amdgcn"])
    itemsize, n_threads = ITEMSIZES[dtype], num_warps * TARGETS[target].warp_size
    return Resources(
        registers=registers,
        occupancy=occupancy(target, registers, num_warps),
        local_bytes=local_bytes,
        spills=spills,
        shared_bytes=compiled.metadata.shared,
        num_warps=num_warps,
        block=block,
        once=round(machine_code.count_outside_loops(code) * n_threads / (variant.n_views * VOCAB_SIZE), 1),
        widest=min(16, itemsize * block // n_threads),
        minimum_bytes=itemsize * sum(variant.passes()) / variant.n_views,
        **machine_code.traffic(code, block, variant.n_views * block / n_threads, itemsize),
    )


def compiled_kernel(target: str, dtype: str, variant: Variant, block: int, GROUP: int, **options: int) -> Any:
    """The compiled kernel of a variant, with every stage in `.asm`."""
    constants = variant.constants() | {"BLOCK": block, "GROUP": GROUP}
    signature = dict.fromkeys(ROWS, f"*{dtype}") | {name: _type_per_token(name) for name in PER_TOKEN}
    signature |= dict.fromkeys(INTEGERS, "i32") | dict.fromkeys(FLOATS, "fp32") | dict.fromkeys(constants, "constexpr")
    if list(signature) != rows_kernel.arg_names:
        raise TypeError(f"The kernel takes {rows_kernel.arg_names}, known here are {list(signature)}.")
    source = ASTSource(rows_kernel, signature, constants, _attributes(TARGETS[target], variant))
    try:
        return triton.compile(source, target=TARGETS[target], options=options)
    except Exception as error:  # of Triton's own, of MLIR and of LLVM: they have no class in common
        raise CompileError(f"{variant} in {dtype} for {target}: {error}") from error


def _type_per_token(name: str) -> str:
    return "*i64" if name in ("labels_ptr", "top_ids_ptr") else "*i1" if "is_top1" in name else "*fp32"


def _attributes(target: GPUTarget, variant: Variant) -> dict[tuple[int], list[list]]:
    """Attributes that Triton infers from the arguments of a launch: tensors of a tile, and its rows, are aligned."""
    names = [*ROWS, "stride", *(["n_columns"] if variant.columns == "16n" else [])]
    attributes = {name: [["tt.divisibility", 16]] for name in names}
    if target.backend == "hip":
        for name in ROWS:
            attributes[name] += [["tt.pointer_range", 32]]  # a tile of the default budget has less than 2 GiB
    return {(rows_kernel.arg_names.index(name),): values for name, values in attributes.items()}


def _dumped(cubin: bytes) -> tuple[str, str]:
    """The SASS and the resource usage of a binary; the SASS, slow to get, is kept in Triton's cache."""
    tools, cache = triton.knobs.nvidia, get_cache_manager(sha256(cubin).hexdigest())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        kept = cache.get_file("sass")
        sass = Path(kept).read_text() if kept else _output_of(tools.nvdisasm.path, "-c", "-ndf", path)
        if not kept:
            cache.put(sass, "sass", binary=False)
        return sass, _output_of(tools.cuobjdump.path, "--dump-resource-usage", path)


def _output_of(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def occupancy(target: str, registers: int, num_warps: int) -> float:
    """Share of a multiprocessor's warps that programs with so many registers fill; 0 if not even one fits."""
    granted = -(-registers // 8) * 8
    if target.startswith("sm_"):
        most, fitting = 64, 65536 // (32 * granted)
    else:
        most, fitting = 4 * 8, 4 * (512 // granted)
    return min(most, fitting) // num_warps * num_warps / most


def is_left_out(variant: Variant, dtype: str, options: argparse.Namespace) -> bool:
    """Of little interest, and half of all: they are compiled for one target, and where they are asked for."""
    if variant.is_special:
        trains = variant.kl == "yes" and variant.tempered == "yes"
        return options.feature is CHOICES["feature"] and not (dtype == "bf16" and trains)
    is_partial = variant.views == "both" and variant.gradient in ("text", "vision")
    return is_partial and options.gradient is CHOICES["gradient"]


def rows_of(options: argparse.Namespace) -> Iterator[dict]:
    for target, dtype, variant in product(options.target, options.dtype, variants()):
        if any(getattr(variant, name) not in getattr(options, name) for name in CHOICES):
            continue
        if (target, dtype) != ("sm_90", "bf16") and is_left_out(variant, dtype, options):
            continue
        row = {"target": target, "dtype": dtype, **asdict(variant)}
        try:
            resources = compile_variant(target, dtype, variant, options.block, options.warps)
            row |= {**asdict(resources), "complaints": ", ".join(resources.complaints())}
        except CompileError as error:
            print(error, file=sys.stderr)
            row["complaints"] = "does not compile"
        yield {**row, "triton": triton.__version__}


NAMES = ["target", "dtype", *(field.name for field in fields(Variant) + fields(Resources)), "complaints", "triton"]


def line_of(cells: dict) -> str:
    return "  ".join(f"{cells.get(name, '')!s:<{max(len(name), 6)}}" for name in NAMES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--dtype", nargs="+", choices=ITEMSIZES, default=list(ITEMSIZES))
    for name, choices in CHOICES.items():
        parser.add_argument(f"--{name}", nargs="+", choices=choices, default=choices)
    parser.add_argument("--block", type=int, help="columns at a time, to try others than are launched")
    parser.add_argument("--warps", type=int, help="warps of a program, likewise")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    options = parser.parse_args()
    if not options.json:
        print(line_of({name: name for name in NAMES}))
    rows = []
    for row in rows_of(options):
        rows.append(row)
        print(json.dumps(row) if options.json else line_of(row), flush=True)
    if len(sys.argv) > 1:
        return
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, NAMES)
        writer.writeheader()
        writer.writerows(rows)
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
