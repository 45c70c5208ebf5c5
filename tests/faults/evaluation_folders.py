"""The folder of an evaluation, and its files."""

import errno
import functools
import json
from pathlib import Path

from tests.faults.fault import Fault, Scene
from tests.testing.answering import FakeGenerator, number_of, quiz_row
from trl_modality.evaluation.baseline import read_baseline
from trl_modality.evaluation.gap import ModalityGapEvaluator
from trl_modality.evaluation.text.regret import text_skill
from trl_modality.evaluation.text.run import TextTasks
from trl_modality.resumable.folder_lock import FolderInUseError
from trl_modality.resumable.records import Journal


CONDITIONS = ("text_rich", "vision_centric")
AT_START = "before the first question"


def model(name: str = "right", **settings) -> FakeGenerator:
    return FakeGenerator(lambda request: str(number_of(request)), name, settings or None)


def evaluate(scene: Scene, generator: FakeGenerator | None = None, rows: int = 6, folder: str = "evals", **given):
    evaluator = ModalityGapEvaluator(
        [quiz_row(i) for i in range(rows)], conditions=CONDITIONS, show_progress=False, batch_size=2
    )
    return evaluator(generator or model(), scene.folder / folder, **given)


def file(scene: Scene, folder: str = "evals") -> Path:
    return scene.folder / folder / "answers.jsonl"


def _evaluated_then(change):
    """An evaluation, then a change of its file of answers, then `again` in the same folder."""

    def provoke(scene: Scene, again=evaluate) -> None:
        evaluate(scene)
        change(file(scene))
        scene.content = file(scene).read_bytes()
        scene.generator = model()
        scene.result = again(scene, scene.generator)

    return provoke


def _unchanged(scene: Scene) -> None:
    assert file(scene).read_bytes() == scene.content


def _other(name: str, named: str, **given) -> Fault:
    def provoke(scene: Scene) -> None:
        evaluate(scene)
        scene.content = file(scene).read_bytes()
        evaluate(scene, **given)

    return Fault(
        f"a folder with answers of {name}",
        AT_START,
        f"answers.jsonl has results of other settings: {named}.*or start anew with `restart=True`",
        provoke,
        "the answers, as they were",
        _unchanged,
        ValueError,
    )


def _restarts(scene: Scene) -> None:
    evaluate(scene)
    scene.content = file(scene).read_bytes()
    evaluate(scene, model("other"), restart=True)


def _both_there(scene: Scene) -> None:
    assert file(scene).with_name("answers.jsonl.before-1").read_bytes() == scene.content
    assert json.loads(file(scene).read_text().splitlines()[0])["settings"]["model"] == "other"
    assert len(file(scene).read_text().splitlines()) == 13


def _edit(line: int, text: bytes):
    def change(path: Path) -> None:
        lines = path.read_bytes().splitlines(keepends=True)
        lines[line - 1] = text + b"\n"
        path.write_bytes(b"".join(lines))

    return change


def _mixed(path: Path) -> None:
    """As two evaluations leave it that write at the same time."""
    header, *lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([header, *lines[:4], *lines[2:8], *lines[4:]]))


def _mended(scene: Scene) -> None:
    keys = [json.loads(line)["key"] for line in file(scene).read_text().splitlines()[1:]]
    assert len(keys) == len(set(keys)) == 12
    assert file(scene).with_name("answers.jsonl.before-1").read_bytes() == scene.content
    assert scene.result.conditions["text_rich"].total == 6
    assert sum(map(len, scene.generator.batches)) == 8  # two batches of two were in their places


def _baseline(scene: Scene, generator: FakeGenerator):
    return evaluate(scene, generator, folder="after", baseline=scene.folder / "evals")


def _written(path: str, content: bytes):
    def provoke(scene: Scene) -> None:
        target = scene.folder / path
        target.parent.mkdir(parents=True)
        target.write_bytes(content)
        scene.content = content
        evaluate(scene)

    return provoke


