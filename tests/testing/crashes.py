"""A run that is killed where it is told to, and resumes: a script whose arguments are a folder and the run, as JSON.

Every process of a run appends a line for each micro-batch to `FOLDER/<name>.jsonl`, the first one also for each loss.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import TrainerCallback

from tests.testing.tiny import pair_dataset, tiny_llava
from trl_modality import ModalityBalancedSFTConfig, ModalityBalancedSFTTrainer, PairedCollator
from trl_modality.views import INDEX_COLUMN, SLOT_COLUMN, describe_row


ROWS, REPLAY_ROWS = 23, 7


class RecordingCollator(PairedCollator):
    """Leaves in the batch which rows it has, and what was made of them."""

    def __call__(self, rows):
        batch = super().__call__(rows)
        if SLOT_COLUMN in rows[0]:
            batch["record"] = [
                f"{row.get('id') or 'replay'} {row[INDEX_COLUMN]} {'+'.join(row[SLOT_COLUMN].views)} "
                f"{'+'.join(row[SLOT_COLUMN].cross_entropy_views)}"
                for row in rows
                if row[SLOT_COLUMN].views
            ]
            assert batch["record"] == [] or all(describe_row(row) for row in rows)
        return batch


class RecordingTrainer(ModalityBalancedSFTTrainer):
    """Writes down every micro-batch, and dies in the middle of one where it is told to."""

    def __init__(self, *args, out, dies_at, **kwargs):
        self.out, self.dies_at, self.n_micro_batches = out, dies_at, 0
        super().__init__(*args, **kwargs)

    def write(self, **line):
        with open(self.out, "a") as file:
            file.write(json.dumps(line) + "\n")

    def compute_loss(self, model, inputs, *args, **kwargs):
        record = inputs.pop("record")
        if self.n_micro_batches == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.n_micro_batches += 1
        self.write(step=self.state.global_step, rank=self.args.process_index, rows=record)
        return super().compute_loss(model, inputs, *args, **kwargs)


class Losses(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and "loss" in logs:
            self.trainer.write(step=state.global_step - 1, loss=logs["loss"], grad_norm=logs["grad_norm"])


def train(folder, run):
    torch.set_num_threads(1)
    model, processor = tiny_llava()
    rows = pair_dataset(ROWS)
    replay = Dataset.from_list([{"text": f"{i} + {i} = {2 * i}"} for i in range(REPLAY_ROWS)])
    if run["stream"]:
        rows, replay = rows.to_iterable_dataset(num_shards=3), replay.to_iterable_dataset()
        if run["stream"] == "shuffled":
            rows = rows.shuffle(seed=3, buffer_size=8)
    args = ModalityBalancedSFTConfig(
        str(folder / run["output"]),
        learning_rate=1e-2,
        optim="adamw_torch",
        logging_steps=1,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=2,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        check_rows=0,
        **run["options"],
    )
    losses = Losses()
    losses.trainer = RecordingTrainer(
        model.double(),
        args,
        train_dataset=rows,
        replay_dataset=replay if args.replay_ratio else None,
        processing_class=processor,
        data_collator=RecordingCollator(processor),
        callbacks=[losses],
        out=str(folder / f"{run['name']}.jsonl"),
        dies_at=run.get("dies_at"),
    )
    has_checkpoint = any((folder / run["output"]).glob("checkpoint-*"))
    losses.trainer.train(resume_from_checkpoint=run.get("resume", False) and has_checkpoint)


if __name__ == "__main__":
    train(Path(sys.argv[1]), json.loads(sys.argv[2]))
