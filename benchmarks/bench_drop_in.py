"""Time of a step without pairs: our trainer against `SFTTrainer`, on the four kinds of run of `tests/test_drop_in.py`.

    python benchmarks/bench_drop_in.py [--steps 400]

The models are tiny, so that the trainer's own work is as large a share of a step as possible. The runs take turns
step by step in one process (one thread each, one of them running at a time), so that a change of the machine's speed
affects all of them alike. The ratio is the median over the rounds of the time of our step by that of `SFTTrainer`'s
step in the same round. `SFTTrainer` against itself is measured too: it shows how far from 1 the ratio of equals is.
"""

import os


os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: also the threads made later have one

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import datasets
from rows import append, measured
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

from trl_modality import ModalityBalancedSFTTrainer


sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in (".", "examples")]
from tests import test_drop_in  # noqa: E402


WARM_UP_STEPS = 10
SET_UPS = ("text", "packed", "vision", "streaming")
# The last is the host again: the noise of the comparison
TRAINERS = {"SFTTrainer": SFTTrainer, "ours": ModalityBalancedSFTTrainer, "SFTTrainer again": SFTTrainer}


class TakeTurns(TrainerCallback):
    """Lets a run do one step at a time, and records its seconds from one step end to the next, logging and all."""

    def __init__(self, turns: list[threading.Semaphore], own: int):
        self.turns, self.own, self.seconds = turns, own, []

    def on_train_begin(self, args, state, control, **kwargs):
        self.turns[self.own].acquire()
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(time.perf_counter() - self.started)
        self.turns[(self.own + 1) % len(self.turns)].release()
        self.turns[self.own].acquire()
        self.started = time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs):
        self.turns[(self.own + 1) % len(self.turns)].release()


def make_trainer(trainer_cls, set_up: str, steps: int, folder: str, turns: TakeTurns):
    model, processing_class, dataset, options = getattr(test_drop_in, f"{set_up}_set_up")()
    args = SFTConfig(
        folder,
        max_steps=steps + WARM_UP_STEPS,
        per_device_train_batch_size=4,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
        **options,
    )
    trainer = trainer_cls(model, args, train_dataset=dataset, processing_class=processing_class, callbacks=[turns])
    trainer.remove_callback(PrinterCallback)
    return trainer


def time_steps(set_up: str, steps: int) -> dict[str, list[float]]:
    """Seconds of every step after the warm-up, round by round, for each trainer."""
    turns = [threading.Semaphore(0) for _ in TRAINERS]
    takers = {name: TakeTurns(turns, own) for own, name in enumerate(TRAINERS)}
    with tempfile.TemporaryDirectory() as folder:
        threads = []
        for name, trainer_cls in TRAINERS.items():
            trainer = make_trainer(trainer_cls, set_up, steps, folder, takers[name])
            threads.append(threading.Thread(target=trainer.train, daemon=True))
        for thread in threads:
            thread.start()
        turns[0].release()
        for thread in threads:
            thread.join()
    return {name: taker.seconds[WARM_UP_STEPS:] for name, taker in takers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    rows = []
    print(f"{'set-up':<12}{'SFTTrainer':>14}{'ours':>14}{'ratio':>9}{'noise':>9}")
    for set_up in SET_UPS:
        seconds = time_steps(set_up, options.steps)
        host = seconds["SFTTrainer"]
        ratios = {name: median(a / b for a, b in zip(own, host, strict=True)) for name, own in seconds.items()}
        rows += [measured("drop_in", set_up, name, own, ratios[name]) for name, own in seconds.items()]
        print(
            f"{set_up:<12}{1e3 * median(host):>11.2f} ms{1e3 * median(seconds['ours']):>11.2f} ms"
            f"{ratios['ours']:>9.3f}{ratios['SFTTrainer again']:>9.3f}",
            flush=True,
        )
    print(f"appended to {append(rows, 'drop_in')}")


if __name__ == "__main__":
    main()
