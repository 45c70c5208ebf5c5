"""The shape of the house: layers, sizes, public names, light imports. Each rule is proved to bite on a bad example."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "trl_modality"
# A module imports only from its own layer or lower ones, and never in a cycle
LAYERS = {
    "views": 0,
    "_compat": 0,
    "_extras": 0,
    "data": 1,
    "curriculum": 1,
    "kernels": 1,
    "attention": 1,
    "batch": 2,
    "families": 1,
    "backbone": 2,
    "image_runs": 1,
    "images_once": 1,
    "overlong": 2,
    "groups": 2,
    "sampling": 2,
    "run_plan": 2,
    "collator": 2,
    "packing": 2,
    "forward": 2,
    "metrics": 2,
    "evaluation": 2,
    "gap_metrics": 2,
    "run_record": 2,
    "callbacks": 3,
    "config": 3,
    "preflight": 2,
    "trainer": 3,
    "report": 3,
    "cli": 4,
}
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_KERNEL_LINES = 400, 60, 120


def modules() -> dict[str, Path]:
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


def relative_imports(module: str, source: str) -> set[str]:
    """The package's modules that a module imports at any depth, but for those under TYPE_CHECKING."""
    tree = ast.parse(source)
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    folder = module.split(".")[:-1]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in typing_only:
            base = folder[: len(folder) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {".".join([*base, name]) for name in names}
    return found


def layer_errors(sources: dict[str, str]) -> list[str]:
    errors = []
    for module, source in sources.items():
        top = module.split(".")[0]
        for imported in relative_imports(module, source):
            target = imported.split(".")[0]
            if target != top and LAYERS[target] > LAYERS[top]:
                errors.append(f"{module} (L{LAYERS[top]}) imports {imported} (L{LAYERS[target]})")
    return errors


def cycles(sources: dict[str, str]) -> list[str]:
    graph = {
        module.removesuffix(".__init__"): {i.removesuffix(".__init__") for i in relative_imports(module, source)}
        for module, source in sources.items()
    }

    def reaches(start: str, goal: str, seen: set[str]) -> bool:
        following = graph.get(start, set()) - seen
        return goal in following or any(reaches(n, goal, seen | following) for n in following)

    return [module for module in graph if reaches(module, module, set())]


def sources() -> dict[str, str]:
    return {name: path.read_text() for name, path in modules().items() if name != "__init__"}


def test_every_module_has_a_layer():
    assert {name.split(".")[0] for name in sources()} == set(LAYERS)


def test_imports_go_down():
    assert layer_errors(sources()) == []
    assert layer_errors({"views": "from .trainer import x"}) == ["views (L0) imports trainer (L3)"]
    assert layer_errors({"kernels.reference": "from ..collator import x"}) == [
        "kernels.reference (L1) imports collator (L2)"
    ]


def test_no_cycles():
    assert cycles(sources()) == []
    assert cycles({"forward": "from .metrics import x", "metrics": "from .forward import y"}) == ["forward", "metrics"]


def test_kernels_import_nothing_but_torch():
    allowed = {
        "torch",
        "triton",
        "math",
        "typing",
        "collections",
        "contextlib",
        "functools",
        "itertools",
        "dataclasses",
    }
    for name, source in sources().items():
        if name.startswith("kernels"):
            for node in ast.walk(ast.parse(source)):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module]
                assert {n.split(".")[0] for n in names} <= allowed, (name, names)


def size_errors(name: str, source: str) -> list[str]:
    limit = MAX_KERNEL_LINES if "kernels" in name else MAX_FUNCTION_LINES
    errors = [name] if source.count("\n") > MAX_FILE_LINES else []
    for node in ast.walk(ast.parse(source)):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_function and node.end_lineno - node.lineno + 1 > limit:
            errors.append(f"{name}:{node.name}")
    return errors


def test_files_and_functions_stay_small():
    checked = [
        path
        for folder in ("trl_modality", "examples", "benchmarks", "tests")
        for path in (ROOT / folder).rglob("*.py")
    ]
    assert len(checked) > 20
    assert [error for path in checked for error in size_errors(str(path.relative_to(ROOT)), path.read_text())] == []
    assert size_errors("a.py", "def f():\n" + "    x = 1\n" * 60) == ["a.py:f"]
    assert size_errors("a.py", "x = 1\n" * 401) == ["a.py"]


def test_public_names():
    import trl_modality

    assert trl_modality.__all__ == sorted(trl_modality.__all__)
    assert set(trl_modality.__all__) == {
        "GapCallback",
        "ModalityBalancedSFTConfig",
        "ModalityBalancedSFTTrainer",
        "PairError",
        "PairedCollator",
        "View",
        "__version__",
        "validate_pair",
    }
    for name in trl_modality.__all__:
        assert getattr(trl_modality, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        trl_modality.Nothing  # noqa: B018


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_light():
    heavy = "[m for m in ('torch', 'transformers', 'trl', 'datasets', 'numpy', 'PIL') if m in sys.modules]"
    assert run_python(f"import sys, trl_modality, trl_modality.views; print({heavy})") == "[]"


def test_works_without_extras():
    """As if none of the optional packages were installed."""
    blocked = ("triton", "torchvision", "bitsandbytes", "liger_kernel", "matplotlib", "vega_datasets", "flash_attn")
    code = f"""
import importlib.machinery as machinery
find_spec = machinery.PathFinder.find_spec
def without(name, path=None, target=None):
    return None if name.split(".")[0] in {blocked!r} else find_spec(name, path, target)
machinery.PathFinder.find_spec = staticmethod(without)
import trl_modality
for name in trl_modality.__all__:
    getattr(trl_modality, name)
from transformers import BitsAndBytesConfig
from trl_modality.data.tables import load_records
for use in (load_records, lambda: trl_modality.ModalityBalancedSFTTrainer(quantization_config=BitsAndBytesConfig())):
    try:
        use()
    except ImportError as error:
        print(error)
"""
    printed = run_python(code)
    assert "trl-modality[examples]" in printed
    assert "trl-modality[quant]" in printed
