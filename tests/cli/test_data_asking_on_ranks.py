"""`data transcribe` and `data trace` on two processes: the bytes of one, and nothing asked twice."""

import pytest

from tests.cli.test_data_asking import OPTIONS, bytes_of, dataset, run
from tests.testing.forks import run_script


ON_CPU = {"transcribe": [], "trace": ["--device", "cpu"]}  # the former asks a server
WORKER = """
import os
import sys
from pathlib import Path

from tests.cli.test_data_asking import COMMANDS, Drawn, Fragile
from tests.from_models.test_transcribe import reader
from trl_modality.cli import main

command, calls, log, *words = sys.argv[1:]
generator = Fragile(reader() if command == "transcribe" else Drawn(), int(calls) if calls else None)
COMMANDS[command].load_generator = lambda *given: generator
code = main(["data", command, *words])
Path(f"{log}-{os.environ['RANK']}").write_text(str(generator.answered_requests))
sys.exit(code)
"""


def on_two(tmp_path, command, source, out, calls=""):
    """The exit codes of two processes, and how many requests both have answered."""
    script, log = tmp_path / "worker.py", tmp_path / "log"
    script.write_text(WORKER)
    words = [source, "--out", str(out), "--model", "tiny", *OPTIONS[command], *ON_CPU[command]]
    ended = run_script(
        script, command, str(calls), str(log), *words, ranks=2, kills_others=False, HF_HOME=str(tmp_path / "home")
    )
    return ended, sum(int((tmp_path / f"log-{rank}").read_text()) for rank in (0, 1))


@pytest.mark.parametrize("command", ["transcribe", "trace"])
def test_two_processes_write_what_one_writes(tmp_path, monkeypatch, command):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    source = dataset(tmp_path / "source", command)
    code, asked = run(command, source, tmp_path / "whole", monkeypatch, None, *ON_CPU[command])
    assert code == 0
    ended, on_both = on_two(tmp_path, command, source, tmp_path / "two")
    ended.check()
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "whole")
    # Of an odd number of batches the last is asked by both, as models that are spread over processes need
    assert asked <= on_both <= asked + 4
    assert ended.outputs[0].startswith(("12 of 12 rows are pairs now", "8 of 9 rows"))
    assert not ended.outputs[1]


def test_an_interruption_of_both_is_gone_on_from_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    source = dataset(tmp_path / "source", "trace")
    _, asked = run("trace", source, tmp_path / "whole", monkeypatch, None, *ON_CPU["trace"])
    ended, on_both = on_two(tmp_path, "trace", source, tmp_path / "two", calls=2)
    assert ended.codes == [130, 130]
    assert on_both > 0
    code, after = run("trace", source, tmp_path / "two", monkeypatch, None, *ON_CPU["trace"])
    assert code == 0
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "whole")
    assert after == asked - on_both
