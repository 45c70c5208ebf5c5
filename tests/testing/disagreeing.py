"""A training on several processes with something wrong on one of them: arguments are a folder and what is wrong.

Every process writes what it was told into `FOLDER/<rank>.txt`, and ends well, so that none is killed for another's
error.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed

import trl_modality.training.resume
from tests.faults.fault import Scene
from tests.faults.saved_runs import SAVING, flip
from tests.testing.tiny import pair_dataset, tiny_llava
from trl_modality.resumable.folder_lock import locked_folder


def larger_vocabulary():
    processor = tiny_llava()[1]
    processor.tokenizer.add_tokens(["<fact>"])
    return {"processing_class": processor}


def frozen():
    model = tiny_llava()[0]
    model.model.vision_tower.requires_grad_(False)
    return {"model": model}


# What the last rank is given
WRONG = {
    "rows": lambda: {"train_dataset": pair_dataset(17)},
    "other rows": lambda: {"train_dataset": pair_dataset(16, 90)},
    "order": lambda: {"train_dataset": pair_dataset(16).select(range(15, -1, -1))},
    "kl_weight": lambda: {"kl_weight": 0.25},
    "learning_rate": lambda: {"learning_rate": 0.5},
    "tokenizer": larger_vocabulary,
    "model": frozen,
}


def train(scene, what, rank, ranks):
    given = {"train_dataset": pair_dataset(16), **SAVING}
    if what in WRONG and rank == ranks - 1:
        given |= WRONG[what]()
    trainer = scene.trainer(**given)
    resume = None
    if what == "unreadable" and rank == ranks - 1:

        def fail(*_):
            raise OSError("the disk is gone")

        trl_modality.training.resume.run_fingerprint = fail
    if what in ("damaged", "all damaged", "old folder"):
        trainer.train()
        if what != "old folder" and rank == 0:
            for checkpoint in scene.output.glob("checkpoint-*"):
                flip(checkpoint / "model.safetensors")
        torch.distributed.barrier()
        trainer = scene.trainer(**given)
        resume = {"damaged": str(scene.output / "checkpoint-2"), "all damaged": True, "old folder": None}[what]
    if what == "locked" and rank == ranks - 1:
        with locked_folder(scene.output, "a training run", "output_dir"):
            torch.distributed.barrier()
            trainer.train()
        return
    if what == "locked":
        torch.distributed.barrier()
    trainer.train(resume_from_checkpoint=resume)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, what = Path(sys.argv[1]), sys.argv[2]
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        train(Scene(folder), what, rank, ranks)
        told = ""
    except Exception as error:
        told = f"{error}"
    (folder / f"{rank}.txt").write_text(told)
