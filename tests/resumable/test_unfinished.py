"""A folder that is written all or nothing, and work in it that is gone on from."""

import pytest

from trl_modality.resumable.folder_lock import FolderInUseError
from trl_modality.resumable.unfinished import UNFINISHED, unfinished_folder


def names(folder):
    return sorted(each.name for each in folder.iterdir())


def finish(out, text="all", work_files=()):
    with unfinished_folder(out, "a test") as work:
        for name in work_files:
            (work.kept / name).write_text("paid")
        with work.result() as folder:
            (folder / "data").mkdir()
            (folder / "data" / "a.txt").write_text(text)
            (folder / "README.md").write_text(text)


@pytest.mark.parametrize("existed", [False, True])
def test_a_result_is_there_without_its_work(tmp_path, existed):
    out = tmp_path / "out"
    if existed:
        out.mkdir()
    finish(out)
    assert names(out) == ["README.md", "data"]


def test_an_error_leaves_the_work_and_nothing_of_the_result(tmp_path):
    out = tmp_path / "out"

    def interrupted():
        with unfinished_folder(out, "a test") as work:
            (work.kept / "answers.jsonl").write_text("one\n")
            with work.result() as folder:
                (folder / "README.md").write_text("half")
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(out) == [UNFINISHED]
    with unfinished_folder(out, "a test") as work:
        assert (work.kept / "answers.jsonl").read_text() == "one\n"
        with work.result() as folder:
            assert names(folder) == []
            (folder / "README.md").write_text("whole")
    assert names(out) == ["README.md"]


@pytest.mark.parametrize("existed", [False, True])
def test_an_error_before_any_work_leaves_the_folder_as_it_was(tmp_path, existed):
    out = tmp_path / "out"
    if existed:
        out.mkdir()
    with pytest.raises(ValueError, match="nothing"):
        with unfinished_folder(out, "a test"):
            raise ValueError("nothing done")
    assert out.exists() is existed
    assert not existed or names(out) == []


def test_a_kill_between_two_moves_is_mended(tmp_path, monkeypatch):
    out = tmp_path / "out"
    rename = type(out).rename

    def killed(self, target):
        if self.name == "data":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(type(out), "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            finish(out, "first")
    assert "README.md" in names(out)
    finish(out, "second")
    assert names(out) == ["README.md", "data"]
    assert (out / "README.md").read_text() == (out / "data" / "a.txt").read_text() == "second"


@pytest.mark.parametrize("removals", range(3))
def test_a_kill_while_the_work_is_removed_is_tidied_by_the_next_command(tmp_path, monkeypatch, removals):
    out, unlink, left = tmp_path / "out", type(tmp_path).unlink, [removals]

    def killed(self, missing_ok=False):
        if self.name in ("a.jsonl", "b.jsonl", "done.json"):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        unlink(self, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(type(out), "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            finish(out, work_files=("a.jsonl", "b.jsonl"))
    assert names(out) == [UNFINISHED, "README.md", "data"]
    with pytest.raises(FileExistsError, match="it has README.md"):
        finish(out)
    assert names(out) == ["README.md", "data"]


def test_work_stays_where_somebody_puts_a_file_beside_it(tmp_path):
    out = tmp_path / "out"

    def interrupted():
        with unfinished_folder(out, "a test") as work:
            (work.kept / "a.jsonl").write_text("paid for")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    (out / ".DS_Store").write_text("of the system")
    with pytest.raises(FileExistsError, match=r"it has \.DS_Store"):
        finish(out)
    assert (out / UNFINISHED / "a.jsonl").read_text() == "paid for"


def test_what_is_not_ours_is_refused(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="it has mine.txt"):
        finish(out)
    assert names(out) == ["mine.txt"]
    with pytest.raises(FileExistsError, match="is a file"):
        finish(out / "mine.txt")
    (out / "mine.txt").unlink()

    def written_into():
        with unfinished_folder(out, "a test") as work, work.result() as folder:
            (folder / "README.md").write_text("ours")
            (out / "late.txt").write_text("of somebody else, meanwhile")

    with pytest.raises(FileExistsError, match="it has late.txt"):
        written_into()
    assert names(out) == [UNFINISHED, "late.txt"]


def test_one_at_a_time(tmp_path):
    with unfinished_folder(tmp_path / "out", "a transcription"):
        with pytest.raises(FolderInUseError, match="a transcription"):
            finish(tmp_path / "out")
