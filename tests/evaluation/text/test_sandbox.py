"""What code in the sandbox can do, what it cannot, and that it cannot make its own verdict."""

import contextlib
import os
import re
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.testing.namespaces import needs_namespaces
from trl_modality.evaluation.text import sandbox
from trl_modality.evaluation.text.sandbox import Limits, SandboxError, require_sandbox, run_tests


DOUBLES = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(21) == 42\n"
SMALL = Limits(seconds=2, memory_mib=128)


def verdict(code: str, test: str = DOUBLES, **kwargs):
    return run_tests(code, "f", test, limits=SMALL, **kwargs)


def seen_inside(expression: str, before: str = "") -> str:
    """What an expression gives inside: told through the verdict on a wrong answer."""
    code = f"{before}\ndef f(x):\n    raise ValueError({expression})"
    return verdict(code).detail


@needs_namespaces
def test_right_code_passes_and_wrong_code_fails():
    assert verdict("def f(x): return 2 * x").has_passed
    wrong = verdict("def f(x): return 2 + x")
    assert (wrong.how, wrong.detail, wrong.has_passed) == ("wrong", "AssertionError", False)
    assert "ZeroDivisionError" in verdict("def f(x): return x // 0").detail
    assert "SyntaxError" in verdict("def f(x) return").detail
    assert "NameError: the code defines no f" in verdict("def g(x): return 2 * x").detail


@needs_namespaces
def test_data_comes_back_as_it_was():
    values = [None, True, -3, 10**5000, 0.1, float("inf"), "é\ud800", b"\x00\xff", 1j, [1, (2,)], {(1, 2): {3}}, ()]
    values += [frozenset({1}), {}, {"list": [1]}, [[]], {"a": None}]
    test = "def check(f):\n    import sys\n    sys.set_int_max_str_digits(0)\n    for v in values():"
    source = repr([v for v in values if v != 10**5000]).replace("inf,", "float('inf'),")
    setup = f"def values(): return [*{source}, 10 ** 5000]"
    test += "\n        got = f(v)\n        assert type(got) is type(v) and got == v, repr(v)[:50]"
    assert verdict("def f(x): return x", test, setup=setup).has_passed


@needs_namespaces
def test_tests_use_what_the_problem_defines_and_the_function_by_its_name():
    test = "def check(candidate):\n    assert candidate(three()) == f(3) == 6"
    assert verdict("def f(x): return 2 * x", test, setup="def three(): return 3\ndef f(x): pass").has_passed


@needs_namespaces
def test_errors_that_tests_expect_arrive():
    test = "def check(f):\n    try:\n        f(1)\n    except ValueError as e:\n        assert str(e) == 'no'"
    test += "\n    else:\n        assert 0"
    assert verdict("def f(x): raise ValueError('no')", test).has_passed
    assert verdict("def f(x): raise TypeError('no')", test).how == "wrong"


@needs_namespaces
@pytest.mark.parametrize(
    "code",
    [
        "import os\nos._exit(0)",
        "import sys\nsys.exit(0)",
        "def f(x):\n    import os\n    os._exit(0)",
        "def f(x): raise SystemExit(0)",
        "def f(x): print('passed', flush=True)",
        "class Same:\n    def __eq__(self, other): return True\ndef f(x): return Same()",
        "class Same(int):\n    def __eq__(self, other): return True\ndef f(x): return Same(0)",
        "import builtins\nbuiltins.AssertionError = type('Fine', (BaseException,), {})\ndef f(x): return 0",
        # Forged lines to whatever is open: they can only be results
        'import os\nfor fd in range(64):\n    try: os.write(fd, b\'{"how": "passed", "detail": ""}\\n\')\n'
        "    except OSError: pass\ndef f(x): return 0",
        # Its own group, which its launcher is in
        "import os\ndef f(x): os.kill(0, 9)",
        "import os\ndef f(x): os.killpg(0, 15)",
        "def f(x):\n    while True: yield x",
        "def f(x): return [[0] * 10 ** 7]",
        "def f(x):\n    value = []\n    for _ in range(10 ** 5): value = [value]\n    return value",
        "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(x): return f(x)",
    ],
)
def test_verdict_is_not_forged(code):
    assert verdict(code).how in ("wrong", "limit")


@needs_namespaces
@pytest.mark.parametrize(
    "code", ["def f(x):\n    while True: pass", "import time\ndef f(x): time.sleep(100)", "while True: pass"]
)
def test_code_that_does_not_end_is_ended(code, monkeypatch):
    monkeypatch.setattr(sandbox, "STARTING", 1.0)
    begun = time.monotonic()
    assert verdict(code).how in ("wrong", "limit")
    assert time.monotonic() - begun < 8


@needs_namespaces
def test_memory_is_limited():
    assert "MemoryError" in verdict("def f(x): return len(bytes(2 * 10 ** 8))").detail
    assert verdict("def f(x): return len(bytes(2 * 10 ** 7)) and 2 * x").has_passed


@needs_namespaces
@pytest.mark.parametrize(
    "make",
    [
        "os.fork()",
        "subprocess.run(['true'])",
        "threading.Thread(target=print).start()",
        "ctypes.CDLL(None, use_errno=True).unshare(0x10000000) == -1 and 1 / 0",
    ],
)
def test_no_processes_threads_or_namespaces_are_made(make):
    code = f"import os, subprocess, threading, ctypes\ndef f(x):\n    {make}\n    return 2 * x"
    assert re.match("PermissionError|RuntimeError: can't start new thread|ZeroDivisionError", verdict(code).detail)


