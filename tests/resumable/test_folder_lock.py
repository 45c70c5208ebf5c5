"""Two at a time in one folder: the second is refused, and told who is there."""

import json
import os
import socket
import subprocess
import sys

import pytest

from trl_modality.resumable.folder_lock import HOLDER, LOCK, FolderInUseError, locked_folder


HOLDING = """
import sys, time
from trl_modality.resumable.folder_lock import locked_folder
with locked_folder(sys.argv[1], "an evaluation", "output_dir"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other_process(tmp_path):
    """A process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert process.stdout.readline().strip() == "held"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_another_process_is_named_and_a_killed_one_holds_nothing(tmp_path, other_process):
    with pytest.raises(FolderInUseError) as raised, locked_folder(tmp_path, "a training run", "output_dir"):
        pass
    message = str(raised.value)
    assert f"in use by an evaluation (process {other_process.pid} on {socket.gethostname()}, since 2" in message
    assert "give another `output_dir`" in message
    assert json.loads((tmp_path / HOLDER).read_text())["pid"] == other_process.pid, "it is still told"
    other_process.kill()
    other_process.wait()
    with locked_folder(tmp_path, "a training run", "output_dir"):
        assert json.loads((tmp_path / HOLDER).read_text())["pid"] == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_it_is_not_held_twice_in_one_process(tmp_path):
    folder = tmp_path / "new"
    with locked_folder(folder, "a training run", "output_dir"):
        with pytest.raises(FolderInUseError, match="a training run"), locked_folder(folder, "another", "output_dir"):
            pass
        (folder / HOLDER).write_text("{")
        with pytest.raises(FolderInUseError, match="in use by another process"):
            with locked_folder(folder, "another", "output_dir"):
                pass
    with locked_folder(folder, "a training run", "output_dir"):
        pass


def test_a_file_system_without_locks_is_not_protected(tmp_path, monkeypatch):
    def acquire(self):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with locked_folder(tmp_path, "a training run", "output_dir"):
        assert not (tmp_path / HOLDER).exists()


def test_a_folder_that_may_not_be_written_to_is_named(tmp_path, monkeypatch):
    def acquire(self):
        raise PermissionError(13, "Permission denied", self.lock_file)

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with (
        pytest.raises(PermissionError, match=r"evals cannot be written \(Permission denied; [\d,]+ MiB are free"),
        locked_folder(tmp_path / "evals", "an evaluation", "folder"),
    ):
        pass


def test_an_error_inside_releases_it(tmp_path):
    with pytest.raises(KeyError), locked_folder(tmp_path, "a training run", "output_dir"):
        raise KeyError("x")
    with locked_folder(tmp_path, "a training run", "output_dir"):
        pass
