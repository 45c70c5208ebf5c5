"""`data trace`, interrupted on two processes and gone on from by one."""

from tests.cli.test_data_asking import OPTIONS, bytes_of, dataset, run
from tests.testing.forks import run_script


CALLS = 2  # of the generator of each process, before it is interrupted
WORKER = f"""
import sys
from pathlib import Path

from tests.cli.test_data_asking import Drawn, Fragile
from trl_modality.cli import data_trace, main
from trl_modality.cli.generators import join_processes

folder, *words = sys.argv[1:]


class Told(Drawn):
    def say(self, request):
        with open(Path(folder, "asked"), "a") as file:
            file.write("x")
        return super().say(request)


generator = Fragile(Told(), {CALLS})


def load(*given):
    join_processes()
    return generator


data_trace.load_generator = load
sys.exit(main(["data", "trace", *words]))
"""


def test_an_interruption_of_both_is_gone_on_from_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    source = dataset(tmp_path / "source", "trace")
    _, asked = run("trace", source, tmp_path / "whole", monkeypatch)
    (tmp_path / "worker.py").write_text(WORKER)
    words = [source, "--out", str(tmp_path / "two"), "--model", "tiny", *OPTIONS["trace"]]
    ended = run_script(tmp_path / "worker.py", str(tmp_path), *words, ranks=2, kills_others=False)
    assert set(ended.codes) <= {130, -9}, ended.errors  # the one that is left is killed, as a launcher does
    before = (tmp_path / "asked").stat().st_size
    assert before > 0
    code, after = run("trace", source, tmp_path / "two", monkeypatch)
    assert code == 0
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "whole")
    assert before + after == asked
