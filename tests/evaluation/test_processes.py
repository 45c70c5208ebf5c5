"""Two processes share an evaluation: both get the result of one, and the first one writes it."""

import pytest

from tests.testing.forks import run_script


WORKER = """
import contextlib, json, sys, time
from pathlib import Path

import torch
from tests.testing.answering import FakeGenerator, quiz_row
from tests.testing.tiny import pair_row, tiny_llava
from trl_modality.evaluation.asking.ask import Question, ask
from trl_modality.resumable.folder_lock import FolderInUseError, locked_folder
from trl_modality.evaluation.gap import ModalityGapEvaluator
from trl_modality.evaluation.models.generation import TransformersGenerator
from trl_modality.resumable.records import Journal
from trl_modality.evaluation.models.requests import Request, RequestError
from trl_modality.evaluation.text.run import TextTasks

folder, processes, kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
rank = 0
if processes > 1:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()

model, processor = tiny_llava()
if kind == "fsdp2" and processes > 1:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
if kind == "ddp" and processes > 1:
    model = torch.nn.parallel.DistributedDataParallel(model)

class Counted(TransformersGenerator):
    settings = {"max_new_tokens": 4}  # a hash of the weights is of the shards
    calls = []
    def __call__(self, requests):
        self.calls.append([bool(request.images) for request in requests])
        return super().__call__(requests)

# 7 rows in batches of 3: neither the batches of a condition nor the rows of a batch can be shared evenly
rows = [{**pair_row(i), "answer": "1"} for i in range(7)]
generator = Counted(model, processor, max_new_tokens=4, name="tiny")
evaluate = ModalityGapEvaluator(rows, batch_size=3, nats=kind == "ddp", show_progress=False)
result = evaluate(generator, folder / "base")
(folder / f"{rank}.json").write_text(json.dumps(result.to_dict()))
assert len(generator.calls) == 5 * (2 if processes == 2 else 3), generator.calls
assert all(len(set(call)) == 1 for call in generator.calls)

# The first process takes its time to write: what the others say must not depend on what is in the file
add = Journal.add
def add_slowly(self, records):
    time.sleep(0.3)
    add(self, records)
Journal.add = add_slowly
sums = folder / "gsm8k.jsonl"
if rank == 0:
    lines = [{"question": f"What is {n} plus 2?", "answer": f"#### {n + 2}"} for n in range(5)]
    sums.write_text("".join(json.dumps(line) + "\\n" for line in lines))
if processes > 1:
    torch.distributed.barrier()
tasks = TextTasks([f"gsm8k:{sums}"])
text = tasks.ask(FakeGenerator(lambda request: "3"), folder / "base", batch_size=3, show_progress=False)
assert (text.skill.tasks["gsm8k"].correct, text.skill.tasks["gsm8k"].total) == (1, 5)

if processes > 1:
    def refuse(requests):
        if rank == 1:
            raise RequestError(0, "not this one")
        return FakeGenerator(lambda request: "1")(requests)
    refuse.name = "refusing"
    try:
        questions = [Question(f"q{i}", Request("a"), "1") for i in range(2)]
        ask(refuse, questions, evaluate.grader, batch_size=1, show_progress=False)
    except ValueError as error:
        (folder / f"error-{rank}").write_text(str(error))

    # Only the first process holds folders and sees who does; where it may not, the others must not wait for it
    with locked_folder(folder / "held", "another", "folder") if rank == 0 else contextlib.nullcontext():
        torch.distributed.barrier()
        for name, run in {"pairs": evaluate, "text": tasks.ask}.items():
            try:
                run(generator, folder / "held")
            except FolderInUseError as error:
                (folder / f"{name}-{rank}").write_text(str(error))
    torch.distributed.destroy_process_group()
"""


def launch(folder, processes, kind):
    folder.mkdir(exist_ok=True)
    script = folder / "worker.py"
    script.write_text(WORKER)
    run_script(script, str(folder), str(processes), kind, ranks=processes).check()
    return folder / "base"


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_are_one(tmp_path, kind):
    one, two = launch(tmp_path / "one", 1, kind), launch(tmp_path / "two", 2, kind)
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*") if path.is_file())
    assert names[:3] == ["_in_use.lock", "answers.jsonl", "gap.json"]
    for name in names:
        assert (two / name).read_bytes() == (one / name).read_bytes(), name
    first, second = ((two.parent / f"{rank}.json").read_text() for rank in (0, 1))
    assert first == second
    assert [(two.parent / f"error-{rank}").read_text() for rank in (0, 1)] == ["q1: not this one"] * 2
    for rank in (0, 1):
        for name in ("pairs", "text"):
            assert "held is in use by another (process" in (two.parent / f"{name}-{rank}").read_text()
