"""Making data."""

import errno
import os

from tests.faults.fault import Fault, Scene
from trl_modality.cli import data_make as making
from trl_modality.cli import main
from trl_modality.problems import generate
from trl_modality.problems.generate import generate_pairs


MAKING = "in data making"


def _words(scene: Scene, count: int = 4) -> list[str]:
    return ["data", "make", str(scene.folder / "charts"), "--generators", "bar", "--count", str(count)]


def _replaced(owner, name: str, by):
    """A context with another attribute."""

    class Context:
        def __enter__(self):
            self.before = getattr(owner, name)
            setattr(owner, name, by)

        def __exit__(self, *_):
            setattr(owner, name, self.before)

    return Context()


def _full_at_the_sheet(scene: Scene) -> None:
    from trl_modality.problems import sheet

    def full(rows):
        raise OSError(errno.ENOSPC, "No space left on device", str(scene.folder / "charts" / "contact_sheet.png"))

    args = ["make", str(scene.folder / "charts"), "--generators", "bar", "--count", "4"]
    with _replaced(sheet, "contact_sheet", full):
        from trl_modality.cli import data

        data.main(args)


def _nothing_left(scene: Scene) -> None:
    assert not (scene.folder / "charts").exists()
    assert main(_words(scene)) == 0  # and it is not in the way
    assert sorted(each.name for each in (scene.folder / "charts").iterdir()) == [
        "README.md",
        "contact_sheet.png",
        "data",
    ]


def _two_at_once(scene: Scene) -> None:
    """Another command has written into the folder while this one made its rows."""
    out = scene.folder / "charts"

    def meanwhile(args):
        result = _generated(args)
        (out / "README.md").write_text("mine")
        return result

    _generated = making._generated
    with _replaced(making, "_generated", meanwhile):
        from trl_modality.cli import data

        data.main(["make", str(out), "--generators", "bar", "--count", "4"])


def _second_one(scene: Scene) -> None:
    """The same command, given again while it works."""
    args = ["make", str(scene.folder / "charts"), "--generators", "bar", "--count", "4"]

    def meanwhile(given):
        from trl_modality.cli import data

        try:
            data.main(args)
        except FileExistsError as error:
            scene.refused = error
        return _generated(given)

    _generated = making._generated
    with _replaced(making, "_generated", meanwhile):
        assert main(["data", *args]) == 0
    raise scene.refused


def _killed_and_again(scene: Scene) -> None:
    left = scene.folder / "charts" / ".unfinished-abc"
    left.mkdir(parents=True)
    from trl_modality.cli import data

    data.main(["make", str(scene.folder / "charts"), "--generators", "bar", "--count", "4"])


def _first_is_whole(scene: Scene) -> None:
    names = sorted(each.name for each in (scene.folder / "charts").iterdir())
    assert names == ["README.md", "contact_sheet.png", "data"]


def _the_other_is_left(scene: Scene) -> None:
    names = [each.name for each in (scene.folder / "charts").iterdir()]
    assert names == ["README.md"]
    assert (scene.folder / "charts" / "README.md").read_text() == "mine"


def _full_cache(scene: Scene) -> None:
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with _replaced(generate, "_code_version", lambda: "full"), _replaced(generate, "_rows", _rows_that_fail(full)):
        generate_pairs(["bar"], 4, cache_dir=str(scene.folder / "cache"))


def _rows_that_fail(fail):
    def rows(shards, made_by, **settings):
        yield generate._row(0, **settings)
        fail()

    return rows


def _killed_worker(scene: Scene) -> None:
    owner = os.getpid()

    def rows(shards, made_by, **settings):
        yield generate._row(0, **settings)
        assert os.getpid() != owner
        os.kill(os.getpid(), 9)

    with (
        _replaced(generate, "_code_version", lambda: "killed"),
        _replaced(generate, "_rows", rows),
        _replaced(generate, "_ROWS_PER_SHARD", 2),
    ):
        generate_pairs(["bar"], 4, num_workers=2, cache_dir=str(scene.folder / "cache"))


FAULTS = [
    Fault(
        "a disk that is full while a folder of pairs is written",
        MAKING,
        "No space left on device: .*contact_sheet.png",
        _full_at_the_sheet,
        "no folder, so that the same command can be given again",
        _nothing_left,
        OSError,
    ),
    Fault(
        "a second command that makes pairs in a folder, at the same time",
        "before a pair is made",
        r"charts is not empty: .unfinished-\w+ in it is of a command that makes data there now, or was killed. Wait",
        _second_one,
        "the first one goes on to its end",
        _first_is_whole,
        FileExistsError,
    ),
    Fault(
        "a folder in which data making was killed",
        "before a pair is made",
        r".unfinished-abc in it .* or was killed. Wait for it, remove that folder",
        _killed_and_again,
        "the folder, as it was",
        error=FileExistsError,
    ),
    Fault(
        "a folder that another program writes into while pairs are made",
        MAKING,
        "charts is not empty any more: it has README.md. Write elsewhere",
        _two_at_once,
        "what the other one has written",
        _the_other_is_left,
        FileExistsError,
    ),
    Fault(
        "a full disk under the cache of `datasets`",
        MAKING,
        r"the cache in \S+cache cannot be written \(No space left on device\). Free some space there, or set",
        _full_cache,
        error=OSError,
    ),
    Fault(
        "a process that makes pairs is killed",
        MAKING,
        r"one of the 2 processes that make pairs was killed, perhaps for want of memory. Use fewer",
        _killed_worker,
        error=OSError,
    ),
]
