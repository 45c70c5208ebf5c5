"""Ctrl-C and SIGTERM in evaluations and in making data.

Each row is a process of its own that gets the signal.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, Value

from tests.faults.fault import Fault, Scene
from tests.faults.servers import _direct, answers
from tests.testing.interrupts import ALLOWED, START, interrupted
from tests.testing.serving import KINDS, said, serving
from tests.testing.tiny import PAIR_FEATURES, pair_row, tiny_llava
from trl_modality.cli import main


class Said(Exception):
    """What an interrupted process wrote."""


def _pairs(scene: Scene, rows: int) -> str:
    features = PAIR_FEATURES.copy()
    features["answer"] = Value("string")
    folder = scene.folder / "pairs"
    Dataset.from_list([{**pair_row(i), "answer": "1"} for i in range(rows)], features=features).save_to_disk(folder)
    return str(folder)


def _report(scene: Scene, ended, code: int) -> None:
    print(f"ended {ended.seconds:.2f} s after the signal")
    assert ended.seconds < ALLOWED, ended.said[-2000:]
    assert ended.code == code, ended.said[-2000:]
    assert "Traceback" not in ended.said
    raise Said(ended.said)


def _asks_a_server(kind: str, number=signal.SIGINT, code: int = 130):
    def provoke(scene: Scene) -> None:
        with _direct(), serving(KINDS[kind]) as (server, generator):
            url = f"http://127.0.0.1:{server.server_port}"
            scene.words = ["eval", "tiny", _pairs(scene, 20), "--server", url, "--output", str(scene.folder / "evals")]
            scene.words += ["--max-new-tokens", "7"]
            # All eight threads wait for an answer, or for the next try
            ended = interrupted(scene.words, lambda: len(server.bodies) >= 11, number=number)
            scene.asked = [body["messages"] for body in server.bodies]
            assert len(scene.asked) == 11  # nothing more is asked
            server.answer = lambda body, count: said("1")
            kept = len(answers(scene))
            assert main(scene.words) == 0  # it goes on where it was
            assert len(server.bodies) == 11 + 100 - kept
            scene.kept = kept
        _report(scene, ended, code)

    return provoke


def _server_answers_kept(scene: Scene) -> None:
    assert scene.kept == 3
    records = answers(scene)
    assert len({record["key"] for record in records}) == len(records) == 100


def _local(scene: Scene) -> None:
    model, processor = tiny_llava()
    model.save_pretrained(scene.folder / "model")
    processor.save_pretrained(scene.folder / "model")
    evals = scene.folder / "evals"
    words = ["eval", str(scene.folder / "model"), _pairs(scene, 100), "--output", str(evals), "--device", "cpu"]
    words += ["--max-new-tokens", "100", "--batch-size", "4"]
    file = evals / "answers.jsonl"
    _report(scene, interrupted(words, lambda: file.is_file() and file.read_bytes().count(b"\n") > 4), 130)


def _local_answers_kept(scene: Scene) -> None:
    kept = len(answers(scene))
    assert kept >= 4
    assert kept % 4 == 0


GRADING = """
from pathlib import Path
from trl_modality.evaluation.asking.ask import Question, ask
from trl_modality.evaluation.grading.grader import Grader
from trl_modality.evaluation.grading.symbolic import are_equal
from trl_modality.evaluation.models.requests import Generation, Request

class Bombs:
    name = "bombs"
    def __call__(self, requests):
        return [Generation("The answer is " + ("9^{9^{9^{9}}}" if "1" in r.prompt else "y+x"), True) for r in requests]

grader = Grader(symbolic=True, time_limit=1000.0)
def grade(text, expected, choices):
    if "9^" in text:
        Path(sys.argv[1]).touch()
    return grader(text, expected, choices)

questions = [Question(f"q{i}", Request(f"{i}"), "x+y") for i in range(3)]
try:
    ask(Bombs(), questions, grade, sys.argv[2], batch_size=1, show_progress=False)
