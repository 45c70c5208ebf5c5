"""Output folders."""

import shutil

from trl import SFTConfig, SFTTrainer

from tests.faults.fault import Fault, Scene
from tests.faults.saved_runs import SAVING, go_on, record, save
from tests.testing.tiny import pair_dataset, written_out
from trl_modality.resumable.folder_lock import locked_folder


def _two_runs(scene: Scene) -> None:
    with locked_folder(scene.output, "a training run", "output_dir"):
        scene.trainer().train()


def _two_in_one_process(scene: Scene) -> None:
    from transformers import TrainerCallback

    class Another(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            scene.trainer(**SAVING).train()

    scene.trainer(callbacks=[Another()], **SAVING).train()


def _nothing_is_written(scene: Scene) -> None:
    assert sorted(path.name for path in scene.output.iterdir()) == ["_in_use.lock"]


def _new_in_old(scene: Scene) -> None:
    save(scene)
    scene.before = record(scene)
    scene.trainer(**SAVING).train()


def _old_is_left(scene: Scene) -> None:
    assert scene.checkpoints() == [f"checkpoint-{step}" for step in range(1, 5)]
    assert record(scene) == scene.before


def _new_beside_an_sft_trainers(scene: Scene) -> None:
    from datasets import Dataset

    from tests.testing.tiny import pair_row, tiny_llava

    model, processor = tiny_llava()
    rows = Dataset.from_list(written_out([pair_row(i) for i in range(4)]))
    usual = {"output_dir": str(scene.output), "max_steps": 1, "use_cpu": True, "bf16": False, "report_to": "none"}
    SFTTrainer(model, SFTConfig(**usual, **SAVING), train_dataset=rows, processing_class=processor).train()
    scene.trainer(**SAVING).train()


def _of_another_folder(scene: Scene) -> None:
    save(scene)
    other = Scene(scene.folder / "other")
    save(other)
    go_on(scene, str(other.output / "checkpoint-2"))


def _mixed(scene: Scene) -> None:
    """A folder of two runs, as older versions left them: 4 steps, and later 2 steps of another."""
    save(scene)
    other = Scene(scene.folder / "other")
    save(other, train_dataset=pair_dataset(8, 50), max_steps=2)
    for step in (1, 2):
        shutil.rmtree(scene.output / f"checkpoint-{step}")
        shutil.copytree(other.output / f"checkpoint-{step}", scene.output / f"checkpoint-{step}")
    go_on(scene, True, train_dataset=pair_dataset(8, 50), max_steps=3, resume_overrides=["max_steps"])


def _goes_on_with_the_last(scene: Scene) -> None:
    assert record(scene)["resumed_from_steps"] == [2]


FAULTS = [
    Fault(
        "a second run in the output folder of one that is at work",
        "before the first step",
        r"is in use by a training run \(process \d+ on .*, since .*\).*give another `output_dir`",
        _two_runs,
        left="nothing is written",
        check=_nothing_is_written,
    ),
    Fault(
        "a run begun within another of the same process, in one folder",
        "before the first step",
        "is in use by a training run",
        _two_in_one_process,
    ),
    Fault(
        "a new run in a folder with checkpoints of another",
        "before the first step",
        r"has checkpoints of another run \(checkpoint-1, checkpoint-2, checkpoint-3, checkpoint-4.*or remove them",
        _new_in_old,
        left="the checkpoints and the record of the other run, untouched",
        check=_old_is_left,
    ),
    Fault(
        "a new run in a folder with checkpoints of `SFTTrainer`",
        "before the first step",
        r"has checkpoints of another run \(checkpoint-1",
        _new_beside_an_sft_trainers,
    ),
    Fault(
        "a run resumed from elsewhere in a folder with checkpoints of another",
        "on resuming",
        r"has checkpoints of another run \(checkpoint-1, checkpoint-2",
        _of_another_folder,
    ),
    Fault(
        "checkpoints of two runs in one folder, and the newest is asked for",
        "on resuming",
        "goes on from checkpoint-2, .*checkpoint-4: it is of another run .* than the one that saved last",
        _mixed,
        left="training goes on with the run that saved last",
        check=_goes_on_with_the_last,
        warns=True,
    ),
]