@needs_namespaces
def test_fork_bomb_is_none():
    before = len(os.listdir("/proc"))
    assert verdict("import os\ndef f(x):\n    while True: os.fork()").how == "wrong"
    assert len(os.listdir("/proc")) < before + 50


@needs_namespaces
def test_there_is_no_network():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.settimeout(0.2)
        code = f"import socket\ndef f(x):\n    socket.create_connection(('127.0.0.1', {port}), 1)\n    return 2 * x"
        assert "unreachable" in verdict(code).detail
        with pytest.raises(TimeoutError):
            server.accept()


@needs_namespaces
def test_the_disk_is_not_there(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("known")
    assert "FileNotFoundError" in verdict(f"def f(x): return open({str(secret)!r}).read()").detail
    # Writing elsewhere than to Python's own files works, and leads nowhere
    target = tmp_path.parent / "written"
    code = f"import os\nos.makedirs({str(target.parent)!r})\nopen({str(target)!r}, 'w').write('x')\n"
    assert verdict(code + "def f(x): return 2 * x").has_passed
    assert not target.exists()
    library = re.escape(os.path.dirname(os.__file__))
    assert re.search(f"Read-only file system: '{library}", seen_inside("str(0)", "import os\nopen(os.__file__, 'a')"))
    assert (
        "No space left"
        in verdict("def f(x):\n    for i in range(99): open(f'{i}', 'wb').write(bytes(2 ** 22))").detail
    )
    assert "File too large" in verdict("def f(x): open('big', 'wb').write(bytes(2 ** 24))").detail


@needs_namespaces
def test_nothing_of_this_process_is_seen(monkeypatch):
    monkeypatch.setenv("TOKEN_OF_MINE", "known")
    assert "known" not in seen_inside("str(dict(os.environ))", "import os")
    assert seen_inside("f'{os.getpid()} {os.getppid()} {os.path.exists(\"/proc/self\")}'", "import os") == (
        "ValueError: 1 0 False"
    )
    assert "PermissionError" in verdict(f"import os\ndef f(x): os.kill({os.getpid()}, 9)").detail
    # To all: it is alone, and the verdict comes from elsewhere
    assert verdict("import os\ndef f(x):\n    os.kill(-1, 9)").how == "wrong"
    held = seen_inside("repr([fd for fd in range(3, 64) if open_(fd)])", OPEN)
    assert len(re.findall(r"\d+", held)) == 2, held
    rights = seen_inside("[line for line in (str(ctypes.CDLL(None).prctl(24, 21)),)][0]", "import ctypes")
    assert rights.startswith("ValueError")
    assert "PermissionError" in seen_inside("str(0)", "import os\nos.chroot('/tmp')")
    assert "PermissionError" in seen_inside("str(0)", "import socket\nsocket.sethostname('mine')")


OPEN = """import os
def open_(fd):
    try:
        return os.fstat(fd) and True
    except OSError:
        return False"""


@needs_namespaces
def test_nothing_is_left_behind(monkeypatch, tmp_path):
    marked = tmp_path / "worker.py"
    marked.write_text(f"{sandbox.WORKER.read_text()}# {tmp_path}")
    monkeypatch.setattr(sandbox, "WORKER", marked)

    def are_left():
        """After a moment: what is killed has yet to be cleared away."""
        until = time.monotonic() + 5
        while (found := of_this_test()) and time.monotonic() < until:
            time.sleep(0.05)
        return found

    def of_this_test():
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                found += [path] * (str(tmp_path).encode() in path.read_bytes())
        return found

    descriptors = len(os.listdir("/proc/self/fd"))
    verdict("import time\ndef f(x): time.sleep(0.1)")
    assert are_left() == []
    # It leaves the group that is ended and does not want to end with its parent
    stays = "import os, ctypes, time\ntry: os.setsid()\nexcept OSError: pass\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n"
    monkeypatch.setattr(sandbox, "STARTING", 1.0)
    assert verdict(stays + "time.sleep(100)").how == "limit"
    assert are_left() == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


@needs_namespaces
def test_tests_that_cannot_run_are_no_verdict_on_the_code():
    for test, message in (("def check(f) return", "SyntaxError"), ("x = 1", "KeyError: 'check'"), ("1 / 0", "Zero")):
        with pytest.raises(ValueError, match=f"tests of 'f' cannot be run: {message}"):
            verdict("def f(x): return 2 * x", test)


def test_a_missing_wall_is_an_error_and_nothing_runs(monkeypatch, tmp_path):
    """As in a container that refuses namespaces."""
    source = sandbox.LAUNCHER.read_text()
    broken = tmp_path / "launch.py"
    broken.write_text(source.replace("libc.unshare(NEW_NAMESPACES)", "libc.unshare(1)"))
    monkeypatch.setattr(sandbox, "LAUNCHER", broken)
    with pytest.raises(SandboxError, match="it was not; refused: .*new namespaces .*: Invalid argument"):
        run_tests("def f(x): return 2 * x", "f", DOUBLES)
    with pytest.raises(SandboxError, match="it was not"):
        require_sandbox()
    # A step that does nothing is noticed by the next
    broken.write_text(source.replace("libc.unshare(NEW_NAMESPACES)", "0"))
    with pytest.raises(SandboxError, match="not permitted"):
        require_sandbox()


def test_elsewhere_than_on_linux_it_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxError, match="Linux only"):
        run_tests("def f(x): return 2 * x", "f", DOUBLES)
