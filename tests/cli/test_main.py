"""The command line as a whole: at once where nothing is to do, and errors without a traceback."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from trl_modality import __version__
from trl_modality.cli import COMMANDS, main
from trl_modality.cli.text_tables import histogram, quantile, share, spread


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from trl_modality.cli import main; main(['--help']); "
        "print([m for m in ('torch', 'transformers', 'datasets', 'numpy', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_of_every_command(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: trl-modality {command}" in capsys.readouterr().out


def test_version_and_unknown_commands(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"trl-modality {__version__}\n"
    assert main([]) == 2
    assert main(["tran"]) == 2
    assert "no command 'tran'; there is train, data, eval, check" in capsys.readouterr().err


def test_errors_of_users_have_no_traceback_and_ours_do(capsys, monkeypatch):
    assert main(["data", "stats", "/nowhere/at/all"]) == 2
    assert capsys.readouterr().err.startswith("trl-modality data: ")
    monkeypatch.setattr("trl_modality.data.sources.open_split", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["data", "stats", "x"])


@pytest.mark.parametrize(
    ("words", "how"),
    [
        (["data", "make", "a folder"], "Begin again with: trl-modality data make 'a folder'"),
        (["eval", "a model"], "Begin again with: trl-modality eval 'a model'"),
        (["eval", "m", "--output", "e"], "Go on with: trl-modality eval m --output e"),
        (["eval", "m", "--output=e"], "Go on with: trl-modality eval m --output=e"),
        (["train"], ""),
    ],
)
def test_interruptions_say_how_to_go_on(words, how, capsys, monkeypatch):
    module = SimpleNamespace(main=lambda words: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr("trl_modality.cli.import_module", lambda *names: module)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(words) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    said = capsys.readouterr().err
    assert said == f"\ntrl-modality {words[0]}: interrupted" + (f". {how}\n" if how else "\n")


def test_sigterm_is_met_as_ctrl_c_is(capsys, monkeypatch):
    module = SimpleNamespace(main=lambda words: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setattr("trl_modality.cli.import_module", lambda *names: module)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["data", "x"]) == 143
    assert "interrupted by SIGTERM. Begin again with: trl-modality data x" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_processes_that_a_command_forks_end_by_sigterm_at_once(monkeypatch):
    left = []

    def fork(words):
        child = os.fork()
        if not child:
            os._exit(0 if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else 1)
        left.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return 0

    monkeypatch.setattr("trl_modality.cli.import_module", lambda *names: SimpleNamespace(main=fork))
    assert main(["data", "x"]) == 0
    assert left == [0]


def test_histogram_counts_every_value_once():
    values = [3, 7, 7, 12, 39]
    lines = histogram(values, bins=4)
    assert lines == [
        "   0 to  9 |######################################## 3",
        "  10 to 19 |############## 1",
        "  20 to 29 | 0",
        "  30 to 39 |############## 1",
    ]
    assert histogram([5, 5]) == ["  5 |######################################## 2"]
    assert sum(int(line.split()[-1]) for line in histogram(list(range(1000)))) == 1000


def test_figures():
    assert (quantile([4, 1, 3, 2], 0.5), quantile([1], 0.95)) == (3, 1)
    assert (share(1, 8), share(0, 0)) == ("1 (12.5 %)", "0")
    assert spread({"a": [1, 2000]}, "words") == [
        "words      min   median     95 %      max",
        "a            1    2,000    2,000    2,000",
    ]
