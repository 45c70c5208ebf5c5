"""Formulas compared in a worker: right ones, hostile ones, and that the process ends when it should."""

import gc
import importlib.util
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest


pytest.importorskip("math_verify")

from trl_modality.evaluation.grading import symbolic
from trl_modality.evaluation.grading.grader import Grader
from trl_modality.evaluation.grading.symbolic import SymbolicWorker, WorkerError, is_formula


ROOT = Path(__file__).parents[3]
# Against the clock: one at a time
pytestmark = pytest.mark.xdist_group("symbolic")


@pytest.fixture(scope="module", autouse=True)
def _closed_afterwards():
    yield
    symbolic.close()


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("text", "expected", "right"),
    [
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{\sqrt{2}}{2}", True),
        (r"\boxed{3 + 2x}", "2x+3", True),
        ("Answer: x^2 - 1", "(x-1)(x+1)", True),
        ("Answer: 2 + 3", "5", True),
        (r"\boxed{\{2, 1\}}", r"\{1, 2\}", True),
        (r"\boxed{2\pi}", r"\pi \cdot 2", True),
        (r"\boxed{5!}", "120", True),
        (r"\boxed{2\sqrt{3}}", r"3\sqrt{2}", False),
        (r"\boxed{x^2}", "x^3", False),
        ("Answer: 2 + 3", "6", False),
        ("Answer: listen", "silent", False),
        ("Answer: ab + c", "c + ba", False),  # words or products: not to be told apart
        (r"\boxed{}", "x", False),
    ],
)
def test_equality_of_formulas(text, expected, right):
    grade = Grader(symbolic=True, time_limit=10)(text, expected)
    assert grade.is_correct is right
    assert not right or grade.how == "symbolic"
    assert not Grader()(text, expected).is_correct


def test_numbers_and_words_never_reach_the_worker():
    symbolic.close()
    grader = Grader(symbolic=True)
    for text, expected in (("8", "9"), ("Tuesday", "Monday"), ("8 cm", "8"), ("x", "x"), ("2x" * 200, "x+1")):
        grader(text, expected)
    assert symbolic._shared.pid is None


def test_only_formulas_are_compared():
    assert all(map(is_formula, ["2x+3", r"\sin(x)", "log(2)", r"\sqrt{pi}", "(1,2)"]))
    assert not any(map(is_formula, ["silent", "x squared", "", "()", "x" * 300, "__import__('os')", "ab"]))


@pytest.mark.parametrize(
    "bomb",
    ["9^{9^{9^{9}}}", "x^{9^{9^9}}+" * 9 + "1", r"\int_0^1 x^{x^{x}} dx", "(" * 90 + "x" + ")" * 90, "5!!!!!!!!!"],
)
def test_bombs_end_in_time(bomb):
    with SymbolicWorker() as worker:
        worker.compare("x", "y", 10)
        start = time.monotonic()
        assert worker.compare(bomb, "x+y", 1.0) is not True
        assert time.monotonic() - start < 3
        assert worker.compare("x+1", "1+x", 10) is True  # as good as new


def test_a_worker_that_hangs_is_killed(monkeypatch):
    real = SymbolicWorker._ask
    with SymbolicWorker() as worker:
        worker.compare("x", "y", 10)
        pid = worker.pid
        # As if it could not interrupt itself: it may take an hour, its user waits half a second
        monkeypatch.setattr(
            SymbolicWorker, "_ask", lambda self, q, limit: real(self, q and {**q, "seconds": 3600}, limit)
        )
        hard = "+".join(rf"\int_0^1 \sin(x^{{{k}}})^{{{k}}} e^{{x^{k}}} dx" for k in range(3, 6))
        start = time.monotonic()
        assert worker.compare(hard, "x+y", 0.5) is None
        assert time.monotonic() - start < 2
        assert worker.pid is None
        assert not is_running(pid)
        assert worker.compare("x+1", "1+x", 10) is True


def test_limit_is_reported(monkeypatch):
    monkeypatch.setattr("trl_modality.evaluation.grading.grader.are_equal", lambda *_, time_limit: None)
    grade = Grader(symbolic=True)("Answer: x + 1", "y + 1")
    assert (grade.is_correct, grade.how) == (False, "limit")


def test_no_process_is_left():
    worker = SymbolicWorker()
    worker.compare("x", "y", 10)
    pid = worker.pid
    del worker
    gc.collect()
    assert not is_running(pid)
    code = (
        "from trl_modality.evaluation.grading import grader, symbolic;"
        "assert grader.Grader(symbolic=True, time_limit=10)('Answer: x+1', '1+x').is_correct;"
        "print(symbolic._shared.pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not is_running(int(done.stdout))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_has_its_own_worker():
    grader = Grader(symbolic=True, time_limit=10)
    assert grader("Answer: x+1", "1+x").is_correct
    pid = symbolic._shared.pid
    child = os.fork()
    if not child:
        is_right = symbolic._shared.pid is None and grader("Answer: x+1", "1+x").is_correct
        symbolic.close()
        os._exit(0 if is_right else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert symbolic._shared.pid == pid
    assert grader("Answer: x+2", "2+x").is_correct


def test_threads_share_a_worker():
    grader, seen = Grader(symbolic=True, time_limit=10), {}

    def ask(number):
        seen[number] = [grader(f"Answer: x+{k}", f"{number}+x").is_correct for k in range(4)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {number: [k == number for k in range(4)] for number in range(4)}


def test_a_failed_start_says_why(monkeypatch, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text('print(\'{"error": "no such module"}\')')
    monkeypatch.setattr(symbolic, "_WORKER", script)
    with pytest.raises(WorkerError, match="no such module"):
        SymbolicWorker().compare("x", "y", 1)


@pytest.fixture(scope="module")
def worker_module():
    path = ROOT / "trl_modality" / "evaluation" / "grading" / "_symbolic_worker.py"
    spec = importlib.util.spec_from_file_location("symbolic_worker", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_the_worker_refuses(worker_module):
    code = compile("1", "<string>", "eval")
    refused = [
        ("open", ("/tmp/x", "w", os.O_WRONLY)),
        ("open", ("/tmp/x", None, os.O_CREAT)),
        ("os.system", ("ls",)),
        ("subprocess.Popen", ()),
        ("socket.__new__", ()),
        ("os.fork", ()),
        ("os.remove", ()),
        ("exec", (code,)),
        ("compile", (b"1", "<string>")),
        ("compile", (b"1", None)),
    ]
    allowed = [("open", ("/x", "r", os.O_RDONLY)), ("import", ()), ("compile", (b"1", "/a.py")), ("os.listdir", ())]
    assert all(worker_module.is_refused(*event) for event in refused)
    assert not any(worker_module.is_refused(*event) for event in allowed)


def test_strings_are_never_evaluated(worker_module):
    """The door itself: sympify of a string ends in `eval`, unless it is the worker's."""
    import sympy

    assert worker_module.read_numeral("12") == 12
    assert worker_module.read_numeral("1.5") == 1.5
    for text in ("__import__('os')", "1+1", "x", "9" * 400, "1e9999", ""):
        with pytest.raises(sympy.SympifyError):
            worker_module.read_numeral(text)