def _full_disk(scene: Scene) -> None:
    """From the third batch on nothing can be written."""
    add, count = Journal.add, []

    def full(self, records):
        count.append(1)
        if records and len(count) > 2:
            whole, self.path = self.path, self.path.with_name("full")
            self.path.symlink_to("/dev/full")
            try:
                add(self, records)
            finally:
                self.path = whole
        add(self, records)

    Journal.add = full
    try:
        evaluate(scene)
    finally:
        Journal.add = add


def _four_answers(scene: Scene) -> None:
    assert len(file(scene).read_bytes().splitlines()) == 5
    assert evaluate(scene).conditions["text_rich"].correct == 6


def _full_at_the_end(scene: Scene) -> None:
    evaluate(scene)
    scene.result = (scene.folder / "evals" / "gap.json").read_bytes()
    write = Path.write_bytes

    def full(path, content):
        if "gap.json" in path.name:
            write(path, content[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    Path.write_bytes = full
    try:
        evaluate(scene)
    finally:
        Path.write_bytes = write


def _result_as_it_was(scene: Scene) -> None:
    names = sorted(path.name for path in (scene.folder / "evals").iterdir())
    assert names == ["_in_use.lock", "answers.jsonl", "gap.json"]
    assert (scene.folder / "evals" / "gap.json").read_bytes() == scene.result


def _text_tasks(scene: Scene) -> TextTasks:
    path = scene.folder / "gsm8k.jsonl"
    path.write_text('{"question": "What is 1 plus 2?", "answer": "#### 3"}\n')
    return TextTasks([f"gsm8k:{path}"])


def _pairs_meanwhile(scene: Scene) -> None:
    """A second evaluation while the first one asks its model."""
    tasks = _text_tasks(scene)

    def answer(request) -> str:
        for each in (lambda: evaluate(scene, model("other")), lambda: tasks.ask(model(), scene.folder / "evals")):
            try:
                each()
                raise AssertionError("two evaluations at once")
            except FolderInUseError as error:
                scene.refused = error
        return str(number_of(request))

    evaluate(scene, FakeGenerator(answer, "right", None))
    raise scene.refused


def _text_meanwhile(scene: Scene) -> None:
    def answer(request) -> str:
        evaluate(scene)
        return "3"

    _text_tasks(scene).ask(FakeGenerator(answer), scene.folder / "evals", show_progress=False)


def _first_goes_on(scene: Scene) -> None:
    assert len(file(scene).read_bytes().splitlines()) == 13
    assert json.loads((scene.folder / "evals" / "gap.json").read_text())["model"] == "right"


def _no_pairs_asked(scene: Scene) -> None:
    assert not file(scene).exists()


def _folder_is_a_file(scene: Scene) -> None:
    (scene.folder / "evals").write_text("mine")
    evaluate(scene)


def _text_without_fields(scene: Scene) -> None:
    path = scene.folder / "text" / "gsm8k.jsonl"
    path.parent.mkdir()
    path.write_text('{"format": 1, "settings": {"model": "m"}}\n{"key": "q0", "is_correct": "yes"}\n')
    text_skill(scene.folder)


def _wrong_folder_as_baseline(scene: Scene) -> None:
    evaluate(scene)
    _edit(3, b'{"key": "1/text_rich"}')(file(scene))
    read_baseline(scene.folder / "evals", ["answers.jsonl"], {"rows": _rows_of(scene)})


def _rows_of(scene: Scene) -> str:
    return json.loads(file(scene).read_text().splitlines()[0])["settings"]["rows"]


def _read_as_baseline(change):
    return functools.partial(_evaluated_then(change), again=_baseline)


BROKEN = "the file, as it was"
FAULTS = [
    _other("another model", "`model` was 'right' and is 'other'", generator=model("other")),
    _other("other settings", "`max_new_tokens` was 8 and is 9", generator=model(max_new_tokens=9)),
    _other("other rows", "`rows` was", rows=5),
    Fault(
        "a folder with answers of another model, told to start anew",
        AT_START,
        r"answers.jsonl has results of other settings: `model` was 'right' and is 'other'. They are in "
        r"\S+answers.jsonl.before-1 now",
        _restarts,
        "the old answers under another name, and the new ones",
        _both_there,
        warns=True,
    ),
    Fault(
        "a second evaluation in a folder, at the same time",
        AT_START,
        r"evals is in use by an evaluation \(process \d+ on .*, since .*\).*or give another `folder`",
        _pairs_meanwhile,
        "the first one goes on to its end",
        _first_goes_on,
        FolderInUseError,
    ),
    Fault(
        "an evaluation in a folder where text tasks are asked",
        AT_START,
        r"evals is in use by an evaluation \(process \d+ on .*, since .*\)",
        _text_meanwhile,
        "nothing of the second one",
        _no_pairs_asked,
        FolderInUseError,
    ),
    Fault(
        "a file in which two evaluations were mixed",
        AT_START,
        r"answers.jsonl, line 6: the record '2/text_rich' does not follow there; two evaluations may have written .* "
        r"14 of 18 records are left out, and asked again where they are missing; the file as it was is",
        _evaluated_then(_mixed),
        "one answer to each question, and the file as it was beside it",
        _mended,
        warns=True,
    ),
    Fault(
        "a baseline in which two evaluations were mixed",
        AT_START,
        r"answers.jsonl, line 6: '2/text_rich' is in line 4 already",
        _read_as_baseline(_mixed),
        BROKEN,
        _unchanged,
        ValueError,
    ),
    Fault(
        "a broken line among answers",
        AT_START,
        r"answers.jsonl, line 4 is not JSON .*Remove that line",
        _evaluated_then(_edit(4, b'{"key": "2/te')),
        BROKEN,
        _unchanged,
        ValueError,
    ),
    Fault(
        "a line of zeros, as a crash of the machine leaves it",
        AT_START,
        r"answers.jsonl, line 3 is not JSON",
        _evaluated_then(_edit(3, b"\0" * 50)),
        BROKEN,
        _unchanged,
        ValueError,
    ),
    Fault(
        "answers in another encoding",
        AT_START,
        r"answers.jsonl, line 3 is not JSON \('utf-8' codec can't decode",
        _evaluated_then(_edit(3, '{"key": "é"}'.encode("latin-1"))),
        BROKEN,
        _unchanged,
        ValueError,
    ),
    Fault(
        "an answer without its fields",
        AT_START,
        r"answers.jsonl, line 3: `condition` must be of type str, got None",
        _wrong_folder_as_baseline,
        BROKEN,
        error=ValueError,
    ),
    Fault(
        "an answer to a text task without its fields",
        "when results are computed",
        r"gsm8k.jsonl, line 2: `is_correct` must be of type bool, got yes",
        _text_without_fields,
        BROKEN,
        error=ValueError,
    ),
    Fault(
        "answers of a later version",
        AT_START,
        r"answers.jsonl does not begin with a header of format 1 \(it is of format 7",
        _evaluated_then(_edit(1, b'{"format": 7, "settings": {}}')),
        BROKEN,
        _unchanged,
        ValueError,
    ),
    Fault(
        "a user's own file of that name",
        AT_START,
        "answers.jsonl does not begin with a header of format 1",
        _written("evals/answers.jsonl", b"my notes, without a newline"),
        "the file, byte by byte",
        _unchanged,
        ValueError,
    ),
    Fault(
        "a disk that is full in the middle",
        "in an evaluation",
        r"full cannot be written \(No space left on device; [\d,]+ MiB are free there\); what it held before is kept",
        _full_disk,
        "the answers of the batches before; a further call goes on from them",
        _four_answers,
        OSError,
    ),
    Fault(
        "a disk that is full at the end",
        "at the end of an evaluation",
        r"gap.json cannot be written \(No space left on device; [\d,]+ MiB are free there\)",
        _full_at_the_end,
        "all answers, and the older result",
        _result_as_it_was,
        OSError,
    ),
    Fault(
        "a folder that cannot be made",
        AT_START,
        r"evals cannot be written \((File exists|Not a directory)",
        _folder_is_a_file,
        "nothing was asked",
        error=OSError,
    ),
]
