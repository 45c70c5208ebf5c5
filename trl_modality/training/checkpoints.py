"""Which checkpoint a run goes on from: the newest that is whole, with a word on each that is passed over."""

import json
import os
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import logging

from .manifest import MANIFEST, DamagedCheckpointError, Manifest, read_manifest, verify_files


logger = logging.get_logger(__name__)

STATE = "trainer_state.json"
# Names under which the states of optimizers are kept: of one process, FSDP (files and folders), DeepSpeed, XLA
OPTIMIZERS = (
    "optimizer.pt",
    "optimizer.bin",
    "optimizer_*",
    "pytorch_optimizer*",
    "global_step*",
    "rank*-optimizer.pt",
)


class Checkpoint:
    """A checkpoint that was found whole.

    Args:
        path: Its folder.
        manifest: `None` where it has none: another trainer wrote it, or an older version.
    """

    def __init__(self, path: Path, manifest: Manifest | None):
        self.path, self.manifest = path, manifest

    @property
    def has_optimizer(self) -> bool:
        """Whether there is a state of an optimizer in it (`save_only_model=True` leaves it out)."""
        return any(next(self.path.glob(name), None) is not None for name in OPTIMIZERS)


def checkpoints_of(folder: str | os.PathLike) -> list[Path]:
    """The checkpoints in an output folder, newest step first."""
    found = (path for path in Path(folder).glob("checkpoint-*") if path.is_dir() and step_of(path) >= 0)
    return sorted(found, key=step_of, reverse=True)


def newest_finished_checkpoint(folder: str | os.PathLike) -> Path | None:
    """The newest checkpoint in an output folder whose writing has ended, by its manifest; its files are not read."""
    return next((path for path in checkpoints_of(folder) if (path / MANIFEST).is_file()), None)


