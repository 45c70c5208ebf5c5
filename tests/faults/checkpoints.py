"""Files of a checkpoint."""

import json
import shutil
from functools import partial

from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from tests.faults.fault import Fault, Scene
from tests.faults.saved_runs import cut, file_of, flip, go_on, same_weights, save, weights, without_manifests
from tests.testing.tiny import pair_dataset


def _damaged(damage, name: str, scene: Scene, with_manifest: bool = True) -> None:
    """A run is resumed from a checkpoint, given by its path, one file of which was damaged."""
    save(scene)
    damage(file_of(scene, name))
    if not with_manifest:
        without_manifests(scene)
    go_on(scene, 2)


def _remove(path) -> None:
    path.unlink()


def _empty(path) -> None:
    path.write_bytes(b"")


def _that_of_step_3(path) -> None:
    shutil.copy(path.parent.parent / "checkpoint-3" / path.name, path)


def _newest_damaged(scene: Scene) -> None:
    save(scene)
    scene.whole = weights(scene, 4)
    flip(file_of(scene, "model.safetensors", 4))
    cut(file_of(scene, "optimizer.pt", 3))
    go_on(scene)


def _equals_the_uninterrupted(scene: Scene) -> None:
    assert same_weights(weights(scene, 4), scene.whole)


def _all_damaged(scene: Scene) -> None:
    for path in save(scene).glob("checkpoint-*"):
        flip(path / "model.safetensors")
    go_on(scene)


def _unfinished(scene: Scene) -> None:
    save(scene)
    scene.whole = weights(scene, 4)
    file_of(scene, "manifest.json", 4).unlink()
    go_on(scene)


def _of_an_older_version(scene: Scene) -> None:
    save(scene)
    scene.whole = weights(scene, 4)
    without_manifests(scene)
    for step in (3, 4):
        shutil.rmtree(scene.output / f"checkpoint-{step}")
    go_on(scene)


def _renamed(scene: Scene) -> None:
    output = save(scene)
    shutil.rmtree(output / "checkpoint-4")
    (output / "checkpoint-2").rename(output / "checkpoint-4")
    go_on(scene, 4)


def _a_tensor_less(scene: Scene) -> None:
    save(scene)
    path = file_of(scene, "model.safetensors")
    tensors = load_file(path)
    del tensors[min(tensors)]
    save_file(tensors, path, metadata={"format": "pt"})
    without_manifests(scene)
    go_on(scene, 2)


def _only_model(scene: Scene) -> None:
    save(scene, save_only_model=True)
    go_on(scene, 2)


def _begun_anew(scene: Scene) -> None:
    save(scene, save_only_model=True)
    go_on(scene, 2, resume_overrides=["optimizer"])


def _is_recorded(scene: Scene) -> None:
    overrides = json.loads((scene.output / "run.json").read_text())["overrides"]
    assert [(each["step"], each["name"], each["new"]) for each in overrides] == [(2, "optimizer", "begun anew")]


def _broken_record(scene: Scene) -> None:
    save(scene)
    cut(scene.output / "run.json")
    go_on(scene, 2)


def _record_is_set_aside(scene: Scene) -> None:
    assert (scene.output / "run.damaged.json").is_file()
    assert json.loads((scene.output / "run.json").read_text())["resumed_from_steps"] == [2]
    assert "checkpoint-4" in scene.checkpoints()


def _damaged_best(scene: Scene) -> None:
    class Damage(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4:
                flip(file_of(scene, "model.safetensors"))

    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "learning_rate": 0.0}
    evaluating = {"eval_strategy": "steps", "eval_steps": 2, "eval_dataset": pair_dataset(2, 20)}
    scene.trainer(callbacks=[Damage()], save_strategy="steps", save_steps=2, **best, **evaluating).train()


def _both_are_left(scene: Scene) -> None:
    assert scene.checkpoints() == ["checkpoint-2", "checkpoint-4"]


RESUMED = "on resuming"