except KeyboardInterrupt as error:
    print(error)
    assert are_equal("x+1", "1+x", time_limit=20) is True  # and not the reply to the question before
    sys.exit(130)
"""


def _grading(scene: Scene) -> None:
    mark, file = scene.folder / "mark", scene.folder / "evals" / "answers.jsonl"
    code = START + GRADING
    ended = interrupted([str(mark), str(file)], mark.exists, code=code)
    assert ended.code == 130, ended.said
    raise Said(ended.said)


def _one_answer(scene: Scene) -> None:
    assert [record["key"] for record in answers(scene)] == ["q0"]


def _makes_data(whole_group: bool):
    def provoke(scene: Scene) -> None:
        cache, out = scene.folder / "cache", scene.folder / "charts"
        words = ["data", "make", str(out), "--generators", "bar", "line", "--count", "100000", "--num-workers", "2"]
        before = os.environ.get("HF_DATASETS_CACHE")
        os.environ["HF_DATASETS_CACHE"] = str(cache)
        try:
            ended = interrupted(
                words, lambda: any(f.stat().st_size > 1000 for f in cache.rglob("*.arrow")), whole_group=whole_group
            )
        finally:
            os.environ.pop("HF_DATASETS_CACHE") if before is None else os.environ.update(HF_DATASETS_CACHE=before)
        print(f"ended {ended.seconds:.2f} s after the signal")
        assert ended.seconds < ALLOWED
        assert ended.code == 130, ended.said[-2000:]
        raise Said(ended.said.splitlines()[-1])

    return provoke


def _no_folder(scene: Scene) -> None:
    assert not (scene.folder / "charts").exists()
    assert not _processes_of(scene.folder)


def _processes_of(folder: Path) -> list[str]:
    """The command lines of processes that name this folder."""
    if sys.platform != "linux":
        return []
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    return [line for line in listed.splitlines() if str(folder) in line]


GO_ON = r"they are kept in \S+answers.jsonl, and the same call goes on from there. Go on with: trl-modality eval tiny"
KEPT = "all answers that had come; the same command asks the rest"
PROCESS = (pytest.mark.distributed,)

FAULTS = [
    *(
        Fault(
            f"Ctrl-C while a server {what}",
            "in an evaluation",
            f"interrupted: 3 of 100 are done; {GO_ON}",
            _asks_a_server(kind),
            KEPT,
            _server_answers_kept,
            Said,
            marks=PROCESS,
        )
        for kind, what in (
            ("hangs", "hangs"),
            ("drips", "sends a byte now and then"),
            ("busy", "is busy and asks to wait"),
        )
    ),
    Fault(
        "SIGTERM while a server hangs",
        "in an evaluation",
        f"interrupted: 3 of 100 are done; {GO_ON}",
        _asks_a_server("hangs", signal.SIGTERM, 143),
        KEPT,
        _server_answers_kept,
        Said,
        marks=PROCESS,
    ),
    Fault(
        "Ctrl-C while a model generates",
        "in an evaluation",
        r"interrupted: \d+ of 500 are done; they are kept in \S+answers.jsonl, .* Go on with: trl-modality eval",
        _local,
        "the answers of all whole batches",
        _local_answers_kept,
        Said,
        marks=PROCESS,
    ),
    Fault(
        "Ctrl-C while formulas are compared",
        "in an evaluation",
        "interrupted: 1 of 3 are done; they are kept in",
        _grading,
        "the answers of all whole batches; the process that compares is ended with its question",
        _one_answer,
        Said,
        marks=PROCESS,
    ),
    *(
        Fault(
            f"Ctrl-C while processes make pairs{where}",
            "in data making",
            r"interrupted: \S+charts is as it was before, and nothing of this is kept. Begin again with: trl-modality",
            _makes_data(whole_group),
            "no folder, and no process",
            _no_folder,
            Said,
            marks=PROCESS,
        )
        for where, whole_group in ((", sent to all of them", True), (", sent to the first of them", False))
    ),
]
