"""Processes that read rows."""

import multiprocessing
import os
import signal
import time
from contextlib import contextmanager

from torch.utils.data import get_worker_info

from tests.faults.fault import Fault, Scene
from tests.testing.bad_rows import unreadable
from tests.testing.tiny import pair_dataset
from trl_modality import PairError


def at_row(number: int, strike):
    """Pairs; the worker that reads one of them is struck."""

    def read(batch):
        if get_worker_info() is not None and batch["id"] == [f"pair-{number}"]:
            strike()
        return batch

    return pair_dataset(8).with_transform(read)


def signalled(which):
    return lambda: os.kill(os.getpid(), which)


@contextmanager
def ends_with_its_workers():
    """A context that ends within a minute and leaves no worker."""
    started, others = time.monotonic(), set(multiprocessing.active_children())
    try:
        yield
    finally:
        left = set(multiprocessing.active_children()) - others
        for worker in left:
            worker.join(5)
        assert not any(worker.is_alive() for worker in left)
        assert time.monotonic() - started < 60


def trained(rows, **options):
    def provoke(scene: Scene) -> None:
        usual = {"dataloader_num_workers": 2, "train_sampling_strategy": "sequential", "check_rows": 1}
        scene.trainer(rows(), **usual, **options).train()

    return provoke


def stopped_in_time(strike):
    def provoke(scene: Scene) -> None:
        with ends_with_its_workers():
            trained(lambda: at_row(5, strike), data_timeout=3)(scene)

    return provoke


def evaluated(scene: Scene) -> None:
    rows = at_row(2, signalled(signal.SIGSTOP))
    with ends_with_its_workers():
        scene.trainer(eval_dataset=rows, dataloader_num_workers=1, data_timeout=3).evaluate()


FAULTS = [
    Fault(
        "a data loader worker that is stopped",
        "in training",
        r"No batch came from the data loader for 3 s \(`data_timeout`\): worker 0 \(pid \d+, stopped\) began row 5 "
        r"\d+ s ago; worker 1 .*Look at these rows and the disk or network",
        stopped_in_time(signalled(signal.SIGSTOP)),
        left="no worker is left",
    ),
    Fault(
        "a row whose reading hangs",
        "in training",
        r"No batch came from the data loader for 3 s \(`data_timeout`\): worker 0 \(pid \d+\) began row 5 ",
        stopped_in_time(lambda: time.sleep(600)),
        left="no worker is left",
    ),
    Fault(
        "a data loader worker that is killed, as for want of memory",
        "in training",
        r"DataLoader worker \(pid.* \d+\) .*A worker that is killed had, as a rule, no memory left .*lower "
        "`dataloader_num_workers`",
        trained(lambda: at_row(5, signalled(signal.SIGKILL))),
    ),
    Fault(
        "a bad row that a data loader worker meets",
        "in training",
        r"`train_dataset` row 5: the transform of the dataset raises on it \(OSError: the disk is gone\)",
        trained(lambda: unreadable([5])),
        error=PairError,
    ),
    Fault(
        "a data loader worker that is stopped in an evaluation",
        "in an evaluation",
        r"No batch came from the data loader for 3 s \(`data_timeout`\): worker 0 \(pid \d+, stopped\) began row 2 ",
        evaluated,
        left="no worker is left",
    ),
]