def whole_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """The checkpoint at a path, verified by its manifest, or without one by its formats.

    Raises:
        ValueError: there is no such folder, or it is damaged; the message names the file.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"Can't find a valid checkpoint at {path}: there is no such folder.")
    try:
        return _verified(path)
    except DamagedCheckpointError as error:
        raise DamagedCheckpointError(
            f"the checkpoint {path} cannot be resumed from: {error}. Take another checkpoint, restore the file from a "
            "copy, or give `resume_from_checkpoint=True`, which takes the newest whole checkpoint of `output_dir`."
        ) from error


def newest_whole_checkpoint(folder: str | os.PathLike) -> Checkpoint:
    """The newest checkpoint in an output folder that is whole; a warning names each newer one, and why not that.

    Where checkpoints of several runs lie in one folder, only those of the run that saved last are taken.

    Raises:
        ValueError: there is none.
    """
    skipped: list[str] = []
    paths = checkpoints_of(folder)
    if not paths:
        raise ValueError(
            f"No valid checkpoint found in output directory ({folder}). Leave `resume_from_checkpoint` out to begin "
            "a run there."
        )
    with_manifest = [path for path in paths if (path / MANIFEST).is_file()]
    last_run = _last_run(with_manifest)
    for i, path in enumerate(paths):
        try:
            is_unfinished = path not in with_manifest and any(later in with_manifest for later in paths[i + 1 :])
            if is_unfinished:
                raise DamagedCheckpointError(f"it has no {MANIFEST}, which is written last: it was not finished")
            checkpoint = _verified(path, last_run)
        except DamagedCheckpointError as error:
            skipped.append(f"{path.name}: {error}")
            continue
        if skipped:
            logger.warning(
                f"Training goes on from {path.name}, an older checkpoint than there is in {folder}. Passed over: "
                f"{'; '.join(skipped)}."
            )
        return checkpoint
    raise DamagedCheckpointError(
        f"none of the checkpoints in {folder} can be resumed from. {'; '.join(skipped)}. Restore one from a copy, or "
        "begin anew in another `output_dir`."
    )


def _verified(path: Path, run_id: str | None = None) -> Checkpoint:
    manifest = read_manifest(path)
    if manifest is None:
        _check_formats(path)
        logger.warning(
            f"{path} has no {MANIFEST}: an older version or another trainer saved it. Its files can be read; whether "
            "they are those that were written, and of a run like this one, cannot be verified."
        )
    elif run_id is not None and manifest.run_id != run_id:
        raise DamagedCheckpointError(f"it is of another run ({manifest.run_id}) than the one that saved last")
    else:
        verify_files(path, manifest)
        if manifest.changing:
            _check_formats(path)
            logger.warning(
                f"{path}: the run ended while {' and '.join(manifest.changing)} were brought up to date after an "
                "evaluation. They can be read; all other files are as they were written."
            )
    return Checkpoint(path, manifest)


def _last_run(paths: list[Path]) -> str | None:
    """The run of the checkpoint that was saved last."""
    manifests = []
    for path in paths:
        try:
            manifests.append(read_manifest(path))
        except DamagedCheckpointError:
            continue
    known = [each for each in manifests if each is not None]
    return max(known, key=lambda each: each.saved_at).run_id if known else None


def run_ids(folder: str | os.PathLike) -> dict[str, str | None]:
    """The run of each checkpoint in an output folder, by its name; `None` where it is not known."""
    found: dict[str, str | None] = {}
    for path in checkpoints_of(folder):
        try:
            manifest = read_manifest(path)
        except DamagedCheckpointError:
            manifest = None
        found[path.name] = None if manifest is None else manifest.run_id
    return found


# Checkpoints without a manifest


def _check_formats(path: Path) -> None:
    """Raise where a file of a checkpoint is missing or cannot be read, as far as its format tells."""
    state = path / STATE
    try:
        json.loads(state.read_text(encoding="utf-8"))["global_step"]
    except FileNotFoundError:
        raise DamagedCheckpointError(f"{STATE} is missing: it was not finished, or is not a checkpoint") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise DamagedCheckpointError(f"{STATE} cannot be read") from None
    for file in sorted(path.rglob("*")):
        if file.is_file() and (wrong := _wrong_format(file)):
            raise DamagedCheckpointError(f"{file.relative_to(path).as_posix()} {wrong}")
    has_weights = any(path.glob("model*.safetensors")) or any(path.glob("pytorch_model*.bin"))
    if has_weights and not (path / "config.json").is_file():
        raise DamagedCheckpointError("config.json is missing")
    if (path / "optimizer.pt").is_file() != (path / "scheduler.pt").is_file():
        missing = next(name for name in ("optimizer.pt", "scheduler.pt") if not (path / name).is_file())
        raise DamagedCheckpointError(f"{missing} is missing")


def _wrong_format(file: Path) -> str | None:
    """What is wrong with a file of weights or states, if its format shows it."""
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt") as tensors:
                tensors.keys()
        except (SafetensorError, OSError) as error:
            return f"cannot be read ({error})"
    if file.name.endswith(".index.json"):
        try:
            parts = set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return "cannot be read"
        if missing := sorted(part for part in parts if not (file.parent / part).is_file()):
            return f"lists {missing[0]}, which is missing"
    if file.suffix in (".pt", ".pth", ".bin"):
        return _wrong_archive(file)
    return None


def _wrong_archive(file: Path) -> str | None:
    """What is wrong with a file of `torch.save`, a ZIP archive whose records have checksums."""
    try:
        with open(file, "rb") as opened:
            head = opened.read(4)
        if not head:
            return "is empty"
        if head[:1] == b"\x80":  # a plain pickle, as before torch 1.6: nothing to check it by
            return None
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
        return None if damaged is None else f"has a wrong checksum at {damaged}"
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        return f"cannot be read ({error})"


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint's folder; −1 where it has another name."""
    number = path.name.removeprefix("checkpoint-")
    return int(number) if number.isdigit() else -1


def manifest_step(checkpoint: Checkpoint) -> int:
    """The step that a checkpoint is of, by its manifest, else by its state."""
    if checkpoint.manifest is not None:
        return checkpoint.manifest.step
    return json.loads((checkpoint.path / STATE).read_text(encoding="utf-8"))["global_step"]
