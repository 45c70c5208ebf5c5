"""What a step without pairs costs: ours against `SFTTrainer`, on the four kinds of run of `tests/test_drop_in.py`.

    python benchmarks/bench_drop_in.py [--rounds 6] [--steps 40]

The models are tiny, so that the trainer's own work is as large a share of a step as it can be. Both trainers run in
turn in one process, in changing order; the ratio is that of the medians of all their steps. `SFTTrainer` against
itself is printed beside it: how far from 1 two equal things come out on this machine.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from rows import append, measured
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from trl_modality import ModalityBalancedSFTTrainer


sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("tests", "examples")]
import test_drop_in  # noqa: E402


WARM_UP_STEPS = 5
SET_UPS = ("text", "packed", "vision", "streaming")
# The last name is the host again: the noise of the comparison
TRAINERS = {"SFTTrainer": SFTTrainer, "ours": ModalityBalancedSFTTrainer, "SFTTrainer again": SFTTrainer}


class StepTimes(TrainerCallback):
    """Seconds between the ends of two steps: everything that a step costs, data loading and logging with it."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        return [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)][WARM_UP_STEPS:]


def time_steps(trainer_cls, set_up: str, steps: int, folder: str) -> list[float]:
    model, processing_class, dataset, options = getattr(test_drop_in, f"{set_up}_set_up")()
    args = SFTConfig(
        folder,
        max_steps=steps + WARM_UP_STEPS + 1,
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
    times = StepTimes()
    trainer_cls(model, args, train_dataset=dataset, processing_class=processing_class, callbacks=[times]).train()
    return times.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(f"{'set-up':<12}{'SFTTrainer':>14}{'ours':>14}{'ratio':>9}{'noise':>9}")
    for set_up in SET_UPS:
        seconds = {name: [] for name in TRAINERS}
        with tempfile.TemporaryDirectory() as folder:
            for number in range(options.rounds):
                names = list(TRAINERS)
                for name in names[number % 3 :] + names[: number % 3]:
                    seconds[name] += time_steps(TRAINERS[name], set_up, options.steps, folder)
        host = median(seconds["SFTTrainer"])
        ratios = {name: median(times) / host for name, times in seconds.items()}
        rows += [measured("drop_in", set_up, name, times, ratios[name]) for name, times in seconds.items()]
        print(
            f"{set_up:<12}{1e3 * host:>11.2f} ms{1e3 * median(seconds['ours']):>11.2f} ms"
            f"{ratios['ours']:>9.3f}{ratios['SFTTrainer again']:>9.3f}",
            flush=True,
        )
    print(f"appended to {append(rows, 'drop_in')}")


if __name__ == "__main__":
    main()
