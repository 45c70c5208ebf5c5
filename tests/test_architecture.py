"""The shape of the house: rooms, sizes, public names, light imports. Each rule is proved to bite on a bad example."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "trl_modality"
# From the top of the house down: a room imports only rooms after it. A room inside a room stands in the list too; the
# files of the outer one that it may not import stand before it.
ROOMS = (
    "__init__",
    "cli",
    "trainer",
    "training",
    "distillation",
    "report",
    "report.figures",
    "report.reading",
    "from_models",
    "evaluation.text",
    "evaluation",
    "evaluation.asking",
    "evaluation.models",
    "evaluation.grading",
    "config",
    "config_checks",
    "distillation.config",
    "parts.config",
    "image_features",
    "parts",
    "modeling",
    "collation",
    "curriculum",
    "data.loaders",
    "data.rendering",
    "data",
    "data.importers",
    "resumable",
    "problems.generate",  # which imports the generators by their names, where no test sees it
    "problems.demo",
    "problems.geometry",
    "problems.charts",
    "problems",
    "kernels",
    "views",
    "images",
    "_compat",
    "_compat_kernels",
    "_extras",
    "_fields",
    "_lazy",
    "_version",
)
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_KERNEL_LINES = 400, 60, 120


def modules() -> dict[str, Path]:
    """The files of the package by name below it."""
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


def package_imports(module: str, source: str, known: Collection[str]) -> set[str]:
    """The package's modules that a module imports, at any depth and under TYPE_CHECKING too.

    Args:
        module: Its name below the package, a package's own ending in `.__init__`.
        source: Its text.
        known: Names of all modules.
    """
    folder = module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.level or node.module.split(".")[0] == "trl_modality"):
            base = folder[: len(folder) - node.level + 1] if node.level else []
            base = [*base, *(node.module or "").removeprefix("trl_modality").split(".")]
            origin = ".".join(filter(None, base))
            for alias in node.names:
                name = ".".join(filter(None, (origin, alias.name)))
                found.add(name if name in known or f"{name}.__init__" in known else origin)
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "trl_modality"]
            found |= {name.removeprefix("trl_modality").removeprefix(".") for name in names}
    return {name or "__init__" for name in found}


def room_of(module: str) -> str | None:
    """The innermost room that a module is in."""
    parts = module.removesuffix(".__init__").split(".")
    return next((room for n in range(len(parts), 0, -1) if (room := ".".join(parts[:n])) in ROOMS), None)


def room_errors(sources: dict[str, str]) -> list[str]:
    """Imports of a room that does not stand after the importing one."""
    errors = []
    for module, source in sources.items():
        room = room_of(module)
        for imported in sorted(package_imports(module, source, sources)):
            target = room_of(imported)
            if module.endswith("__init__") and imported.startswith(module.removesuffix("__init__")):
                continue  # a façade names what is in its room
            if room is None or target is None:
                errors.append(f"{module} or {imported} is in no room")
            elif ROOMS.index(target) < ROOMS.index(room):
                errors.append(f"{module} imports {imported}, which stands above it")
    return errors


def cycles(sources: dict[str, str]) -> list[str]:
    """Modules that import themselves by way of others."""
    graph = {
        module.removesuffix(".__init__"): {
            each.removesuffix(".__init__") for each in package_imports(module, source, sources)
        }
        for module, source in sources.items()
    }

    def reaches(start: str, goal: str, seen: set[str]) -> bool:
        following = graph.get(start, set()) - seen
        return goal in following or any(reaches(n, goal, seen | following) for n in following)

    return [module for module in graph if reaches(module, module, set())]


def facades_imported(sources: dict[str, str]) -> list[str]:
    """Modules that import a façade of the package in place of the module that has the name."""
    facades = {name.removesuffix(".__init__") for name, source in sources.items() if "lazy_names(" in source}
    return [
        f"{module} imports {imported}"
        for module, source in sources.items()
        for imported in sorted(package_imports(module, source, sources) & facades - {"_lazy"})
    ]


def sources() -> dict[str, str]:
    return {name: path.read_text() for name, path in modules().items()}


def test_every_module_has_a_room():
    assert [name for name in sources() if room_of(name) is None] == []
    assert {room for name in sources() if (room := room_of(name))} == set(ROOMS)
    assert room_of("evaluation.text.files") == "evaluation.text"
    assert room_of("attic.box") is None


def test_rooms_import_rooms_after_them():
    assert room_errors(sources()) == []
    upwards = {"views": "from .trainer import x", "trainer": ""}
    assert room_errors(upwards) == ["views imports trainer, which stands above it"]
    inside = {"report.figures.bars": "from ..wording import x", "report.wording": ""}
    assert room_errors(inside) == ["report.figures.bars imports report.wording, which stands above it"]
    late = {"kernels.spec": "def f():\n    from ..collation import collator", "collation.collator": ""}
    assert room_errors(late) == ["kernels.spec imports collation.collator, which stands above it"]
    absolute = {"config": "from trl_modality.trainer import x", "trainer": ""}
    assert room_errors(absolute) == ["config imports trainer, which stands above it"]
    for line in ("from .. import PairedCollator", "from trl_modality import View", "import trl_modality"):
        assert room_errors({"kernels.spec": line}) == ["kernels.spec imports __init__, which stands above it"]
    assert room_errors({"attic": "from .views import x", "views": ""}) == ["attic or views is in no room"]


def test_no_cycles():
    assert cycles(sources()) == []
    circle = {"modeling.a": "from .b import x", "modeling.b": "from .c import y", "modeling.c": "from .a import z"}
    assert cycles(circle) == list(circle)
    for_types = {"evaluation.a": "if TYPE_CHECKING:\n    from .b import x", "evaluation.b": "from .a import y"}
    assert cycles(for_types) == ["evaluation.a", "evaluation.b"]
    assert cycles({"modeling.a": "from .b import x", "modeling.b": ""}) == []


def test_facades_are_for_users():
    assert facades_imported(sources()) == []
    bad = {"cli.eval": "from ..evaluation import Grader", "evaluation.__init__": "lazy_names(1)"}
    assert facades_imported(bad) == ["cli.eval imports evaluation"]


def test_the_config_needs_no_data_loader():
    """A config is made on machines that only write recipes: what it imports stays clear of accelerate and datasets."""
    texts, seen, following = sources(), set(), {"config"}
    while following:
        module = following.pop()
        seen.add(module)
        following |= package_imports(module, texts[module], texts) - seen
    assert "curriculum.options" in seen
    heavy = ("accelerate", "datasets", "torch.utils.data")
    assert [
        name
        for name in seen
        for line in texts[name].splitlines()
        if line.startswith(("import", "from")) and any(each in line.split()[1] for each in heavy)
    ] == []


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


def facades() -> dict[str, str]:
    """The packages whose names are imported on first use, with their text."""
    packages = {path.parent for path in modules().values() if (path.parent / "__init__.py").is_file()}
    texts = {
        ".".join(("trl_modality", *folder.relative_to(PACKAGE).parts)): (folder / "__init__.py").read_text()
        for folder in packages
    }
    return {name: text for name, text in texts.items() if "lazy_names(" in text}


def facade_errors(name: str, source: str) -> list[str]:
    """Names of a façade that stand in one of its three lists (types, `__all__`, modules) and not in the others."""
    tree = ast.parse(source)
    typed = {
        (alias.name, node.module)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "lazy_names"]
    loaded = set(ast.literal_eval(calls[0].args[1]).items())
    named = next(node for node in tree.body if ast.unparse(node).startswith("__all__ = "))
    public = set(ast.literal_eval(named.value)) - {"__version__"}
    errors = [f"{name}: {each} from {module}" for each, module in sorted(typed ^ loaded)]
    return errors + [f"{name}: {each}" for each in sorted(public ^ {each for each, _ in loaded})]


def test_facades_name_what_they_load():
    assert len(facades()) > 6
    for name, text in facades().items():
        assert facade_errors(name, text) == []
        package = importlib.import_module(name)
        for each in package.__all__:
            assert getattr(package, each) is not None
        assert set(package.__all__) <= set(dir(package))
    bad = "if TYPE_CHECKING:\n    from .a import x\n__all__ = ['y']\nf, g = lazy_names(__name__, {'x': 'b'})"
    assert facade_errors("room", bad) == ["room: x from a", "room: x from b", "room: x", "room: y"]


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_light():
    heavy = "[m for m in ('torch', 'transformers', 'trl', 'datasets', 'numpy', 'PIL') if m in sys.modules]"
    light = ", ".join([*facades(), "trl_modality.views"])
    assert run_python(f"import sys, {light}; print({heavy})") == "[]"


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
from trl_modality.problems.real_tables import load_records
for use in (load_records, lambda: trl_modality.ModalityBalancedSFTTrainer(quantization_config=BitsAndBytesConfig())):
    try:
        use()
    except ImportError as error:
        print(error)
"""
    printed = run_python(code)
    assert "trl-modality[examples]" in printed
    assert "trl-modality[quant]" in printed
