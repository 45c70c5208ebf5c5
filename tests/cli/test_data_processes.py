"""`data transcribe` and `data trace` on two processes: they share the requests, and write what one process writes."""

import time

import pytest

from tests.cli.test_data_asking import bytes_of, dataset
from tests.testing.forks import run_script
from tests.testing.serving import said, serving


WORKER = """
import sys
import time

import datasets
from trl_modality.cli import main
from trl_modality.data import ocr

# OCR is an extra, and not what this is about: it shares the requests like any other
class Reader:
    settings = {"ocr": "fake"}

    def __init__(self, scale):
        pass

    def read(self, image):
        time.sleep(0.1)  # so that both are at it at one time
        with open(sys.argv[1] + "/asked", "a") as file:
            file.write("x")
        return f"picture {image.size[0]}"

ocr.OcrReader = Reader
datasets.config.HF_DATASETS_CACHE = sys.argv[1] + "/cache"
sys.exit(main(sys.argv[2:]))
"""


def slow(body, count):
    time.sleep(0.3)
    return said("Answer: 12")


@pytest.mark.parametrize("kind", ["ocr", "server", "trace"])
def test_two_processes_ask_once_and_write_what_one_writes(tmp_path, kind):
    (tmp_path / "worker.py").write_text(WORKER)
    command = "trace" if kind == "trace" else "transcribe"
    source = dataset(tmp_path / "source", command)
    asked = []
    with serving(slow) as (server, _):
        who = ["--ocr"] if kind == "ocr" else ["--model", "m", "--server", f"http://127.0.0.1:{server.server_port}"]
        for ranks in (1, 2):
            out = tmp_path / f"out-{ranks}"
            words = ["data", command, source, "--out", str(out), *who, "--batch-size", "2"]
            run_script(tmp_path / "worker.py", str(tmp_path), *words, ranks=ranks).check()
            file = tmp_path / "asked"
            asked.append(file.stat().st_size if file.exists() else len(server.bodies))
    assert asked == ([10, 20] if command == "transcribe" else [9, 18])
    assert bytes_of(tmp_path / "out-1") == {
        name: content.replace(b"out-2", b"out-1") for name, content in bytes_of(tmp_path / "out-2").items()
    }
