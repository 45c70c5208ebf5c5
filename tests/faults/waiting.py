"""One process among several that stops, ends or fails."""

import pytest

from tests.faults.fault import Fault, Scene
from tests.testing.forks import run_script


WORKER = """
import os, signal, sys, time
import torch
from tests.testing.tiny import pair_dataset, tiny_llava
from transformers import TrainerCallback
from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer

out, fault = sys.argv[1:]
torch.set_num_threads(1)
rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

class Strike(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2 and rank == world_size - 1:
            if fault == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            if fault == "end":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("a fault of this rank alone")

args = ModalityBalancedSFTConfig(
    out, per_device_train_batch_size=1, max_steps=6, use_cpu=True, bf16=False, gradient_checkpointing=False,
    report_to="none", save_strategy="steps", save_steps=1, disable_tqdm=True, ddp_timeout=4,
)
model, processor = tiny_llava()
trainer = ModalityBalancedSFTTrainer(
    model, args, train_dataset=pair_dataset(16), processing_class=processor, callbacks=[Strike()]
)
trainer.train()
"""


class LostError(Exception):
    """What the first process said when it ended."""


def _strike(fault: str, ranks: int):
    def provoke(scene: Scene) -> None:
        script = scene.folder / "worker.py"
        script.write_text(WORKER)
        # Without a launcher that would kill the others before they say a word
        options = {"ranks": ranks, "timeout": 90, "kills_others": fault == "stop"}
        ended = run_script(script, str(scene.output), fault, **options)
        if any(ended.codes):
            raise LostError("\n".join(ended.errors))

    return provoke


def _last_is_whole(scene: Scene) -> None:
    from trl_modality.training.checkpoints import newest_whole_checkpoint

    assert newest_whole_checkpoint(scene.output).path.name == "checkpoint-2"


def _row(name: str, fault: str, ranks: int, seen: str) -> Fault:
    return Fault(
        name,
        "in training",
        seen,
        _strike(fault, ranks),
        "the last checkpoint, whole",
        _last_is_whole,
        error=LostError,
        marks=(pytest.mark.distributed, pytest.mark.slow),
    )


FAULTS = [
    _row("one of two processes is stopped", "stop", 2, r"did not answer for 4 s \(`ddp_timeout`\)"),
    _row("one of three processes is killed", "end", 3, r"waited for the others: one of them has ended"),
    _row("one of two processes fails", "raise", 2, r"a fault of this rank alone"),
]
