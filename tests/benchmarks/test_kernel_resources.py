"""The Triton kernel compiles for GPUs that are not here, spills nothing, and touches no logit more often than it must.

Compilation is in processes of their own: in this one Triton may have been imported as an interpreter.
"""

import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "kernel_resources.py"
VARIANT = ("views", "divergence", "gradient", "kl", "tempered", "softcap", "columns", "feature")
SASS_LOOP = """
.L_x_0:
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/               @P0 BRA `(.L_x_2) ;
.L_x_1:
        /*0030*/                   STG.E.128 desc[UR4][R2.64], R4 ;
        /*0040*/                   UIADD3 UR6, UR6, {step}, URZ ;
        /*0050*/                   BRA.U UP0, `(.L_x_0) ;
        /*0060*/                   LDG.E.U16 R4, desc[UR4][R2.64] ;
        /*0070*/                   EXIT ;
.L_x_2:
        /*0080*/                   MUFU.EX2 R4, R4 ;
        /*0090*/              @!P1 LDG.E.64 R8, desc[UR4][R6.64] ;
        /*00a0*/                   BRA `(.L_x_1) ;
"""
AMD_LOOP = """
.LBB0_1:                                ; =>This Inner Loop Header: Depth=1
	buffer_load_dwordx2 v[4:5], v2, s[4:7], 0 offen
	global_load_ushort v6, v[8:9], off
	s_waitcnt vmcnt(0)
	v_exp_f32_e32 v4, v4
	v_add_f32_dpp v4, v4, v4 quad_perm:[1,0,3,2] row_mask:0xf bank_mask:0xf
	s_addk_i32 s2, {step}
	global_store_short v[8:9], v4, off
	s_cbranch_scc1 .LBB0_1
	global_load_dword v6, v[8:9], off
	s_endpgm
"""


@pytest.fixture(scope="module")
def kernel_resources():
    """The script as a module, for what it does with text."""
    spec = importlib.util.spec_from_file_location("kernel_resources", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(SCRIPT.parent))  # for what it imports
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPT.parent))
    del sys.modules[spec.name]


@pytest.fixture
def machine_code(kernel_resources):
    return kernel_resources.machine_code


def output_rows(*arguments: str) -> list[dict]:
    """What another Python prints, one JSON object a line."""
    path = os.pathsep.join(map(str, (ROOT, SCRIPT.parent)))
    env = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def rows_of(*arguments: str) -> list[dict]:
    return output_rows(str(SCRIPT), "--json", *arguments)


def complaints(rows: list[dict]) -> list[str]:
    found = []
    for row in rows:
        case = [str(row[name]) for name in ("target", "dtype", *VARIANT)]
        found += [f"{' '.join(case)}: {word}" for word in filter(None, row["complaints"].split(", "))]
    return found


def chosen(kernel_resources, **choices: list[str]) -> tuple[list, list[str]]:
    """The variants with such properties, and the options that choose them."""
    variants = [
        variant
        for variant in kernel_resources.variants()
        if all(getattr(variant, name) in values for name, values in choices.items())
    ]
    return variants, [word for name, values in choices.items() for word in (f"--{name}", *values)]


@pytest.mark.slow
def test_every_kernel_compiles_without_spills_or_needless_traffic(kernel_resources):
    # One view alone is the same code whichever it is, and gradients of one view alone are in the next test
    choices = {
        "views": ["vision", "both"],
        "divergence": ["none", *kernel_resources.FULL],
        "gradient": ["both", "none"],
    }
    expected, options = chosen(kernel_resources, **choices, columns=["16n"], feature=["none"])
    rows = rows_of("--target", "sm_90", "--dtype", "bf16", *options)
    assert [kernel_resources.Variant(*(row[name] for name in VARIANT)) for row in rows] == expected
    assert complaints(rows) == []


@pytest.mark.slow
def test_so_does_what_teachers_add(kernel_resources):
    """What is most in every column: the JSD with each feature, and estimates, trained at another temperature."""
    choices = {"kl": ["yes"], "gradient": ["both", "vision"], "tempered": ["yes"], "columns": ["16n"]}
    for more in (
        {"divergence": ["jsd"], "feature": ["clip", "rules", "top_clip"]},
        {"divergence": [*kernel_resources.SAMPLED], "feature": ["none"]},
    ):
        expected, options = chosen(kernel_resources, **choices, **more)
        rows = rows_of("--target", "sm_90", "--dtype", "bf16", *options)
        assert len(rows) == len(expected) == 2 * (len(more["divergence"]) + len(more["feature"]) - 1)
        assert complaints(rows) == []


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_100", "gfx942"])
def test_so_it_does_for_other_gpus(kernel_resources, target):
    choices = {"views": ["both"], "gradient": ["both"], "kl": ["yes"], "tempered": ["yes"], "columns": ["16n"]}
    expected, options = chosen(kernel_resources, **choices, divergence=[*kernel_resources.FULL], feature=["none"])
    rows = rows_of("--target", target, "--dtype", "bf16", *options)
    assert len(rows) == len(expected) == 6
    assert complaints(rows) == []