FAULTS = [
    *(
        Fault(f"a checkpoint without its {what}", RESUMED, f"{name} is missing", partial(_damaged, _remove, name))
        for what, name in {
            "optimizer": "optimizer.pt",
            "learning-rate schedule": "scheduler.pt",
            "weights": "model.safetensors",
            "states of random numbers": "rng_state.pth",
            "config of the model": "config.json",
            "state of the trainer": "trainer_state.json",
        }.items()
    ),
    *(
        Fault(
            f"flipped bytes in {what}",
            RESUMED,
            f"{name} has other bytes than were written",
            partial(_damaged, flip, name),
        )
        for what, name in {
            "the weights": "model.safetensors",
            "the state of the optimizer": "optimizer.pt",
            "the states of random numbers": "rng_state.pth",
        }.items()
    ),
    *(
        Fault(f"{what} cut short", RESUMED, rf"{name} has [\d,]+ bytes of [\d,]+", partial(_damaged, cut, name))
        for what, name in {
            "weights": "model.safetensors",
            "a state of the optimizer": "optimizer.pt",
            "a state of the trainer": "trainer_state.json",
        }.items()
    ),
    Fault(
        "the weights of another step in a checkpoint",
        RESUMED,
        "model.safetensors has other bytes than were written",
        partial(_damaged, _that_of_step_3, "model.safetensors"),
    ),
    Fault(
        "the optimizer of another step in a checkpoint",
        RESUMED,
        r"optimizer.pt has (other bytes than were written|[\d,]+ bytes of)",
        partial(_damaged, _that_of_step_3, "optimizer.pt"),
    ),
    Fault(
        "a damaged manifest",
        RESUMED,
        "manifest.json is not as it was written",
        partial(_damaged, cut, "manifest.json"),
    ),
    Fault(
        "the manifest of another checkpoint",
        RESUMED,
        "the folder holds the files of step 3",
        partial(_damaged, _that_of_step_3, "manifest.json"),
    ),
    Fault("a checkpoint under the name of another", RESUMED, "the folder holds the files of step 2", _renamed),
    Fault(
        "the two newest checkpoints are damaged, and the newest whole one is asked for",
        RESUMED,
        "goes on from checkpoint-2, .*checkpoint-4: model.safetensors has other bytes.*checkpoint-3: optimizer.pt has",
        _newest_damaged,
        warns=True,
        left="training goes on from checkpoint-2 and ends with the weights of the run that was not interrupted",
        check=_equals_the_uninterrupted,
    ),
    Fault(
        "all checkpoints are damaged",
        RESUMED,
        "none of the checkpoints in .* can be resumed from. checkpoint-4: model.safetensors .*checkpoint-1: model",
        _all_damaged,
    ),
    Fault(
        "a run that was killed before the manifest of its newest checkpoint was written",
        RESUMED,
        "goes on from checkpoint-3, .*checkpoint-4: it has no manifest.json, which is written last",
        _unfinished,
        warns=True,
        left="training goes on from checkpoint-3 and ends with the weights of the run that was not interrupted",
        check=_equals_the_uninterrupted,
    ),
    Fault(
        "a checkpoint of an older version, without a manifest",
        RESUMED,
        "checkpoint-2 has no manifest.json: .* cannot be verified",
        _of_an_older_version,
        warns=True,
        left="training goes on from it, and ends with the weights of the run that was not interrupted",
        check=_equals_the_uninterrupted,
    ),
    *(
        Fault(
            f"without a manifest, {what}",
            RESUMED,
            seen,
            partial(_damaged, damage, name, with_manifest=False),
        )
        for what, name, damage, seen in (
            ("weights cut short", "model.safetensors", cut, "model.safetensors cannot be read"),
            ("a state of the optimizer cut short", "optimizer.pt", cut, "optimizer.pt cannot be read"),
            (
                "flipped bytes in the optimizer",
                "optimizer.pt",
                flip,
                "optimizer.pt (cannot be read|has a wrong checksum)",
            ),
            ("an empty file of random numbers", "rng_state.pth", _empty, "rng_state.pth is empty"),
            ("no optimizer beside its schedule", "optimizer.pt", _remove, "optimizer.pt is missing"),
            ("no config of the model", "config.json", _remove, "config.json is missing"),
            ("a state of the trainer cut short", "trainer_state.json", cut, "trainer_state.json cannot be read"),
        )
    ),
    Fault(
        "without a manifest, weights that lack a tensor",
        RESUMED,
        r"lack 1 of the model's tensors, `.+` among them",
        _a_tensor_less,
    ),
    Fault(
        "a checkpoint of `save_only_model=True`",
        RESUMED,
        "no state of the optimizer .*`save_only_model=True`.*accept these with `resume_overrides=\\['optimizer'\\]`",
        _only_model,
    ),
    Fault(
        "a checkpoint of `save_only_model=True`, accepted with `resume_overrides`",
        RESUMED,
        "as another one than was saved there: `optimizer` was 'not saved' and is 'begun anew'",
        _begun_anew,
        warns=True,
        left="training goes on with a new optimizer, and run.json records it",
        check=_is_recorded,
    ),
    Fault(
        "a broken run.json beside good checkpoints",
        RESUMED,
        "run.json cannot be read as the record of a run. It is kept as run.damaged.json",
        _broken_record,
        warns=True,
        left="training goes on; the broken file is set aside and a new one written",
        check=_record_is_set_aside,
    ),
    Fault(
        "the best checkpoint was damaged before it is loaded at the end",
        "at the end of training",
        "checkpoint-2 cannot be resumed from: model.safetensors has other bytes",
        _damaged_best,
        left="all checkpoints",
        check=_both_are_left,
    ),
    Fault(
        "a checkpoint that is not there",
        RESUMED,
        "Can't find a valid checkpoint at .*checkpoint-7: there is no such folder",
        lambda scene: go_on(scene, 7),
    ),
    Fault(
        "the newest checkpoint of an empty folder",
        RESUMED,
        "No valid checkpoint found in output directory",
        lambda scene: go_on(scene, True),
    ),
]
