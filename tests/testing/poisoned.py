"""Runs whose numbers become NaN at a step: a script whose arguments are a folder and a list of runs, as JSON.

The first process writes what became of each run to `FOLDER/seen.json`.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from tests.testing.tiny import pair_dataset, tiny_llava
from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer
from trl_modality.training.health import NonFiniteError


class Poison(TrainerCallback):
    """Writes a NaN into the weights after a step, on every rank or on the last one."""

    def __init__(self, run, rank):
        self.run, self.is_here = run, rank == run["ranks"] - 1 or run["kind"] == "weight"

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if self.is_here and self.run["kind"].startswith("weight") and state.global_step == self.run["step"]:
            with torch.no_grad():
                next(iter(model.parameters())).view(-1)[0] = torch.nan


class PoisonedTrainer(ModalityBalancedSFTTrainer):
    """Its loss or one of its gradients is NaN in the last micro-batch of a step, on the last rank alone."""

    run = None

    def _is_now(self, kind):
        is_last = self.accelerator.gradient_state.sync_gradients
        here = self.args.process_index == self.run["ranks"] - 1
        return here and is_last and self.run["kind"] == kind and self.state.global_step == self.run["step"] - 1

    def compute_loss(self, model, inputs, *args, **kwargs):
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        return loss * torch.nan if self.model.training and self._is_now("loss") else loss

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        if self._is_now("gradient"):
            next(parameter for parameter in self.model.parameters() if parameter.grad is not None).grad.fill_(
                torch.inf
            )
        return loss


def train(folder, run):
    model, processor = tiny_llava()
    args = ModalityBalancedSFTConfig(
        str(folder / run["name"]),
        max_steps=8,
        per_device_train_batch_size=2 // run["ranks"],
        gradient_accumulation_steps=run["accumulation"],
        save_strategy="steps",
        save_steps=run["every"],
        eval_strategy="steps",
        eval_steps=run["every"],
        save_total_limit=run["limit"],
        load_best_model_at_end=run["load_best"],
        metric_for_best_model="eval_loss",
        logging_steps=1,
        learning_rate=1e-3,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        check_rows=0,
    )
    trainer = PoisonedTrainer(
        model,
        args,
        train_dataset=pair_dataset(12),
        eval_dataset=pair_dataset(2, first=20),
        processing_class=processor,
        callbacks=[Poison(run, args.process_index)],
    )
    trainer.run = run
    try:
        trainer.train()
        message = "nothing was seen"
    except NonFiniteError as error:
        message = str(error)
    return {
        "message": message,
        "best_metric": trainer.state.best_metric,
        "best": trainer.state.best_model_checkpoint,
        "step": trainer.state.global_step,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    seen = [train(folder, run) for run in json.loads(sys.argv[2])]
    (folder / f"seen-{torch.distributed.get_rank() if torch.distributed.is_initialized() else 0}.json").write_text(
        json.dumps(seen)
    )
