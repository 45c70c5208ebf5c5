"""Each row of the fault matrix is met as it says."""

import pytest

from tests.faults.fault import Fault, Scene
from tests.faults.matrix import DOCUMENT, ORDER, _words, all_faults, document, modules


ALL = [pytest.param(fault, id=fault.name, marks=fault.marks) for faults in all_faults().values() for fault in faults]


@pytest.mark.parametrize("fault", ALL)
def test_it_is_met(fault, tmp_path):
    fault.met(Scene(tmp_path))


def test_names_are_given_once():
    names = [fault.name for faults in all_faults().values() for fault in faults]
    assert len(names) == len(set(names))


def test_no_module_is_left_out():
    assert sorted(ORDER) == sorted(modules())


def test_the_document_is_of_these_rows():
    assert DOCUMENT.read_text(encoding="utf-8") == document(), (
        "run `PYTHONPATH=examples python -m tests.faults.matrix`"
    )


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (r"row \d of \d+ \(x\.y\).*", "row … of … (x.y)…"),
        (r"[\d,]+ MiB in \S+a.txt", "… MiB in …a.txt"),
        (r"is \[0.1, [^\]]+\]", "is [0.1, …]"),
        (r"<\|pad\|>|cut", r"<\|pad\|> or cut"),
    ],
)
def test_patterns_in_words(pattern, words):
    assert _words(pattern) == words


def test_a_fault_that_is_not_seen_fails(tmp_path):
    silent = Fault("none", "never", "something", lambda scene: None, warns=True)
    with pytest.raises(AssertionError, match="nothing matches"):
        silent.met(Scene(tmp_path))

    def raises(scene):
        raise ValueError("another thing")

    with pytest.raises(AssertionError, match="nothing matches"):
        Fault("other", "never", "something", raises).met(Scene(tmp_path))
