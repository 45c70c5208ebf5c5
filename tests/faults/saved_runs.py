"""Small runs that leave checkpoints, and runs that go on from them."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.faults.fault import Scene


SAVING = {"save_strategy": "steps", "save_steps": 1}


def save(scene: Scene, **given) -> Path:
    """Four steps, each with a checkpoint; the output folder."""
    scene.trainer(**{**SAVING, **given}).train()
    return scene.output


def go_on(scene: Scene, checkpoint=True, **given):
    """The same run from a checkpoint, by its number; `True`: from the newest that is whole."""
    if isinstance(checkpoint, int) and checkpoint is not True:
        checkpoint = str(scene.output / f"checkpoint-{checkpoint}")
    trainer = scene.trainer(**{**SAVING, **given})
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


def file_of(scene: Scene, name: str, step: int = 2) -> Path:
    return scene.output / f"checkpoint-{step}" / name


def flip(path: Path) -> None:
    """Other bytes in the middle of a file."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(byte ^ 255 for byte in content[middle : middle + 8])
    path.write_bytes(content)


def cut(path: Path) -> None:
    """The second half of a file is gone, as after a full disk."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_manifests(scene: Scene) -> None:
    for path in scene.output.glob("checkpoint-*/manifest.json"):
        path.unlink()


def record(scene: Scene) -> dict:
    return json.loads((scene.output / "run.json").read_text())


def weights(scene: Scene, step: int) -> dict[str, torch.Tensor]:
    # Copies: what is loaded is the memory of the file, and would be damaged with it
    return {name: each.clone() for name, each in load_file(file_of(scene, "model.safetensors", step)).items()}


def same_weights(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