@pytest.mark.slow
def test_so_it_does_for_other_dtypes_and_vocabularies():
    options = ("--gradient", "text", "vision", "--tempered", "no", "--columns", "any", "--feature", "none")
    rows = rows_of("--target", "sm_90", "--dtype", "fp16", "fp32", *options)
    assert {(row["dtype"], row["columns"]) for row in rows} == {("fp16", "any"), ("fp32", "any")}
    assert complaints(rows) == []


def test_the_table_has_every_kernel_and_no_complaint(kernel_resources):
    with kernel_resources.RESULTS.open() as file:
        rows = list(csv.DictReader(file))
    whole = [row for row in rows if (row["target"], row["dtype"]) == ("sm_90", "bf16")]
    n_variants = len(list(kernel_resources.variants()))
    assert len(whole) == n_variants
    special = [row for row in whole if row["feature"] != "none" or row["divergence"] in kernel_resources.SAMPLED]
    n_trained = sum(row["kl"] == row["tempered"] == "yes" for row in special)
    n_partial = sum(
        row["views"] == "both" and row["gradient"] in ("text", "vision") for row in whole if row not in special
    )
    n_targets = len(kernel_resources.TARGETS)
    n_others = n_targets * len(kernel_resources.ITEMSIZES) - 1
    n_usual = n_variants - len(special)
    assert len(rows) == n_variants + n_others * (n_usual - n_partial) + (n_targets - 1) * n_trained
    assert complaints(rows) == []
    main = ("both", "forward_kl", "both", "yes", "no", "False")
    for row in rows:
        if tuple(row[name] for name in VARIANT[:-2]) == main and row["feature"] == "none":
            assert float(row["instructions"]) + float(row["once"]) <= 35


IN_ONE_PROCESS = """if True:
    import json, kernel_resources as k
    from dataclasses import asdict
    for divergence in ("none", "forward_kl", "jsd"):
        view = "vision" if divergence == "none" else "both"
        variant = k.Variant(view, divergence, gradient=view, kl="no", tempered="no", softcap=False, columns="any")
        print(json.dumps(k.compiled_kernel("sm_90", "bf16", variant, 2048, GROUP=4, num_warps=16).asm["ttir"]))
    variant = k.Variant("vision", "jsd", "vision", "yes", "no", False, "any", "top")
    print(json.dumps(k.compiled_kernel("sm_90", "bf16", variant, 2048, GROUP=4, num_warps=16).asm["ttir"]))
    variant = k.Variant("both", "jsd", "both", "yes", "no", False, "16n")
    print(json.dumps([p.name for p in k.rows_kernel.params if not (p.is_constexpr or p.do_not_specialize)]))
    starved = {"sm_90": {"num_warps": 16, "maxnreg": 32}, "gfx942": {"num_warps": 4, "waves_per_eu": 8}}
    for target, options in starved.items():
        found = k.compile_variant(target, "bf16", variant, block=8192, **options)
        print(json.dumps({**asdict(found), "complaints": found.complaints()}))
"""


@pytest.fixture(scope="module")
def compiled():
    """What is asked of single kernels: intermediate code by divergence, arguments compiled in, resources by target."""
    names = ("none", "forward_kl", "jsd", "top", "specialized", "sm_90", "gfx942")
    return dict(zip(names, output_rows("-c", IN_ONE_PROCESS), strict=True))


@pytest.mark.slow
@pytest.mark.xdist_group("compiled")
@pytest.mark.parametrize("divergence", ["none", "forward_kl", "jsd"])
def test_the_label_is_read_before_and_written_after_the_gradients(compiled, divergence):
    """Between what all warps read alone, the loop that stores gradients, and the label's own are two barriers."""
    ttir: str = compiled[divergence]
    before, loop, after = ttir.split("ttg.barrier")
    of_one_logit = re.compile(r"tt\.(load|store) %[^:]+: !tt\.ptr<bf16>")
    n_views = 1 if divergence == "none" else 2
    assert of_one_logit.findall(before) == ["load"] * n_views
    assert of_one_logit.findall(loop) == []
    assert of_one_logit.findall(after) == ["store"] * n_views
    of_blocks = re.compile(r"tt\.store %[^:]+: tensor<[x0-9]+x!tt\.ptr<bf16>>")
    assert [len(of_blocks.findall(part)) for part in (before, loop, after)] == [0, 2 * n_views, 0]
    assert "scf.for" in loop


