"""A data loader with a time limit gives what it gives without, and its errors say what it was that was read."""

import time

import pytest
from accelerate import skip_first_batches
from torch.utils.data import DataLoader

from trl_modality.curriculum.deadline import DataTimeout, WorkerDied, saying_why_workers_die, with_deadline
from trl_modality.data.rows import Reading


class Rows:
    """Numbers, one of which takes long."""

    def __init__(self, slow=None, seconds=0.0):
        self.reading: Reading | None = None
        self._slow, self._seconds = slow, seconds

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if self.reading is not None:
            self.reading.begin(index)
        if index == self._slow:
            time.sleep(self._seconds)
        return index


def loader(rows, **options):
    return DataLoader(rows, **{"batch_size": 2, "collate_fn": list, "num_workers": 2} | options)


@pytest.mark.parametrize("persistent", [False, True])
def test_it_gives_the_same_batches_every_epoch(persistent):
    watched = with_deadline(loader(Rows(), persistent_workers=persistent), 60.0)
    assert [list(watched), list(watched)] == [[[0, 1], [2, 3], [4, 5]]] * 2
    assert watched.timeout == 60.0


def test_no_workers_or_no_limit_leaves_it_as_it_is():
    for given, seconds in ((loader(Rows(), num_workers=0), 60.0), (loader(Rows()), 0)):
        assert with_deadline(given, seconds) is given
        assert given.timeout == 0
        assert "_get_iterator" not in vars(given)
    own = loader(Rows(), timeout=7)
    assert with_deadline(own, 60.0).timeout == 7, "the user's own"


def test_a_wait_below_the_limit_passes():
    """Above half of it: the first of two waits ends, and the second goes on."""
    assert list(with_deadline(loader(Rows(slow=2, seconds=3.0)), 4.0)) == [[0, 1], [2, 3], [4, 5]]


def test_a_wait_above_the_limit_names_the_row():
    with pytest.raises(DataTimeout, match=r"for 1 s .*worker 1 \(pid \d+\) began row 2 \d+ s ago"):
        list(with_deadline(loader(Rows(slow=2, seconds=600.0)), 1.0))


def test_a_loader_that_skips_batches_has_the_limit_too():
    """As the host makes one of it where a run goes on from a checkpoint."""
    with pytest.raises(DataTimeout, match=r"in time: DataLoader timed out after 1.0 seconds \(`data_timeout`\)"):
        with saying_why_workers_die(), saying_why_workers_die():
            list(skip_first_batches(with_deadline(loader(Rows(slow=4, seconds=600.0)), 1.0), 1))


def test_a_dataset_without_names_for_its_rows():
    class Plain(Rows):
        def __init__(self):
            super().__init__(slow=0, seconds=600.0)
            del self.reading

        def __getitem__(self, index):
            time.sleep(self._seconds if index == 0 else 0)
            return index

    with pytest.raises(DataTimeout, match=r"worker 0 \(pid \d+\); worker 1 \(pid \d+\)\. Look"):
        list(with_deadline(loader(Plain()), 1.0))


def test_other_errors_of_a_training_are_left_alone():
    with pytest.raises(RuntimeError, match="^shapes$"), saying_why_workers_die():
        raise RuntimeError("shapes")
    with pytest.raises(WorkerDied) as raised, saying_why_workers_die(), saying_why_workers_die():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    assert str(raised.value).startswith("DataLoader worker (pid 7) is killed by signal: Killed. A worker that is")
    assert str(raised.value).count("no memory left") == 1