@pytest.mark.slow
@pytest.mark.xdist_group("compiled")
def test_top_tokens_are_read_before_they_are_taken_out_and_written_last(compiled):
    """Barriers are between reading them, −inf in their places, the sums, the gradients of all, and their own."""
    parts = compiled["top"].split("ttg.barrier")
    found = {
        "of top tokens": r"tt\.(load|store) %[^:]+: tensor<64x!tt\.ptr<bf16>>",
        "of the label": r"tt\.(load|store) %[^:]+: !tt\.ptr<bf16>",
        "of blocks": r"tt\.(store) %[^:]+: tensor<\d+x\d+x!tt\.ptr<bf16>>",
    }
    assert {name: [re.findall(pattern, part) for part in parts] for name, pattern in found.items()} == {
        "of top tokens": [["load"], ["store"], [], [], ["store"]],
        "of the label": [[], [], ["load"], [], ["store"]],
        "of blocks": [[], [], [], ["store", "store"], []],
    }


@pytest.mark.slow
@pytest.mark.xdist_group("compiled")
def test_tiles_share_a_kernel(compiled, kernel_resources):
    """Compiled in is what all tiles of a call have alike: not where a tile's tokens begin, nor their number.

    Numbers with a point never are.
    """
    assert set(compiled["specialized"]) - set(kernel_resources.FLOATS) == {
        "text_ptr",
        "vision_ptr",
        "stride",
        "n_columns",
    }


@pytest.mark.slow
@pytest.mark.xdist_group("compiled")
@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_a_kernel_short_of_registers_is_found_out(compiled, target):
    row = compiled[target]
    assert row["local_bytes"] > 0
    assert row["spills"] > 0
    assert "spills" in row["complaints"]


@pytest.mark.parametrize("blocks", [1, 2])
def test_loops_are_counted_wherever_they_lie(machine_code, blocks):
    code = machine_code.parse(SASS_LOOP.format(step=hex(1024 * blocks)))
    found = machine_code.traffic(code, block=1024, logits_per_thread=8, itemsize=2)
    expected = {"loads": 1.5, "stores": 1.0, "bytes": 5.0, "instructions": 1.0, "special": 0.1, "width": 8}
    assert found == {
        name: pytest.approx(n / (1 if name == "width" else blocks), abs=0.1) for name, n in expected.items()
    }


@pytest.mark.parametrize("blocks", [1, 2])
def test_so_are_those_of_amd(machine_code, blocks):
    code = machine_code.parse(AMD_LOOP.format(step=hex(1024 * blocks)))
    found = machine_code.traffic(code, block=1024, logits_per_thread=4, itemsize=2)
    expected = {"loads": 1.25, "stores": 0.25, "bytes": 3.0, "instructions": 2.0, "special": 0.25, "width": 2}
    assert found == {
        name: pytest.approx(n / (1 if name == "width" else blocks), abs=0.1) for name, n in expected.items()
    }


def test_what_cannot_be_counted_is_refused(machine_code):
    with pytest.raises(ValueError, match="counts its columns"):
        machine_code.traffic(machine_code.parse(SASS_LOOP.format(step="0x10")), 1024, 8, 2)
    for opcode in ("LDGSTS.E.128", "UBLKCP.S.G", "ATOMG.E.ADD", "RED.E.ADD", "buffer_atomic_add_f32"):
        with pytest.raises(NotImplementedError, match=opcode):
            machine_code.access_width(opcode)


def test_more_than_the_minimum_is_a_complaint(kernel_resources):
    variant = kernel_resources.Variant("both", "forward_kl", "vision", "yes", "no", False, "16n")
    assert variant.passes() == (4, 1)
    fine = dict.fromkeys((field.name for field in kernel_resources.fields(kernel_resources.Resources)), 0)
    assert kernel_resources.Resources(**fine).complaints() == []
    for changed, word in (("bytes", "above the minimum"), ("spills", "spills"), ("widest", "narrow accesses")):
        assert kernel_resources.Resources(**fine | {changed: 1}).complaints() == [word]
    assert kernel_resources.Resources(**fine | {"minimum_bytes": 1}).complaints() == ["miscounted"]
